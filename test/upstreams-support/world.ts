import type { StreamOwner, Tally } from '../../src/relay/index.js'
import { SimulatedClock } from './clock.js'
import { SimulatedEdge } from './edge.js'
import { Judge, type Request } from './judge.js'
import { type Act, type Schedule, SERVERS, type ServerMode } from './schedule.js'
import { Slots } from './slots.js'
import { ClientStream, ServerStream } from './streams.js'

/** A server hears of the end of a connection, and the other way round, after this time. */
const ON_WAY_MS = 0.4
/** When all trouble is over, each request has its answer within this time. */
const CALM_MS = 4_000

class SimulatedServer {
  mode: ServerMode = 'up'
  readonly streams = new Set<ServerStream>()
  /** Requests that hang. */
  readonly hanging: { readonly stream: ServerStream; readonly id: number }[] = []
}

/** The processes of a proxy, with their servers and clients, during one schedule. */
class UpstreamsWorld {
  readonly judge: Judge
  readonly #clock: SimulatedClock
  readonly #servers = new Map(SERVERS.map(key => [key, new SimulatedServer()]))
  readonly #edges: SimulatedEdge[]
  readonly #slots: Slots | null
  readonly #clients = new Set<ClientStream>()
  readonly #shortages = new Map<number, string>()
  readonly #schedule: Schedule
  #lastId = 0

