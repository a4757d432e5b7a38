import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { ancestorsOf, hasEnded, signalPid } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { PidNamespace } from '../processes/namespace.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const STAYS = 'stays until no process is left that would end with this one'

async function prepare(config: object = {}): Promise<Edge> {
  const app = await upstream()
  return await Edge.prepare({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    ...config,
  })
}

/** The proxy as PID 1 of a container. */
async function contained(edge: Edge): Promise<PidNamespace> {
  const { env, log } = edge.sandbox
  const inside = await PidNamespace.start([process.execPath, CLI, 'proxy', '--config', edge.file], {
    env,
    log,
  })
  await edge.serving(1)
  return inside
}

/** As operators do, from outside; the successor's number inside. */
async function upgrade(edge: Edge): Promise<number> {
  const { code, stdout, stderr } = await edge.sandbox.run(
    'upgrade',
    '--control',
    edge.sandbox.control,
    '--json',
  )
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const { pid } = JSON.parse(stdout)
  await edge.serving(pid)
  return pid
}

const answers = async (edge: Edge) =>
  Number((await ask(`${edge.url}/r/1`).answer.catch(() => null))?.headers['x-pid'] ?? 0)

describe('fd-broker proxy as PID 1 of a container', () => {
  it.runIf(NIGHTLY)(
    'stays when it was replaced: no request is lost in three upgrades, and a stop reaches who serves',
    async () => {
      const edge = await prepare()
      const inside = await contained(edge)
      const load = await loadOn(edge.url, { rate: 200, streams: 0, writes: 0 })
      const second = await upgrade(edge)
      await edge.logged('the proxy has ended', line => line.pid === 1)
      await edge.logged(STAYS, line => line.pid === 1)
      const third = await upgrade(edge)
      await edge.logged('the proxy has ended', line => line.pid === second)
      const fourth = await upgrade(edge)
      await edge.logged('the proxy has ended', line => line.pid === third)
      // The processes in between are reaped: the child that it started, and the one that it has adopted.
      await until(
        'two processes are left',
        () => [...inside.processes.keys()].sort((a, b) => a - b).join() === `1,${fourth}`,
        10_000,
        () => [...inside.processes],
      )
      expect(await answers(edge)).toBe(fourth)
      expect(privateMiB(inside.init)).toBeLessThan(64)
      await load.stop()

      inside.signal('SIGHUP')
      await edge.logged('the configuration was read again', line => line.pid === fourth)
      const slow = ask(`${edge.url}/slow`)
      await until('the request is under way', async () => (await edge.status()).connections === 1)
      inside.signal('SIGTERM')
      expect((await slow.answer).body).toBe('slow but sure\n')
      await edge.logged('the proxy has ended', line => line.pid === fourth && line.why === 'closed')
      expect(await inside.exit).toBe(0)
    },
  )

  it.runIf(NIGHTLY)('ends with the exit code of the one that served last', async () => {
    const edge = await prepare()
    const inside = await contained(edge)
    const second = await upgrade(edge)
    await edge.logged(STAYS, line => line.pid === 1)
    expect(hasEnded(inside.init)).toBe(false)
    inside.signal('SIGKILL', second)
    expect(await inside.exit).toBe(137)
  })

  it('serves again when its successor dies while it stands by', async () => {
    const edge = await prepare({ upgrade: { probation: '30s' } })
    const inside = await contained(edge)
    const second = await upgrade(edge)
    inside.signal('SIGKILL', second)
    await until('it answers', async () => (await answers(edge)) === 1)
    inside.signal('SIGTERM')
    expect(await inside.exit).toBe(0)
  })

  it.runIf(NIGHTLY)('told to end while it stands by: both end, it does not come back', async () => {
    const edge = await prepare({ upgrade: { probation: '30s' } })
    const inside = await contained(edge)
    const second = await upgrade(edge)
    expect(second).toBeGreaterThan(1)
    inside.signal('SIGTERM')
    expect(await inside.exit).toBe(0)
    expect(await answers(edge)).toBe(0)
    expect(
      edge.lines.filter(({ msg, signal }) => msg === 'signal forwarded' && signal === 'SIGTERM').length,
    ).toBe(1)
  })
})

