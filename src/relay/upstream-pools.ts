import { performance } from 'node:perf_hooks'
import type { OwnedFd } from '../adapter.js'
import { type ByteStream, NO_OWNER, type StreamOwner, type Tally } from './byte-stream.js'
import type { Destination, Dial, KeepAlive } from './destination.js'
import { dialSocket, streamFromFd } from './open-stream.js'
import { type ServerSlots, type Slot, type SlotFile, SlotTally } from './server-slots.js'
import { type Timed, TimerWheel } from './timer-wheel.js'
import { WaitingStream } from './waiting-stream.js'

export interface PoolOptions {
  dial?: Dial
  /** Milliseconds between two checks of idle connections. */
  tickMs?: number
  /**
   * Opens the common slots of all processes of the service, when the first connection with a limit is needed; `touched` as in {@link SlotEvents}.
   * Without a file, limits apply to this process alone until a later call opens it.
   */
  slotFile?: (touched: () => void) => SlotFile | null
}

/** The limit of connections is high because, above it, each request to a busy server needs a new connection. */
const DEFAULT_KEEP_ALIVE: KeepAlive = { connections: 4096, idleMs: 30_000 }

/** A request looks at so many idle connections for one to the address whose turn it is; then it opens a new one. */
const MAX_SEARCHED = 64

/** A request waits this long for a connection that another process of the service has. */
const MAX_WAIT_MS = 250
/** A waiting process asks again after this time: another one may have missed the first question, or was killed. */
const ASK_AGAIN_MS = 5

interface Waiting {
  readonly stream: WaitingStream
  /** In a queue; otherwise only for the connections of other processes. */
  readonly queued: boolean
  readonly until: number
  readonly limit: number
  /** `free`: there is a connection or a slot now. Otherwise the time is over. */
  readonly proceed: (free: boolean) => void
}

/** The number of connections to a server. */
class PoolTally implements Tally {
  #open = 0
  readonly #closed: () => void

  /** Calls `closed` after each connection that closes. */
  constructor(closed: () => void) {
    this.#closed = closed
  }

  get open(): number {
    return this.#open
  }

  set open(count: number) {
    const hasClosed = count < this.#open
    this.#open = count
    if (hasClosed) this.#closed()
  }
}

