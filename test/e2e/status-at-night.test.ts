import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { Edge } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

function rssOf(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024
}

describe('fd-broker status of a program under fd-broker run', () => {
  it.runIf(NIGHTLY)(
    'tells a loop of crashes: its exit code, how often, how the last one ended, and when',
    async () => {
      const run = await Supervised.start(['--restart', 'always', '--ready', 'fd'], [SERVER])
      for (const generation of [1, 2]) {
        await run.serving(generation)
        signalPid((await run.status()).pid, 'SIGSEGV')
      }
      const pid = await run.serving(3)
      const { code, stdout, stderr } = await run.sandbox.run('status', '--control', run.control)
      expect(code).toBe(1)
      expect(stderr).toMatch(/crashes repeatedly: its program ended or failed 2 times in a row\n$/)
      expect(stdout).toMatch(
        /^crashed +2 times; generation 2 \(pid \d+\) last, by signal 11, \d+\.\ds ago, after \d+\.\ds$/m,
      )
      const { supervisor, pid: program } = await run.status()
      expect(program).toBe(pid)
      expect(supervisor).toMatchObject({ pid: run.pid, loops: true, exits: { count: 2 } })
      expect(supervisor.exits.last).toMatchObject([
        { generation: 1, code: 139 },
        { generation: 2, code: 139 },
      ])
    },
  )

  it.runIf(NIGHTLY)(
    'has the seconds of probation that are left, the version before, and whether the health check calls the version sick',
    async () => {
      const run = await Supervised.start(['--ready', 'http:/health', '--probation', '1m'])
      const text = async () => (await run.sandbox.run('status', '--control', run.control)).stdout
      // There is no previous version: a sick version serves on.
      expect(await text()).toMatch(/^probation +\d+\.\ds left\nhealth +good$/m)
      expect(await run.upgrade('--', SERVER)).toMatchObject({ code: 0 })
      const { probationSeconds, supervisor } = await run.status()
      expect(probationSeconds).toBeGreaterThan(0)
      expect(probationSeconds).toBeLessThanOrEqual(60)
      expect(supervisor).toMatchObject({ healthy: true, complaint: null, before: 1, again: null })
      expect(await text()).toMatch(/^rollback to +generation 1 \(fd-broker rollback\)$/m)
    },
  )

  it('calls a version sick, with what it answered, while no version can replace it', async () => {
    const run = await Supervised.start(['--ready', 'http:/health', '--probation', '1m'])
    await fetch(`${run.url}/sick`)
    const { supervisor } = await until('its health check fails', async () => {
      const status = await run.status()
      return status.supervisor.healthy ? null : status
    })
    expect(supervisor.complaint).toMatch(/^GET .*\/health: 503/)
    const { stdout } = await run.sandbox.run('status', '--control', run.control)
    expect(stdout).toMatch(/^health +UNHEALTHY: GET .*\/health: 503/m)
  })

  it.runIf(NIGHTLY)('has the memory of the program, not of the supervisor', async () => {
    const run = await Supervised.start(['--ready', 'fd'])
    const { pid, rssBytes, supervisor } = await run.status()
    expect(pid).not.toBe(run.pid)
    expect(Math.abs(rssBytes - rssOf(pid))).toBeLessThan(16 * 1024 ** 2)
    expect(supervisor.pid).toBe(run.pid)
    expect(supervisor.rssBytes).not.toBe(rssBytes)
  })

  it.runIf(NIGHTLY)('marks a failure as old when a version has come to serve since', async () => {
    const run = await Supervised.start(['--ready', 'fd'])
    expect(await run.upgrade('--', 'false')).toMatchObject({ code: 1 })
    expect((await run.status()).lastFailure).toMatchObject({ old: false })
    expect(await run.upgrade('--', SERVER)).toMatchObject({ code: 0 })
    expect((await run.status()).lastFailure).toMatchObject({ old: true })
    const { code, stdout } = await run.sandbox.run('status', '--control', run.control)
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /^last failure +OLD \(a version has started to serve after it\): ERR_FDB_SUCCESSOR_EXITED/m,
    )
  })
})

