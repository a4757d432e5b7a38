import type dgram from 'node:dgram'
import type { MovableConnections } from '../../connections/movable.js'
import { FdbError } from '../../errors.js'
import { accept, inspectOne, type OwnedFd, releaseNumber } from '../../kernel/index.js'
import {
  adjustListener,
  currentOptions,
  type ListenerSpec,
  listenerAddress,
  type OptionChange,
} from '../../listeners/index.js'
import { AttachedDatagrams, type DatagramReader } from './attached-datagrams.js'
import { AttachedServer, type LeavingTimes } from './attached-server.js'
import { attachDatagrams } from './datagram-server.js'
import { type DrainCounts, sumCounts } from './forced-closes.js'
import type { ServableServer, ServeOptions } from './serve-options.js'
import { StandInListener } from './stand-in-listener.js'

export type { LeavingTimes } from './attached-server.js'

export interface ListenerAddress {
  /** The address in the form that `listen()` accepts: `tcp://127.0.0.1:8080`, `unix:/run/x.sock`. */
  readonly url: string
  /** An IP literal; absent for Unix sockets. */
  readonly host?: string
  readonly port?: number
  /** Unix sockets: the path, or the abstract name with its `@`. */
  readonly path?: string
}

interface ListenerDeps {
  readonly name: string
  readonly spec: ListenerSpec
  readonly adopted: boolean
  /** Borrowed: the registry owns it. */
  readonly fd: OwnedFd
  readonly options: SocketOptions
  readonly events: {
    changed(changes: readonly OptionChange[]): void
    failed(error: unknown): void
  }
}

/**
 * A named listening socket (or UDP socket). The socket belongs to the service, not to this process: each version adopts the same kernel
 * object from the previous version.
 */
export class Listener {
  readonly name: string
  #spec: ListenerSpec
  /** Borrowed. */
  #fd: OwnedFd
  /** Known even before a server is attached, unlike Node's `server.address()`. */
  readonly address: ListenerAddress
  /** Whether the listener was adopted from the previous version. */
  readonly adopted: boolean
  readonly #deps: ListenerDeps
  readonly #servers: (AttachedServer | AttachedDatagrams)[] = []
  /** The listeners of ended workers on which this listener's server accepts too, by `UnservedListener.key`. */
  readonly #standIns = new Map<string, StandInListener>()
  /** Such listeners that only this service has left: further sockets at the same address, by the names of their entries. */
  readonly #further = new Map<string, StandInListener>()
  /** See {@link acceptUntilLeft}. */
  #lastQueue: StandInListener | null = null
  /** See {@link closeOthers}. */
  #closedOthers = false
  #accepting = false
  /** See {@link leaveAfter}. */
  #left: Promise<void> | null = null
  #leave: (() => void) | null = null
  #borrowed = false
  #leaving = false
  #paused = false

  /** @internal */
  static of(deps: ListenerDeps): Listener {
    return new Listener(deps)
  }

  private constructor(deps: ListenerDeps) {
    this.name = deps.name
    this.#spec = deps.spec
    this.#fd = deps.fd
    this.address = addressOf(deps.fd, deps.spec)
    this.adopted = deps.adopted
    this.#deps = deps
  }

  get spec(): ListenerSpec {
    return this.#spec
  }

