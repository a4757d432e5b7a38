import type http from 'node:http'
import type net from 'node:net'
import { everyAfterReading, type Limit } from '../../base/after-reading.js'
import { LONGEST_MS } from '../../base/duration.js'
import { FdbError } from '../../errors.js'
import { closeOnThrow, type OwnedFd } from '../../kernel/index.js'
import {
  connectionListener,
  idleParsers,
  isResponding,
  markIdle,
  parserOf,
  tracksConnections,
} from '../../node/http-connections.js'
import { observe } from '../../node/observed-events.js'
import { fdbroker } from '../../proto/connections.js'
import { wipes } from '../../tls13/position-record.js'
import {
  type Arrival,
  type ConnectionValue,
  decoded,
  type MovableConnections,
  type MoveWhich,
  onlyConnection,
  type Witness,
} from '../movable.js'
import { ApplicationSockets, hookBytes, type SocketDeps, type SocketProtocol } from './application-socket.js'
import { type HttpCarrier, isParsedByNode } from './http-carrier.js'
import type { HttpResponses } from './http-responses.js'
import { notRestored, witnessOf } from './node-socket.js'
import { type TakenOver, takeBackAll, takenOverFor, takenOverOf } from './taken-over.js'

const WEB_SOCKET = 'websocket'
/** The interval at which the keep-alive timeouts of adopted connections are checked. */
const EXPIRY_MS = 100

/** The remaining keep-alive timeouts of adopted connections. After the first byte Node's own timeouts apply. */
class KeepAliveExpiry {
  /** When each connection is closed (performance.now()) if no byte has arrived. */
  readonly #expiring = new Map<net.Socket, number>()
  #timer: Limit | undefined

  add(socket: net.Socket, ms: number): void {
    this.#expiring.set(socket, performance.now() + ms)
    // A request in time may wait behind a long turn.
    this.#timer ??= everyAfterReading(EXPIRY_MS, readUntil => this.#closeExpired(readUntil), { unref: true })
  }

  /** Returns the remaining milliseconds, or undefined if Node's own timeouts apply. */
  remainingMs(socket: net.Socket): number | undefined {
    const at = socket.bytesRead === 0 ? this.#expiring.get(socket) : undefined
    return at && at - performance.now()
  }

  #closeExpired(readUntil: number): void {
    for (const [socket, at] of this.#expiring) {
      const ended = socket.destroyed || socket.bytesRead > 0
      if (!ended && at > readUntil) continue
      this.#expiring.delete(socket)
      if (!ended) socket.emit('timeout')
    }
    if (this.#expiring.size > 0) return
    this.#timer?.clear()
    this.#timer = undefined
  }
}

/** How long a connection is held at most, in milliseconds: its next request waits in the kernel meanwhile. */
const HOLD_MS = 200
/** The pause after a hold during which no receiver took the connections. Doubles each time. */
const NO_HOLD_MS = 250

/** Connections between two requests that are not read, so that they can leave before the next request. */
class HeldSockets {
  /** The held connections, first held first. */
  readonly #held = new Set<net.Socket>()
  #timeout: NodeJS.Timeout | undefined
  #holdAgainAt = 0
  #noHoldMs = NO_HOLD_MS

