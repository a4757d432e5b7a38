import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

/** On a machine that has much else to do. Alone an upgrade takes a tenth of a second. */
const BUSY_MS = 60_000
const TIMES = { probation: 0, heartbeat: 50, ready: 20_000 }
const CLIENTS = perLane(20, 50)
/** Connections that move before the others. */
const FIRST_WAVE = 8
const MOST_UNANSWERED = 3
/** The pause between two messages, and between two fragments of one, in milliseconds. */
const PAUSE_MS = perLane(50, 5)

async function sceneWith(defaults: AppConfig = {}): Promise<[Scene, number]> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'ws' as const }]
  return [Scene.open({ upgrade: TIMES, listeners, ...defaults }), port]
}

/** A client that sends numbered messages without waiting for the answers: some large, some in fragments, with numbered pings between. */
class Talk {
  readonly wrong: string[] = []
  readonly pids = new Set<number>()
  readonly ws: WebSocket
  /** The code with which it was closed. */
  closed: number | null = null
  #sent = 0
  #heard = 0
  #ticks = 0
  #pings = 0
  #pongs = 0
  #stopped = false

  private constructor(ws: WebSocket) {
    this.ws = ws
    ws.on('message', data => this.#hear(String(data)))
    ws.on('pong', data => this.#expect(`pong ${++this.#pongs}`, `pong ${data}`))
    ws.on('error', () => {})
    ws.on('close', code => {
      this.closed = code
    })
  }

  static async open(port: number): Promise<Talk> {
    const ws = new WebSocket(`ws://127.0.0.1:${port}/`)
    onTestFinished(() => ws.terminate())
    await once(ws, 'open')
    expect(ws.extensions).toBe('permessage-deflate')
    return new Talk(ws)
  }

  /** Sends until {@link stop}, then waits for all answers. */
  async talk(): Promise<void> {
    while (!this.#stopped && this.closed === null) {
      await this.say()
      await pause(PAUSE_MS)
      // A busy machine gets no more to do than it manages.
      while (this.#sent - this.#heard > MOST_UNANSWERED && this.closed === null) await pause(PAUSE_MS)
    }
    await this.answered()
  }

  stop(): void {
    this.#stopped = true
  }

  async say(): Promise<void> {
    const text = message(++this.#sent)
    if (this.#sent % 3 !== 0) this.ws.send(text)
    else {
      const third = Math.ceil(text.length / 3)
      for (let part = 0; part < 3; part++) {
        this.ws.send(text.slice(part * third, (part + 1) * third), { fin: part === 2 })
        if (part === 0) this.ws.ping(`${++this.#pings}`)
        await pause(PAUSE_MS)
      }
    }
  }

  async answered(): Promise<void> {
    await until(
      'all are answered',
      () => this.closed !== null || (this.#heard === this.#sent && this.#pongs === this.#pings),
      BUSY_MS,
      () => this.wrong,
    )
  }

  #hear(text: string): void {
    const [kind, first, second] = text.split(' ', 3)
    if (kind === 'tick') {
      this.#expect(`tick ${++this.#ticks}`, `tick ${first}`)
      this.pids.add(Number(second))
      return
    }
    this.pids.add(Number(first))
    const n = ++this.#heard
    this.#expect(`${n} ${first} ${message(n)}`, text)
  }

  #expect(wanted: string, got: string): void {
    if (got !== wanted) this.wrong.push(`${got.slice(0, 40)} in place of ${wanted.slice(0, 40)}`)
  }
}

/** Similar messages, so that each refers to the text of earlier ones. */
function message(n: number): string {
  return `message ${n} ${'of this client, '.repeat(n % 10 === 0 ? 3_000 : n % 10)}`
}

async function talks(port: number, count: number): Promise<Talk[]> {
  return await Promise.all(Array.from({ length: count }, () => Talk.open(port)))
}

function untilServed(talks: readonly Talk[], { pid }: App): Promise<true> {
  return until(
    `process ${pid} serves all`,
    () => talks.every(talk => talk.pids.has(pid)),
    BUSY_MS,
    () => talks.map(({ closed, wrong, pids }) => [closed, wrong, [...pids]]),
  ) as Promise<true>
}

describe('WebSockets of the package ws', () => {
  it('go on through upgrades and a rollback, compressed, in fragments and with pings: every message once, in order, none closed', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({ upgrade: { ...TIMES, probation: 60_000 } })
    const first = await scene.serve()
    const clients = await talks(port, CLIENTS)
    const talking = clients.map(client => client.talk())
    const second = await scene.serve()
    await untilServed(clients, second)
    for (const client of clients) client.pids.clear()
    await scene.rollback()
    await untilServed(clients, first)
    const third = await scene.serve()
    await untilServed(clients, third)
    for (const client of clients) client.stop()
    await Promise.all(talking)
    for (const client of clients) expect([client.closed, client.wrong]).toEqual([null, []])
    expect((await third.status()).moves).toMatchObject({ arrived: CLIENTS, lost: 0 })
  })

  it('carry on what a slow client has not received yet', { timeout: 240_000 }, async () => {
    const [scene, port] = await sceneWith()
    const first = await scene.serve()
    const ws = new WebSocket(`ws://127.0.0.1:${port}/`)
    onTestFinished(() => ws.terminate())
    const got: string[] = []
    ws.on('message', data => got.push(String(data)))
    await once(ws, 'open')
    ws.send('flood')
    // Nothing of the flood is read.
    ws.pause()
    await scene.serve()
    await first.end(BUSY_MS)
    ws.resume()
    await until('the flood is over', () => got.includes('flooded'), BUSY_MS)
    const flood = got.filter(text => text.startsWith('flood '))
    expect(flood.length).toBeGreaterThan(1)
    expect(flood.filter((text, i) => text !== `flood ${i + 1} ${'x'.repeat(100_000)}`)).toEqual([])
    expect(ws.readyState).toBe(WebSocket.OPEN)
  })

  it('of which a next version that is killed in its probation has taken some: the others stay', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({
      // A busy machine must not make the next version look silent before it is killed.
      upgrade: { ...TIMES, probation: 60_000, silence: 5_000 },
      drain: { firstWave: 30_000, timeout: 240_000 },
    })
    const first = await scene.serve()
    const clients = await talks(port, 30)
    const second = await scene.serve()
    let moves: unknown
    await until(
      'some have moved',
      async () => {
        const status = await second.status()
        moves = [status.moves, status.draining]
        // On a busy machine a slice can take too long: its channel ends, and the next one has a first wave of its own.
        return status.moves.arrived >= FIRST_WAVE
      },
      BUSY_MS,
      () => JSON.stringify(moves),
    )
    await second.kill()
    await until(
      'the first serves again',
      async () => (await scene.status().catch(() => null))?.pid === first.pid,
      BUSY_MS,
    )
    const gone = await until(
      'the lost ones are closed',
      async () => {
        const { lost } = (await scene.status()).moves
        const closed = clients.filter(({ closed }) => closed !== null)
        return lost > 0 && closed.length === lost ? closed : null
      },
      BUSY_MS,
      async () => [(await scene.status()).moves, clients.flatMap(({ closed }) => closed ?? [])],
    )
    expect(gone.length).toBeGreaterThanOrEqual(FIRST_WAVE)
    expect(gone.length).toBeLessThan(clients.length)
    for (const client of clients) {
      const there = client.closed === null ? client : await Talk.open(port)
      there.pids.clear()
      await there.say()
      await there.answered()
      expect([there.closed, there.wrong, [...there.pids]]).toEqual([null, [], [first.pid]])
    }
  })

  it('end with code 1012 after a hook, one after the other, if they do not move', async () => {
    const [scene, port] = await sceneWith({ drain: { timeout: 6_000 } })
    const first = await scene.serve()
    const ends: { code: number; last: string }[] = []
    const open = async () => {
      const ws = new WebSocket(`ws://127.0.0.1:${port}/still`)
      onTestFinished(() => ws.terminate())
      let last = ''
      ws.on('message', data => {
        last = String(data)
      })
      ws.on('close', code => ends.push({ code, last }))
      await once(ws, 'open')
    }
    await Promise.all(Array.from({ length: 2 }, open))
    await scene.serve()
    await first.end(BUSY_MS)
    await until('all are closed', () => ends.length === 2)
    expect(ends).toEqual(Array.from({ length: 2 }, () => ({ code: 1012, last: 'soon' })))
  })

  it.runIf(NIGHTLY)(
    'end over https with code 1012 in an upgrade, and with 1001 when the service ends',
    {
      timeout: 240_000,
    },
    async () => {
      const [scene, port] = await sceneWith({ drain: { timeout: 3_000, tlsTimeout: 3_000 } })
      const certificate = makeCertificate(scene)
      const open = async () => {
        const ws = new WebSocket(`wss://127.0.0.1:${port}/still`, { rejectUnauthorized: false })
        onTestFinished(() => ws.terminate())
        const end: { code: number | null; last: string } = { code: null, last: '' }
        ws.on('message', data => {
          end.last = String(data)
        })
        ws.on('close', code => {
          end.code = code
        })
        await once(ws, 'open')
        return end
      }
      await scene.serve(certificate)
      const early = await Promise.all([open(), open()])
      const second = await scene.serve(certificate)
      await until('the first ones are closed', () => early.every(({ code }) => code !== null), BUSY_MS)
      const late = await Promise.all([open(), open()])
      second.signal('SIGTERM')
      await until('the others are closed', () => late.every(({ code }) => code !== null), BUSY_MS)
      expect([...early, ...late]).toEqual([1012, 1012, 1001, 1001].map(code => ({ code, last: 'soon' })))
    },
  )
})