  /**
   * Makes `server` (net, http, https, http2, tls) accept on this listener while this process serves, never before the commit. Several servers
   * may share a listener. Do not call the server's own `listen()`. On a UDP listener `server` is a `dgram.Socket` without an address, which gets
   * that of the listener: it reads while this process serves, and can always send.
   *
   * {@link ServeOptions} control how the server's connections continue in the next process, or end here:
   * - The connections of an `http.Server` move between two requests, without any option. `http` hooks move the application's own data about a
   *   connection, and upgraded connections.
   * - The connections of a `net.Server` move by the application's `socket` protocol. Without one, and on all other servers, connections remain
   *   in this process until they end; if the protocol has a way to announce the end, their clients are asked to leave.
   * - A `keeper` handles the connections itself; the library ignores the server's sockets.
   * - `move: false`: connections remain in this process until they end.
   *
   * The server's 'close' is emitted when this process cannot serve any more and the last connection has ended. All connections, accepted here
   * or moved, run in the async context of this call.
   *
   * Throws ERR_FDB_NOT_A_SERVER (for example a framework's app; the message names its server), ERR_FDB_SERVER_LISTENS (the server listens
   * already), ERR_FDB_SERVER_TWICE (the server already has a listener), ERR_FDB_OPTION (unknown options, or options that do not fit the
   * server).
   */
  serve(server: ServableServer | dgram.Socket, options?: ServeOptions): this {
    const failed = (error: unknown) => this.#deps.events.failed(this.#named(error))
    let served: AttachedServer | AttachedDatagrams
    try {
      if (this.#spec.kind === 'udp') served = attachDatagrams(server, options, this.#fd, this.#spec)
      else served = new AttachedServer(server as ServableServer, options, failed)
    } catch (error) {
      throw this.#named(error)
    }
    return this.#add(served)
  }

  /**
   * @internal Like {@link serve}, for a server that already has a handle on this socket and reports that it listens. `begin` makes the server
   * accept, if it does not yet.
   */
  serveListening(server: ServableServer, begin: () => void, options: ServeOptions = {}): this {
    const failed = (error: unknown) => this.#deps.events.failed(this.#named(error))
    return this.#add(new AttachedServer(server, options, failed, begin))
  }

  /** @internal As {@link serve}, for a UDP listener. */
  serveDatagrams(reader: DatagramReader): this {
    return this.#add(new AttachedDatagrams(reader))
  }

  #add(served: AttachedServer | AttachedDatagrams): this {
    this.#servers.push(served)
    // attach() has reported the error.
    if (this.#accepting) this.#attach(served).catch(() => {})
    return this
  }

  /** @internal Removes a server that the application closed before it accepted here. The application may serve that server again. */
  forget(server: ServableServer): void {
    const at = this.#servers.findIndex(served => served.server === server)
    if (at >= 0) this.#servers.splice(at, 1)[0]!.release()
  }

  /**
   * Returns a dup of the descriptor for a socket without a stream server (`dgram`). The caller owns the dup, uses it after `ready()`, and
   * stops using it when the member retires (event `retiring`).
   *
   * Do not pass the number to a stream server with `listen({ fd })`, because the library would not know that server: its connections would
   * not move, no drain would wait for them, and the end of the process would cut their responses. Use {@link serve} instead.
   */
  borrow(): number {
    this.#borrowed = true
    return releaseNumber(this.#fd.dup())
  }

  get connections(): number {
    return this.#servers.reduce((sum, served) => sum + served.connections, 0)
  }

  /** The protocol of the clients, or null if unknown. */
  get scheme(): string | null {
    return this.#servers.find(served => served.scheme !== null)?.scheme ?? null
  }

  /** Returns the number of connections by their activity, if known. */
  kinds(): Record<string, number> {
    const sum: Record<string, number> = {}
    for (const served of this.#servers)
      for (const [kind, count] of Object.entries(served.kinds()))
        if (count > 0) sum[kind] = (sum[kind] ?? 0) + count
    return sum
  }

  /**
   * Whether a server accepts here, or the code that has {@link borrow}ed the descriptor may accept. False before {@link serve}, and if the
   * application has closed all servers itself.
   */
  get accepting(): boolean {
    return this.#accepting && (this.#borrowed || this.#servers.some(served => served.accepting))
  }

  /** @internal False if a server should accept here but none does. */
  get hasAcceptor(): boolean {
    return this.isClosed || this.#paused || this.accepting || (this.#accepting && this.#servers.length === 0)
  }

  /** @internal Whether this version will accept clients when it serves. A datagram socket needs no server; a closed server does not count. */
  get hasServer(): boolean {
    if (this.#borrowed) return true
    return this.spec.kind === 'udp' ? !this.hasClosedServers : this.#servers.length > 0
  }

  /** @internal Sets this version's socket options, when it starts to serve. Reports a failure to `failed`, and does not throw. */
  setOptions(): void {
    this.#orReport(() => {
      const changes = this.#deps.options.apply()
      if (changes.length > 0) this.#deps.events.changed(changes)
    })
  }

  /** @internal Takes over a specification of the same address, whose options are set by the next {@link setOptions}. */
  respecify(spec: ListenerSpec): void {
    this.#spec = spec
    this.#deps.options.want(spec)
  }

  /** @internal Remembers the socket options for a rollback, because the next version sets its own. */
  keepOptions(): void {
    this.#orReport(() => this.#deps.options.keep())
  }

  /** @internal The application has closed the listener, which may still accept: see {@link leaveAfter}. */
  get isClosed(): boolean {
    return this.#leaving || this.#left !== null
  }

  #orReport(act: () => void): void {
    if (this.isClosed) return
    try {
      act()
    } catch (error) {
      this.#deps.events.failed(error)
    }
  }

  /** @internal Throws ERR_FDB_SERVER_LISTENS if the application has called a server's listen(). */
  check(): void {
    try {
      for (const served of this.#servers) served.check()
    } catch (error) {
      throw this.#named(error)
    }
  }

  /** @internal Resolves when every server accepts. If a server cannot, passes the error to `failed` and rejects with it. */
  async start(): Promise<void> {
    // A server that the application has closed, as the listener, does not listen again.
    if (this.#leaving || (this.#left !== null && this.hasClosedServers)) return
    this.#paused = false
    this.#accepting = true
    await Promise.all(this.#servers.map(served => this.#attach(served)))
    for (const standIn of this.#others) this.#startStandIn(standIn)
  }

  get #others(): StandInListener[] {
    const last = this.#lastQueue === null ? [] : [this.#lastQueue]
    return [...this.#standIns.values(), ...this.#further.values(), ...last]
  }

  /** @internal */
  get standIns(): ReadonlyMap<string, StandInListener> {
    return this.#standIns
  }

  /** @internal The names of the entries of further sockets at the same address, on which the first server accepts too. */
  get further(): Iterable<string> {
    return this.#further.keys()
  }

  /** @internal Makes the first server also accept on `fd`, a further socket at the same address. Owns the descriptor. */
  addFurther(entry: string, fd: OwnedFd): void {
    const socket = this.#socket(fd)
    this.#further.set(entry, socket)
    if (this.#accepting) this.#startStandIn(socket)
  }

  /** @internal The listener of an ended worker becomes a further socket of this one. */
  makeFurther(key: string, entry: string): void {
    const standIn = this.#standIns.get(key)
    if (standIn === undefined) return
    this.#standIns.delete(key)
    this.#further.set(entry, standIn)
  }

  /** @internal Makes the first server also accept on `fd`, the listener of an ended worker, unless this process has left meanwhile. Owns the descriptor. */
  standIn(key: string, fd: OwnedFd): void {
    if (this.#closedOthers) {
      fd.close()
      return
    }
    const standIn = this.#socket(fd)
    this.#standIns.get(key)?.close()
    this.#standIns.set(key, standIn)
    if (this.#accepting) this.#startStandIn(standIn)
  }

  /** @internal Stops accepting on the listeners of ended workers, except on those with these keys. */
  keepStandIns(keys: ReadonlySet<string>): void {
    for (const [key, standIn] of this.#standIns) {
      if (keys.has(key)) continue
      standIn.close()
      this.#standIns.delete(key)
    }
  }

  #socket(fd: OwnedFd): StandInListener {
    return new StandInListener(fd, error => this.#deps.events.failed(this.#named(error)))
  }

  /** @internal This process leaves: closes all sockets but the listener's own, and those that come later, because clients would wait there for nothing. */
  closeOthers(): void {
    this.#closedOthers = true
    for (const standIn of this.#others) standIn.close()
    for (const served of this.#servers) served.closeSpare()
    this.#standIns.clear()
    this.#further.clear()
    this.#lastQueue = null
  }

  #startStandIn(standIn: StandInListener): void {
    const first = this.#servers.find(({ accepting }) => accepting)?.server
    if (first) standIn.start(first, this.spec.backlog)
  }

  /** @internal Stops accepting. Closes no socket and no connection. */
  stop(): void {
    this.#accepting = false
    for (const standIn of this.#others) standIn.stop()
    const mayStart = !this.#leaving && !this.#closedOthers
    for (const served of this.#servers) served.detach(mayStart ? this.#fd : null)
  }

  /** @internal Stops accepting until {@link start}, at the application's request. */
  pause(): void {
    this.#paused = true
    this.stop()
  }

  /**
   * @internal Stops accepting for good, and tells the clients that their connections will end. `fd`: the socket, which the caller closes next; null:
   * no server has accepted there.
   */
  leave(fd: OwnedFd | null): void {
    this.#leaving = true
    this.stop()
    this.announce()
    if (fd !== null) this.acceptWaiting(fd)
    this.closeOthers()
    this.finish()
  }

  /**
   * @internal Accepts the connections that wait in the kernel's queues of a socket that is about to be closed, and of the further ones: the kernel
   * would reset them, and their clients may have sent requests.
   */
  acceptWaiting(fd: OwnedFd): void {
    this.#acceptQueue(fd)
    for (const standIn of this.#others) standIn.lend(other => this.#acceptQueue(other))
  }

  /**
   * @internal This process leaves, and no other one accepts on `fd`, the listener's socket: accepts there until {@link leave}, unless the application
   * has closed its servers.
   */
  acceptUntilLeft(fd: OwnedFd): void {
    for (const served of this.#servers) if (served instanceof AttachedDatagrams) served.readLast()
    const first = this.#servers.find(served => served.acceptedUntilDetached)?.server
    if (!first) return
    try {
      this.#lastQueue = this.#socket(fd.dup())
      this.#lastQueue.start(first, this.spec.backlog)
    } catch (error) {
      this.#deps.events.failed(error)
    }
  }

  #acceptQueue(fd: OwnedFd): void {
    const first = this.#servers.find(served => served.acceptedUntilDetached)
    if (first === undefined) return
    try {
      // The queue has room for one more than `backlog`. Further clients come after the end.
      for (let left = this.spec.backlog + 1; left > 0; left--) {
        const connection = accept(fd, `a connection of listener ${this.name}`)
        if (connection === null) return
        first.take(connection)
      }
    } catch (error) {
      this.#deps.events.failed(error)
    }
  }

  /** @internal Lets the servers emit 'close' when their last connection has ended, because none will accept here again. */
  finish(): void {
    for (const served of this.#servers) served.finish()
  }

  /** @internal Announces the end to the clients of all connections. */
  announce(times?: LeavingTimes): void {
    for (const served of this.#servers) served.announce(times)
  }

  /** @internal Announces the end to the clients of those connections that can never move. */
  announceFixed(times: LeavingTimes): void {
    for (const served of this.#servers) served.announceFixed(times)
  }

  /** @internal Closes connections between two requests, because the service ends. */
  endIdle(): void {
    for (const served of this.#servers) served.endIdle()
  }

  /** @internal */
  get moving(): MovableConnections[] {
    return this.#servers.flatMap(({ moving }) => moving)
  }

  /**
   * @internal Calls `leave` once: when `closed` settles, or before the connections are cut. Until then the listener is not empty, since clients may
   * come that no other process would answer. Borrows `fd`, the socket, until then: the registry has closed its own.
   */
  leaveAfter(closed: Promise<unknown>, fd: OwnedFd | undefined, leave: () => void): void {
    this.#fd = fd ?? this.#fd
    this.#left = new Promise(resolve => {
      this.#leave = () => {
        this.#leave = null
        leave()
        resolve()
      }
      const now = () => this.leaveNow()
      closed.then(now, now)
    })
  }

  /** @internal Whether the application has closed all servers here itself, so that none can accept any more. */
  get hasClosedServers(): boolean {
    return this.#servers.length > 0 && this.#servers.every(({ isClosed }) => isClosed)
  }

  /** @internal Does not wait any longer: see {@link leaveAfter}. */
  leaveNow(): void {
    this.#leave?.()
  }

  /** @internal */
  async emptied(): Promise<void> {
    await this.#left
    await Promise.all(this.#servers.map(served => served.emptied()))
  }

  /** @internal */
  get hasTlsConnections(): boolean {
    return this.#servers.some(({ secure, connections }) => secure && connections > 0)
  }

  /** @internal */
  cut(tls: boolean): DrainCounts {
    this.leaveNow()
    return sumCounts(this.#servers.filter(served => served.secure === tls).map(served => served.cut()))
  }

  /** @internal */
  remaining(): DrainCounts {
    return sumCounts(this.#servers.map(served => served.remaining()))
  }

  /** @internal See {@link AttachedServer.cutReturned}. */
  cutReturned(tls: boolean): DrainCounts {
    return sumCounts(
      this.#servers.filter(served => served.secure === tls).map(served => served.cutReturned()),
    )
  }

  /** @internal */
  release(): void {
    this.closeOthers()
    for (const served of this.#servers) served.release()
  }

  async #attach(served: AttachedServer | AttachedDatagrams): Promise<void> {
    try {
      await served.attach(this.#fd, this.spec.backlog)
    } catch (error) {
      const named = this.#named(error)
      this.#deps.events.failed(named)
      throw named
    }
  }

  /** Returns the error with the listener's name in its message. */
  #named(error: unknown): unknown {
    if (!FdbError.is(error)) return error
    const { code, message, retryable, details } = error
    const text = `listener "${this.name}": ${message}`
    return new FdbError(code, text, { cause: error, retryable, details })
  }
}

function addressOf(fd: OwnedFd, spec: ListenerSpec): ListenerAddress {
  const identity = inspectOne(fd)
  const url = listenerAddress(identity, spec)
  if (identity.family === 'unix') return { url, path: url.slice('unix:'.length) }
  return { url, host: identity.address ?? '', port: identity.port ?? 0 }
}

interface SocketOptionsDeps {
  /** Borrowed. */
  readonly fd: OwnedFd
  readonly spec: ListenerSpec
  /** The previous version's specification, or null if unknown. */
  readonly before: ListenerSpec | null
  /** This process has bound the socket with these options. */
  readonly bound: boolean
}

/**
 * The options of a socket that two versions share (mode and owner of its path, backlog, reusePort …). A version sets its own options when
 * it starts to serve, never before. After a rollback it restores the options from before its successor started to serve.
 */
export class SocketOptions {
  readonly #fd: OwnedFd
  #spec: ListenerSpec
  #before: ListenerSpec | null
  /** The options to set, or null if they are set. */
  #wanted: ListenerSpec | null

  constructor({ fd, spec, before, bound }: SocketOptionsDeps) {
    this.#fd = fd
    this.#spec = spec
    this.#before = before
    this.#wanted = bound ? null : spec
  }

  /** Makes the next {@link apply} set the options of this specification, which has the same address. */
  want(spec: ListenerSpec): void {
    // Options that were not set yet are compared with those before them.
    if (this.#wanted === null) this.#before = this.#spec
    this.#spec = spec
    this.#wanted = spec
  }

  /** Sets the options, and returns the changes. Throws the kernel's error. */
  apply(): OptionChange[] {
    const wanted = this.#wanted
    if (wanted === null) return []
    const changes = adjustListener(this.#fd, inspectOne(this.#fd), this.#before, wanted)
    this.#wanted = null
    return changes
  }

  /** Remembers the present options for a rollback. Throws the kernel's error. */
  keep(): void {
    if (this.#wanted !== null) return
    this.#wanted = currentOptions(this.#fd, this.#spec)
    this.#before = null
  }
}