  /** Stops reading from `socket`, except during the pause after a hold in vain. */
  hold(socket: net.Socket): void {
    if (performance.now() < this.#holdAgainAt) return
    socket.pause()
    this.#held.add(socket)
    this.#timeout ??= setTimeout(() => {
      const pause = this.#noHoldMs
      this.readAgain()
      this.#holdAgainAt = performance.now() + pause
      this.#noHoldMs = pause * 2
    }, HOLD_MS)
  }

  readAgain(): void {
    for (const socket of this.#held) socket.resume()
    this.#held.clear()
    this.#onEmpty()
  }

  /** Yields each held connection, which is no longer held then. If the connection has not left when the next one is requested, reads from it again. */
  *takeOut(): Generator<net.Socket> {
    for (const socket of this.#held) {
      this.#held.delete(socket)
      if (this.#held.size === 0) this.#onEmpty()
      yield socket
      if (!socket.destroyed) socket.resume()
    }
  }

  #onEmpty(): void {
    clearTimeout(this.#timeout)
    this.#timeout = undefined
    this.#noHoldMs = NO_HOLD_MS
  }
}

const { HttpConnection } = fdbroker.connections
const NOTHING = new Uint8Array(0)
/** A connection that could not leave for this long, because of its hook or for lack of a descriptor, gets `Connection: close`. */
const PATIENCE_MS = 2_000

/** Hooks for the application's own data about its HTTP/1 connections. */
export interface HttpHooks {
  /**
   * Called for a connection between two requests that is about to leave. Returns the application's data about it, at most 4 MiB (`new
   * Uint8Array()` for none), or undefined if the connection cannot move now. Any other return value, also a promise, is an error of the
   * hook (ERR_FDB_HOOK), and the connection does not move. If the connection cannot move for 2 seconds, its next response closes it. After a move the socket's
   * 'close' follows, without an error.
   */
  serialize?(socket: net.Socket): Uint8Array | undefined
  /** Called after the server's 'connection' with the data of {@link serialize}, in the next process or in this one. */
  restore?(socket: net.Socket, data: Uint8Array): void
  /** For connections that the application takes over ('upgrade', 'connect'). Without this option these connections remain in this process until they end. */
  readonly upgraded?: SocketProtocol | undefined
}

type IdleRecord = fdbroker.connections.IdleHttp.$Properties
type AnswerRecord = fdbroker.connections.HttpAnswer.$Properties
type State = fdbroker.connections.HttpConnection.$Properties
type Value = ConnectionValue<State>

interface HttpServerDeps extends Omit<SocketDeps, 'hooks'> {
  readonly server: http.Server
  readonly carrier: HttpCarrier
  readonly answers: HttpResponses
  readonly hooks: HttpHooks
  /** Connections may move although a listener of the application, not Node's own, gets them first. */
  readonly sniffed: boolean
}

/**
 * The connections of an `http.Server`, plain or over TLS. Each moves to the other process between two requests. A request that arrives during the move waits in the kernel.
 */
export class HttpServerConnections implements MovableConnections<Value> {
  readonly #deps: HttpServerDeps
  readonly #upgraded: ApplicationSockets | null
  #refused = new WeakSet<net.Socket>()
  /** The time at which the hook or the lack of a descriptor first kept each connection from leaving (performance.now()). */
  #keptBack = new WeakMap<net.Socket, number>()
  /** The connections whose hook has thrown: further exceptions are not reported. */
  readonly #faulty = new WeakSet<net.Socket>()
  #onMovable: (() => void) | null = null
  #signal: NodeJS.Immediate | undefined
  readonly #held = new HeldSockets()
  /** The connections that wait to leave, held by the library that has taken them over. */
  readonly #waiting = new Set<net.Socket>()
  /** The server has started to listen, and Node keeps a list of its connections. */
  #listens = false
  /** The `bytesRead` of a connection when its parser was idle. The parser is still idle while no more has been read. */
  readonly #idleAt = new WeakMap<net.Socket, number>()
  /** {@link #idleAt} was updated in this turn of the event loop. */
  #idleUpdated = false
  readonly #expiry = new KeepAliveExpiry()

  /** Throws ERR_FDB_OPTION. */
  constructor(deps: HttpServerDeps) {
    const { hooks } = deps
    this.#deps = deps
    this.#upgraded = hooks.upgraded ? new ApplicationSockets({ ...deps, hooks: hooks.upgraded }) : null
    if ((hooks.serialize === undefined) !== (hooks.restore === undefined))
      throw new FdbError('ERR_FDB_OPTION', 'give both serialize() and restore() for an http.Server, or none')
  }

  get protocol(): string {
    return this.#deps.carrier.protocol
  }

  get secret(): boolean {
    return this.#deps.carrier.event === 'secureConnection'
  }

  /** This process serves again: connections that one successor refused may be offered to the next one. */
  resume(): void {
    this.#refused = new WeakSet()
    this.#keptBack = new WeakMap()
    this.#takeBack()
  }

  #takeBack(): void {
    this.#upgraded?.takeBack()
    this.#waiting.clear()
    takeBackAll()
  }

  get #isDirect(): boolean {
    return isParsedByNode(this.#deps.server, this.#deps.carrier)
  }

  get movable(): number {
    if (!this.#deps.sniffed && !this.#isDirect) return 0
    let count = 0
    for (const socket of this.#deps.open) {
      if (this.#refused.has(socket) || !this.#deps.carrier.carries(socket)) continue
      if (parserOf(socket) !== null || this.#movesTaken(socket)) count++
    }
    return count
  }

  /** Whether a connection that was taken over can move, now or later. */
  #movesTaken(socket: net.Socket): boolean {
    return takenOverOf(socket)?.moves ?? this.#upgraded !== null
  }

  /** Returns the kind of a connection, and why it has not left. */
  describeConnection(socket: net.Socket): [kind: string, reason: string] {
    const taken = takenOverOf(socket)
    if (taken !== undefined)
      return [
        taken.hasAnswer === undefined ? WEB_SOCKET : 'http',
        this.#refused.has(socket)
          ? 'refused'
          : (this.#deps.carrier.reasonOf(socket) ?? taken.reasonOf(socket)),
      ]
    const parser = parserOf(socket)
    const { carrier } = this.#deps
    const kind = parser === null && this.#upgraded ? this.#upgraded.hooks.protocol : carrier.kind
    if (this.#refused.has(socket)) return [kind, 'refused']
    if (parser === null) return [kind, this.#upgraded ? 'open' : 'upgraded']
    if (isResponding(socket)) return [kind, 'answering']
    const reason = carrier.reasonOf(socket)
    if (reason !== null) return [kind, reason]
    return [kind, socket.bytesRead === 0 || this.#isIdle(socket) ? 'idle' : 'half-request']
  }

  kindOf({ state: { application } }: Value): string {
    const { protocol = '' } = application ?? {}
    if (!protocol) return this.#deps.carrier.kind
    return takenOverFor(this.#deps.server, protocol) === undefined ? protocol : WEB_SOCKET
  }

  get onMovable(): (() => void) | null {
    return this.#onMovable
  }

  set onMovable(listener: (() => void) | null) {
    this.#onMovable = listener
    this.#deps.answers.onEnded = listener && (socket => this.#ended(socket))
    if (listener !== null) return
    this.#held.readAgain()
    this.#takeBack()
  }

  /** Holds the connection, because a busy client would send its next request before a receiver takes the connection. */
  #ended(socket: net.Socket): void {
    if (!socket.writable || isResponding(socket) || parserOf(socket) === null || this.#refused.has(socket))
      return
    this.#held.hold(socket)
    this.#deps.carrier.rests(socket)
    this.#mayMove()
  }

  readonly #onRest = (socket: net.Socket): void => {
    this.#waiting.add(socket)
    this.#mayMove()
  }

  readonly #mayMove = (): void => {
    this.#signal ??= setImmediate(() => {
      this.#signal = undefined
      this.#onMovable?.()
    })
  };

  *departures(which: MoveWhich): Generator<Value | null, void, undefined> {
    if (!this.#deps.sniffed && !this.#isDirect) return
    if (!this.#deps.carrier.mayBegin(this.#mayMove)) return
    for (const socket of this.#candidates()) {
      const value = socket && this.#depart(socket, which)
      if (value !== null || socket === null) yield value
    }
  }

  /** After each connection that nothing holds, null: the caller may stop there. */
  *#candidates(): Generator<net.Socket | null> {
    for (const next of [...this.#deps.open]) {
      yield* this.#held.takeOut()
      for (const socket of this.#waiting) {
        this.#waiting.delete(socket)
        if (this.#deps.open.has(socket)) yield socket
      }
      if (this.#deps.open.has(next) && !this.#refused.has(next)) yield next
      yield null
    }
  }

  #depart(socket: net.Socket, which: MoveWhich): Value | null {
    try {
      // For example the application passed its own socket to the server, or the client has TLS 1.2.
      if (!this.#deps.carrier.carries(socket)) this.#deps.answers.announceOn(socket)
      const parsed = parserOf(socket) !== null
      if (parsed && !isResponding(socket)) return this.#mayLeave(socket) ? this.#departIdle(socket) : null
      if (which === 'idle') return null
      const taken = takenOverOf(socket)
      if (taken !== undefined) return this.#departTaken(socket, taken)
      if (parsed) return null
      if (this.#upgraded === null) return null
      const departed = this.#upgraded.depart(socket, this.#mayMove)
      if (departed === null) return null
      const { fd, record: application, tls } = departed
      return toValue(fd, { application, tls })
    } catch (error) {
      if (!this.#faulty.has(socket)) this.#deps.failed(error)
      this.#faulty.add(socket)
      return null
    }
  }

  #departTaken(socket: net.Socket, taken: TakenOver): Value | null {
    const { carrier } = this.#deps
    if (!taken.moves || taken.waits?.(socket) || !carrier.canLeaveAmid(socket, () => this.#onRest(socket)))
      return null
    const answers = isResponding(socket)
    // The parser may hold a part of the next request.
    if (answers && (socket.readableLength > 0 || !this.#isIdle(socket))) return null
    const fd = carrier.duplicate(socket)
    if (fd === null) return null
    let record: Uint8Array | null = null
    let data: Uint8Array | undefined
    try {
      data = answers ? this.#dataOf(socket) : NOTHING
      if (data !== undefined) record = taken.serialize(socket, this.#onRest)
    } finally {
      if (record === null) fd.close()
    }
    if (record === null) return null
    const requests = Math.max(1, this.#deps.answers.requests(socket))
    const tls = closeOnThrow([fd], () => carrier.take(socket))
    this.#deps.open.remove(socket)
    const { protocol } = taken
    if (!answers) return toValue(fd, { application: { protocol, record }, tls })
    const answer: AnswerRecord = { protocol, record, requests }
    if (this.#deps.hooks.serialize !== undefined) answer.data = data
    return toValue(fd, { answer, tls })
  }

  /** Whether the connection is between two requests. */
  #mayLeave(socket: net.Socket): boolean {
    if (isResponding(socket) || socket.readableLength > 0) return false
    if (!this.#isFresh(socket) && !this.#isIdle(socket)) return false
    return this.#deps.carrier.canLeave(socket, this.#mayMove)
  }

  /** Whether no byte has arrived on the connection, in any process. */
  #isFresh(socket: net.Socket): boolean {
    return socket.bytesRead === 0 && !this.#deps.answers.isAdopted(socket)
  }

  /** Duplicates the descriptor before it calls the hook, because a connection cannot leave if no descriptor is free. */
  #departIdle(socket: net.Socket): Value | null {
    const { carrier } = this.#deps
    const fd = carrier.duplicate(socket)
    let data: Uint8Array | undefined
    try {
      if (fd !== null) data = this.#dataOf(socket)
    } catch (error) {
      fd?.close()
      this.#keepBack(socket)
      throw error
    }
    // The hook may have written to the socket, or closed it.
    const stays = this.#deps.hooks.serialize !== undefined && !carrier.canLeave(socket, this.#mayMove)
    if (fd === null || data === undefined || stays) {
      fd?.close()
      this.#keepBack(socket)
      return null
    }
    const fresh = this.#isFresh(socket)
    // A connection on which bytes have arrived had at least one request, even if requests were not counted.
    const record: IdleRecord = {
      fresh,
      requests: fresh ? 0 : Math.max(1, this.#deps.answers.requests(socket)),
    }
    const remainingMs = this.#expiry.remainingMs(socket) ?? carrier.timeoutLeft(socket)
    if (!fresh && remainingMs < LONGEST_MS) record.keepAliveMs = Math.max(1, Math.ceil(remainingMs))
    if (this.#deps.hooks.serialize !== undefined) record.data = data
    const tls = closeOnThrow([fd], () => carrier.take(socket))
    this.#deps.open.remove(socket)
    return toValue(fd, { idle: record, tls })
  }

  /** Returns the application's data, or undefined if the connection cannot move now. Throws the hook's exception or ERR_FDB_HOOK. */
  #dataOf(socket: net.Socket): Uint8Array | undefined {
    if (this.#deps.hooks.serialize === undefined) return NOTHING
    const returned = this.#deps.hooks.serialize(socket)
    return returned === undefined ? undefined : hookBytes(returned)
  }

  /** Lets the next response close the connection if it was kept from leaving for {@link PATIENCE_MS}: the hook may never return data. */
  #keepBack(socket: net.Socket): void {
    const now = performance.now()
    const since = this.#keptBack.get(socket) ?? now
    this.#keptBack.set(socket, since)
    if (now - since >= PATIENCE_MS) this.#deps.answers.announceOn(socket)
  }

  /** Whether the parser has read complete requests only. */
  #isIdle(socket: net.Socket): boolean {
    if (this.#idleAt.get(socket) === socket.bytesRead) return true
    if (this.#idleUpdated) return false
    // Node returns the idle parsers of all connections at once, and they do not change within a turn of the event loop.
    this.#idleUpdated = true
    queueMicrotask(() => {
      this.#idleUpdated = false
    })
    for (const { socket: idle } of idleParsers(this.#deps.server)) this.#idleAt.set(idle, idle.bytesRead)
    return this.#idleAt.get(socket) === socket.bytesRead
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): Value {
    const state = decoded(HttpConnection.decode, record)
    onlyConnection(fds)
    this.#checkState(state)
    this.#deps.carrier.check(state.tls)
    return { record, fds, state, ...wipes(state.tls ?? undefined) }
  }

  #checkState({ idle, application, answer }: State): void {
    if (application) {
      const mine = this.#upgraded?.hooks.protocol
      if (application.protocol === mine) return
      if (takenOverFor(this.#deps.server, application.protocol ?? '')?.moves) return
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        `a connection of protocol ${application.protocol} arrived, but this version has ${mine ?? 'no hooks'} for upgraded connections of this server`,
      )
    }
    if (answer && !takenOverFor(this.#deps.server, answer.protocol ?? '')?.moves)
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        `a connection arrived in an answer of ${answer.protocol}, which this version cannot continue: call moveStreams() for its server`,
      )
    const between = idle ?? answer
    if (!between)
      throw new FdbError(
        'ERR_FDB_CONNECTION',
        'an HTTP connection arrived in a state that this version does not know: it stays in the process that sent it',
      )
    if (!this.#deps.sniffed && !this.#isDirect) {
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        "another listener than Node's own gets this server's connections first: give serve() the option move: true, and hooks for the data of that listener",
      )
    }
    if (between.data != null && this.#deps.hooks.restore === undefined) {
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        'an HTTP connection arrived with data of the application, but this version has no restore() for it',
      )
    }
  }

  arrive(value: Value, how: Arrival): Witness | undefined {
    return this.#deps.run(() => this.#arrive(value, how))
  }

  #arrive(value: Value, how: Arrival): Witness | undefined {
    const { state, fds } = value
    const { application, answer } = state
    if (application) {
      const taken = takenOverFor(this.#deps.server, application.protocol ?? '')
      const socket =
        taken === undefined
          ? this.#upgraded!.arrive(fds[0]!, application, how, state.tls)
          : this.#arriveTaken(value, taken, how)
      if (how === 'refused') this.#refused.add(socket)
      value.wipe?.()
      return witnessOf(socket)
    }
    const adopt = (how: Arrival) => (answer ? this.#adoptAnswer(value, answer, how) : this.#adopt(value, how))
    if ((this.#listens ||= tracksConnections(this.#deps.server))) return adopt(how)
    // Node creates its list of connections when the server starts to listen, in the next turn: adds the connection after that.
    this.#whenListening(
      // The group that it came with is adopted already: it cannot go back.
      () => this.#adoptLate(() => adopt(how === 'moved' ? 'returned' : how)),
      () => fds[0]!.close(),
    )
    return undefined
  }

  #arriveTaken({ fds, state }: Value, taken: TakenOver, how: Arrival): net.Socket {
    const { carrier, server, open } = this.#deps
    const socket = carrier.open(fds[0]!, server, state.tls)
    open.add(socket)
    try {
      taken.restore(socket, state.application?.record ?? NOTHING)
    } catch (error) {
      throw notRestored(socket, how, error, this.#deps, carrier)
    }
    carrier.publish(socket)
    return socket
  }

  /** Calls `closed` instead of `listening` if the server closes before it listens. */
  #whenListening(listening: () => void, closed: () => void): void {
    const stop = observe(this.#deps.server, {
      listening: () => {
        stop()
        // After Node's own listener, which makes the list.
        process.nextTick(listening)
      },
      close: () => {
        stop()
        closed()
      },
    })
  }

  #adoptLate(adopt: () => void): void {
    try {
      adopt()
    } catch (error) {
      this.#deps.failed(error)
    }
  }

  /** Opens the connection, and calls `begin` when Node parses it. Throws what `begin`, or a listener of the application, throws; the connection is not in this process then. */
  #connect({ fds, state }: Value, how: Arrival, begin: (socket: net.Socket) => void): net.Socket {
    const { carrier, server } = this.#deps
    const socket = carrier.open(fds[0]!, server, state.tls)
    try {
      if (this.#isDirect) server.emit(carrier.event, socket)
      else {
        this.#deps.open.add(socket)
        connectionListener().call(server, socket)
      }
      begin(socket)
    } catch (error) {
      throw notRestored(socket, how, error, this.#deps, carrier)
    }
    return socket
  }

  /** Continues an answer that has begun in another process. */
  #adoptAnswer(value: Value, { protocol, record, requests, data }: AnswerRecord, how: Arrival): Witness {
    const { carrier } = this.#deps
    const socket = this.#connect(value, how, socket => {
      if (how === 'refused') this.#refuse(socket)
      if (data != null) this.#deps.hooks.restore?.(socket, data)
      takenOverFor(this.#deps.server, protocol ?? '')!.restore(socket, record ?? NOTHING)
    })
    this.#deps.answers.adopt(socket, requests ?? 1)
    carrier.publish(socket)
    value.wipe?.()
    return witnessOf(socket)
  }

  #refuse(socket: net.Socket): void {
    this.#refused.add(socket)
    this.#deps.answers.announceOn(socket)
  }

  #adopt(value: Value, how: Arrival): Witness {
    const { carrier } = this.#deps
    const { fresh, requests, keepAliveMs, data } = value.state.idle!
    const socket = this.#connect(value, how, socket => {
      if (requests) this.#deps.answers.adopt(socket, requests)
      if (how === 'refused') this.#refuse(socket)
      if (data != null) this.#deps.hooks.restore?.(socket, data)
    })
    carrier.publish(socket)
    value.wipe?.()
    const parser = parserOf(socket)
    if (fresh || parser === null) return witnessOf(socket)
    markIdle(parser)
    this.#idleAt.set(socket, socket.bytesRead)
    if (keepAliveMs) this.#expiry.add(socket, keepAliveMs)
    return witnessOf(socket)
  }
}

function toValue(fd: OwnedFd, state: State): Value {
  const record = HttpConnection.encode(state).finish()
  return { fds: [fd], record, state, ...wipes(state.tls ?? undefined, record) }
}