  constructor(schedule: Schedule, clock: SimulatedClock) {
    this.#schedule = schedule
    this.#clock = clock
    this.#slots = schedule.edges === 1 ? null : new Slots(this.#clock)
    this.#edges = Array.from({ length: schedule.edges }, (_, n) => this.#edge(n))
    this.judge = new Judge(this.#clock, this.#edges)
    this.#clock.onTurn = () => this.judge.look()
  }

  run(): Judge {
    const clock = this.#clock
    let at = clock.now
    for (const [after, act] of this.#schedule.acts) {
      at += after
      clock.runUntil(at)
      clock.after(0, () => this.#perform(act))
      clock.runUntil(clock.now)
    }
    this.#calm()
    return this.judge
  }

  #edge(number: number): SimulatedEdge {
    const dial = ({ key }: { key: string }, owner: StreamOwner, tally: Tally) =>
      this.#dial(number, key, owner, tally)
    return new SimulatedEdge(number, this.#schedule.settings, this.#slots, {
      dial,
      fault: error => this.judge.blame(`the relay has a fault: ${(error as Error).stack}`),
      queued: how => this.judge.queued(number, how),
      health: (server, ms) => {
        this.judge.note(
          `edge ${number}: ${server} ${ms === null ? 'is up' : `is down for ${ms.toFixed(0)} ms`}`,
        )
        const until = this.#clock.now + (ms ?? 0)
        for (const other of this.#edges)
          if (other.number !== number)
            this.#clock.after(1, () => other.learn(server, ms === null ? null : until - this.#clock.now))
      },
    })
  }

  #dial(edge: number, key: string, owner: StreamOwner, tally: Tally): ServerStream {
    const code = this.#shortages.get(edge)
    if (code !== undefined) throw Object.assign(new Error(code), { code })
    const server = this.#servers.get(key)!
    const stream = new ServerStream(this.#clock, { key, edge }, owner, tally, {
      begins: (stream, id) => this.judge.dispatched(stream, id),
      requested: (stream, id) => this.#requested(server, stream, id),
      gone: stream => {
        server.streams.delete(stream)
        this.judge.gone(stream)
      },
    })
    server.streams.add(stream)
    this.judge.dialled(stream)
    if (server.mode === 'refuses') this.#clock.after(ON_WAY_MS, () => stream.refuse())
    else if (server.mode !== 'silent') this.#clock.after(ON_WAY_MS, () => stream.accept())
    return stream
  }

  #requested(server: SimulatedServer, stream: ServerStream, id: number): void {
    this.judge.delivered(stream, id)
    const { answerMs, last } = this.judge.requests.get(id)!
    if (server.mode === 'resets' || server.mode === 'closes') {
      stream.leave(server.mode === 'resets' ? 'RST' : 'FIN', ON_WAY_MS)
      return
    }
    if (server.mode === 'hangs') server.hanging.push({ stream, id })
    else this.#clock.after(answerMs, () => this.#answer(stream, id, last))
  }

  #answer(stream: ServerStream, id: number, last: boolean): void {
    if (stream.request !== id) return
    const close = last ? 'Connection: close\r\n' : ''
    this.judge.answers(stream, id)
    const status = this.#servers.get(stream.key)!.mode === 'errs' ? '500 Error' : '200 OK'
    stream.respond(`HTTP/1.1 ${status}\r\n${close}Content-Length: 2\r\n\r\nok`, last)
  }

  #perform(act: Act): void {
    this.judge.note(JSON.stringify(act))
    switch (act.kind) {
      case 'client':
        this.#client(act)
        return
      case 'server':
        this.#turnTo(SERVERS[act.server]!, act.mode)
        return
      case 'drop':
        for (const stream of this.#servers.get(SERVERS[act.server]!)!.streams)
          if (!stream.connecting && (stream.isIdle || !act.idleOnly)) stream.leave(act.how, ON_WAY_MS)
        return
      case 'reload':
        this.#each(act.lag, edge => {
          edge.reload(act.change, this.#clock.now)
          this.judge.changed(edge)
        })
        return
      case 'operator':
        this.#each(act.lag, edge => edge.order(SERVERS[act.server]!, act.order, this.#clock.now))
        return
      case 'check': {
        const server = SERVERS[act.server]!
        this.#edges[0]!.check(server, act.up)
        for (const edge of this.#edges.slice(1))
          this.#clock.after(act.lag, () => edge.verdict(server, act.up))
        return
      }
      case 'shortage': {
        const edge = act.edge % this.#edges.length
        this.#shortages.set(edge, act.code)
        this.judge.lacks(edge, this.#clock.now + act.ms)
        this.#clock.after(act.ms, () => this.#shortages.delete(edge))
        return
      }
    }
  }

  /** Each process hears of a change by itself, the first one at once. */
  #each(lag: number, act: (edge: SimulatedEdge) => void): void {
    act(this.#edges[0]!)
    for (const edge of this.#edges.slice(1)) this.#clock.after(lag, () => act(edge))
  }

  #turnTo(key: string, mode: ServerMode): void {
    const server = this.#servers.get(key)!
    server.mode = mode
    if (mode === 'refuses')
      for (const stream of server.streams) if (!stream.connecting) stream.leave('RST', ON_WAY_MS)
    if (mode !== 'up') return
    for (const { stream, id } of server.hanging.splice(0)) this.#answer(stream, id, false)
  }

  #client(act: Extract<Act, { kind: 'client' }>): void {
    const edge = this.#edges[act.edge % this.#edges.length]!
    let left = act.requests
    let current: Request | null = null
    const next = () => {
      if (left === 0 || !stream.alive) return
      left--
      const request = this.judge.asks(++this.#lastId, edge, act)
      current = request
      const { method, more, body } = act.post
        ? { method: 'POST', more: 'Content-Length: 3\r\n', body: 'abc' }
        : { method: 'GET', more: '', body: '' }
      const host = act.changed ? 'changed.test' : 'a.test'
      const cookie = act.cookie === null ? '' : `Cookie: edge=${this.#cookieOf(act.cookie)}\r\n`
      stream.send(`${method} /${this.#lastId} HTTP/1.1\r\nHost: ${host}\r\n${cookie}${more}\r\n${body}`)
      this.judge.sent(request)
    }
    const stream: ClientStream = new ClientStream(this.#clock, {
      answered: (status, body, head) => {
        this.judge.answered(current, status, body.trim())
        current = null
        if (left > 0 && !/\r\nConnection: close/i.test(head)) this.#clock.after(0.1, next)
        else this.#clock.after(0.1, () => stream.leave('FIN'))
      },
      closed: () => {
        this.#clients.delete(stream)
        this.judge.cut(current)
      },
    })
    this.#clients.add(stream)
    edge.relay.acceptStream(stream, { listener: 'http', scheme: 'http' }, undefined, {
      address: '10.0.0.9',
      port: 80,
    })
    if (act.patience !== null)
      this.#clock.after(act.patience, () => {
        if (!stream.alive) return
        this.judge.leaves(current)
        left = 0
        stream.leave(act.leaves)
      })
    next()
  }

  /** The cookie that names a server. */
  #cookieOf(server: number): string {
    const line = this.#edges[0]!.upstream.forward.sticky?.lineFor(SERVERS[server]!)
    return /=([^;]*);/.exec(line ?? '')?.[1] ?? SERVERS[server]!
  }

  /** All trouble is over: each request gets its answer, and then nothing is left. */
  #calm(): void {
    const { judge } = this
    judge.note('calm')
    this.#clock.after(0, () => {
      for (const key of SERVERS) this.#turnTo(key, 'up')
    })
    this.#clock.runUntil(this.#clock.now + CALM_MS)
    judge.over()
    this.#clock.after(0, () => {
      for (const { relay } of this.#edges) relay.close()
    })
    this.#clock.runUntil(this.#clock.now + 10)
    for (const { pools, queued, number, relay } of this.#edges) {
      if (pools.open !== pools.idle)
        judge.blame(`edge ${number}: ${pools.open} connections, ${pools.idle} idle`)
      if (queued !== 0) judge.blame(`edge ${number}: ${queued} requests wait, and none is there`)
      if (relay.size !== 0) judge.blame(`edge ${number}: ${relay.size} clients are left`)
      this.#clock.after(0, () => pools.clear())
    }
    this.#clock.runUntil(this.#clock.now + 200)
    for (const { pools, number } of this.#edges)
      if (pools.open !== 0) judge.blame(`edge ${number}: ${pools.open} connections are left`)
    const streams = [...this.#servers.values()].reduce((sum, { streams }) => sum + streams.size, 0)
    if (streams > 0) judge.blame(`${streams} connections to servers are left`)
    if (this.#slots !== null && this.#slots.held > 0) judge.blame(`${this.#slots.held} slots are left`)
    if (this.#clock.left > 0) judge.blame(`${this.#clock.left} timers are left`)
    for (const { pools } of this.#edges) pools.close()
  }
}

/** Runs a schedule. */
export function play(schedule: Schedule): Judge {
  const clock = new SimulatedClock(schedule.seed)
  return clock.use(() => new UpstreamsWorld(schedule, clock).run())
}
