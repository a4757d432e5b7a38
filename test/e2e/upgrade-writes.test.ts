import { Agent } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { App, AppConfig } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const TIMES = { probation: 500, heartbeat: 50, ready: 20_000 }
const PUTS_PER_SECOND = 300
const SESSIONS = 16
const UPGRADES = 3

/** Clients that change the state, each by a handler that takes its time. */
class Clients {
  readonly failures: string[] = []
  /** What was acknowledged. */
  readonly puts = new Map<string, string>()
  /** Of each session. */
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
  it('are made, each once: three upgrades under 300 puts a second and read-modify-write sessions', {
    timeout: 60_000,
  }, async () => {
    const { scene, url } = await world(hosting)
    let current = await scene.serve({ routes: 0 })
    const clients = new Clients(url)
    const more = async () => {
      const enough = clients.acknowledged + 300
      await until(
        '300 changes more are made',
        () => clients.acknowledged >= enough || clients.failures.length > 0,
      )
    }
    for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
      await more()
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
  })
})
