import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Destination } from './destination.js'
import type { Dial } from './options.js'
import type { Timed, TimerWheel } from './timer-wheel.js'

export interface PoolLimits {
  /** Connections to one server, used and unused. */
  connections: number
  /** Unused ones among them. */
  idle: number
  /** Milliseconds that one may stay unused. */
  idleMs: number
}

/** The unused connections to one server. A peer that ends one, or speaks unasked, takes it out at once. */
class UpstreamPool implements StreamOwner, Timed {
  readonly tally: Tally = { open: 0 }
  deadline = 0
  tick = -1
  readonly #wheel: TimerWheel
  readonly #limits: PoolLimits
  /** The one used last is at the end and is used first; with the time since when each is unused. */
  readonly #idle: { stream: ByteStream; since: number }[] = []

  constructor(wheel: TimerWheel, limits: PoolLimits) {
    this.#wheel = wheel
    this.#limits = limits
  }

  get idle(): number {
    return this.#idle.length
  }

  take(owner: StreamOwner): ByteStream | undefined {
    const stream = this.#idle.pop()?.stream
    if (stream !== undefined) stream.owner = owner
    return stream
  }

  give(stream: ByteStream): void {
    if (this.#idle.length >= this.#limits.idle) {
      stream.destroy()
      return
    }
    stream.owner = this
    stream.setReading(true)
    this.#idle.push({ stream, since: this.#wheel.now })
    if (this.tick < 0) this.#wheel.arm(this, this.#limits.idleMs)
  }

  expired(): void {
    const { now } = this.#wheel
    while (this.#idle.length > 0 && now - this.#idle[0]!.since >= this.#limits.idleMs) {
      this.#idle.shift()!.stream.destroy()
    }
    const oldest = this.#idle[0]
    if (oldest !== undefined) this.#wheel.arm(this, this.#limits.idleMs - (now - oldest.since))
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

/** The connections to all servers, by the key of their destination. */
export class UpstreamPools {
  readonly #pools = new Map<string, UpstreamPool>()
  readonly #wheel: TimerWheel
  readonly #limits: PoolLimits
  readonly #dial: Dial

  constructor(wheel: TimerWheel, limits: PoolLimits, dial: Dial) {
    this.#wheel = wheel
    this.#limits = limits
    this.#dial = dial
  }

  /** An unused connection, or with `fresh` or without one a new one; null where the server has its most. May throw. */
  take(destination: Destination, owner: StreamOwner, fresh: boolean): ByteStream | null {
    const pool = this.#poolOf(destination.key)
    const stream = fresh ? undefined : pool.take(owner)
    if (stream !== undefined) return stream
    if (pool.tally.open >= this.#limits.connections) return null
    return this.#dial(destination, owner, pool.tally)
  }

  /** Takes over a stream after an exchange. */
  give(key: string, stream: ByteStream): void {
    this.#poolOf(key).give(stream)
  }

  /** For a stream that came from another process. */
  tally(key: string): Tally {
    return this.#poolOf(key).tally
  }

  /** Unused ones, of all servers. */
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

  /** Closes the unused ones. */
  clear(): void {
    for (const pool of this.#pools.values()) pool.clear()
  }

  #poolOf(key: string): UpstreamPool {
    let pool = this.#pools.get(key)
    if (pool === undefined) {
      pool = new UpstreamPool(this.#wheel, this.#limits)
      this.#pools.set(key, pool)
    }
    return pool
  }
}
