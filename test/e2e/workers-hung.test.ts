import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { present } from '../processes/release.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { mainWhere, pidsOf, servedByAll } from '../processes/workers.js'
import { Sandbox } from './cli-processes.js'

const APP = fileURLToPath(new URL('../fixtures/app-workers.mjs', import.meta.url))

/** Makes `connects` connects one after the other, each answered; returns the pids that answered. */
async function answeredBy(url: string, connects: number): Promise<Set<string>> {
  const pids = new Set<string>()
  for (let i = 0; i < connects; i++) pids.add(String((await ask(url).answer).headers['x-pid']))
  return pids
}

// A worker hangs when it has been silent for 2 s, so each of these takes longer.
describe('a worker that is stopped', () => {
  async function proxy(workers: object) {
    const edge = await Edge.prepare({
      workers: { count: 2, ...workers },
      routes: [{ host: '*', respond: { status: 200, body: 'here\n' } }],
      upgrade: { probation: '0s' },
    })
    await edge.launch()
    await edge.logged('the workers serve')
    const { control } = edge.sandbox
    const [first, second] = pidsOf(await mainWhere(control, 'two serve', servedByAll(2))) as [number, number]
    onTestFinished(() => signalPid(second, 'SIGCONT'))
    return { edge, control, first, second }
  }

  it.runIf(NIGHTLY)(
    'appears in the status, and another answers clients at its listener, until it goes on',
    async () => {
      const { edge, control, first, second } = await proxy({ hungTimeout: 'off' })
      signalPid(second, 'SIGSTOP')
      // Some of these are the stopped worker's: the first that comes to it waits until that is noticed.
      expect(await answeredBy(edge.url, 50)).toEqual(new Set([String(first)]))
      const hung = await mainWhere(control, 'it hangs', ({ workers }) => workers.all[1]?.phase === 'hung')
      expect(pidsOf(hung)).toEqual([first, second])
      expect(await edge.sandbox.run('status', '--control', control)).toMatchObject({
        stdout: expect.stringMatching(new RegExp(`1 +edge\\.1 +hung +${second}`)),
      })
      signalPid(second, 'SIGCONT')
      await mainWhere(control, 'it serves again', servedByAll(2))
      await until('it answers', async () => (await answeredBy(edge.url, 10)).has(String(second)), 20_000)
      expect(hasEnded(second)).toBe(false)
    },
  )

  it.runIf(NIGHTLY)(
    'gives its place to another behind a limit, and dies when it has not woken up by then',
    async () => {
      const { control, first, second, edge } = await proxy({ hungTimeout: '3s' })
      signalPid(second, 'SIGSTOP')
      const replaced = await mainWhere(
        control,
        'another serves in its place',
        status => servedByAll(2)(status) && pidsOf(status)[1] !== second,
      )
      expect(pidsOf(replaced)[0]).toBe(first)
      expect(replaced.workers.all[1]).toMatchObject({
        restarts: 1,
        lastFailure: expect.stringMatching(`process ${second} was silent for \\d+ s, and was replaced`),
      })
      await edge.ended(second)
    },
  )
})

describe('an upgrade while a worker is stopped', () => {
  // A worker hangs when it has been silent for 2 s, the shortest limit of its replacement.
  it('replaces that worker too, and clients of its listener are answered meanwhile', async () => {
    const sandbox = Sandbox.open()
    const { control } = sandbox
    const url = `http://127.0.0.1:${await freePort()}`
    const start = ['workers', 'start', '--service', 'shop', '--control', control, '--count', '2']
    const app = ['--hung-timeout', '2s', '--', process.execPath, APP, url.replace('http', 'tcp')]
    await sandbox.launch([...present.cli, ...start, ...app])
    const old = pidsOf(await mainWhere(control, 'two serve', servedByAll(2))) as [number, number]
    onTestFinished(() => signalPid(old[1], 'SIGCONT'))
    signalPid(old[1], 'SIGSTOP')
    expect(await sandbox.run('upgrade', '--control', control)).toMatchObject({ code: 0 })
    const all = await mainWhere(control, 'two serve', servedByAll(2))
    expect(pidsOf(all).filter(pid => old.includes(pid!))).toEqual([])
    await until('the stopped one was killed', () => hasEnded(old[1]))
    expect((await answeredBy(url, 10)).size).toBeGreaterThan(0)
  })
})

describe('a first worker that is stopped', () => {
  it.runIf(NIGHTLY)(
    'keeps no change of the others waiting: its successor makes them, each once',
    async () => {
      const sandbox = Sandbox.open()
      const { control } = sandbox
      const url = `http://127.0.0.1:${await freePort()}`
      const start = ['workers', 'start', '--service', 'shop', '--control', control, '--count', '2']
      const app = ['--', process.execPath, APP, url.replace('http', 'tcp')]
      await sandbox.launch([...present.cli, ...start, ...app])
      const [first, second] = pidsOf(await mainWhere(control, 'two serve', servedByAll(2))) as [
        number,
        number,
      ]
      onTestFinished(() => signalPid(first, 'SIGCONT'))
      expect(Number((await ask(url, { method: 'POST' }).answer).body)).toBe(1)

      signalPid(first, 'SIGSTOP')
      const answers = await Promise.all(Array.from({ length: 20 }, () => ask(url, { method: 'POST' }).answer))
      const counts = answers.map(({ body }) => Number(body)).sort((a, b) => a - b)
      expect(counts).toEqual(Array.from({ length: 20 }, (_, i) => i + 2))
      expect(answers.some(({ headers }) => headers['x-pid'] === String(second))).toBe(true)
      const replaced = await mainWhere(
        control,
        'another is the first',
        status => servedByAll(2)(status) && pidsOf(status)[0] !== first,
      )
      expect(pidsOf(replaced)[1]).toBe(second)

      // A process that was stopped only goes as any that was replaced.
      signalPid(first, 'SIGCONT')
      await until('it has ended', () => hasEnded(first), 20_000)
      expect((await ask(url).answer).body).toBe('21')
    },
  )
})
