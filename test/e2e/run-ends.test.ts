import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { freePort } from '../processes/scene.js'
import { Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

/** Ends by TERM, as by no handler. */
const PLAIN = [process.execPath, '-e', 'setInterval(() => {}, 1000)']
/** Serves on its first descriptor, whatever else it is given. */
const FIRST = [
  process.execPath,
  '-e',
  "require('node:http').createServer((q, r) => r.end('ok')).listen({ fd: 3 })",
]

async function running(run: Supervised, program = PLAIN, ...options: string[]) {
  const own = run.commandLine(['--ready', 'delay:50ms', ...options], program)
  const child = spawn(own[0]!, own.slice(1), { env: run.sandbox.env, stdio: 'ignore' })
  const { pid } = await until('it serves', async () => {
    const status = await run.status().catch(() => null)
    return status?.role === 'serving' ? status : null
  })
  return { child, pid }
}

describe('fd-broker run', () => {
  it('ends with 0 when it was told to end, whatever its program does then', async () => {
    const loop = 'while :; do sleep 0.05; done'
    const programs = {
      'no handler': PLAIN,
      'exits with 3': ['sh', '-c', `trap 'exit 3' TERM INT; ${loop}`],
      'kills itself': ['sh', '-c', `trap 'kill -9 $$' TERM INT; ${loop}`],
      'ignores it': ['sh', '-c', `trap '' TERM INT; ${loop}`],
    }
    const orders = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'stop'] as const
    const all = Object.entries(programs).flatMap(([name, program]) =>
      orders.map(order => ({ name, program, order })),
    )
    const short = ['no handler SIGTERM', 'exits with 3 SIGTERM', 'ignores it stop']
    const cases = all.filter(({ name, order }) => perLane(short.includes(`${name} ${order}`), true))
    const endOf = async ({ name, program, order }: (typeof cases)[number]) => {
      const run = await Supervised.prepare()
      const { child } = await running(run, program, '--stop-timeout', '200ms')
      const end = once(child, 'exit')
      if (order !== 'stop') child.kill(order)
      else expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
      return [name, order, await end]
    }
    // Four services start at a time.
    const ends: unknown[] = []
    for (let n = 0; n < cases.length; n += 4)
      ends.push(...(await Promise.all(cases.slice(n, n + 4).map(endOf))))
    expect(ends).toEqual(cases.map(({ name, order }) => [name, order, [0, null]]))
  })

  it('kills a program that does not end in the time of a later stop that is shorter', async () => {
    const run = await Supervised.prepare()
    await run.launch(['--ready', 'delay:50ms'], ['sh', '-c', 'trap "" TERM; while :; do sleep 1; done'])
    await until('it serves', async () => (await run.status().catch(() => null))?.role === 'serving')
    const stop = (...limits: string[]) => run.sandbox.run('stop', '--control', run.control, ...limits)
    expect(await stop('--drain', '10m', '--timeout', '300ms')).toMatchObject({ code: 1 })
    expect(await stop('--drain', '100ms', '--timeout', '5s')).toMatchObject({ code: 0 })
  })

  it('gives the time of a stop to a replaced version too, which had the stop timeout', async () => {
    const deaf = (await Supervised.prepare()).orders({ deaf: true })
    const run = await Supervised.start(['--ready', 'delay:50ms', '--probation', '0s'], undefined, {
      FDB_SUPERVISED: deaf,
    })
    // By then it has its handler of TERM.
    const { pid: elder } = await run.whoami()
    await run.upgraded()
    await until('the elder was told', async () => (await run.status()).draining?.length > 0)
    const stop = await run.sandbox.run(
      'stop',
      '--control',
      run.control,
      '--drain',
      '100ms',
      '--timeout',
      '20s',
    )
    expect(stop).toMatchObject({ code: 0 })
    await run.ended(elder)
  })

  it('ends with the code of a program that another process has ended by a signal', async () => {
    const { child, pid } = await running(await Supervised.prepare())
    process.kill(pid, 'SIGTERM')
    expect(await once(child, 'exit')).toEqual([143, null])
  })

  it('has the last lines on stderr and the exit code of a version of Node in the failure of an upgrade', async () => {
    const run = await Supervised.start(['--ready', 'fd', '--probation', '100ms'])
    const source = "console.error('no licence\\nfor this host'); process.exit(6)"
    const { code, stderr } = await run.upgrade('--', process.execPath, '-e', source)
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /ended with code 6 before it served: its last lines .*\n {2}no licence\n {2}for this host\n$/,
    )
    expect((await run.status()).lastFailure.message).toContain('no licence')
    await until('no file for last lines is left', () =>
      readdirSync(dirname(run.control)).every(name => !name.includes('stderr')),
    )
  })

  it('has the last lines on stderr of a version that ends in its probation', async () => {
    const run = await Supervised.start(['--ready', 'delay:50ms', '--healthy-for', '1ms'])
    const source = "setTimeout(() => { console.error('no licence'); process.exit(6) }, 300)"
    expect((await run.upgrade('--', process.execPath, '-e', source)).code).toBe(0)
    await until('the failure has the lines', async () =>
      /in its probation, .*\n {2}no licence/.test((await run.status()).lastFailure?.message ?? ''),
    )
  })

  it('names LISTEN_FDS to a program that binds the address that it was given', async () => {
    const sandbox = Sandbox.open()
    const listen = `tcp://127.0.0.1:${await freePort()}`
    const hint = 'take the socket from LISTEN_FDS instead of binding it (docs/run.md)'
    const failure = async (options: string[], ...command: string[]) => {
      // On a busy machine Node starts for longer than the default, one second.
      const ready = ['--ready', 'delay:1m']
      const { code, stderr } = await sandbox.run('run', ...ready, ...options, '--', ...command)
      expect(code).toBe(1)
      expect(stderr).toContain('"a version failed before it served"')
      const line = stderr.split('\n').find(text => text.includes('"a version failed before it served"'))!
      const { err } = JSON.parse(line) as { err: { message: string; stack?: string } }
      expect(err.stack).toBeFalsy()
      return err.message
    }
    const web = ['--listen', `web=${listen}`]
    const binds = `require('node:net').createServer().listen(${listen.split(':').at(-1)}, '127.0.0.1')`
    const control = ['--control', join(sandbox.folder, 'run.sock')]
    expect(await failure([...web, ...control], process.execPath, '-e', binds)).toContain(
      `its last lines on stderr are below; ${hint}\n`,
    )
    // The supervisor has bound no address here: its program binds one that another process has.
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const other = binds.replace(/listen\(\d+/, `listen(${(taken.address() as AddressInfo).port}`)
    expect(await failure(control, process.execPath, '-e', other)).toContain(
      `; give the address to run by --listen, and ${hint}\n`,
    )
    taken.close()
    expect(await failure(web, 'sh', '-c', 'exit 1')).toContain(
      `see its own output; if an address was in use, ${hint}`,
    )
    expect(await failure([...web, ...control], process.execPath, '-e', 'throw 1')).not.toContain(hint)
  })

  it('tells why --ready http:/PATH fails for a program that takes only the first descriptor', async () => {
    const run = await Supervised.start(['--ready', 'http:/', '--ready-timeout', '1s'])
    const { code, stderr } = await run.upgrade('--timeout', '1s', '--', ...FIRST)
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /it does not accept on descriptor 4 \(LISTEN_FDNAMES: ready\).*takes descriptor 3 only/,
    )
  })

  it('has in its status what its first version has not done yet', async () => {
    const run = await Supervised.prepare()
    await run.launch(['--ready', 'http:/', '--stop-timeout', '100ms'], FIRST)
    const { upgrade } = await until('the check waits', async () => {
      const status = await run.status().catch(() => null)
      return status?.upgrade?.missing?.includes('descriptor') ? status : null
    })
    expect((await run.sandbox.run('status', '--control', run.control)).stdout).toMatch(
      new RegExp(
        `^next version {2}process ${upgrade!.pid}, phase starting: it does not accept on descriptor 4 `,
        'm',
      ),
    )
  })

  it.runIf(NIGHTLY)('tells so after some seconds, in its log and in the upgrade', async () => {
    const run = await Supervised.start(['--ready', 'http:/'])
    const upgrade = ['upgrade', '--control', run.control, '--timeout', '7s', '--', ...FIRST]
    const { stderr } = await run.sandbox.runWithNotes(...upgrade)
    const why = /it does not accept on descriptor 4 \(LISTEN_FDNAMES: ready\).*takes descriptor 3 only/
    expect(stderr.split('\n')[0]).toMatch(
      /^process \d+, the next version, does not serve yet: it does not accept/,
    )
    expect(run.lines.filter(({ msg }) => msg === 'a version is not ready yet')).toEqual([
      expect.objectContaining({ version: 2, why: expect.stringMatching(why) }),
    ])
  })
})

it('a file that is given as --control is named as one', async () => {
  const sandbox = Sandbox.open()
  const file = join(sandbox.folder, 'notes')
  writeFileSync(file, '')
  const said = async (path: string) => (await sandbox.run('status', '--control', path)).stderr
  expect(await said(file)).toMatch(
    /^ERR_FDB_NO_HOLDER: no process serves at .*notes: it is a file, not a socket/,
  )
  expect(await said(sandbox.folder)).toMatch(/it is a folder, not a socket/)
})

it('says what a first version lacks that makes no check before its time is over', async () => {
  const sandbox = Sandbox.open()
  const { code, stderr } = await sandbox.run(
    'run',
    ...['--control', sandbox.control, '--ready', 'notify', '--ready-timeout', '1s', '--', 'sleep', '600'],
  )
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: expect.stringMatching(
      /was not ready within 1000 ms: it is not ready as --ready notify requires\n$/,
    ),
  })
})
