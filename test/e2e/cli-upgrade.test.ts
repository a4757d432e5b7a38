import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import { Sandbox, SHOP, urlOf, whoami } from './cli-processes.js'

describe('fd-broker upgrade', () => {
  it('has the running server start its successor and exits 0 when that one serves', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const before = await sandbox.status()
    const url = urlOf(before)
    expect(await whoami(url)).toEqual({ generation: 1, pid })

    const { code, stdout, stderr } = await sandbox.run('upgrade', '--control', sandbox.control)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = stdout.trimEnd().split('\n')
    expect(lines[0]).toBe(`upgrading shop from generation 1 (pid ${pid})`)
    expect(lines.pop()).toMatch(
      /^the previous version stands by for (9|10) s: fd-broker rollback returns to it$/,
    )
    for (const line of lines.slice(1, -1)) expect(line).toMatch(/^ *\d+ ms {2}[a-z]+ +pid \d+$/)
    expect(lines[1]).toMatch(/ms {2}started +pid/)
    const [, successor] = /^generation 2 \(pid (\d+)\) serves, after \d+ ms$/.exec(lines.at(-1)!) ?? []
    expect(Number(successor)).toBeGreaterThan(0)

    expect(await whoami(url)).toEqual({ generation: 2, pid: Number(successor) })
    const after = await sandbox.status()
    expect(after).toMatchObject({ generation: 2, pid: Number(successor), role: 'serving' })
    expect(after.listeners[0]!.cookie).toBe(before.listeners[0]!.cookie)
    expect(after.sections).toEqual(before.sections)
  })

  it('does not mention a standby if there is no probation', async () => {
    const program = await AutoProgram.of(
      "import http from 'node:http'\nhttp.createServer((_, answer) => answer.end()).listen(8080)\n",
    )
    await program.serve('import', 1, { FD_BROKER_PROBATION: '0' })
    const { code, stdout } = await program.sandbox.run('upgrade', '--control', program.control)
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/serves, after \d+ ms$/m) })
    expect(stdout).not.toContain('stands by')
    await program.command('stop')
  })

  it.runIf(NIGHTLY)('names the probation for which the next version waits', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    expect((await sandbox.run('upgrade', '--control', sandbox.control)).code).toBe(0)
    const { pid } = await sandbox.status()
    const { code, stderr } = await sandbox.runWithNotes('upgrade', '--control', sandbox.control)
    expect(code).toBe(0)
    expect(stderr).toMatch(
      new RegExp(`process ${pid} is in probation \\(for \\d s more\\), and no version can take over`),
    )
  })

  it.runIf(NIGHTLY)('starts another command and prints one JSON object with --json', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const command = [process.execPath, SHOP, '--control', sandbox.control, '--listen', 'tcp://127.0.0.1:0']
    const { code, stdout } = await sandbox.run(
      'upgrade',
      '--control',
      sandbox.control,
      '--json',
      '--',
      ...command,
    )
    expect(code).toBe(0)
    const outcome = JSON.parse(stdout)
    expect(outcome).toMatchObject({ ok: true, generation: 2 })
    expect(outcome.phases[0]).toMatchObject({ phase: 'started', pid: outcome.pid })
    expect(outcome.phases.at(-1).ms).toBeLessThanOrEqual(outcome.ms + 1)
    expect(await whoami(url)).toEqual({ generation: 2, pid: outcome.pid })
  })

  it('exits 1 with the reason when the successor ends at once, and the incumbent serves on', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const failing = [process.execPath, '-e', 'process.exit(3)']
    const { code, stderr } = await sandbox.run('upgrade', '--control', sandbox.control, '--', ...failing)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_SUCCESSOR_EXITED: .*code 3/)
    expect(await whoami(url)).toEqual({ generation: 1, pid })

    const again = await sandbox.run('upgrade', '--control', sandbox.control)
    expect({ code: again.code, stderr: again.stderr }).toEqual({ code: 0, stderr: '' })
    expect((await whoami(url)).generation).toBe(2)
  })

  it('waits for what a wrapper has started, which itself ended with code 0, and tells each phase once', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const shop = `exec ${process.execPath} ${SHOP} --control ${sandbox.control} --listen tcp://127.0.0.1:0`
    const wrapper = ['/bin/sh', '-c', `(sleep 0.5; ${shop}) & exit 0`]
    const { code, stdout } = await sandbox.run(
      'upgrade',
      '--control',
      sandbox.control,
      '--json',
      '--',
      ...wrapper,
    )
    const outcome = JSON.parse(stdout)
    expect({ code, outcome }).toMatchObject({ code: 0, outcome: { ok: true, generation: 2 } })
    const phases = outcome.phases.map(({ phase }: { phase: string }) => phase)
    expect(phases).toEqual(['started', 'offering', 'preparing', 'committing', 'serving'])
    expect(outcome.phases[0].pid).not.toBe(outcome.pid)
    for (const { pid } of outcome.phases.slice(1)) expect(pid).toBe(outcome.pid)
    expect(await whoami(url)).toEqual({ generation: 2, pid: outcome.pid })
  })

  it.runIf(NIGHTLY)(
    'fails within seconds when the command ends with code 0 and leaves nothing that could join',
    async () => {
      const sandbox = Sandbox.open()
      const pid = await sandbox.shop()
      const limits = ['--timeout', '100s']
      const { code, stderr } = await sandbox.run(
        'upgrade',
        '--control',
        sandbox.control,
        ...limits,
        '--',
        '/bin/true',
      )
      expect(code).toBe(1)
      expect(stderr).toMatch(
        /^ERR_FDB_SUCCESSOR_EXITED: .*ended with code 0, and nothing that it started lives/,
      )
      expect(await sandbox.run('upgrade', '--control', sandbox.control)).toMatchObject({ code: 0 })
      expect((await sandbox.status()).pid).not.toBe(pid)
    },
  )

  it.runIf(NIGHTLY)('ends at its deadline what a wrapper has started and never joined', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const wrapper = ['/bin/sh', '-c', 'sleep 3600 & exit 0']
    const limits = ['--timeout', '700ms']
    const { code, stderr } = await sandbox.run(
      'upgrade',
      '--control',
      sandbox.control,
      ...limits,
      '--',
      ...wrapper,
    )
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_DEADLINE: .*ended with code 0.*700 ms/)
    await until(
      'what it left is ended',
      () => !sandbox.processes().some(line => line.startsWith('sleep 3600')),
    )
    expect(await whoami(url)).toEqual({ generation: 1, pid })
  })

  it('exits 1 with a code when the command does not exist', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const missing = ['upgrade', '--control', sandbox.control, '--', '/nowhere/shop-2']
    const { code, stdout, stderr } = await sandbox.run(...missing)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_NO_BINARY: .*\/nowhere\/shop-2/)
    expect(stdout).not.toContain('serves')
    const { stdout: json } = await sandbox.run(
      'upgrade',
      '--control',
      sandbox.control,
      '--json',
      '--',
      'no-such-shop',
    )
    expect(JSON.parse(json)).toMatchObject({ ok: false, code: 'ERR_FDB_NO_BINARY' })
    expect(await whoami(url)).toEqual({ generation: 1, pid })
  })

  it.runIf(NIGHTLY)('exits 1 at its deadline when the successor never joins', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const hanging = [process.execPath, '-e', 'setInterval(() => {}, 1000)']
    const limits = ['--timeout', '700ms']
    const { code, stderr } = await sandbox.run(
      'upgrade',
      '--control',
      sandbox.control,
      ...limits,
      '--',
      ...hanging,
    )
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_DEADLINE: .*700 ms/)
    expect(await whoami(url)).toEqual({ generation: 1, pid })
    // Reported as failed, it may not take over later: it is ended.
    await until(
      'the late successor has ended',
      () => !sandbox.processes().some(line => line.includes('setInterval')),
    )
    expect(await sandbox.status()).toMatchObject({
      lastFailure: { code: 'ERR_FDB_DEADLINE', phase: 'starting', at: expect.any(Number) },
    })
  })

  it('says so when the server dies before the result', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const hanging = [process.execPath, '-e', 'setInterval(() => {}, 1000)']
    const running = sandbox.run('upgrade', '--control', sandbox.control, '--json', '--', ...hanging)
    // The successor's own process shows that the request has arrived.
    const successor = `${process.execPath} -e`
    await until('the upgrade has begun', () => sandbox.processes().some(line => line.startsWith(successor)))
    signalPid(pid, 'SIGKILL')
    const { code, stderr } = await running
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_CHANNEL_CLOSED: .*before it answered/)
    // The kernel closes the descriptors of a process before it is a zombie.
    await until('the server has ended', () => hasEnded(pid))
  })

  it('says that nothing listens', async () => {
    const sandbox = Sandbox.open()
    const { code, stderr } = await sandbox.run('upgrade', '--control', sandbox.control)
    expect(code).toBe(3)
    expect(stderr).toMatch(/^ERR_FDB_NO_HOLDER: /)
  })
})
