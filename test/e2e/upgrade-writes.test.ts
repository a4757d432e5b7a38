import { Agent } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { serviceWhere, startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const TIMES = { probation: 500, heartbeat: 50, ready: 20_000 }
const PUTS_PER_SECOND = 300
const SESSIONS = 16
const UPGRADES = perLane(1, 3)

/** Clients that change the state, each by a handler that takes its time. */
class Clients {
  readonly failures: string[] = []
  /** The acknowledged changes. */
  readonly puts = new Map<string, string>()
  /** The visits of each session. */
  readonly visits = new Map<number, number>()
  readonly #url: string
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 64 })
  #running = true
  readonly #done: Promise<unknown>

  constructor(url: string) {
    this.#url = url
    const sessions = Array.from({ length: SESSIONS }, (_, session) => this.#visit(session))
    this.#done = Promise.all([this.#put(), ...sessions])
    onTestFinished(() => this.stop())
  }

  get acknowledged(): number {
    return this.puts.size + this.visitCount
  }

  get visitCount(): number {
    return [...this.visits.values()].reduce((sum, count) => sum + count, 0)
  }

  async stop(): Promise<void> {
    this.#running = false
    await this.#done
    this.#agent.destroy()
  }

  /** Each in its time, whatever becomes of the others. */
  async #put(): Promise<void> {
    const begun = performance.now()
    const asked: Promise<void>[] = []
    for (let n = 0; this.#running; n++) {
      await pause(Math.max(0, begun + (n * 1000) / PUTS_PER_SECOND - performance.now()))
      asked.push(
        this.#ask(`/r/put-${n}`, 'PUT', `value ${n}`).then(
          ok => void (ok && this.puts.set(`put-${n}`, `value ${n}`)),
        ),
      )
    }
    await Promise.all(asked)
  }

  /** One visit after the other, as a browser does. */
  async #visit(session: number): Promise<void> {
    for (let n = 1; this.#running; n++) {
      const ms = (session * 37 + n * 11) % 120
      const body = await this.#ask(`/visit/${session}?ms=${ms}`, 'GET')
      if (body === null) continue
      const visits = Number(body.split(' ')[0])
      if (visits !== n) this.failures.push(`visit ${n} of session ${session} was told to be ${visits}`)
      this.visits.set(session, n)
    }
  }

  async #ask(path: string, method: string, body?: string): Promise<string | null> {
    try {
      const options = { method, agent: this.#agent, ...(body === undefined ? {} : { body }) }
      const answer = await ask(`${this.#url}${path}`, options).answer
      if (answer.status === 200) return answer.body
      this.failures.push(`${path}: ${answer.status} of ${answer.headers['x-generation']}: ${answer.body}`)
    } catch (error) {
      this.failures.push(`${path}: ${(error as Error).message}`)
    }
    return null
  }
}

async function world(
  hosting: 'embedded' | 'daemon',
  config: AppConfig = {},
): Promise<{ scene: Scene; url: string }> {
  const port = await freePort()
  const scene = Scene.open({
    hosting,
    upgrade: TIMES,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    ...config,
  })
  if (hosting === 'daemon') await startDaemon(scene, { upgrade: TIMES })
  return { scene, url: `http://127.0.0.1:${port}` }
}

async function expectAllCounted(clients: Clients, last: App): Promise<void> {
  expect(clients.failures).toEqual([])
  const all = await last.order<Record<string, { item: unknown }>>('all')
  for (const [key, item] of clients.puts) expect(all[key]).toEqual({ item })
  for (const [session, visits] of clients.visits) expect(all[`session-${session}`]).toEqual({ item: visits })
  expect(all.visits).toEqual({ item: clients.visitCount })
}

