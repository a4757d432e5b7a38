import type http from 'node:http'
import type net from 'node:net'
import { LONGEST_MS } from '../../base/duration.js'
import { FdbError } from '../../errors.js'
import type { OwnedFd } from '../../kernel/index.js'
import {
  idleParsers,
  isAnswering,
  keepsList,
  markIdle,
  ownListener,
  parserOf,
} from '../../node/http-connections.js'
import { isPlain } from '../../node/socket-handle.js'
import { timeoutLeft } from '../../node/socket-timeout.js'
import { fdbroker } from '../../proto/connections.js'
import {
  type Arrival,
  type ConnectionValue,
  decoded,
  type MovableConnections,
  type MoveWhich,
  onlyConnection,
  type Witness,
} from '../movable.js'
import { ApplicationSockets, bytesOf, type SocketProtocol } from './application-socket.js'
import type { HttpAnswers } from './http-answers.js'
import {
  abandon,
  canLeave,
  connectionOf,
  type OpenSockets,
  publish,
  reopened,
  witnessOf,
} from './node-socket.js'

/** How often adopted connections are looked at whose keep-alive timeout may have passed. */
const EXPIRY_MS = 100

/** The rest of the keep-alive timeouts of connections that arrived. From the first byte on, Node's own timeouts apply. */
class KeepAliveExpiry {
  /** When they are closed, of `performance.now()`, if nothing has come on them by then. */
  readonly #expiring = new Map<net.Socket, number>()
  #timer: NodeJS.Timeout | undefined

  add(socket: net.Socket, ms: number): void {
    this.#expiring.set(socket, performance.now() + ms)
    this.#timer ??= setInterval(() => this.#closeExpired(), EXPIRY_MS)
    this.#timer.unref()
  }

  /** Milliseconds; undefined: Node's own timeouts apply. */
  left(socket: net.Socket): number | undefined {
    const at = socket.bytesRead === 0 ? this.#expiring.get(socket) : undefined
    return at && at - performance.now()
  }

