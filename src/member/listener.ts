import net from 'node:net'
import type { MovableConnections } from '../connections/movable.js'
import { FdbError } from '../errors.js'
import { inspectOne, listenOver, type OwnedFd, releaseNumber } from '../kernel/index.js'
import { adjustListener, currentOptions, type ListenerSpec, type OptionChange } from '../listeners/index.js'
import { acceptInto, acceptOptionsOf, stopListening } from '../node/server-connections.js'
import { AttachedServer } from './attached-server.js'
import { addedUp, type DrainCounts } from './forced-closes.js'
import type { ServableServer, ServeOptions } from './serve-options.js'

/** Where a listener listens. */
export interface ListenerAddress {
  /** As a spec: `tcp://127.0.0.1:8080`, `unix:/run/x.sock`. */
  readonly url: string
  /** IP literal; absent for Unix sockets. */
  readonly host?: string
  readonly port?: number
  /** Unix sockets: path, or abstract name with its `@`. */
  readonly path?: string
}

interface ListenerDeps {
  readonly name: string
  readonly spec: ListenerSpec
  readonly address: ListenerAddress
  readonly adopted: boolean
  /** Borrowed: the registry owns it. */
  readonly fd: OwnedFd
  readonly options: SocketOptions
  readonly changed: (changes: readonly OptionChange[]) => void
  readonly failed: (error: unknown) => void
}

/**
 * A named listening socket (or UDP socket). It belongs to the service, not to this process: it was adopted from
 * the version before, or bound when it was new, and goes on to the next version as the same kernel object.
 */
export class Listener {
  readonly name: string
  readonly spec: ListenerSpec
  /** Always there, also on Unix sockets and before anything is served (Node's own `server.address()` is not). */
  readonly address: ListenerAddress
  /** Whether it came from the version before. */
  readonly adopted: boolean
  readonly #fd: OwnedFd
  readonly #servers: AttachedServer[] = []
  readonly #failed: (error: unknown) => void
  readonly #changed: (changes: readonly OptionChange[]) => void
  readonly #options: SocketOptions
  /** By their keys. */
  readonly #standIns = new Map<string, SecondSource>()
  #accepting = false
  #borrowed = false
  #leaving = false
  #paused = false

  /** @internal */
  static of(deps: ListenerDeps): Listener {
    return new Listener(deps)
  }

  private constructor(deps: ListenerDeps) {
    this.name = deps.name
    this.spec = deps.spec
    this.address = deps.address
    this.adopted = deps.adopted
    this.#fd = deps.fd
    this.#options = deps.options
    this.#changed = deps.changed
    this.#failed = deps.failed
  }

