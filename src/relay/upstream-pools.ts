import { performance } from 'node:perf_hooks'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Destination, Dial, KeepAlive, NamedHost } from './destination.js'
import { dialSocket } from './open-stream.js'
import { type Timed, TimerWheel } from './timer-wheel.js'

export interface PoolOptions {
  dial?: Dial
  /** Milliseconds between two checks of idle connections. */
  tickMs?: number
}

/** The limit of connections is high because, above it, each request to a busy server needs a new connection. */
const DEFAULT_KEEP_ALIVE: KeepAlive = { connections: 4096, idleMs: 30_000 }

/** A request looks at so many idle connections for one to the address whose turn it is; then it opens a new one. */
const MAX_SEARCHED = 64

/** The idle connections to one server. If the server sends bytes on an idle connection or closes it, the pool discards the connection at once. */
class UpstreamPool implements StreamOwner, Timed {
  readonly tally: Tally = { open: 0 }
  deadline = 0
  tick = -1
  readonly #wheel: TimerWheel
  /** The connection that became idle last is at the end, and is reused first. */
  #idle: { stream: ByteStream; since: number; until: number }[] = []
  retired = false

  constructor(wheel: TimerWheel) {
    this.#wheel = wheel
  }

  get idle(): number {
    return this.#idle.length
  }

  /** Returns the connection that became idle last, or undefined if all have been idle too long. Closes connections to addresses that the name no longer has. */
  acquire(
    owner: StreamOwner,
    { connections, idleMs }: KeepAlive,
    named: NamedHost | undefined,
    now: number,
  ): ByteStream | undefined {
    this.retired = false
    while (this.#idle.length > 0) {
      const last = this.#idle[this.#idle.length - 1]!
      if (connections === 0 || now - last.since >= idleMs) return undefined
      this.#idle.pop()
      if (named === undefined || named.current(last.stream.remoteAddress)) {
        last.stream.owner = owner
        return last.stream
      }
      last.stream.destroy()
    }
    return undefined
  }

  /** As {@link acquire}, but only a connection to this address of the name. */
  acquireAt(
    address: string,
    owner: StreamOwner,
    { connections, idleMs }: KeepAlive,
    named: NamedHost,
    now: number,
  ): ByteStream | undefined {
    this.retired = false
    if (connections === 0) return undefined
    const stop = Math.max(0, this.#idle.length - MAX_SEARCHED)
    for (let at = this.#idle.length - 1; at >= stop; at--) {
      const { stream, since } = this.#idle[at]!
      if (now - since >= idleMs) return undefined
      if (stream.remoteAddress === address) {
        this.#idle.splice(at, 1)
        stream.owner = owner
        return stream
      }
      if (named.current(stream.remoteAddress)) continue
      this.#idle.splice(at, 1)
      stream.destroy()
    }
    return undefined
  }

  release(stream: ByteStream, { connections, idleMs, ageMs }: KeepAlive, since: number): void {
    if (stream.since === 0) stream.since = since
    const old = ageMs !== undefined && since - stream.since >= ageMs
    if (old || this.retired || this.#idle.length >= connections) {
      stream.destroy()
      return
    }
    stream.owner = this
    stream.setReading(true)
    this.#idle.push({ stream, since, until: since + idleMs })
    const left = this.#wheel.remaining(this)
    if (left < 0 || left > idleMs) this.#wheel.arm(this, idleMs)
  }

  onDeadline(): void {
    const now = performance.now()
    let next = Number.POSITIVE_INFINITY
    this.#idle = this.#idle.filter(({ stream, until }) => {
      if (until <= now) stream.destroy()
      else next = Math.min(next, until)
      return until > now
    })
    if (this.#idle.length > 0) this.#wheel.arm(this, next - now)
  }

  /** Closes the connection that has been idle longest. Returns false if none is idle. */
  closeOldest(): boolean {
    const oldest = this.#idle.shift()
    oldest?.stream.destroy()
    return oldest !== undefined
  }

  /** Closes all idle connections, and from now on each released connection, until the next {@link acquire}. */
  retire(): void {
    this.retired = true
    this.clear()
  }

  clear(): void {
    for (const { stream } of this.#idle.splice(0)) stream.destroy()
    this.#wheel.disarm(this)
  }

  onOpen(): void {}

  onDrain(): void {}

  onData(stream: ByteStream): void {
    this.#discard(stream)
  }

  onEnd(stream: ByteStream): void {
    this.#discard(stream)
  }

  onClose(stream: ByteStream): void {
    this.#discard(stream)
  }

  #discard(stream: ByteStream): void {
    const at = this.#idle.findIndex(entry => entry.stream === stream)
    if (at >= 0) this.#idle.splice(at, 1)
    stream.destroy()
  }
}

/** The connections to all servers, by {@link Destination.key}. Several relays may share the pools. */
export class UpstreamPools {
  readonly #pools = new Map<string, UpstreamPool>()
  readonly #wheel: TimerWheel
  readonly #dial: Dial

  constructor({ dial = dialSocket, tickMs }: PoolOptions = {}) {
    this.#wheel = new TimerWheel(tickMs)
    this.#dial = dial
  }

  /** Returns an idle connection (not with `fresh`) or a new one; null if the server's limit of connections is reached. May throw. */
  acquire(
    destination: Destination,
    owner: StreamOwner,
    fresh: boolean,
    now: number = performance.now(),
  ): ByteStream | null {
    const pool = this.#poolOf(destination.key)
    const { keepAlive = DEFAULT_KEEP_ALIVE, connections: maxOpen = Number.POSITIVE_INFINITY } = destination
    const { named } = destination
    const turn = named?.turn() ?? null
    if (!fresh) {
      const stream =
        turn === null
          ? pool.acquire(owner, keepAlive, named, now)
          : pool.acquireAt(turn, owner, keepAlive, named!, now)
      if (stream !== undefined) return stream
    }
    // Idle connections that cannot be reused make room for a new one.
    while (pool.tally.open >= maxOpen) if (!pool.closeOldest()) return null
    const dialled = this.#dial(destination, owner, pool.tally, turn)
    dialled.since = now
    return dialled
  }

  /** Keeps the connection for further requests, or closes it. `now`: `performance.now()`, if the caller has just read it. */
  release(destination: Destination, stream: ByteStream, now: number = performance.now()): void {
    const pool = this.#poolOf(destination.key)
    pool.release(stream, destination.keepAlive ?? DEFAULT_KEEP_ALIVE, now)
    if (pool.retired && pool.tally.open === 0) this.#pools.delete(destination.key)
  }

  tally(key: string): Tally {
    return this.#poolOf(key).tally
  }

  get idle(): number {
    let idle = 0
    for (const pool of this.#pools.values()) idle += pool.idle
    return idle
  }

  get open(): number {
    let open = 0
    for (const pool of this.#pools.values()) open += pool.tally.open
    return open
  }

  get size(): number {
    return this.#pools.size
  }

  /** Closes the idle connections to servers that were removed. Busy connections are closed by {@link release}. */
  retire(isGone: (key: string) => boolean): void {
    for (const [key, pool] of this.#pools) {
      if (!isGone(key)) continue
      pool.retire()
      if (pool.tally.open === 0) this.#pools.delete(key)
    }
  }

  clear(): void {
    for (const pool of this.#pools.values()) pool.clear()
  }

  #poolOf(key: string): UpstreamPool {
    let pool = this.#pools.get(key)
    if (pool === undefined) {
      pool = new UpstreamPool(this.#wheel)
      this.#pools.set(key, pool)
    }
    return pool
  }
}