  #closeExpired(): void {
    const now = performance.now()
    for (const [socket, at] of this.#expiring) {
      if (at > now) continue
      this.#expiring.delete(socket)
      if (!socket.destroyed && socket.bytesRead === 0) socket.emit('timeout')
    }
    if (this.#expiring.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

/** The next request of a client waits in the kernel at most so long for its connection to leave. */
const HOLD_MS = 200
/** If no receiver came in that time, connections are not held for this long, and then twice as long: holding slows their leaving. */
const NO_HOLD_MS = 250

/** Connections between two requests that are not read from, so that they can leave before the next one. */
class HeldSockets {
  /** In the order in which they came. */
  readonly #held = new Set<net.Socket>()
  #letGo: NodeJS.Timeout | undefined
  #holdAgainAt = 0
  #noHoldMs = NO_HOLD_MS

  /** Not while there is no receiver. */
  hold(socket: net.Socket): void {
    if (performance.now() < this.#holdAgainAt) return
    socket.pause()
    this.#held.add(socket)
    this.#letGo ??= setTimeout(() => {
      const pause = this.#noHoldMs
      this.readAgain()
      this.#holdAgainAt = performance.now() + pause
      this.#noHoldMs = pause * 2
    }, HOLD_MS)
  }

  readAgain(): void {
    for (const socket of this.#held) socket.resume()
    this.#held.clear()
    this.#nobody()
  }

  /** Each may leave; one that has not when the next is asked for is read from again. */
  *taken(): Generator<net.Socket> {
    for (const socket of this.#held) {
      this.#held.delete(socket)
      if (this.#held.size === 0) this.#nobody()
      yield socket
      if (!socket.destroyed) socket.resume()
    }
  }

  #nobody(): void {
    clearTimeout(this.#letGo)
    this.#letGo = undefined
    this.#noHoldMs = NO_HOLD_MS
  }
}

const { HttpConnection } = fdbroker.connections
const NOTHING = new Uint8Array(0)
/** A connection that could have left for this long, and was kept by its hook or for want of a descriptor, is told to go. */
const PATIENCE_MS = 2_000

/** The application's knowledge of its HTTP/1 connections that the next process needs. */
export interface HttpHooks {
  /**
   * Called for a connection between two requests, on its way out: what the application knows of it (`new Uint8Array()`:
   * nothing; at most 4 MiB). Undefined: it cannot go now; anything else, a promise too, is an error of the hook (ERR_FDB_HOOK),
   * and it stays. One that is not let go for 2 seconds is told to go by its next answer. The socket's 'close' follows, without an error.
   */
  serialize?(socket: net.Socket): Uint8Array | undefined
  /** Called behind the server's 'connection' for what {@link serialize} gave, in the next process or in this one. */
  restore?(socket: net.Socket, data: Uint8Array): void
  /** For connections that the application takes over ('upgrade', 'connect'). Without it they stay until they end. */
  readonly upgraded?: SocketProtocol
}

type IdleRecord = fdbroker.connections.IdleHttp.$Properties
type State = fdbroker.connections.HttpConnection.$Properties
type Value = ConnectionValue<State>

/** The connections of a plain `http.Server`, which leave between two requests. A request that comes during the move stays in the kernel. */
export class HttpServerConnections implements MovableConnections<Value> {
  readonly protocol = 'node-http/1'
  readonly #server: http.Server
  readonly #open: OpenSockets
  readonly #answers: HttpAnswers
  readonly #hooks: HttpHooks
  readonly #upgraded: ApplicationSockets | null
  readonly #run: <T>(work: () => T) => T
  readonly #sniffed: boolean
  #refused = new WeakSet<net.Socket>()
  /** Since when they could leave, but for their hook or a descriptor. */
  #keptBack = new WeakMap<net.Socket, number>()
  readonly #failed: (error: unknown) => void
  /** Whose hook has thrown: that is told once. */
  readonly #faulty = new WeakSet<net.Socket>()
  #onMovable: (() => void) | null = null
  #signal: NodeJS.Immediate | undefined
  readonly #held = new HeldSockets()
  /** The server listens, or has: it keeps a list of its connections. */
  #listens = false
  /** How much had been read when the parser was seen idle: as long as nothing more is, it still is. */
  readonly #idleAt = new WeakMap<net.Socket, number>()
  /** The movable connections were searched in this turn of the event loop. */
  #looked = false
  readonly #expiry = new KeepAliveExpiry()

  /**
   * `failed` hears what the hooks throw; `run` has connections arrive in the application's context; `sniffed`: they move
   * also where something else than Node's own listener gets them first. Throws ERR_FDB_OPTION.
   */
  constructor(parts: {
    server: http.Server
    open: OpenSockets
    answers: HttpAnswers
    hooks: HttpHooks
    failed: (error: unknown) => void
    run: <T>(work: () => T) => T
    sniffed: boolean
  }) {
    const { server, open, answers, hooks, failed, run, sniffed } = parts
    this.#server = server
    this.#open = open
    this.#answers = answers
    this.#hooks = hooks
    this.#failed = failed
    this.#run = run
    this.#sniffed = sniffed
    this.#upgraded = hooks.upgraded
      ? new ApplicationSockets({ hooks: hooks.upgraded, server, open, run })
      : null
    if ((hooks.serialize === undefined) !== (hooks.restore === undefined))
      throw new FdbError('ERR_FDB_OPTION', 'give both serialize() and restore() for an http.Server, or none')
  }

  /** This process serves again: what one successor has refused may be offered to the next one. */
  resume(): void {
    this.#refused = new WeakSet()
    this.#keptBack = new WeakMap()
    this.#upgraded?.resume(this.#failed)
  }

  /** Node's own listener gets connections as they come: nothing was read from them before, and no other code keeps their beginning. */
  get #isDirect(): boolean {
    return this.#server.listeners('connection').includes(ownListener())
  }

  get movable(): number {
    if (!this.#sniffed && !this.#isDirect) return 0
    let count = 0
    for (const socket of this.#open) {
      if (this.#refused.has(socket) || !isPlain(socket)) continue
      if (this.#upgraded !== null || parserOf(socket) !== null) count++
    }
    return count
  }

  /** The kind of a connection, and why it has not left. */
  whyHere(socket: net.Socket): [kind: string, reason: string] {
    const parser = parserOf(socket)
    const kind = parser === null && this.#upgraded ? this.#upgraded.hooks.protocol : 'http'
    if (this.#refused.has(socket)) return [kind, 'refused']
    if (parser === null) return [kind, this.#upgraded ? 'open' : 'upgraded']
    if (isAnswering(socket)) return [kind, 'answering']
    return [kind, socket.bytesRead === 0 || this.#isIdle(socket) ? 'idle' : 'half-request']
  }

  get onMovable(): (() => void) | null {
    return this.#onMovable
  }

  set onMovable(listener: (() => void) | null) {
    this.#onMovable = listener
    this.#answers.onEnded = listener && (socket => this.#ended(socket))
    if (listener === null) this.#held.readAgain()
  }

  /** A busy client would have sent its next request before anybody came to take the connection. */
  #ended(socket: net.Socket): void {
    if (!socket.writable || isAnswering(socket) || parserOf(socket) === null || this.#refused.has(socket))
      return
    this.#held.hold(socket)
    this.#signal ??= setImmediate(() => {
      this.#signal = undefined
      this.#onMovable?.()
    })
  }

  *departures(which: MoveWhich): Generator<Value, void, undefined> {
    if (!this.#sniffed && !this.#isDirect) return
    for (const socket of this.#candidates()) {
      const value = this.#depart(socket, which)
      if (value !== null) yield value
    }
  }

  /** Those that are held come first. */
  *#candidates(): Generator<net.Socket> {
    for (const next of [...this.#open]) {
      yield* this.#held.taken()
      if (this.#open.has(next) && !this.#refused.has(next)) yield next
    }
  }

  #depart(socket: net.Socket, which: MoveWhich): Value | null {
    try {
      // The application has given it to the server: TLS, or a socket of its own.
      if (!isPlain(socket)) this.#answers.announceOn(socket)
      if (parserOf(socket) !== null) return this.#mayLeave(socket) ? this.#departIdle(socket) : null
      if (which === 'idle' || this.#upgraded === null) return null
      const departed = this.#upgraded.depart(socket)
      return departed && encoded(departed.fd, { application: departed.record })
    } catch (error) {
      if (!this.#faulty.has(socket)) this.#failed(error)
      this.#faulty.add(socket)
      return null
    }
  }

  /** Whether the connection is between two requests. */
  #mayLeave(socket: net.Socket): boolean {
    if (isAnswering(socket) || !canLeave(socket) || socket.readableLength > 0) return false
    return this.#isFresh(socket) || this.#isIdle(socket)
  }

  /** Nothing has come on it yet, here or elsewhere. */
  #isFresh(socket: net.Socket): boolean {
    return socket.bytesRead === 0 && !this.#answers.isAdopted(socket)
  }

  /** The descriptor comes first: without room for it the application is not asked. */
  #departIdle(socket: net.Socket): Value | null {
    const fd = connectionOf(socket)
    let data: Uint8Array | undefined
    try {
      if (fd !== null) data = this.#dataOf(socket)
    } catch (error) {
      fd?.close()
      this.#keepBack(socket)
      throw error
    }
    // The hook may have written, or closed.
    if (fd === null || data === undefined || !canLeave(socket)) {
      fd?.close()
      this.#keepBack(socket)
      return null
    }
    const fresh = this.#isFresh(socket)
    // One that is not fresh had a request, also where none was counted.
    const record: IdleRecord = { fresh, requests: fresh ? 0 : Math.max(1, this.#answers.requests(socket)) }
    const left = this.#expiry.left(socket) ?? timeoutLeft(socket)
    if (!fresh && left < LONGEST_MS) record.keepAliveMs = Math.max(1, Math.ceil(left))
    if (this.#hooks.serialize !== undefined) record.data = data
    this.#open.remove(socket)
    abandon(socket)
    return encoded(fd, { idle: record })
  }

  /** The application's data for the next process; undefined: the connection stays for now. Throws the hook's exception, and ERR_FDB_HOOK. */
  #dataOf(socket: net.Socket): Uint8Array | undefined {
    if (this.#hooks.serialize === undefined) return NOTHING
    const returned = this.#hooks.serialize(socket)
    return returned === undefined ? undefined : bytesOf(returned)
  }

  /** Its client must hear of it in time: it may never be let go. */
  #keepBack(socket: net.Socket): void {
    const now = performance.now()
    const since = this.#keptBack.get(socket) ?? now
    this.#keptBack.set(socket, since)
    if (now - since >= PATIENCE_MS) this.#answers.announceOn(socket)
  }

  /** Its parser has taken in whole requests only. */
  #isIdle(socket: net.Socket): boolean {
    if (this.#idleAt.get(socket) === socket.bytesRead) return true
    if (this.#looked) return false
    // Asking for one costs as much as asking for all; and in one turn of the event loop nothing changes.
    this.#looked = true
    queueMicrotask(() => {
      this.#looked = false
    })
    for (const { socket: idle } of idleParsers(this.#server)) this.#idleAt.set(idle, idle.bytesRead)
    return this.#idleAt.get(socket) === socket.bytesRead
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): Value {
    const state = decoded(HttpConnection.decode, record)
    onlyConnection(fds)
    this.#checkState(state)
    return { record, fds, state }
  }

  #checkState({ idle, application }: State): void {
    if (application) {
      const mine = this.#upgraded?.hooks.protocol
      if (application.protocol === mine) return
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        `a connection of ${application.protocol} came, and this version has ${mine ?? 'no hooks'} for upgraded connections of this server`,
      )
    }
    if (!idle)
      throw new FdbError('ERR_FDB_CONNECTION', 'an HTTP connection came in a state that is not known here')
    if (!this.#sniffed && !this.#isDirect) {
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        "another listener than Node's own gets this server's connections first: give serve() the option move: true, and hooks for what that one knows",
      )
    }
    if (idle.data != null && this.#hooks.restore === undefined) {
      throw new FdbError(
        'ERR_FDB_NO_TARGET',
        'an HTTP connection came with data of the application, and this version has no restore() for it',
      )
    }
  }

  arrive(value: Value, how: Arrival): Witness | undefined {
    return this.#run(() => this.#arrive(value, how))
  }

  #arrive({ state: { idle, application }, fds }: Value, how: Arrival): Witness | undefined {
    if (application) {
      const socket = this.#upgraded!.arrive(fds[0]!, application)
      if (how === 'refused') this.#refused.add(socket)
      return witnessOf(socket)
    }
    if ((this.#listens ||= keepsList(this.#server))) return this.#adopt(fds[0]!, idle!, how)
    // Node makes the list when it begins to listen, which it does in the next turn: the connection waits for that.
    this.#server.once('listening', () => this.#adoptLate(fds[0]!, idle!, how))
    return undefined
  }

  #adoptLate(fd: OwnedFd, record: IdleRecord, how: Arrival): void {
    try {
      this.#adopt(fd, record, how)
    } catch (error) {
      this.#failed(error)
    }
  }

  #adopt(fd: OwnedFd, { fresh, requests, keepAliveMs, data }: IdleRecord, how: Arrival): Witness {
    const socket = reopened(fd, this.#server)
    if (this.#isDirect) this.#server.emit('connection', socket)
    else {
      this.#open.add(socket)
      ownListener().call(this.#server, socket)
    }
    if (requests) this.#answers.adopt(socket, requests)
    if (how === 'refused') {
      this.#refused.add(socket)
      this.#answers.announceOn(socket)
    }
    try {
      if (data != null) this.#hooks.restore?.(socket, data)
    } catch (error) {
      socket.destroy()
      throw error
    }
    publish(socket)
    const parser = parserOf(socket)
    if (fresh || parser === null) return witnessOf(socket)
    markIdle(parser)
    this.#idleAt.set(socket, socket.bytesRead)
    if (keepAliveMs) this.#expiry.add(socket, keepAliveMs)
    return witnessOf(socket)
  }
}

function encoded(fd: OwnedFd, state: State): Value {
  return { fds: [fd], record: HttpConnection.encode(state).finish(), state }
}
