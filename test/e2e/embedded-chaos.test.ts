import { describe, expect, it, onTestFinished } from 'vitest'
import { RawClient } from '../connections-support/http-client.js'
import { NIGHTLY } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { randomFrom } from '../processes/random.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'
import { Writes } from '../processes/writes.js'

const ROUNDS = Number(process.env.FDB_CHAOS_ROUNDS ?? 500)
const SEED = Number(process.env.FDB_CHAOS_SEED ?? Date.now() % 1_000_000)
const KINDS = ['close', 'kill', 'stop', 'block', 'exit', 'throw'] as const
const WHO = ['old', 'new', 'both'] as const
/** From the start of the next version to a while after its probation. */
const SPAN_MS = 900
const CLIENTS = 4

type Kind = (typeof KINDS)[number]

/** Clients that ask again and again, each over one connection as long as that lasts. */
class KeptConnections {
  /** How connections ended. */
  readonly ends: string[] = []
  readonly #port: number
  readonly #done: Promise<unknown>
  #running = true

  constructor(port: number) {
    this.#port = port
    this.#done = Promise.all(Array.from({ length: CLIENTS }, () => this.#run()))
  }

  async stop(): Promise<void> {
    this.#running = false
    await this.#done
  }

  async #run(): Promise<void> {
    while (this.#running) {
      const client = await RawClient.to(this.#port).catch(() => null)
      if (client === null) await pause(20)
      try {
        while (this.#running && client !== null) {
          await client.ask('/whoami')
          await pause(5)
        }
      } catch {
        this.ends.push(client?.end ?? 'refused')
      }
      client?.socket.destroy()
    }
  }
}

/** Resolves with whether the process must end because of it. */
async function strike(kind: Kind, app: App): Promise<boolean> {
  const order = (what: string, facts: object) => {
    const listens = app.find('takes orders') !== undefined && !app.ended
    if (listens) app.order(what, facts).catch(() => {})
    return listens
  }
  switch (kind) {
    case 'kill':
      app.signal('SIGKILL')
      return true
    case 'stop':
      app.signal('SIGSTOP')
      await pause(400)
      app.signal('SIGCONT')
      return false
    case 'block':
      order('stall', { ms: 400 })
      return false
    case 'exit':
      return order('exit', { code: 3 })
    case 'close':
      return order('close', { timeout: 5_000 })
    case 'throw':
      // The next version throws by itself, in its check.
      return false
  }
}

/** Whether the service may end: each process was ended, has left before, or could not serve. */
function mayEnd(kind: Kind, victims: readonly App[], apps: readonly App[]): boolean {
  if (kind !== 'close' && kind !== 'kill' && kind !== 'exit') return false
  return apps.every(
    app =>
      victims.includes(app) ||
      app.find('ended')?.why === 'replaced' ||
      app.find('failed') !== undefined ||
      app.find('joined')?.first !== false,
  )
}

/** Resolves when one of them serves and its handoff is over, or when both have ended. */
function outcomeOf(what: string, scene: Scene, apps: readonly App[]): Promise<App | 'ended'> {
  return until<App | 'ended' | null>(
    `${what}: one serves, or both have ended`,
    async () => {
      const alive = apps.filter(app => !app.ended)
      if (alive.length === 0) return 'ended'
      const status = await scene.status().catch(() => null)
      if (alive.length !== 1 || status?.role !== 'serving' || status.phase !== 'idle') return null
      return alive.find(({ pid }) => pid === status.pid) ?? null
    },
    20_000,
    () => apps.map(app => app.output).join('\n\n'),
  )
}

describe('chaos of an embedded application', () => {
  it.runIf(NIGHTLY)(
    `close, kill, stop, block, exit, throw of old, new, both: ${ROUNDS} rounds (FDB_CHAOS_SEED=${SEED})`,
    { timeout: 60_000 + ROUNDS * 10_000 },
    async () => {
      const random = randomFrom(SEED)
      const port = await freePort()
      const scene = Scene.open({
        routes: 0,
        timeout: 5_000,
        upgrade: {
          probation: 300,
          heartbeat: 25,
          silence: 1_000,
          freeze: 500,
          prepare: 1_500,
          commit: 1_500,
        },
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
      })
      let current = await scene.serve()
      const writes = new Writes(`http://127.0.0.1:${port}`)
      const kept = new KeptConnections(port)
      onTestFinished(() => kept.stop())
      let acknowledged = 0
      for (let round = 1; round <= ROUNDS; round++) {
        const [kind, who] = [KINDS[random(KINDS.length)]!, WHO[random(WHO.length)]!]
        const [delay, readyDelay] = [random(SPAN_MS), random(300)]
        const what = `seed ${SEED}, round ${round}: ${kind} of ${who} after ${delay} ms, ready after ${readyDelay} ms`
        const [ends, refused] = [kept.ends.length, writes.refused]
        const next = await scene.start({ readyDelay, ...(kind === 'throw' && { check: 'throw' }) })
        await pause(delay)
        const victims = who === 'both' ? [current, next] : [who === 'old' ? current : next]
        const struck = await Promise.all(victims.map(async app => ((await strike(kind, app)) ? [app] : [])))
        for (const app of struck.flat()) await app.end()
        const outcome = await outcomeOf(what, scene, [current, next])
        // A next version that joined too late is the first process of a new service.
        if (outcome === 'ended' || (outcome === next && next.find('joined')?.first === true)) {
          expect({ what, mayEnd: mayEnd(kind, victims, [current, next]) }).toEqual({ what, mayEnd: true })
          acknowledged += writes.acknowledged.size
          writes.acknowledged.clear()
          current = outcome === 'ended' ? await scene.serve() : outcome
          continue
        }
        const all = await outcome.order<Record<string, { item: string }>>('all')
        const lost = [...writes.acknowledged.keys()].filter(key => all[key] === undefined)
        const isDeath = kind === 'kill' || kind === 'exit'
        const seen = { lost, refused: writes.refused - refused, ends: isDeath ? [] : kept.ends.slice(ends) }
        expect({ what, ...seen }).toEqual({ what, lost: [], refused: 0, ends: [] })
        current = outcome
      }
      await Promise.all([kept.stop(), writes.stop()])
      acknowledged += writes.acknowledged.size
      console.log(
        `${ROUNDS} rounds, seed ${SEED}, ${acknowledged} changes acknowledged, ${kept.ends.length} connections ended with their process`,
      )
      expect(acknowledged).toBeGreaterThan(ROUNDS)
    },
  )
})
