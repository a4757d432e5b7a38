import { Agent } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { SourceStatus } from '../../src/sources/index.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { Etcd } from '../processes/etcd.js'
import { signalPid } from '../processes/launch.js'
import { has } from '../processes/toolchains.js'
import { pause, until } from '../processes/until.js'

/** A third of the upgrades of each proxy comes before the store is away for `awayMs`. `npm run nightly` can give other sizes. */
const SIZES = {
  routes: 100_000,
  proxies: 3,
  upgrades: 20,
  kills: 5,
  awayMs: 60_000,
  changesPerSecond: 50,
  quiet: 200,
}
const GIVEN: Partial<typeof SIZES> = JSON.parse(process.env.FD_BROKER_SOURCE_SIZES ?? '{}')
const { routes: ROUTES, proxies: PROXIES, upgrades: UPGRADES, kills: KILLS, ...REST } = { ...SIZES, ...GIVEN }
const { awayMs: AWAY_MS, changesPerSecond: PER_SECOND, quiet: QUIET } = REST

const PREFIX = '/edge/'
const BUSY_MS = 180_000
const PROBE = 'probe.example'
const IN_A_TRANSACTION = 128
/** Changed routes that each proxy is asked for at the end. */
const SAMPLE = 1_000
const respond = (body: string) => JSON.stringify({ respond: { body } })

/** Clients of one proxy, on kept connections. A failed request counts, unless the proxy is being killed. */
class Clients {
  answers = 0
  readonly failures: string[] = []
  /** Clients may lose their connections, and find no server; the state file may lack the last changes, which then come from the store again. */
  isKilled = false
  #ended = false
  readonly #running: Promise<unknown>

  constructor(edge: Edge) {
    const agent = new Agent({ keepAlive: true, maxSockets: 4 })
    onTestFinished(() => agent.destroy())
    this.#running = Promise.all(Array.from({ length: 4 }, () => this.#run(edge, agent)))
  }

  async stop(): Promise<void> {
    this.#ended = true
    await this.#running
  }

  async #run(edge: Edge, agent: Agent): Promise<void> {
    while (!this.#ended) {
      const wasKilled = this.isKilled
      try {
        const { status } = await ask(`${edge.url}/r/1`, { agent, headers: { host: 'app.example' } }).answer
        if (status === 200) this.answers++
        else this.failures.push(`status ${status}`)
      } catch (error) {
        if (!wasKilled && !this.isKilled) this.failures.push(String(error))
      }
      await pause(5)
    }
  }
}

/** Asks one proxy for a route whose answer is a number that only grows. */
class Probe {
  /** When each number was seen first, by the number. */
  readonly seen: number[] = []
  last = -1
  readonly back: string[] = []
  #ended = false
  readonly #running: Promise<void>

  constructor(edge: Edge, clients: Clients) {
    this.#running = this.#run(edge, clients)
  }

  async stop(): Promise<void> {
    this.#ended = true
    await this.#running
  }

  async #run(edge: Edge, clients: Clients): Promise<void> {
    while (!this.#ended) {
      const wasKilled = clients.isKilled
      const answer = await ask(edge.url, { headers: { host: PROBE } }).answer.catch(() => null)
      const now = performance.now()
      if (answer?.status === 200) {
        const number = Number(answer.body)
        if (number < this.last && !wasKilled && !clients.isKilled)
          this.back.push(`${number} after ${this.last}`)
        for (let n = this.last + 1; n <= number; n++) this.seen[n] ??= now
        this.last = number
      }
      await pause(4)
    }
  }
}

/** Changes routes of the store, so many in a second, and counts on in the probe's route. */
class Changes {
  /** When the store had taken each number of the probe. */
  readonly made: number[] = []
  /** The answer of each changed host. */
  readonly changed = new Map<string, string>()
  count = 0
  isAway = false
  #ended = false
  readonly #running: Promise<void>

  constructor(etcd: Etcd) {
    this.#running = this.#run(etcd)
  }

  async stop(): Promise<void> {
    this.#ended = true
    await this.#running
  }

  async #run(etcd: Etcd): Promise<void> {
    const begun = performance.now()
    for (let n = 0; !this.#ended; n++) {
      const due = begun + (n * 1_000) / PER_SECOND
      await pause(Math.max(0, due - performance.now()))
      while (this.isAway && !this.#ended) await pause(50)
      const at = (n * 7_919) % ROUTES
      const key = `${PREFIX}routes/h${at}.example/`
      try {
        if (n % 5 === 0) {
          await etcd.put(`${PREFIX}routes/${PROBE}/`, respond(`${this.made.length}`))
          this.made.push(performance.now())
        } else if (n % 7 === 0) {
          await etcd.delete(key)
          this.changed.set(`h${at}.example`, '404')
        } else {
          await etcd.put(key, respond(`changed ${n}`))
          this.changed.set(`h${at}.example`, `changed ${n}`)
        }

        this.count++
      } catch (error) {
        if (!this.isAway) throw error
      }
    }
  }
}

async function sourceOf(edge: Edge): Promise<SourceStatus | undefined> {
  return (await edge.status()).details?.source as SourceStatus | undefined
}

async function digestOf(edge: Edge): Promise<string | undefined> {
  return (await edge.status()).sections?.find(({ name }) => name === 'source')?.digest
}

