import http from 'node:http'
import net from 'node:net'
import { Agent, EventSource, request } from 'undici'
import { describe, expect, it, onTestFinished } from 'vitest'
import { perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

/** On a machine that has much else to do. */
const BUSY_MS = 60_000
const TIMES = { probation: 0, heartbeat: 50, ready: 20_000 }
const CLIENTS = 50
/** The pause between two events that are published, and before a client reconnects, in milliseconds. */
const PUBLISH_MS = 20

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

  it.each(perLane(['/parts/100'], ['/parts/100', '/parts/100/chunks']))(
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

/** Publishes numbered events until it is stopped. One that is not acknowledged is not repeated. */
class Publisher {
  readonly acknowledged: number[] = []
  /** The process that has published last. */
  pid = 0
  #running = true
  readonly #port: number
  readonly #done: Promise<void>

  constructor(port: number) {
    this.#port = port
    this.#done = this.#publish()
  }

  async #publish(): Promise<void> {
    for (let n = 1; this.#running; n++) {
      const url = `http://127.0.0.1:${this.#port}/publish`
      const answer = await fetch(url, { method: 'POST', body: `event ${n}` }).catch(() => null)
      if (answer?.ok) {
        this.acknowledged.push(n)
        this.pid = Number(await answer.text())
      } else await answer?.body?.cancel()
      await pause(PUBLISH_MS)
    }
  }

  async stop(): Promise<number[]> {
    this.#running = false
    await this.#done
    return this.acknowledged
  }

  /** Until this process has published some events. */
  async by({ pid }: App): Promise<void> {
    await until(`process ${pid} publishes`, () => this.pid === pid, BUSY_MS)
    const before = this.acknowledged.length
    await until('it publishes on', () => this.acknowledged.length > before + 3, BUSY_MS)
  }
}

/** A client of a channel: reconnects with the id of its last event, and by HTTP/1.0 if it is told so. */
class Follower {
  readonly ids: number[] = []
  readonly texts: string[] = []
  connections = 0
  gaps = 0
  #lastId = ''
  #socket!: net.Socket
  #stopped = false
  readonly #port: number
  readonly #version: string

  private constructor(port: number, version: string) {
    this.#port = port
    this.#version = version
    onTestFinished(() => this.stop())
  }

  static async open(port: number, version = '1.1'): Promise<Follower> {
    const follower = new Follower(port, version)
    follower.#connect()
    await until('it has a position', () => follower.#lastId !== '', BUSY_MS)
    return follower
  }

  stop(): void {
    this.#stopped = true
    this.#socket.destroy()
  }

  #connect(): void {
    let text = ''
    this.connections++
    this.#socket = net.connect(this.#port, '127.0.0.1')
    const last = this.#lastId === '' ? '' : `Last-Event-ID: ${this.#lastId}\r\n`
    this.#socket.write(`GET /channel HTTP/${this.#version}\r\nHost: h\r\n${last}\r\n`)
    this.#socket.setEncoding('latin1').on('data', chunk => {
      const blocks = `${text}${chunk}`.split('\n\n')
      text = blocks.pop()!
      for (const block of blocks) this.#hear(block)
    })
    this.#socket.on('error', () => {})
    this.#socket.on('close', () => {
      if (!this.#stopped) setTimeout(() => this.#connect(), PUBLISH_MS)
    })
  }

  #hear(block: string): void {
    const [, id, number] = /^id: (\w+-(\d+))$/m.exec(block) ?? []
    if (id === undefined) return
    this.#lastId = id
    if (/^event: gap$/m.test(block)) this.gaps++
    const [, data] = /^data: (.+)$/m.exec(block) ?? []
    if (data === undefined) return
    this.ids.push(Number(number))
    this.texts.push(data)
  }

  /** Each event once, in order, and all that were acknowledged. */
  async hasAll(acknowledged: readonly number[]): Promise<void> {
    const last = `event ${acknowledged.at(-1)}`
    await until(
      `it has ${last}`,
      () => this.texts.includes(last),
      BUSY_MS,
      () => this.texts.at(-1),
    )
    expect(this.ids).toEqual(Array.from(this.ids, (_, i) => this.ids[0]! + i))
    const [first] = this.texts.map(numberIn)
    const wanted = acknowledged.filter(n => n >= first!).map(n => `event ${n}`)
    expect(this.texts.filter(text => acknowledged.includes(numberIn(text)))).toEqual(wanted)
    expect(new Set(this.texts).size).toBe(this.texts.length)
    expect(this.gaps).toBe(0)
  }
}

