import { performance } from 'node:perf_hooks'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Destination, Dial, KeepAlive, NamedHost } from './destination.js'
import { dialSocket } from './open-stream.js'
import { type Timed, TimerWheel } from './timer-wheel.js'

export interface PoolOptions {
  /** Connections to one server, used and unused. Default: no limit. */
  connections?: number
  keepAlive?: KeepAlive
  dial?: Dial
  /** How often unused connections are looked at, in milliseconds. */
  tickMs?: number
}

/** As many as were used at a time within `idleMs`: with fewer each request beyond that number would connect anew. */
export const DEFAULT_KEEP_ALIVE: KeepAlive = { connections: 4096, idleMs: 30_000 }

interface IdleConnection {
  readonly stream: ByteStream
  readonly since: number
  readonly until: number
}

/** The unused connections to one server. A peer that ends one, or speaks unasked, takes it out at once. */
class UpstreamPool implements StreamOwner, Timed {
  readonly tally: Tally = { open: 0 }
  deadline = 0
  tick = -1
  readonly #wheel: TimerWheel
  /** The one used last is at the end and is used first. */
  #idle: IdleConnection[] = []
  retired = false

  constructor(wheel: TimerWheel) {
    this.#wheel = wheel
  }

  get idle(): number {
    return this.#idle.length
  }

  /** None that has been unused for longer than `keepAlive` says, and none to an address that the name does not have any more. */
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

  expired(): void {
    const now = performance.now()
    let next = Number.POSITIVE_INFINITY
    this.#idle = this.#idle.filter(({ stream, until }) => {
      if (until <= now) stream.destroy()
      else next = Math.min(next, until)
      return until > now
    })
    if (this.#idle.length > 0) this.#wheel.arm(this, next - now)
  }

  /** Closes the one that has been unused for longest; false: there is none. */
  closeOldest(): boolean {
    const oldest = this.#idle.shift()
    oldest?.stream.destroy()
    return oldest !== undefined
  }

  /** Keeps nothing from now on, until the next {@link acquire}. */
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

/** The connections to all servers, by key of destination; several relays may share them. Each destination follows its own `keepAlive`. */
export class UpstreamPools {
  readonly #pools = new Map<string, UpstreamPool>()
  readonly #wheel: TimerWheel
  readonly #maxConnections: number
  readonly #keepAlive: KeepAlive
  readonly #dial: Dial

  constructor(options: PoolOptions = {}, wheel = new TimerWheel(options.tickMs)) {
    this.#wheel = wheel
    this.#maxConnections = options.connections ?? Number.POSITIVE_INFINITY
    this.#keepAlive = options.keepAlive ?? DEFAULT_KEEP_ALIVE
    this.#dial = options.dial ?? dialSocket
  }

  /** An unused connection, or with `fresh` or without one a new one; null where the server has its most. May throw. */
  acquire(
    destination: Destination,
    owner: StreamOwner,
    fresh: boolean,
    now: number = performance.now(),
  ): ByteStream | null {
    const pool = this.#poolOf(destination.key)
    const stream = fresh
      ? undefined
      : pool.acquire(owner, destination.keepAlive ?? this.#keepAlive, destination.named, now)
    if (stream !== undefined) return stream
    // Unused ones that this destination does not take must not keep it from a new one.
    const most = destination.connections ?? this.#maxConnections
    while (pool.tally.open >= most) if (!pool.closeOldest()) return null
    const dialled = this.#dial(destination, owner, pool.tally)
    dialled.since = now
    return dialled
  }

  /** Takes over a stream after an exchange. `now`: for who has just read the clock. */
  release(destination: Destination, stream: ByteStream, now: number = performance.now()): void {
    const pool = this.#poolOf(destination.key)
    pool.release(stream, destination.keepAlive ?? this.#keepAlive, now)
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

  /** Used and unused ones, of all servers. */
  get open(): number {
    let open = 0
    for (const pool of this.#pools.values()) open += pool.tally.open
    return open
  }

  get size(): number {
    return this.#pools.size
  }

  /** Closes unused connections to servers that are `gone`, and forgets these; used ones are closed when they are given back. */
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