function shares(values: readonly number[]): Record<string, number> {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number) =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!)
  return { n: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) }
}

describe.skipIf(!has('etcd'))('proxies that follow a large store', () => {
  it('end at its contents after upgrades, kills and an outage, and no request fails', async () => {
    const app = await upstream('app')
    const first = await Edge.prepare({})
    const etcd = await Etcd.start(first.sandbox)
    const entries = Array.from(
      { length: ROUTES },
      (_, n) => [`${PREFIX}routes/h${n}.example/`, respond(`first ${n}`)] as const,
    )
    for (let from = 0; from < ROUTES; from += IN_A_TRANSACTION)
      await etcd.putAll(entries.slice(from, from + IN_A_TRANSACTION))
    await etcd.putAll([
      [`${PREFIX}upstreams/app`, JSON.stringify({ servers: [app.url] })],
      [`${PREFIX}routes/app.example/`, '{"upstream":"app"}'],
    ])
    const source = `etcd://127.0.0.1:${etcd.port}${PREFIX}`
    const prepared = async () => {
      const edge = await Edge.prepare({ source, upgrade: { probation: '0s', timeout: '3m' } })
      edge.write({ stateFile: edge.sandbox.file('state') })
      return edge
    }
    /** Starts a version, and waits until it serves. */
    const next = async (edge: Edge) => {
      const pid = await edge.launch()
      await edge.logged('the proxy serves', line => line.pid === pid, BUSY_MS)
      return pid
    }
    const edges: Edge[] = []
    const pids = new Map<Edge, number>()
    for (let n = 0; n < PROXIES; n++) edges.push(await prepared())
    const begun = performance.now()
    for (const edge of edges) pids.set(edge, await next(edge))
    const firstMs = Math.round((performance.now() - begun) / PROXIES)
    const clients = edges.map(edge => new Clients(edge))
    const probes = edges.map((edge, n) => new Probe(edge, clients[n]!))
    const changes = new Changes(etcd)
    const latencies = (from: number) =>
      shares(
        probes.flatMap(({ seen }) =>
          changes.made.flatMap((at, n) =>
            n >= from && seen[n] !== undefined ? [Math.max(0, seen[n] - at)] : [],
          ),
        ),
      )
    await until('changes without an upgrade', () => changes.made.length > QUIET, BUSY_MS)
    const quiet = latencies(10)
    const upgraded: number[] = []
    const killed: number[] = []
    const upgrade = async (edge: Edge) => {
      const at = performance.now()
      pids.set(edge, await next(edge))
      upgraded.push(performance.now() - at)
    }
    const kill = async (edge: Edge) => {
      const { isKilled: _, ...load } = clients[edges.indexOf(edge)]!
      expect(load.failures).toEqual([])
      clients[edges.indexOf(edge)]!.isKilled = true
      const at = performance.now()
      const pid = pids.get(edge)!
      signalPid(pid, 'SIGKILL')
      await edge.ended(pid)
      pids.set(edge, await next(edge))
      killed.push(performance.now() - at)
      await pause(100)
      clients[edges.indexOf(edge)]!.isKilled = false
    }
    const play = (part: number) =>
      Promise.all(
        edges.map(async edge => {
          for (let n = 0; n < Math.ceil(UPGRADES / 2); n++) {
            await upgrade(edge)
            await pause(300)
            if (n % Math.ceil(UPGRADES / KILLS) === part) await kill(edge)
          }
        }),
      )
    await play(0)
    changes.isAway = true
    await etcd.stop()
    await pause(AWAY_MS / 2)
    for (const edge of edges) await upgrade(edge)
    await pause(AWAY_MS / 2)
    await etcd.start()
    // The first change after the outage, while the proxies may still wait for their next try.
    await etcd.compact(await etcd.put(`${PREFIX}routes/late.example/`, respond('late')))
    changes.isAway = false
    const back = changes.made.length
    await play(1)
    await changes.stop()
    for (const client of clients) await client.stop()
    const last = changes.made.length - 1
    await until(
      'each proxy has the last change',
      () => probes.every(({ last: seen }) => seen === last),
      BUSY_MS,
    )
    const all = latencies(0)
    const afterwards = latencies(back)
    for (const probe of probes) await probe.stop()
    const fresh = await prepared()
    await next(fresh)
    const digest = await digestOf(fresh)
    await until(
      'each proxy has the digest of the store',
      async () => {
        const digests = await Promise.all(edges.map(digestOf))
        return digests.every(each => each === digest)
      },
      BUSY_MS,
    )
    const facts = {
      firstMs,
      changes: changes.count,
      quiet,
      all,
      afterwards,
      upgraded: shares(upgraded),
      killed: shares(killed),
      answers: clients.map(({ answers }) => answers),
    }
    const sample = [...changes.changed].slice(-SAMPLE)
    for (const edge of edges)
      for (const [host, body] of sample) {
        const answer = await ask(edge.url, { headers: { host } }).answer
        expect(answer.status === 200 ? answer.body : `${answer.status}`).toBe(body)
      }
    console.log(JSON.stringify(facts))
    expect(clients.flatMap(({ failures }) => failures)).toEqual([])
    expect(probes.flatMap(({ back }) => back)).toEqual([])
    expect((await Promise.all(edges.map(sourceOf))).map(status => status?.refusedCount)).toEqual(
      edges.map(() => 0),
    )
  }, 3_600_000)
})
