import type { DatagramReader, DrainCounts, LentFd, OwnedFd } from '../adapter.js'
import { everyAfterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import {
  DATAGRAM_BYTES,
  DatagramSocket,
  ENDS_BYTES,
  hasPolledSockets,
  inspectOne,
  peerOfEnds,
  setSocketOption,
} from '../kernel/index.js'
import type { ClientTally } from './client-tally.js'
import type { Forward } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeReport } from './exchange-facts.js'
import { addressOf, connectTo, Flow, hasFurtherAddress, isAway, keyOf } from './flow.js'
import type { FrontTurn } from './front-turn.js'
import { type FlowHost, MovingFlows } from './moving-flows.js'
import { shortageOf } from './shortage.js'
import { TimerWheel } from './timer-wheel.js'

/** Datagrams of one socket in one turn of the event loop. */
const MOST_AT_ONCE = 64
/** When a listener is closed, its flows end after this silence. */
const LAST_SILENCE_MS = 1_000
/**
 * If the network has not said within this time that a server does not listen, it does: some servers never answer. That a machine of the same network is
 * away shows after some 3 s.
 */
const LISTENS_MS = 5_000
/** How often a process that waits for its turn looks. */
const LOOK_MS = 10
/** If another process has the turn, and has not read the next datagram for this time, this process reads too. */
const UNREAD_MS = 1_000
/** How long the datagrams of clients wait at most for the last flows to leave. */
const MOST_PAUSE_MS = 100

const EVERY_ADDRESS: ReadonlySet<string | undefined> = new Set(['0.0.0.0', '::'])

/** Why a datagram was dropped. `limit`: of flows; `no-server`: none is usable; `full`: a send buffer is; `refused`: the kernel has refused to send it; `ended`: the listener is closed. */
export type Drop = 'limit' | 'no-server' | 'full' | 'refused' | 'ended'

export interface UdpForwardOptions {
  readonly listener: string
  /** A flow ends after this silence, in milliseconds. */
  idleMs(): number
  /** Returns the route of a client's new flow; undefined if the upstream does not exist. */
  forwardOf(client: string): Forward | undefined
  destinationByKey(key: string): Destination | undefined
  /** Reports whether a client may have no further flow: because of its own limit, or of a limit of all. `descriptor`: of the new flow, if it is known. */
  exceeds(client: string, descriptor: LentFd | null): 'own' | 'all' | null
  /** Counts the flows of each client. */
  readonly clients: ClientTally
  /** The turn of this socket, which is borrowed for the call. */
  turnOf(socket: OwnedFd): FrontTurn
  onEnd(report: ExchangeReport): void
  onDrop(why: Drop): void
  onEmpty(): void
  /** Gets an exception that shows a bug. */
  onFault(error: unknown): void
}

/**
 * Forwards the datagrams of a UDP listener. All clients come over the listener's socket, which all versions share; each client has a {@link Flow} to its
 * server. Before another version reads from the socket, it has all flows: see {@link FrontTurn}.
 */
export class UdpForward implements DatagramReader, FlowHost {
  readonly scheme = 'udp'
  readonly moving: MovingFlows
  readonly options: UdpForwardOptions
  readonly wheel = new TimerWheel()
  /** By {@link Flow.key}, with those that have moved. */
  readonly #flows = new Map<string, Flow>()
  /** The flows of this process without an answer, the oldest first. */
  readonly #unanswered = new Set<Flow>()
  #own = 0
  #front: DatagramSocket | null = null
  #turn: FrontTurn | null = null
  #serves = false
  /** This process reads, as far as it does not pause. */
  #hasTurn = false
  #reads = false
  /** When this process has begun to pause, in milliseconds of `performance.now()`. */
  #pausedAt = 0
  #ending = false
  /** This process will not serve again. */
  #finished = false
  #closed = false
  #waiting: Limit | null = null
  readonly #chunk = Buffer.allocUnsafeSlow(DATAGRAM_BYTES)
  readonly #ends = Buffer.alloc(ENDS_BYTES)
  #emptyWaiters: (() => void)[] = []

