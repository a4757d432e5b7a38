import http from 'node:http'
import { Server } from 'socket.io'
import { io, type Socket } from 'socket.io-client'
import { describe, expect, it, onTestFinished } from 'vitest'
import { lackingOf } from '../../src/socket-io/sessions.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

/** On a machine that has much else to do. Alone an upgrade takes a tenth of a second. */
const BUSY_MS = 60_000
const TIMES = { probation: 60_000, heartbeat: 50, ready: 20_000 }
/** Clients by each transport. */
const CLIENTS = perLane(6, 50)
const PAUSE_MS = 40

async function sceneWith(defaults: AppConfig = {}): Promise<[Scene, number]> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'socket.io' as const }]
  return [Scene.open({ upgrade: TIMES, listeners, ...defaults }), port]
}

type Transport = 'websocket' | 'polling'

interface Hello {
  readonly recovered: boolean
  readonly pid: number
  readonly rooms: number
}

/** A client that counts what it gets. */
class Talk {
  readonly wrong: string[] = []
  readonly hellos: Hello[] = []
  readonly socket: Socket
  readonly #user: string
  /** The process that answered last. */
  pid = 0
  #count = 0
  #tick = 0
  #said = 0
  #heard = 0
  #stopped = false
  ended = false

  private constructor(port: number, user: string, transports: Transport[], namespace: string) {
    this.#user = user
    this.socket = io(`http://127.0.0.1:${port}${namespace}`, {
      transports,
      auth: { user },
      query: { room: user },
      forceNew: true,
    })
    onTestFinished(() => void this.socket.disconnect())
    this.socket.on('disconnect', reason => this.wrong.push(`disconnect: ${reason}`))
    this.socket.on('connect_error', error => this.wrong.push(`connect_error: ${error.message}`))
    this.socket.on('hello', hello => this.hellos.push(hello))
    this.socket.on('tick', n => {
      if (this.#tick !== 0 && n !== this.#tick + 1) this.wrong.push(`tick ${n} after ${this.#tick}`)
      this.#tick = n
    })
    this.socket.on('said', (text, pid) => {
      if (text !== `said ${this.#heard + 1}`)
        this.wrong.push(
          `${text} of ${pid} after ${this.#heard}, ${this.transport}, ${JSON.stringify(this.hellos)}`,
        )
      this.#heard++
    })
  }

  static async open(port: number, user: string, transports: Transport[], namespace = '/'): Promise<Talk> {
    const talk = new Talk(port, user, transports, namespace)
    await until(
      'it is greeted',
      () => talk.hellos.length === 1,
      BUSY_MS,
      () => talk.wrong,
    )
    return talk
  }

  get transport(): string {
    return this.socket.io.engine.transport.name
  }

  get ticks(): number {
    return this.#tick
  }

  stop(): void {
    this.#stopped = true
  }

  /** One event with bytes that is acknowledged, one that is broadcast. */
  async say(): Promise<void> {
    const n = ++this.#count
    const bytes = Buffer.alloc(30, n % 256)
    this.socket.emit('say', `said ${++this.#said}`)
    const [count, m, same, data, pid] = await this.socket
      .timeout(BUSY_MS)
      .emitWithAck('count', n, bytes)
      .then(
        // Several values of an acknowledgement come as the first one only.
        value => value as [number, number, Buffer, { user: string }, number],
        error => {
          this.wrong.push(`count ${n}: ${error.message}`)
          return [n, n, bytes, { user: this.#user }, 0] as const
        },
      )
    if (count !== n || m !== n || !bytes.equals(Buffer.from(same)) || data.user !== this.#user)
      this.wrong.push(`count ${n}: ${JSON.stringify([count, m, data])}`)
    this.pid = pid
  }

  async talk(): Promise<void> {
    while (!this.#stopped && this.wrong.length === 0) {
      await this.say()
      await pause(PAUSE_MS)
    }
    await until('all is heard', () => this.#heard === this.#said || this.wrong.length > 0, BUSY_MS)
    this.ended = true
  }
}

async function talks(port: number, transports: Transport[], count: number, namespace = '/'): Promise<Talk[]> {
  const users = Array.from({ length: count }, (_, i) => `${transports.join()} ${i} ${namespace}`)
  return await Promise.all(users.map(user => Talk.open(port, user, transports, namespace)))
}

function untilServed(talks: readonly Talk[], { pid }: App): Promise<true> {
  return until(
    `process ${pid} serves all`,
    () => talks.every(talk => talk.pid === pid || talk.wrong.length > 0),
    BUSY_MS,
    () =>
      talks
        .filter(talk => talk.pid !== pid)
        .map(({ hellos, transport, wrong, pid }) => [transport, wrong, hellos, pid]),
  ) as Promise<true>
}

describe('clients of socket.io', () => {
  it('go on by websocket and by polling through upgrades and a rollback: every event, acknowledgement and broadcast once, in order, and no disconnect', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith()
    const first = await scene.serve()
    const clients = [
      ...(await talks(port, ['websocket'], CLIENTS)),
      ...(await talks(port, ['polling'], CLIENTS)),
      ...(await talks(port, ['polling', 'websocket'], 2)),
      ...(await talks(port, ['websocket'], 2, '/other')),
      ...(await talks(port, ['polling'], 2, '/other')),
      ...(await talks(port, ['websocket'], 1, '/looked-up')),
      ...(await talks(port, ['polling'], 1, '/looked-up')),
    ]
    const talking = clients.map(client => client.talk())
    const second = await scene.serve()
    await untilServed(clients, second)
    await scene.rollback()
    await untilServed(clients, first)
    const third = await scene.serve()
    await untilServed(clients, third)
    for (const client of clients) client.stop()
    await Promise.all(talking)
    expect(clients.flatMap(({ wrong }) => wrong)).toEqual([])
    for (const { hellos } of clients) {
      expect(hellos.map(({ pid, recovered, rooms }) => [pid, recovered, rooms])).toEqual([
        [first.pid, false, 3],
        [second.pid, true, 3],
        [first.pid, true, 3],
        [third.pid, true, 3],
      ])
    }
    const ticks = clients.filter(({ ticks }) => ticks > 0)
    expect(ticks.length).toBe(clients.length - 6)
  })

  it('get the acknowledgements of events that the previous version handles, and give it theirs', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith()
    const first = await scene.serve()
    const clients = [...(await talks(port, ['websocket'], 1)), ...(await talks(port, ['polling'], 1))]
    const questions = clients.map(
      ({ socket }) => new Promise<(answer: string) => void>(resolve => socket.once('question', resolve)),
    )
    const answers = clients.map(({ socket }) => new Promise(resolve => socket.once('answered', resolve)))
    for (const { socket } of clients) socket.emit('ask')
    const asked = await Promise.all(questions)
    const slow = clients.map(({ socket }) => socket.timeout(BUSY_MS).emitWithAck('slow', 7))
    const second = await scene.serve()
    await until(
      'all have moved',
      () => clients.every(({ hellos }) => hellos.at(-1)?.pid === second.pid),
      BUSY_MS,
    )
    for (const answer of asked) answer('late')
    expect(await Promise.all(answers)).toEqual(['late', 'late'])
    expect(await Promise.all(slow)).toEqual([
      [7, first.pid],
      [7, first.pid],
    ])
    expect(clients.flatMap(({ wrong }) => wrong)).toEqual([])
  })

  it('get the acknowledgements of events that a version handles which is rolled back', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith({ drain: { timeout: 12_000 } })
    const first = await scene.serve()
    const clients = [...(await talks(port, ['websocket'], 1)), ...(await talks(port, ['polling'], 1))]
    const arrived = (app: App) =>
      until('all have moved', () => clients.every(({ hellos }) => hellos.at(-1)?.pid === app.pid), BUSY_MS)
    const second = await scene.serve()
    await arrived(second)
    // An event that is never answered keeps no process.
    for (const { socket } of clients) socket.emit('unknown', () => {})
    const late = clients.map(({ socket }) => socket.timeout(BUSY_MS).emitWithAck('late', 5_000))
    await scene.rollback()
    await arrived(first)
    expect(await Promise.all(late)).toEqual([second.pid, second.pid])
    expect(clients.flatMap(({ wrong }) => wrong)).toEqual([])
    await until('the version that was rolled back ends', () => second.ended, BUSY_MS)
  })

  it('connect again at once if the next version has an exception for their namespace, and others go on', {
    timeout: 240_000,
  }, async () => {
    const [scene, port] = await sceneWith()
    await scene.serve()
    const [lost] = await talks(port, ['polling'], 1, '/expiring')
    const others = await talks(port, ['polling'], 2)
    const second = await scene.serve()
    await until(
      'the others have moved',
      () => others.every(({ hellos }) => hellos.at(-1)?.pid === second.pid),
      BUSY_MS,
    )
    await until('the client is told', () => lost!.wrong.length > 0)
    expect(lost!.wrong[0]).toBe('disconnect: transport error')
    expect(others.flatMap(({ wrong }) => wrong)).toEqual([])
  })

  it.runIf(NIGHTLY)(
    'reconnect to the old version if the next version is killed after their move',
    {
      timeout: 240_000,
    },
    async () => {
      const [scene, port] = await sceneWith({
        upgrade: { ...TIMES, silence: 400 },
        drain: { firstWave: 30_000 },
      })
      const first = await scene.serve()
      const clients = [...(await talks(port, ['websocket'], 12)), ...(await talks(port, ['polling'], 3))]
      const second = await scene.serve()
      const moved = () => clients.filter(({ hellos }) => hellos.at(-1)?.pid === second.pid)
      await until(
        'some have moved',
        () => moved().length >= 11,
        BUSY_MS,
        () => moved().length,
      )
      const others = clients.filter(client => !moved().includes(client))
      await second.kill()
      await until(
        'all are served',
        () => clients.every(({ hellos, socket }) => socket.connected && hellos.at(-1)?.pid === first.pid),
        BUSY_MS,
        () =>
          clients
            .filter(({ hellos, socket }) => !(socket.connected && hellos.at(-1)?.pid === first.pid))
            .map(({ hellos, socket, wrong }) => [socket.connected, wrong, hellos]),
      )
      expect(others.length).toBe(4)
      for (const other of others) expect([other.hellos.length, other.wrong]).toEqual([1, []])
    },
  )
})

describe('recoverSockets()', () => {
  it('finds the classes of the installed release, and names what another one lacks', async () => {
    const server = new Server(http.createServer())
    onTestFinished(() => void server.close())
    expect(await lackingOf(server)).toBeNull()
    Object.assign(server.engine, { handshake: undefined })
    expect(await lackingOf(server)).toMatchObject({
      code: 'ERR_FDB_SOCKET_IO',
      message: expect.stringContaining('a server of engine.io with handshake() and verify()'),
    })
  })
})