/** The idle connections to one server. If the server sends bytes on an idle connection or closes it, the pool discards the connection at once. */
class UpstreamPool implements StreamOwner, Timed {
  readonly tally: Tally = new PoolTally(() => this.#onClosed())
  deadline = 0
  tick = -1
  readonly #wheel: TimerWheel
  /** The connection that became idle last is at the end, and is reused first. */
  #idle: { stream: ByteStream; since: number; until: number }[] = []
  retired = false
  /** Null until a connection with a limit is needed, and if other processes have no part in the limit. */
  slots: ServerSlots | null = null
  /** In the order of their arrival. */
  #waiting: Waiting[] = []
  #asking: NodeJS.Timeout | undefined
  /** The slot of the waiting request that proceeds at this moment. */
  #granted: Slot | null = null
  /** Whether a waiting request proceeds at this moment. */
  #proceeds = false
  /** How many requests wait in a queue. */
  #queued = 0
  /** Connections that have closed in this turn, and still have their slots. */
  #closed: SlotTally[] = []

  constructor(wheel: TimerWheel) {
    this.#wheel = wheel
  }

  get idle(): number {
    return this.#idle.length
  }

  /** Nothing depends on this pool. A further pool for the same server would take slots that this one has: locks do not divide one process. */
  get unused(): boolean {
    return this.tally.open === 0 && this.#waiting.length === 0 && (this.slots?.held ?? 0) === 0
  }

  /** Returns the connection that became idle last, or undefined if all have been idle too long. Closes connections to addresses that the name no longer has, and those with other settings of TLS. */
  acquire(
    owner: StreamOwner,
    { connections, idleMs }: KeepAlive,
    { named, tls }: Destination,
    now: number,
  ): ByteStream | undefined {
    this.retired = false
    while (this.#idle.length > 0) {
      const last = this.#idle[this.#idle.length - 1]!
      if (connections === 0 || now - last.since >= idleMs) return undefined
      this.#idle.pop()
      const fits = tls === undefined || tls.id === last.stream.tlsId
      if (fits && (named === undefined || named.current(last.stream.remoteAddress))) {
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
    { named, tls }: Destination,
    now: number,
  ): ByteStream | undefined {
    this.retired = false
    if (connections === 0) return undefined
    const stop = Math.max(0, this.#idle.length - MAX_SEARCHED)
    for (let at = this.#idle.length - 1; at >= stop; at--) {
      const { stream, since } = this.#idle[at]!
      if (now - since >= idleMs) return undefined
      const fits = tls === undefined || tls.id === stream.tlsId
      if (fits && stream.remoteAddress === address) {
        this.#idle.splice(at, 1)
        stream.owner = owner
        return stream
      }
      if (fits && named?.current(stream.remoteAddress)) continue
      this.#idle.splice(at, 1)
      stream.destroy()
    }
    return undefined
  }

  release(stream: ByteStream, { connections, idleMs, ageMs }: KeepAlive, since: number): void {
    if (stream.since === 0) stream.since = since
    const old = ageMs !== undefined && since - stream.since >= ageMs
    if (old || this.retired || this.#idle.length >= connections || this.#owesSlot()) {
      stream.destroy()
      return
    }
    stream.owner = this
    stream.setReading(true)
    this.#idle.push({ stream, since, until: since + idleMs })
    const left = this.#wheel.remaining(this)
    if (left < 0 || left > idleMs) this.#wheel.arm(this, idleMs)
    if (this.#waiting.length > 0) setImmediate(() => this.serveWaiting())
  }

  /** Another process waits for a connection that this one would keep idle. */
  #owesSlot(): boolean {
    const { slots } = this
    if (slots === null || this.#waiting.length > 0) return false
    return !(slots.file.watched || slots.file.closed) || (slots.wanted && slots.look())
  }

  /** Returns the right to open one more connection; if necessary, closes an idle one for it. Null if all are in use. */
  takeSlot(limit: number): Slot | null {
    const slots = this.slots!
    const granted = this.#granted
    this.#granted = null
    // A reload may have lowered the limit since the request began to wait.
    if (granted !== null && this.tally.open < limit && granted.isWithin(limit)) return granted
    granted?.release()
    for (;;) {
      const slot = this.tally.open < limit ? (this.#takeClosed(limit) ?? slots.take(limit)) : null
      if (slot !== null) return slot
      const oldest = this.#idle.shift()
      if (oldest === undefined) return null
      const freed = slotTallies.get(oldest.stream)?.giveUp() ?? null
      oldest.stream.destroy()
      // A reload may have lowered the limit.
      if (freed?.isWithin(limit) && this.tally.open < limit) return freed
      freed?.release()
    }
  }

  /** Counts a connection that has this slot. */
  tallyOf(slot: Slot): SlotTally {
    return new SlotTally(this.tally, slot, tally => {
      if (this.#closed.push(tally) > 1) return
      queueMicrotask(() => {
        this.#closed = []
      })
    })
  }

  /** Returns the slot of a connection that has just closed: a request that is repeated must not lose it to another process. */
  #takeClosed(limit: number): Slot | null {
    for (let tally = this.#closed.pop(); tally !== undefined; tally = this.#closed.pop()) {
      const slot = tally.giveUp()
      if (slot?.isWithin(limit)) return slot
      slot?.release()
    }
    return null
  }

  /** See {@link UpstreamPools.wait}. */
  wait(limit: number, proceed: (free: boolean) => void): ByteStream | null {
    const { slots } = this
    // Only other processes can free a slot that this one does not know to be in use.
    const isShared = slots !== null && !slots.file.closed && slots.held < limit
    // A place that is free now belongs to the requests of a queue that a reload has removed.
    if ((!isShared && !this.mustQueue) || this.tally.open - this.#idle.length >= limit) return null
    const stream = new WaitingStream(left => this.leave(left))
    this.#enter({ stream, queued: false, until: performance.now() + MAX_WAIT_MS, limit, proceed })
    return stream
  }

  /** See {@link UpstreamPools.queue}. */
  enqueue(stream: WaitingStream, limit: number, proceed: () => void): void {
    this.#queued++
    this.#enter({ stream, queued: true, until: stream.until, limit, proceed })
  }

  #enter(waiting: Waiting): void {
    let at = this.#waiting.length
    // A request that waits again has the place of its arrival.
    while (at > 0 && this.#waiting[at - 1]!.stream.arrived > waiting.stream.arrived) at--
    this.#waiting.splice(at, 0, waiting)
    this.slots?.want(true)
    this.#asking ??= setInterval(() => {
      this.serveWaiting()
      if (this.#waiting.length > 0) this.slots?.file.touch()
    }, ASK_AGAIN_MS)
  }

  /** Ends the wait of a request. */
  leave(stream: WaitingStream): void {
    const at = this.#waiting.findIndex(each => each.stream === stream)
    if (at < 0) return
    if (this.#waiting.splice(at, 1)[0]!.queued) this.#queued--
    if (this.#waiting.length === 0) this.#stopAsking()
  }

  /** A request that has just come must not overtake those of the queue. */
  get mustQueue(): boolean {
    return this.#queued > 0 && !this.#proceeds
  }

  /** A connection was closed: a waiting request may open one. The slot is released after this turn's microtasks. */
  #onClosed(): void {
    if (this.#waiting.length > 0) setImmediate(() => this.serveWaiting())
  }

  #stopAsking(): void {
    clearInterval(this.#asking)
    this.#asking = undefined
    this.slots?.want(false)
  }

  /** Lets waiting requests proceed, as far as connections or slots are free, or their time is over. */
  serveWaiting(): void {
    const now = performance.now()
    /** Up to this limit no place is free; a reload may have changed the limit while requests wait. */
    let full = 0
    for (const waiting of [...this.#waiting]) {
      const { stream, queued, until, limit, proceed } = waiting
      const isOver = !queued && now >= until
      if (!stream.alive || (limit <= full && !isOver)) continue
      const { slots } = this
      const shares = slots !== null && !slots.file.closed
      // Connections from before there was a limit have no slots.
      const mayTake: boolean = limit > full && this.#idle.length === 0 && shares && this.tally.open < limit
      const slot: Slot | null = mayTake ? slots!.take(limit) : null
      const free: boolean = slot !== null || this.#idle.length > 0 || (!shares && this.tally.open < limit)
      if (!free) full = Math.max(full, limit)
      if (!free && !isOver) continue
      this.#granted = slot
      this.#proceeds = true
      try {
        proceed(free)
      } finally {
        this.#proceeds = false
        this.#granted?.release()
        this.#granted = null
      }
    }
  }

  /** Another process may wait for a slot, or may have released one. */
  onTouched(): void {
    this.serveWaiting()
    // One at a time: the process that gets the slot asks again if it needs more.
    if (this.slots?.look() === true && this.#waiting.length === 0) this.closeOldest()
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

/** A process without a free descriptor tries to open the common file again after so long. */
const OPEN_AGAIN_MS = 5_000

/** The slots of connections that have one. */
const slotTallies = new WeakMap<ByteStream, SlotTally>()

/** The connections to all servers, by {@link Destination.key}. Several relays may share the pools. */
export class UpstreamPools {
  readonly #pools = new Map<string, UpstreamPool>()
  readonly #wheel: TimerWheel
  readonly #dial: Dial
  readonly #openSlotFile: () => SlotFile | null
  /** Null until a connection with a limit is needed, and while the file cannot be opened. */
  #slotFile: SlotFile | null = null
  #openAgainAt = Number.NEGATIVE_INFINITY

  constructor({ dial = dialSocket, tickMs, slotFile = () => null }: PoolOptions = {}) {
    this.#wheel = new TimerWheel(tickMs)
    this.#dial = dial
    this.#openSlotFile = () => slotFile(() => this.#onTouched())
  }

  /**
   * Returns an idle connection (not with `fresh`) or a new one; null if the server's limit of connections is reached. `again`: the request had a connection to
   * this server, which has just closed, and waits for no others. May throw.
   */
  acquire(
    destination: Destination,
    owner: StreamOwner,
    fresh: boolean,
    now: number = performance.now(),
    again = false,
  ): ByteStream | null {
    const pool = this.#poolOf(destination.key)
    const { keepAlive = DEFAULT_KEEP_ALIVE, connections: maxOpen = Number.POSITIVE_INFINITY } = destination
    if (pool.mustQueue && !again && maxOpen !== Number.POSITIVE_INFINITY) return null
    const turn = destination.named?.turn() ?? null
    if (!fresh) {
      const stream =
        turn === null
          ? pool.acquire(owner, keepAlive, destination, now)
          : pool.acquireAt(turn, owner, keepAlive, destination, now)
      if (stream !== undefined) return stream
    }
    if (maxOpen !== Number.POSITIVE_INFINITY && this.#shareSlots(pool, destination.key, now)) {
      const slot = pool.takeSlot(maxOpen)
      if (slot === null) return null
      const tally = pool.tallyOf(slot)
      try {
        const dialled = this.#dial(destination, owner, tally, turn)
        dialled.since = now
        slotTallies.set(dialled, tally)
        return dialled
      } catch (error) {
        tally.giveUp()?.release()
        throw error
      }
    }
    // Idle connections that cannot be reused make room for a new one.
    while (pool.tally.open >= maxOpen) if (!pool.closeOldest()) return null
    const dialled = this.#dial(destination, owner, pool.tally, turn)
    dialled.since = now
    return dialled
  }

  /**
   * Returns a stream that stands for a connection to a server whose limit is reached because of other processes of the service; null if this process has all
   * connections. Calls `proceed` once, unless the stream is destroyed before: with true when {@link acquire} succeeds, with false when the time is over.
   */
  wait(
    { key, connections = Number.POSITIVE_INFINITY }: Destination,
    proceed: (free: boolean) => void,
  ): ByteStream | null {
    return this.#poolOf(key).wait(connections, proceed)
  }

  /**
   * Returns a stream that stands for a connection to one of `servers`, all of which are at their limit. Calls `proceed` once, unless the stream is destroyed
   * before: with the server for which {@link acquire} then succeeds. The caller ends the wait at `until`. `arrived`: when the request began to wait.
   * `ended`: called when the stream is destroyed.
   */
  queue(
    servers: readonly Destination[],
    { arrived, until }: { readonly arrived: number; readonly until: number },
    proceed: (server: Destination) => void,
    ended: () => void,
  ): ByteStream {
    const pools = servers.map(server => ({ server, pool: this.#poolOf(server.key) }))
    const leave = (left: WaitingStream) => {
      for (const { pool } of pools) pool.leave(left)
      ended()
    }
    const stream = new WaitingStream(leave, until, arrived)
    for (const { server, pool } of pools) {
      const { connections = Number.POSITIVE_INFINITY, key } = server
      this.#shareSlots(pool, key)
      pool.enqueue(stream, connections, () => proceed(server))
    }
    // A server that was not asked may be free.
    setImmediate(() => {
      for (const { pool } of pools) pool.serveWaiting()
    })
    return stream
  }

  /** Makes a stream of a connection that has moved here, with its slot if it has one. Takes ownership of the descriptors, and closes them before it throws. */
  adopt(key: string, connection: OwnedFd, lock: OwnedFd | null, limit: number | undefined): ByteStream {
    const pool = this.#poolOf(key)
    const shares = (lock !== null || limit !== undefined) && this.#shareSlots(pool, key)
    // A connection from a process that did not share the limit has no slot yet.
    const slot = !shares ? null : lock === null ? pool.slots!.take(limit!) : pool.slots!.adopt(lock)
    if (!shares) lock?.close()
    const tally = slot === null ? null : pool.tallyOf(slot)
    try {
      const stream = streamFromFd(connection, NO_OWNER, tally ?? pool.tally)
      if (tally !== null) slotTallies.set(stream, tally)
      return stream
    } catch (error) {
      tally?.giveUp()?.release()
      throw error
    }
  }

  /** Returns a descriptor that has the slot of a connection that leaves this process, see {@link Slot.handOver}; null if it has none. */
  handOverSlot(stream: ByteStream): OwnedFd | null {
    return slotTallies.get(stream)?.handOver() ?? null
  }

  #shareSlots(pool: UpstreamPool, key: string, now = performance.now()): boolean {
    if (this.#slotFile === null && now >= this.#openAgainAt) {
      this.#openAgainAt = now + OPEN_AGAIN_MS
      this.#slotFile = this.#openSlotFile()
    }
    pool.slots ??= this.#slotFile?.of(key) ?? null
    return pool.slots !== null
  }

  #onTouched(): void {
    for (const pool of this.#pools.values()) if (pool.slots !== null) pool.onTouched()
  }

  /** Releases the slots. Call it when no connection is left. */
  close(): void {
    this.clear()
    this.#slotFile?.[Symbol.dispose]()
  }

  /** Keeps the connection for further requests, or closes it. `now`: `performance.now()`, if the caller has just read it. */
  release(destination: Destination, stream: ByteStream, now: number = performance.now()): void {
    const pool = this.#poolOf(destination.key)
    pool.release(stream, destination.keepAlive ?? DEFAULT_KEEP_ALIVE, now)
    if (pool.retired && pool.unused) this.#pools.delete(destination.key)
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

  /** Returns how many connections to the server are in use. */
  busy(key: string): number {
    const pool = this.#pools.get(key)
    return pool === undefined ? 0 : pool.tally.open - pool.idle
  }

  get size(): number {
    return this.#pools.size
  }

  /** Closes the idle connections to servers that were removed. Busy connections are closed by {@link release}. */
  retire(isGone: (key: string) => boolean): void {
    for (const [key, pool] of this.#pools) {
      if (!isGone(key)) continue
      pool.retire()
      if (pool.unused) this.#pools.delete(key)
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