  /**
   * Has `server` (net, http, https, http2, tls) accept here, from the commit on and never before, as long as this
   * process serves; several servers may share a listener. The server's own `listen()` must not be called.
   *
   * {@link ServeOptions} say how the server's connections go on in the next process, or end here:
   * - an `http.Server` needs nothing for that: connections between two requests move, busy ones when they are answered.
   *   `http` hooks tell what the application knows of a connection, and move what was upgraded.
   * - the connections of a `net.Server` move by the `socket` protocol that the application gives. Without one, and on
   *   servers of other kinds, they stay until they end, and their peers are told to go where the protocol knows how.
   * - a `keeper` takes all of it over: the server's sockets are not looked at.
   * - `move: false`: they stay until they end.
   *
   * The server's 'close' comes when this process is out of it for good and its last connection has ended. Its connections,
   * accepted here or from another process, run in the async context of this call.
   *
   * Throws ERR_FDB_NOT_A_SERVER (a framework's app, a handler: the message says where its server is), ERR_FDB_SERVER_LISTENS
   * (it listens already), ERR_FDB_SERVER_TWICE (a listener has it already), ERR_FDB_OPTION (options that it does not have, or
   * that do not fit the server).
   */
  serve(server: ServableServer, options?: ServeOptions): this {
    let served: AttachedServer
    try {
      served = new AttachedServer(server, options, error => this.#failed(this.#named(error)))
    } catch (error) {
      throw this.#named(error)
    }
    this.#servers.push(served)
    if (this.#accepting) this.#attach(served).catch(() => {})
    return this
  }

  /**
   * @internal As {@link serve}, of a server that has a handle on this socket already, and so says that it listens: it accepts from the call of
   * `begin` on, if not before.
   */
  serveListening(server: ServableServer, begin: () => void): this {
    const served = new AttachedServer(server, {}, error => this.#failed(this.#named(error)), begin)
    this.#servers.push(served)
    if (this.#accepting) this.#attach(served).catch(() => {})
    return this
  }

  /** @internal The application has closed a server before it accepted here: another may take its place, or the same one again. */
  forget(server: ServableServer): void {
    const at = this.#servers.findIndex(served => served.server === server)
    if (at >= 0) this.#servers.splice(at, 1)[0]!.release()
  }

  /**
   * For a socket without a stream server (`dgram`): a dup, owned by the caller from now on. Use it after `ready()`; the caller stops using
   * it when the member retires (event `retiring`).
   *
   * The library does not know a stream server that was given this number with `listen({ fd })`: its connections do not move, no drain waits
   * for them, and the end of the process cuts its answers. Give its server to {@link serve} instead.
   */
  borrow(): number {
    this.#borrowed = true
    return releaseNumber(this.#fd.dup())
  }

  /** Connections of the servers attached here. */
  get connections(): number {
    return this.#servers.reduce((sum, served) => sum + served.connections, 0)
  }

  /** The protocol of its clients, if it is known. */
  get scheme(): string | null {
    return this.#servers.find(served => served.scheme !== null)?.scheme ?? null
  }

  /** The connections by what they are doing, as far as their keepers say it. */
  kinds(): Record<string, number> {
    const sum: Record<string, number> = {}
    for (const served of this.#servers)
      for (const [kind, count] of Object.entries(served.kinds()))
        if (count > 0) sum[kind] = (sum[kind] ?? 0) + count
    return sum
  }

  /**
   * A server accepts here, or what has borrowed the descriptor may. Not so before {@link serve}, or when the application has closed all its
   * servers itself.
   */
  get accepting(): boolean {
    return this.#accepting && (this.#borrowed || this.#servers.some(served => served.accepting))
  }

  /** @internal A server accepts here, or none should. */
  get attended(): boolean {
    return this.#leaving || this.#paused || this.accepting || (this.#accepting && this.#servers.length === 0)
  }

  /** @internal Its clients will be accepted once this process serves; a datagram socket has none that wait for that. */
  get hasServer(): boolean {
    return this.#servers.length > 0 || this.#borrowed || this.spec.kind === 'udp'
  }

  /** @internal This process begins to serve: the socket gets the options that this version wants. A failure is told, and does not keep it from serving. */
  setOptions(): void {
    this.#orTell(() => {
      const changes = this.#options.apply()
      if (changes.length > 0) this.#changed(changes)
    })
  }

  /** @internal Another version may begin to serve, and set its own options. */
  keepOptions(): void {
    this.#orTell(() => this.#options.keep())
  }

  #orTell(act: () => void): void {
    if (this.#leaving) return
    try {
      act()
    } catch (error) {
      this.#failed(error)
    }
  }

  /** @internal Throws ERR_FDB_SERVER_LISTENS when a server cannot be attached, as the application has called its listen(). */
  check(): void {
    for (const served of this.#servers) {
      try {
        served.check()
      } catch (error) {
        throw this.#named(error)
      }
    }
  }

  /** @internal Resolves when every server accepts; rejects when one cannot, which is told to `failed` too. */
  async start(): Promise<void> {
    if (this.#leaving) return
    this.#paused = false
    this.#accepting = true
    await Promise.all(this.#servers.map(served => this.#attach(served)))
    for (const second of this.#standIns.values()) this.#startSecond(second)
  }

  /** @internal Those that it accepts for beside its own. */
  get standIns(): ReadonlyMap<string, unknown> {
    return this.#standIns
  }

  /** @internal Its first server takes what comes there too, as long as it accepts. Takes the descriptor. */
  standIn(key: string, fd: OwnedFd): void {
    const second = new SecondSource(fd, error => this.#failed(this.#named(error)))
    this.#standIns.get(key)?.close()
    this.#standIns.set(key, second)
    if (this.#accepting) this.#startSecond(second)
  }

  /** @internal Closes the others: connections that wait there belong to another process. */
  keepStandIns(keys: ReadonlySet<string>): void {
    for (const [key, second] of this.#standIns) {
      if (keys.has(key)) continue
      second.close()
      this.#standIns.delete(key)
    }
  }

  #startSecond(second: SecondSource): void {
    const first = this.#servers.find(({ accepting }) => accepting)
    if (first !== undefined) second.start(first.server, this.spec.backlog)
  }

  /** @internal Accept no more; close nothing. */
  stop(): void {
    this.#accepting = false
    for (const second of this.#standIns.values()) second.stop()
    for (const served of this.#servers) served.detach()
  }

  /** @internal As the application wants it: until {@link start}. */
  pause(): void {
    this.#paused = true
    this.stop()
  }

  /** @internal It is to accept never again; its connections are told. */
  leave(): void {
    this.#leaving = true
    this.stop()
    this.keepStandIns(new Set())
    this.announce()
    this.finish()
  }

  /** @internal It does not come back: its servers say 'close' when their last connection has ended. */
  finish(): void {
    for (const served of this.#servers) served.finish()
  }

  /** @internal Every connection's peer is told to go. */
  announce(): void {
    for (const served of this.#servers) served.announce()
  }

  /** @internal Announces it to the clients of servers of which no connection can move. */
  announceFixed(): void {
    for (const served of this.#servers) if ((served.moving?.movable ?? 0) === 0) served.announce()
  }

  /** @internal The service ends: closes connections that wait for a next request. */
  endIdle(): void {
    for (const served of this.#servers) served.endIdle()
  }

  /** @internal */
  get moving(): MovableConnections[] {
    return this.#servers.flatMap(({ moving }) => moving ?? [])
  }

  /** @internal */
  async emptied(): Promise<void> {
    await Promise.all(this.#servers.map(served => served.emptied()))
  }

  /** @internal */
  cut(tls: boolean): DrainCounts {
    return addedUp(this.#servers.filter(served => served.secure === tls).map(served => served.cut()))
  }

  /** @internal */
  release(): void {
    this.keepStandIns(new Set())
    for (const served of this.#servers) served.release()
  }

  async #attach(served: AttachedServer): Promise<void> {
    try {
      await served.attach(this.#fd, this.spec.backlog)
    } catch (error) {
      const named = this.#named(error)
      this.#failed(named)
      throw named
    }
  }

  /** The same error, with the listener's name in its message. */
  #named(error: unknown): unknown {
    if (!FdbError.is(error)) return error
    const { code, message, retryable, details } = error
    const text = `listener "${this.name}": ${message}`
    return new FdbError(code, text, { cause: error, retryable, details })
  }
}

/** @internal Every one is tried, also when another cannot be started; then rejects with the first that could not. */
export async function startListeners(listeners: readonly Listener[]): Promise<void> {
  const started = await Promise.allSettled(listeners.map(listener => listener.start()))
  for (const one of started) if (one.status === 'rejected') throw one.reason
}

/** Another listening socket whose connections a server takes too: of a worker that was not replaced yet. Owns its descriptor. */
class SecondSource {
  readonly #fd: OwnedFd
  readonly #failed: (error: unknown) => void
  #accepting: net.Server | null = null

  constructor(fd: OwnedFd, failed: (error: unknown) => void) {
    this.#fd = fd
    this.#failed = failed
  }

  start(server: ServableServer, backlog: number): void {
    if (this.#accepting !== null) return
    const second = net.createServer(acceptOptionsOf(server as net.Server))
    second.on('error', this.#failed)
    try {
      listenOver(second, this.#fd.dup(), backlog)
    } catch (error) {
      this.#failed(error)
      return
    }
    acceptInto(second, server as net.Server)
    this.#accepting = second
  }

  /** Before its server stops listening. */
  stop(): void {
    if (this.#accepting !== null) stopListening(this.#accepting)
    this.#accepting = null
  }

  close(): void {
    this.stop()
    this.#fd.close()
  }
}

interface SocketOptionsDeps {
  /** Borrowed. */
  readonly fd: OwnedFd
  readonly spec: ListenerSpec
  /** The spec of the version before; null: unknown. */
  readonly before: ListenerSpec | null
  /** This process has bound the socket with these options: nothing is left to be set. */
  readonly bound: boolean
}

/**
 * The options of a socket that two versions share (mode and owner of its path, backlog, reusePort …). A version sets its own when it begins
 * to serve, never before; one that comes back sets what was there when its successor was about to begin.
 */
export class SocketOptions {
  readonly #fd: OwnedFd
  readonly #spec: ListenerSpec
  #before: ListenerSpec | null
  /** Null: they are as this process wants them. */
  #wanted: ListenerSpec | null

  constructor({ fd, spec, before, bound }: SocketOptionsDeps) {
    this.#fd = fd
    this.#spec = spec
    this.#before = before
    this.#wanted = bound ? null : spec
  }

  /** This process begins to serve. Returns what had to change. Throws what the kernel says. */
  apply(): OptionChange[] {
    const wanted = this.#wanted
    if (wanted === null) return []
    const changes = adjustListener(this.#fd, inspectOne(this.#fd), this.#before, wanted)
    this.#wanted = null
    return changes
  }

  /** Another version may begin to serve: what is there now is what a way back brings back. Throws what the kernel says. */
  keep(): void {
    if (this.#wanted !== null) return
    this.#wanted = currentOptions(this.#fd, this.#spec)
    this.#before = null
  }
}