describe('a server of its own as PID 1 of a container', () => {
  it('refuses what would end with it, says why, and serves on; a successor from elsewhere is welcome', async () => {
    const port = await freePort()
    const scene = Scene.open(
      {
        upgrade: { probation: 200, heartbeat: 50 },
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
      },
      '/var/tmp',
    )
    const apart = ['unshare', ...USER, '--pid', '--fork', '--kill-child', '--mount-proc']
    const first = await scene.serve({}, { wrap: apart })
    const refused = await first.order('upgrade', {}).catch(error => error)
    expect(refused).toMatchObject({
      code: 'ERR_FDB_MAIN_PROCESS',
      message: expect.stringMatching(/PID 1 .*mainProcess 'stays' .*member\.stay\(\)/),
    })
    const [init] = readFileSync(`/proc/${first.pid}/task/${first.pid}/children`, 'utf8').split(' ')
    const beside = await scene.start({}, { wrap: ['nsenter', '--target', init!, '--pid', '--mount'] })
    expect(await beside.failure()).toMatchObject({ code: 'ERR_FDB_MAIN_PROCESS' })
    const elsewhere = await scene.serve()
    await first.end()
    expect(await scene.status()).toMatchObject({ pid: elsewhere.pid, generation: 2 })
  })
})

describe('a server that PID 1 waits for', () => {
  /** PID 1 is a shell, which ends with the server. */
  const SHELL = [
    'unshare',
    ...USER,
    '--pid',
    '--fork',
    '--kill-child',
    '--mount-proc',
    'sh',
    '-c',
    '"$@"; exit $?',
    'sh',
  ]

  it('refuses an upgrade, and names PID 1 and what it runs', async () => {
    const port = await freePort()
    const scene = Scene.open({ listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }] }, '/var/tmp')
    const first = await scene.serve({}, { wrap: SHELL })
    expect(await first.order('upgrade', {}).catch(error => error)).toMatchObject({
      code: 'ERR_FDB_MAIN_PROCESS',
      message: expect.stringMatching(/PID 1 of its PID namespace \(sh, process 1\) ends with it/),
    })
  })
})

describe('the main process of a unit', () => {
  // As systemd starts it: with its own number, which successors inherit and is not theirs.
  const unit = ['sh', '-c', 'SYSTEMD_EXEC_PID=$$ INVOCATION_ID=0123456789abcdef exec "$@"', 'sh']

  it('stays, adopts its later successors, passes signals on, and ends with them', async () => {
    const edge = await prepare()
    const main = await edge.sandbox.launch([...unit, process.execPath, CLI, 'proxy', '--config', edge.file])
    await edge.serving(main)
    const second = await upgrade(edge)
    await edge.logged(STAYS, line => line.pid === main)
    const third = await upgrade(edge)
    await edge.logged('the proxy has ended', line => line.pid === second)
    await until('the third is its child', () => ancestorsOf(third)[0] === main)
    signalPid(main, 'SIGUSR2')
    const { successor } = await edge.logged('upgraded', line => line.pid === third)
    await edge.serving(successor)
    await edge.ended(third)
    expect(hasEnded(main)).toBe(false)
    expect(await answers(edge)).toBe(successor)
    signalPid(main, 'SIGTERM')
    await edge.ended(successor)
    await edge.ended(main)
  })
})

const USER = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']

/** The private memory of a process: the program's text is shared with its successors. */
function privateMiB(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  const sum = [...text.matchAll(/^Private_\w+:\s+(\d+) kB$/gm)].reduce((all, [, kiB]) => all + Number(kiB), 0)
  return sum / 1024
}
