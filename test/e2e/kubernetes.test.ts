import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { OWN_FILES, Pod } from '../processes/pod.js'
import { Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const PID_FILE = `${OWN_FILES}/edge.pid`
/** The next process, or thread, of the PID namespace has the number after that. */
const last = (pid: number) => `echo ${pid} > /proc/sys/kernel/ns_last_pid`
const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }

/** The manifests' own words, with this machine's paths. */
// biome-ignore lint/suspicious/noExplicitAny: as it is written
function manifest(name: string): any[] {
  const text = readFileSync(new URL(`../../docs/examples/kubernetes/${name}`, import.meta.url), 'utf8')
  return parseAllDocuments(text).map(document => document.toJS())
}

/** Pods of docs/examples/kubernetes/edge.yaml on one node: they share its network, and the folder of the control socket. */
async function node(probation: string) {
  const app = await upstream()
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation },
  })
  const [, { spec }] = manifest('edge.yaml')
  const places: Record<string, string> = { '/etc/fd-broker/edge.yaml': edge.file, '/tmp/edge.pid': PID_FILE }
  const args: string[] = spec.template.spec.containers[0].args.map((word: string) => places[word] ?? word)
  expect(args).toEqual(['proxy', '--config', edge.file, '--pid-file', PID_FILE, '--stay'])
  const fd = [process.execPath, CLI]
  return {
    edge,
    fd,
    control: ['--control', edge.sandbox.control],
    /** One more; it is ready. */
    pod: async () => {
      const pod = await Pod.start(edge.sandbox, [...fd, ...args])
      await pod.ready(PID_FILE)
      return pod
    },
    ended: (generation: number) =>
      edge.logged(
        'the proxy has ended',
        line => lineOf(edge, generation)?.pid === line.pid && line.generation === generation,
      ),
  }
}

const lineOf = (edge: Edge, generation: number) =>
  edge.lines.find(line => line.msg === 'the proxy serves' && line.generation === generation)

describe('pods that share a node’s network and the folder of the control socket', () => {
  it.runIf(NIGHTLY)(
    'replace each other under load: none that was replaced ends before it is told to, and no request fails',
    async () => {
      const { control, edge, ended, fd, pod } = await node('0s')
      let before = await pod()
      const load = await loadOn(edge.url, { streams: 0, writes: 0 })
      for (let generation = 2; generation <= 3; generation++) {
        const next = await pod()
        await ended(generation - 1)
        // The kubelet would start it again.
        expect(hasEnded(before.init)).toBe(false)
        before.signal('SIGTERM')
        expect(await before.exit).toBe(0)
        before = next
      }
      // From inside of it, to its own next version: the pod is the same.
      expect(await before.exec(...fd, 'upgrade', ...control)).toMatchObject({ code: 0, stderr: '' })
      const after = await pod()
      await ended(4)
      expect(hasEnded(before.init)).toBe(false)
      before.signal('SIGTERM')
      expect(await before.exit).toBe(0)
      await load.stop()
      // Without a successor a pod’s end is the end of the service.
      after.signal('SIGTERM')
      expect(await after.exit).toBe(0)
      await expect(ask(edge.url).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    },
  )

  it.runIf(NIGHTLY)(
    'come back: to the old pod when the new one dies in its probation, and at fd-broker rollback in either',
    async () => {
      const { control, edge, fd, pod } = await node('60s')
      const old = await pod()
      const serves = (generation: number) =>
        edge.sandbox.statusWhere(
          `generation ${generation} serves`,
          status => status.generation === generation && status.role === 'serving',
        )
      const doomed = await pod()
      await serves(2)
      doomed.signal('SIGKILL')
      await serves(1)
      const next = await pod()
      await serves(2)
      // Both are number 1: the command must tell them apart all the same, wherever it runs.
      expect(await next.exec(...fd, 'rollback', ...control)).toMatchObject({
        code: 0,
        stdout: 'generation 1 (pid 1) serves again\n',
      })
      await serves(1)
      expect((await edge.status()).moves).toMatchObject({ lost: 0 })
      // The pod is not ready any more, so that the old pod is not deleted, and does not end, to come back by itself.
      await until('its file is gone', () => !existsSync(`/proc/${next.init}/root${PID_FILE}`))
      await edge.logged(
        'stays until no process is left that would end with this one',
        line => line.reason === 'closed',
      )
      expect([next, old].map(({ init }) => hasEnded(init))).toEqual([false, false])
      next.signal('SIGTERM')
      expect(await next.exit).toBe(0)
      await serves(1)
    },
  )

  it.runIf(NIGHTLY)('know their own processes from those of others that have the same number', async () => {
    const { control, edge, ended, fd, pod } = await node('0s')
    const old = await pod()
    const next = await pod()
    await ended(1)
    await next.exec('sh', '-c', last(500))
    const upgraded = await next.exec(...fd, 'upgrade', ...control, '--json')
    const { pid } = JSON.parse(upgraded.stdout)
    // The serving process has this number in its pod; here a sleep has it.
    await old.begin('sh', '-c', `${last(pid - 1)} && sleep 300`)
    await until(
      'somebody has its number',
      () => old.processes.has(pid),
      5_000,
      () => [pid, ...old.processes],
    )
    const foreign = old.outside(pid)
    // The other pod's process ends when it is told to from here, and no process waits for the sleep.
    expect(await old.exec(...fd, 'stop', ...control)).toMatchObject({
      code: 0,
      stdout: `process ${pid} ends\n`,
    })
    expect(await next.exit).toBe(0)
    // No process serves any more: so the one that stayed ends too, to be started again, and takes that with it.
    expect(hasEnded(foreign)).toBe(false)
    expect(await old.exit).toBe(0)
    expect(edge.lines.filter(({ msg }) => msg === 'signal forwarded')).toEqual([])
  })
})

describe('a pod in which fd-broker run is PID 1', () => {
  it.runIf(NIGHTLY)('upgrades by an exec, as its manifest says, and no request fails', async () => {
    const [config, deployment] = manifest('shop.yaml')
    const run = await Supervised.prepare()
    const program = join(run.sandbox.folder, 'server.mjs')
    // Answers to the requests of the load.
    const release = (n: number) =>
      writeFileSync(
        program,
        config.data['server.mjs'].replace(
          "response.end('shop 1\\n')",
          `response.setHeader('x-pid', process.pid).end(request.url === '/release' ? '${n}' : request.url.replace(/^.r.(.*)/, '$1 item-$1\\n'))`,
        ),
      )
    release(1)
    const places: Record<string, string> = {
      '/run/fd-broker/shop.sock': run.control,
      'web=tcp://0.0.0.0:8080': `web=tcp://127.0.0.1:${run.port}`,
      '/srv/shop/server.mjs': program,
    }
    const args: string[] = deployment.spec.template.spec.containers[0].args
    const pod = await Pod.start(run.sandbox, [
      process.execPath,
      CLI,
      ...args.map(word => places[word] ?? word),
    ])
    await run.serving()
    const answer = async () => (await ask(`${run.url}/release`).answer).body
    expect(await answer()).toBe('1')
    const load = await loadOn(run.url, { ...FRESH, rate: perLane(80, 200) })
    for (let n = 2; n <= perLane(2, 3); n++) {
      release(n)
      const upgraded = await pod.exec(process.execPath, CLI, 'upgrade', '--control', run.control)
      expect(upgraded).toMatchObject({ code: 0, stderr: '' })
      await until('the new program answers', async () => (await answer()) === `${n}`)
    }
    await load.stop()
    pod.signal('SIGTERM')
    expect(await pod.exit).toBe(0)
  })
})
