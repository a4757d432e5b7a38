import http from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { App, AppConfig } from '../processes/app.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

/** On a machine that has much else to do. */
const BUSY_MS = 60_000
const TIMES = { probation: 0, heartbeat: 50, ready: 20_000 }
const CLIENTS = 50

async function sceneWith(defaults: AppConfig = {}): Promise<[Scene, number]> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'streams' as const }]
  return [Scene.open({ upgrade: TIMES, listeners, ...defaults }), port]
}

/** A client with one connection, and its answer. */
class Client {
  readonly #agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  readonly #port: number
  answer!: http.IncomingMessage
  text = ''
  /** How the answer ended; null: not yet. */
  end: string | null = null

  constructor(port: number) {
    this.#port = port
    onTestFinished(() => this.#agent.destroy())
  }

  #get(path: string): Promise<http.IncomingMessage> {
    return new Promise((resolve, reject) => {
      http.get({ port: this.#port, host: '127.0.0.1', path, agent: this.#agent }, resolve).on('error', reject)
    })
  }

  /** Begins to read the answer. */
  async open(path: string): Promise<this> {
    this.answer = await this.#get(path)
    this.answer.setEncoding('utf8')
    this.answer.on('end', () => {
      this.end ??= 'end'
    })
    this.answer.on('error', error => {
      this.end ??= String(error)
    })
    return this
  }

  read(): this {
    this.answer.on('data', chunk => {
      this.text += chunk
    })
    return this
  }

  get ids(): number[] {
    return [...this.text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id))
  }

  servedBy({ pid }: App): boolean {
    return this.text.includes(`data: ${pid}\n`)
  }

  /** The process that answers the next request, and whether it went over the same connection. */
  async next(): Promise<[pid: number, same: boolean]> {
    const next = await this.#get('/next')
    let pid = ''
    for await (const chunk of next) pid += chunk
    return [Number(pid), next.socket === this.answer.socket]
  }
}

async function clients(port: number, path: string, count: number): Promise<Client[]> {
  return await Promise.all(
    Array.from({ length: count }, async () => (await new Client(port).open(path)).read()),
  )
}

function untilServed(those: readonly Client[], app: App): Promise<unknown> {
  return until(
    `process ${app.pid} serves all`,
    () => those.every(client => client.servedBy(app)),
    BUSY_MS,
    () => those.map(({ end, ids }) => [end, ids.at(-1)]),
  )
}

describe('streamed answers', () => {
  it('go on through upgrades and a rollback: every event once, in order, none ended', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({ upgrade: { ...TIMES, probation: 60_000 } })
    const first = await scene.serve()
    const all = await clients(port, '/events', CLIENTS)
    await untilServed(all, first)
    const second = await scene.serve()
    await untilServed(all, second)
    const ids = all.map(client => client.ids.length)
    await scene.rollback()
    await until('all go on', () => all.every((client, i) => client.ids.length > ids[i]! + 1), BUSY_MS)
    const third = await scene.serve()
    await untilServed(all, third)
    for (const { end, ids } of all)
      expect([end, ids]).toEqual([null, Array.from({ length: ids.length }, (_, i) => i + 1)])
    expect((await third.status()).moves).toMatchObject({ arrived: CLIENTS, lost: 0 })
  })

  it.each(['/parts/100', '/parts/100/chunks'])(
    'carry on what a slow client has not received yet: %s',
    { timeout: 240_000 },
    async path => {
      const [scene, port] = await sceneWith()
      const first = await scene.serve()
      // Nothing of the body is read.
      const client = await new Client(port).open(path)
      const second = await scene.serve()
      await first.end(BUSY_MS)
      client.read()
      await until('the answer is whole', () => client.end, BUSY_MS)
      expect([client.end, client.text.length, client.text.replaceAll('x', '')]).toEqual([
        'end',
        10_000_000,
        '',
      ])
      expect(await client.next()).toEqual([second.pid, true])
    },
  )

  it('end between two events if they stay, and name a time to connect again', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({ drain: { timeout: 3_000 } })
    await scene.serve()
    const all = await clients(port, '/still', 4)
    await scene.serve()
    await until('all have ended', () => all.every(({ end }) => end !== null), BUSY_MS)
    for (const { end, text } of all) {
      expect(end).toBe('end')
      expect(text).toMatch(/^: begin\n\n(?:id: \d+\ndata: \d+\n\n)*retry: \d+\n\n$/)
    }
  })
})