  /** Throws ERR_FDB_PLATFORM without epoll. */
  constructor(options: UdpForwardOptions) {
    if (!hasPolledSockets())
      throw new FdbError('ERR_FDB_PLATFORM', 'a udp:// listener of the proxy needs epoll: use Linux')
    this.options = options
    this.moving = new MovingFlows(this)
  }

  get active(): boolean {
    return this.#front !== null
  }

  get closed(): boolean {
    return this.#closed
  }

  get listener(): string {
    return this.options.listener
  }

  get connections(): number {
    return this.#own
  }

  get flows(): Iterable<Flow> {
    return this.#flows.values()
  }

  get turn(): FrontTurn {
    return this.#turn!
  }

  kinds(): Record<string, number> {
    return { udp: this.#own }
  }

  // ---- the turn to read

  start(fd: OwnedFd): void {
    // The member starts all its listeners, also one that it leaves when no other version has it any more.
    if (this.#closed) {
      fd.close()
      return
    }
    this.#serves = true
    this.#ending = false
    this.#finished = false
    if (this.#front === null) {
      this.#turn = this.options.turnOf(fd)
      // Otherwise an answer could come from another address of this machine than the client has sent to.
      if (EVERY_ADDRESS.has(inspectOne(fd).address)) setSocketOption(fd, 'tellAddress', true)
      // For the datagrams that wait while one version reads no more, and the next one not yet.
      setSocketOption(fd, 'longQueue', true)
      this.#front = new DatagramSocket(fd, () => this.#contain(() => this.#readFront()))
    } else fd.close()
    this.#turn!.endSharing()
    this.#turn!.hold()
    this.read()
    if (!this.#takeTurn()) this.#wait()
  }

  /** Begins to read, unless another version reads, or has flows. */
  #takeTurn(): boolean {
    if (!this.#turn!.isAlone || !this.#turn!.takeReading()) return false
    // The version that had them has ended them, or died.
    for (const flow of this.#flows.values()) if (flow.moved) this.own(flow)
    this.#hasTurn = true
    this.read()
    return true
  }

  /** Ends to read, unless this version has flows, or another one that leaves has some: their next version does not know them yet. */
  #giveTurn(): boolean {
    const turn = this.#turn
    if (turn !== null) {
      if (this.#own > 0 || (this.#hasTurn && !turn.isLast)) return false
      this.pause()
      turn.endSharing()
      // The flows on their way may come back.
      if (turn.inTransit) return false
    }
    this.#dropTurn()
    return true
  }

  /**
   * Another version serves already, and none reads: the one that read has given all flows to this version, which was to read, and only then the other one
   * came. This version knows all flows, also those that have moved on since.
   */
  #inherit(): void {
    if (this.#hasTurn || this.#own === 0 || !this.#turn!.isLast || !this.#turn!.takeReading()) return
    this.#hasTurn = true
    this.read()
  }

  #dropTurn(): void {
    this.pause()
    this.#hasTurn = false
    this.#turn?.release()
    if (this.#finished) this.#forgetMoved()
    for (const resolve of this.#emptyWaiters.splice(0)) resolve()
  }

  /** The flows that have moved are of no use when this process reads nothing more from clients. */
  #forgetMoved(): void {
    for (const flow of [...this.#flows.values()]) if (flow.moved) this.#remove(flow)
  }

  look(): void {
    if (this.#waiting === null) return
    if (this.#serves ? this.#takeTurn() : this.#giveTurn()) this.#stopWaiting()
    else if (!this.#serves) {
      this.#inherit()
      this.#endPause()
    }
  }

  /** Reads on if the last flows leave slowly, or no longer: the moves may have a rate, or have ended. */
  #endPause(): void {
    if (this.#own > 0 && !this.#reads && performance.now() - this.#pausedAt > MOST_PAUSE_MS) this.read()
  }

  #wait(): void {
    let seen: number | null = null
    let unreadMs = 0
    const look = () => {
      this.look()
      if (this.#waiting === null || !this.#serves || this.#hasTurn) return
      // Not by its bytes: a client may always say the same.
      const next = this.#front!.nextArrival()
      unreadMs = next !== null && next === seen ? unreadMs + LOOK_MS : 0
      seen = next
      if (unreadMs < UNREAD_MS) return
      this.#hasTurn = true
      this.read()
    }
    this.#waiting ??= everyAfterReading(LOOK_MS, () => this.#contain(look), { unref: true })
  }

  #stopWaiting(): void {
    this.#waiting?.clear()
    this.#waiting = null
  }

  stop(): void {
    this.#serves = false
    this.#stopWaiting()
    if (this.#own > 0) this.#wait()
    this.settle()
  }

  pause(): void {
    if (this.#reads) this.#pausedAt = performance.now()
    this.#reads = false
    this.#front?.watches(false)
  }

  read(): void {
    if (this.#front === null || !this.#hasTurn) return
    this.#reads = true
    this.#front.watches(true)
  }

  settle(): void {
    if (this.#own > 0) return
    if (!this.#serves && !this.#giveTurn()) this.#wait()
    this.options.onEmpty()
  }

  // ---- datagrams

  #readFront(): void {
    for (let left = MOST_AT_ONCE; left > 0 && this.#reads; left--) {
      let length: number
      try {
        length = this.#front!.readFrom(this.#chunk, this.#ends)
      } catch {
        // The kernel could not send an earlier datagram.
        continue
      }
      if (length < 0) return
      const flow = this.#flows.get(keyOf(this.#ends))
      if (flow === undefined) this.#begin(this.#chunk, length, Buffer.from(this.#ends))
      else this.#toServer(flow, this.#chunk, length)
    }
  }

  #toServer(flow: Flow, chunk: Uint8Array, length: number): void {
    // The other process does not hear this client: for that one the flow is silent. So the flow moves once more.
    if (flow.moved && performance.now() - flow.movedAt > this.options.idleMs() / 2) this.own(flow)
    if (!flow.moved) {
      flow.bytesReceived += length
      this.arm(flow)
      this.#judge(flow)
    }
    this.#send(flow, chunk, length)
  }

  #judge(flow: Flow): void {
    if (!flow.heard && performance.now() - flow.startedAt > LISTENS_MS) this.#listens(flow)
  }

  #listens(flow: Flow): void {
    flow.heard = true
    const destination = this.options.destinationByKey(flow.destination)
    destination?.opened?.(true)
    if (flow.address !== null) destination?.named?.tried(flow.address, true)
  }

  #send(flow: Flow, chunk: Uint8Array, length: number): void {
    const sent = flow.send(chunk, length)
    if (sent === 'sent') return
    if (typeof sent === 'string') {
      this.options.onDrop(sent)
      return
    }
    const tried = this.#away(flow, sent.away)
    this.#begin(chunk, length, flow.ends, tried, tried.length === 0)
    this.settle()
  }

  onServer(flow: Flow): void {
    this.#contain(() => this.#readServer(flow))
  }

  #contain(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.options.onFault(error)
    }
  }

  #readServer(flow: Flow): void {
    for (let left = MOST_AT_ONCE; left > 0 && flow.socket !== null && !flow.moved; left--) {
      let length: number
      try {
        length = flow.socket.read(this.#chunk)
      } catch (error) {
        if (!isAway(error)) continue
        this.#away(flow, error)
        this.settle()
        return
      }
      if (length < 0) return
      if (!flow.answered) {
        flow.answered = true
        this.#unanswered.delete(flow)
        this.#listens(flow)
      }
      flow.bytesSent += length
      this.arm(flow)
      this.#toClient(flow, length)
    }
  }

  #toClient({ ends }: Flow, length: number): void {
    try {
      if (this.#front?.sendTo(this.#chunk, length, ends) === false) this.options.onDrop('full')
    } catch {
      this.options.onDrop('refused')
    }
  }

  /** Ends a flow, also one that has moved: the other process gets the client's next flow. Returns the server, unless it has another address. The caller settles. */
  #away(flow: Flow, error: Error): Destination[] {
    this.#leave(flow, 'connect-failed')
    const destination = this.options.destinationByKey(flow.destination)
    if (destination === undefined || hasFurtherAddress(destination, flow)) return []
    destination.failed?.('connect-failed', error)
    return [destination]
  }

  // ---- flows

  #begin(
    chunk: Uint8Array,
    length: number,
    ends: Buffer,
    tried: readonly Destination[] = [],
    again = false,
  ): void {
    const { host: client } = peerOfEnds(ends)
    const drop = this.#ending ? 'ended' : this.#hasRoom(client, null) ? null : 'limit'
    const forward = drop === null ? this.options.forwardOf(client) : undefined
    const destination = forward?.pick(tried) ?? null
    const usable = destination?.key.startsWith('udp:') && !tried.some(({ key }) => key === destination.key)
    if (forward === undefined || destination === null || !usable) {
      this.options.onDrop(drop ?? 'no-server')
      return
    }
    const flow = new Flow(ends, { route: forward.name, destination: destination.key }, this)
    flow.again = again
    this.#flows.set(flow.key, flow)
    this.own(flow)
    this.#toServer(flow, chunk, length)
    addressOf(destination, host => {
      if (this.#flows.get(flow.key) === flow) this.#connect(flow, destination, host, tried)
    })
  }

  /** `host`: null if the address of the server is not known. `tried`: servers that could not be used before. */
  #connect(flow: Flow, destination: Destination, host: string | null, tried: readonly Destination[]): void {
    try {
      if (host === null) throw new Error(`the server ${destination.key} has no address`)
      if (destination.named !== undefined) flow.address = host
      flow.open(connectTo(destination, host))
    } catch (error) {
      if (shortageOf(error) !== null) {
        this.options.onDrop('limit')
        this.end(flow, 'limit')
        return
      }
      destination.failed?.('connect-failed', error as Error)
      const held = flow.takeHeld()
      this.#leave(flow, 'connect-failed')
      for (const each of held) this.#pass(each, flow.ends, [...tried, destination])
      this.settle()
      return
    }
    if (this.options.exceeds(flow.client, flow.socket!.descriptor) === 'all' && !this.#endOldest(flow)) {
      this.options.onDrop('limit')
      this.end(flow, 'limit')
      return
    }
    for (const held of flow.takeHeld()) {
      // The first of them may have found the server away.
      const now = this.#flows.get(flow.key)
      if (now !== undefined) this.#send(now, held, held.length)
    }
  }

  /** Sends what has waited for a server to the client's next flow, which the first begins. */
  #pass(held: Buffer, ends: Buffer, tried: readonly Destination[]): void {
    const flow = this.#flows.get(keyOf(ends))
    if (flow === undefined) this.#begin(held, held.length, ends, tried)
    else this.#toServer(flow, held, held.length)
  }

  /** Reports whether a client may have a further flow. A flow without an answer, whose client may be made up, gives way. */
  #hasRoom(client: string, descriptor: LentFd | null): boolean {
    const excess = this.options.exceeds(client, descriptor)
    return excess === null || (excess === 'all' && this.#endOldest())
  }

  #endOldest(but?: Flow): boolean {
    const [oldest] = this.#unanswered
    if (oldest === undefined || oldest === but) return false
    // Not settled: a further flow follows.
    this.#leave(oldest, 'limit')
    return true
  }