describe('fd-broker status of a service', () => {
  it.runIf(NIGHTLY)('ends with 3 where no process serves it', async () => {
    const sandbox = Sandbox.open()
    const daemon = await sandbox.serve('--control', sandbox.control)
    await sandbox.statusWhere('it listens', ({ pid }) => pid === daemon)
    expect(await sandbox.run('status', '--control', sandbox.control)).toMatchObject({ code: 0, stderr: '' })
    const member = await sandbox.launch([
      process.execPath,
      `${import.meta.dirname}/cli-member.mjs`,
      sandbox.control,
      'shop',
    ])
    const pids = (status: unknown) =>
      (status as { services: { pid: number | null }[] }).services.map(({ pid }) => pid)
    await sandbox.statusWhere('the member serves', status => pids(status)[0] === member)
    signalPid(member, 'SIGKILL')
    await sandbox.statusWhere('no process serves', status => pids(status)[0] === null)
    for (const which of [[], ['--service', 'shop']])
      expect(await sandbox.run('status', '--control', sandbox.control, ...which)).toMatchObject({
        code: 3,
        stdout: expect.stringContaining('none: no process serves'),
        stderr: 'no process serves shop\n',
      })
  })

  it('prints JSON with --json when it fails too', async () => {
    const sandbox = Sandbox.open()
    const { code, stdout } = await sandbox.run('status', '--control', sandbox.control, '--json')
    expect(code).toBe(3)
    expect(JSON.parse(stdout)).toMatchObject({ ok: false, code: 'ERR_FDB_NO_HOLDER' })
  })

  it('has the seconds of probation that are left, and after a rollback who asked for it', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    expect(await sandbox.run('upgrade', '--control', sandbox.control)).toMatchObject({ code: 0 })
    const { probationSeconds } = await sandbox.statusWhere(
      'the version before has told how long it stands by',
      ({ phase, probationSeconds }) => phase === 'probation' && probationSeconds !== null,
    )
    expect(probationSeconds).toBeGreaterThan(0)
    expect(probationSeconds).toBeLessThanOrEqual(10)
    const { stdout } = await sandbox.run('status', '--control', sandbox.control)
    expect(stdout).toMatch(/^handoff +probation, \d\.\ds left$/m)
    expect(await sandbox.run('rollback', '--control', sandbox.control)).toMatchObject({ code: 0 })
    const { lastFailure } = await sandbox.statusWhere(
      'the version before serves',
      status => status.pid === pid,
    )
    expect(lastFailure?.message).toMatch(
      new RegExp(
        `was told to end while another process stood by: fd-broker rollback by uid ${process.getuid!()} \\(pid \\d+\\)$`,
      ),
    )
  })
})

describe('fd-broker status of a proxy', () => {
  it.runIf(NIGHTLY)('names the servers that are out', async () => {
    const port = await freePort()
    const dead = `http://127.0.0.1:${port}`
    const edge = await Edge.prepare({
      upstreams: { app: { servers: [dead], health: { failures: 1, coolDown: '60s' } } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    await edge.serving(await edge.launch())
    await expect(edge.sandbox.run('status', '--control', edge.sandbox.control)).resolves.toMatchObject({
      stdout: expect.not.stringContaining('servers out of use'),
    })
    await until('a request has failed', async () => (await fetch(edge.url)).status >= 500)
    const { details } = await edge.sandbox.status()
    expect(details).toMatchObject({ serversOut: [{ upstream: 'app', server: dead, state: 'down' }] })
    const { stdout } = await edge.sandbox.run('status', '--control', edge.sandbox.control)
    expect(stdout).toMatch(new RegExp(`^ {2}app +${dead} +(down|probing) +\\d+\\.\\ds$`, 'm'))
  })
})