function numberIn(text: string): number {
  return Number(text.split(' ')[1])
}

it.each(perLane(['/events'], ['/events', '/channel']))(
  'an EventSource over TLS sees one stream through upgrades: %s',
  { timeout: 240_000 },
  async path => {
    const [scene, port] = await sceneWith({ moveTls: true })
    Object.assign(scene.defaults, makeCertificate(scene))
    let app = await scene.serve()
    const dispatcher = new Agent({ connect: { rejectUnauthorized: false } })
    const url = `https://127.0.0.1:${port}`
    const source = new EventSource(url + path, { node: { dispatcher } })
    onTestFinished(async () => {
      source.close()
      await dispatcher.destroy()
    })
    const seen = { opened: 0, errors: 0, ids: [] as string[], data: [] as string[] }
    source.onopen = () => void seen.opened++
    source.onerror = () => void seen.errors++
    source.onmessage = ({ lastEventId, data }: { lastEventId: string; data: string }) => {
      seen.ids.push(lastEventId)
      seen.data.push(data)
    }
    await until('it is open', () => seen.opened > 0, BUSY_MS)
    let published = 0
    const publishes = path === '/channel'
    const publish = async () => {
      const body = `${++published}`
      await (await request(url, { method: 'POST', body, dispatcher })).body.text()
    }
    for (let upgrade = 0; upgrade < 3; upgrade++) {
      const before = seen.data.length
      app = await scene.serve()
      if (publishes) for (let n = 0; n < 5; n++) await publish()
      const isNew = () => (publishes ? seen.data.length === before + 5 : seen.data.at(-1) === `${app.pid}`)
      await until('the next version sends', isNew, BUSY_MS, () => seen)
    }
    expect(seen).toMatchObject({ opened: 1, errors: 0 })
    const numbers = seen.ids.map((_, i) => `${i + 1}`)
    expect(publishes ? seen.data : seen.ids).toEqual(numbers)
    expect((await app.status()).moves).toMatchObject({ lost: 0, refused: {} })
  },
)

describe('channels of events', () => {
  it('go on through upgrades and a rollback without a reconnect, also of clients with HTTP/1.0: every event once, in order', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({ upgrade: { ...TIMES, probation: 60_000 } })
    const first = await scene.serve()
    const followers = await Promise.all(
      Array.from({ length: 10 }, (_, i) => Follower.open(port, i < 2 ? '1.0' : '1.1')),
    )
    const publisher = new Publisher(port)
    await publisher.by(first)
    const second = await scene.serve()
    await publisher.by(second)
    await scene.rollback()
    await publisher.by(first)
    const third = await scene.serve()
    await publisher.by(third)
    await scene.statusWhere('all have moved', ({ moves }) => moves.arrived >= followers.length, BUSY_MS)
    const acknowledged = await publisher.stop()
    for (const follower of followers) {
      await follower.hasAll(acknowledged)
      expect(follower.connections).toBe(1)
    }
  })

  it('give clients of a next version that is killed in its probation what they have missed when they reconnect', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({ upgrade: { ...TIMES, probation: 60_000, silence: 400 } })
    const first = await scene.serve()
    const followers = await Promise.all(Array.from({ length: 10 }, () => Follower.open(port)))
    const publisher = new Publisher(port)
    await publisher.by(first)
    const second = await scene.serve()
    await scene.statusWhere('all have moved', ({ moves }) => moves.arrived >= followers.length, BUSY_MS)
    await publisher.by(second)
    await second.kill()
    await publisher.by(first)
    const acknowledged = await publisher.stop()
    for (const follower of followers) {
      await follower.hasAll(acknowledged)
      expect(follower.connections).toBeGreaterThan(1)
    }
  })
})