  own(flow: Flow): void {
    flow.moved = false
    this.#own++
    if (!flow.answered) this.#unanswered.add(flow)
    this.options.clients.add(flow.client)
    flow.socket?.watches(true)
    this.arm(flow)
  }

  disown(flow: Flow): void {
    flow.moved = true
    flow.movedAt = performance.now()
    this.#own--
    this.#unanswered.delete(flow)
    this.options.clients.remove(flow.client)
    flow.socket?.watches(false)
    this.wheel.disarm(flow)
  }

  find(key: string): Flow | undefined {
    return this.#flows.get(key)
  }

  adopt(flow: Flow, fd: OwnedFd): void {
    const before = this.#flows.get(flow.key)
    if (before !== undefined) this.#replace(before, flow)
    flow.open(fd)
    this.#flows.set(flow.key, flow)
    this.own(flow)
  }

  /** The client's flow comes once more, or the process that reads from the client has begun another one. */
  #replace(before: Flow, now: Flow): void {
    if (before.destination !== now.destination) {
      this.#leave(before, 'connect-failed')
      return
    }
    this.#remove(before)
    now.answered ||= before.answered
    now.bytesSent = Math.max(now.bytesSent, before.bytesSent)
    now.bytesReceived = Math.max(now.bytesReceived, before.bytesReceived)
  }

  arm(flow: Flow, ms = this.options.idleMs()): void {
    this.wheel.arm(flow, this.#ending ? Math.min(ms, LAST_SILENCE_MS) : ms)
  }

  onIdle(flow: Flow): void {
    this.#judge(flow)
    this.end(flow)
  }

  /** `reason`: why it ends early. */
  end(flow: Flow, reason?: string): void {
    this.#leave(flow, reason)
    this.settle()
  }

  #leave(flow: Flow, reason: string | undefined): void {
    const { moved } = flow
    this.#remove(flow)
    // The process that has the flow reports it.
    if (!moved) this.#contain(() => this.#report(flow, reason))
  }

  #report(flow: Flow, reason: string | undefined): void {
    this.options.onEnd({
      subject: 'udp',
      listener: this.options.listener,
      client: flow.client,
      http2: false,
      http10: false,
      method: '',
      target: '',
      host: '',
      status: 0,
      reason,
      serverFailed: false,
      destination: flow.destination,
      attempts: 1,
      bytesSent: flow.bytesSent,
      bytesReceived: flow.bytesReceived,
      milliseconds: performance.now() - flow.startedAt,
      trail: null,
      unlogged: false,
      user: '',
    })
  }

  #remove(flow: Flow): void {
    if (!flow.moved) this.disown(flow)
    if (this.#flows.get(flow.key) === flow) this.#flows.delete(flow.key)
    flow.close()
  }

  // ---- the end

  /** Clients cannot be told, and this process may have to read for another one that leaves. */
  announce(): void {}

  endIdle(): void {
    this.#ending = true
    for (const flow of this.#flows.values())
      if (!flow.moved) this.arm(flow, Math.min(LAST_SILENCE_MS, this.wheel.remaining(flow)))
  }

  resume(): void {
    this.#ending = false
  }

  finish(): void {
    this.#finished = true
    this.settle()
  }

  emptied(): Promise<void> {
    return new Promise(resolve => {
      this.#emptyWaiters.push(resolve)
      this.settle()
    })
  }

  remaining(): DrainCounts {
    const count = this.#own
    return { idle: 0, busy: count, closed: count === 0 ? [] : [{ kind: 'udp', reason: 'open', count }] }
  }

  cut(): DrainCounts {
    const counts = this.remaining()
    for (const flow of [...this.#flows.values()]) if (!flow.moved) this.end(flow, 'closed-here')
    return counts
  }

  /** Final: {@link start} does nothing then. */
  close(): void {
    this.#closed = true
    this.#serves = false
    this.#stopWaiting()
    for (const flow of [...this.#flows.values()]) this.#remove(flow)
    this.#dropTurn()
    this.#front?.close()
    this.#front = null
  }
}