describe.each(['embedded', 'daemon'] as const)('changes made during upgrades, %s hosting', hosting => {
  it.runIf(NIGHTLY || hosting === 'daemon')(
    'take effect, each once: upgrades under 300 puts a second and read-modify-write sessions',
    async () => {
      const { scene, url } = await world(hosting)
      let current = await scene.serve({ routes: 0 })
      const clients = new Clients(url)
      const more = async () => {
        const enough = clients.acknowledged + perLane(150, 300)
        await until(
          'more changes are made',
          () => clients.acknowledged >= enough || clients.failures.length > 0,
        )
      }
      for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
        await more()
        if (hosting === 'daemon')
          await serviceWhere(scene, 'the probation is over', ({ phase }) => phase === 'idle')
        else await scene.statusWhere('the probation is over', ({ phase }) => phase === 'idle')
        const next = await scene.serve()
        await current.says('retiring')
        current = next
      }
      await more()
      await clients.stop()
      console.log(
        `${hosting}: ${clients.puts.size} puts, ${clients.visitCount} visits, ${clients.failures.length} failed`,
      )
      await expectAllCounted(clients, current)
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')(
    'wait for a successor that is busy behind its commit, however long: it has said that it takes them',
    async () => {
      const { scene } = await world(hosting, { upgrade: { ...TIMES, silence: 20_000 } })
      const first = await scene.serve({ routes: 0 })
      const next = await scene.start({ warmUp: 1_500 })
      await first.says('retiring')
      await first.order('count', { key: 'all' })
      expect(await next.order('get', { key: 'all' })).toEqual({ item: 1 })
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')(
    'reach the disk of the successor when the commit comes between a durable one and its own disk',
    async () => {
      const { scene } = await world(hosting)
      const options = { stateFile: scene.file('state') }
      const first = await scene.serve({ routes: 0, options })
      const refused: unknown[] = []
      const asked: Promise<unknown>[] = []
      let made = 0
      let crossed = false
      const puts = (async () => {
        for (; !crossed; made++) {
          const put = first.order('put', { key: `durable-${made}`, value: { item: made }, durable: true })
          asked.push(put.catch(error => refused.push(error.message)))
          await pause(2)
        }
      })()
      const next = await scene.serve({ options })
      await first.says('retiring')
      crossed = true
      await puts
      await Promise.all(asked)
      expect(refused).toEqual([])
      const all = await next.order<Record<string, unknown>>('all')
      for (let n = 0; n < made; n++) expect(all[`durable-${n}`]).toEqual({ item: n })
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')('cross several generations, each once', async () => {
    const { scene, url } = await world(hosting, { drain: { timeout: 60_000 } })
    const options = { stateFile: scene.file('state') }
    const first = await scene.serve({ routes: 0, options })
    // Keeps it from leaving.
    const slow = ask(`${url}/slow?ms=60000`)
    slow.answer.catch(() => {})
    await until('it is on its way', async () => (await scene.apps[0]!.order('phase')) === 'serving')
    for (let n = 1; n <= UPGRADES; n++) {
      const before = scene.apps.at(-1)!
      const next = await scene.serve({ options })
      await before.says('retiring')
      for (const app of [first, next]) await app.order('count', { key: 'all' })
      expect(await first.order('get', { key: 'all' })).toEqual({ item: 2 * n })
      await first.order('put', { key: `by-${n}`, value: { item: n }, request: `put-${n}` })
      await next.order('put', { key: `by-${n}`, value: { item: -n }, request: `put-${n}` })
      expect(await next.order('get', { key: `by-${n}` })).toEqual({ item: n })
      // The one that writes has brought it to the disk.
      await first.order('put', { key: 'durable', value: { item: n }, durable: true })
      const { state } = await next.order<StatusReport>('status', {})
      expect(state.file?.syncedSequence).toBe(state.sequence)
      // A daemon turns joiners away until then.
      if (hosting === 'daemon')
        await serviceWhere(scene, 'the probation is over', ({ phase }) => phase === 'idle')
    }
  })

  it.each(
    NIGHTLY ? (['is not well', 'closes'] as const) : hosting === 'embedded' ? (['is not well'] as const) : [],
  )('take effect, each once, when a successor that lives %s and its incumbent serves again', async how => {
    const { scene, url } = await world(hosting, { upgrade: { ...TIMES, silence: 300, probation: 30_000 } })
    const first = await scene.serve({ routes: 0 })
    const clients = new Clients(url)
    const next = await scene.serve({ sickFile: scene.file('sick') })
    await first.says('retiring')
    const more = clients.acknowledged + 100
    await until('100 changes are made', () => clients.acknowledged >= more || clients.failures.length > 0)
    if (how === 'closes') next.signal('SIGTERM')
    else scene.write('sick', '')
    await first.says('reinstated')
    const enough = clients.acknowledged + 100
    await until(
      '100 changes more are made',
      () => clients.acknowledged >= enough || clients.failures.length > 0,
    )
    await clients.stop()
    await expectAllCounted(clients, first)
  })

  it.runIf(NIGHTLY || hosting === 'embedded')(
    'take effect once over a way back, while counters count in both',
    async () => {
      const { scene } = await world(hosting, { upgrade: { ...TIMES, probation: 30_000 } })
      const first = await scene.serve({ routes: 0 })
      let counted = 0
      let running = true
      const failures: unknown[] = []
      const count = async (app: App) => {
        while (running && !app.ended) {
          try {
            await app.order('count', { key: 'all' })
            counted++
            if (!NIGHTLY) await pause(5)
          } catch (error) {
            if (!app.ended) failures.push(error)
          }
        }
      }
      const counting = [count(first), count(first), count(first)]
      for (let n = 0; n < perLane(2, 3); n++) {
        const next = await scene.serve()
        await until('the old one stands by', async () => (await first.order('phase')) === 'standby')
        const enough = counted + 30
        await until('30 are counted meanwhile', () => counted >= enough || failures.length > 0)
        await next.kill()
        await until('the old one serves again', async () => (await first.order('phase')) === 'serving')
      }
      running = false
      await Promise.all(counting)
      expect(failures).toEqual([])
      expect(await first.order('get', { key: 'all' })).toEqual({ item: counted })
    },
  )
})

describe('changes made in a member that drains', () => {
  it('take effect when the daemon, or another member, is there again', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      hosting: 'daemon',
      upgrade: TIMES,
      drain: { timeout: 60_000 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    const first = await scene.serve({ routes: 0 })
    ask(`${url}/slow?ms=60000`).answer.catch(() => {})
    const second = await scene.serve()
    await until('the first one drains', async () => (await first.order('phase')) === 'leaving')
    await daemon.kill()
    const waits = first.order('count', { key: 'all' })
    await startDaemon(scene, { upgrade: TIMES })
    expect(await waits).toEqual({ item: 1 })
    expect(await first.order('get', { key: 'all' })).toEqual({ item: 1 })
    await second.kill()
    const again = first.order('count', { key: 'all' })
    const third = await scene.serve()
    expect(await again).toEqual({ item: 2 })
    expect(await third.order('get', { key: 'all' })).toEqual({ item: 2 })
  })

  it('take effect when the daemon was killed within the probation, and show there', async () => {
    const port = await freePort()
    const LONG = { ...TIMES, probation: 30_000 }
    const scene = Scene.open({
      hosting: 'daemon',
      upgrade: LONG,
      timeout: 3_000,
      drain: { timeout: 60_000 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const daemon = await startDaemon(scene, { upgrade: LONG })
    const first = await scene.serve({ routes: 0 })
    ask(`http://127.0.0.1:${port}/slow?ms=60000`).answer.catch(() => {})
    const second = await scene.serve()
    await until('the first one stands by', async () => (await first.order('phase')) === 'standby')
    await daemon.kill()
    await until('the first one notices', async () => (await first.order('phase')) === 'orphan')
    await startDaemon(scene, { upgrade: LONG })
    await serviceWhere(
      scene,
      'the second one serves',
      ({ phase, pid }) => phase !== 'rebuilding' && pid === second.pid,
    )
    for (let n = 1; n <= 3; n++) {
      await second.order('put', { key: 'of-second', value: { item: n } })
      await until(
        'the first one reads it',
        async () => (await first.order<{ item: number } | null>('get', { key: 'of-second' }))?.item === n,
      )
      await first.order('count', { key: 'all' })
      expect(await second.order('get', { key: 'all' })).toEqual({ item: n })
    }
  })
})

describe('a joiner that accepts because the daemon was killed', () => {
  it('reads what the incumbent goes on to write', async () => {
    const port = await freePort()
    const scene = Scene.open({
      hosting: 'daemon',
      upgrade: TIMES,
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    await startDaemon(scene, { upgrade: TIMES, traps: { 'holder quiescing': 'SIGKILL' } })
    const first = await scene.serve({ routes: 0 })
    const joiner = await scene.start()
    await until('the joiner accepts', async () => (await joiner.order('phase')) === 'orphan')
    await first.order('put', { key: 'new', value: { item: 1 } })
    await until('it reads the change', async () => (await joiner.order('get', { key: 'new' })) !== null)
    await startDaemon(scene, { upgrade: TIMES })
    await serviceWhere(scene, 'the daemon is back', ({ phase, pid }) => phase === 'idle' && pid === first.pid)
    await first.order('count', { key: 'all' })
    expect(await (await scene.serve()).order('get', { key: 'all' })).toEqual({ item: 1 })
  })
})

describe('close() of the last process', () => {
  it('lets those who are still served make their changes, and the state file has them', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({ listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }] })
    const options = { stateFile: scene.file('state') }
    const only = await scene.serve({ routes: 0, options })
    const visit = ask(`${url}/visit/a?ms=700`)
    await until('it is served', async () => (await scene.status()).listeners[0]?.connections === 1)
    only.signal('SIGTERM')
    expect(await visit.answer).toMatchObject({ status: 200, body: '1 1' })
    await until('it has ended', () => only.ended)
    const next = await scene.serve({ options })
    expect(await next.order('get', { key: 'session-a' })).toEqual({ item: 1 })
  })
})
