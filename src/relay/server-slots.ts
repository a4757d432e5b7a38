import { dirname } from 'node:path'
import { nodeCrypto } from '../base/lazy.js'
import {
  lockBytes,
  lockedBytes,
  type OwnedFd,
  openLockFile,
  reopenWritable,
  touch,
  watchPaths,
} from '../kernel/index.js'
import type { Tally } from './byte-stream.js'

/** The bytes of one server begin at a multiple of this number: one that processes lock while they wait for a slot, then one for each slot. */
const SERVER_BYTES = 2 ** 21
const FIRST_SLOT = 16
const MAX_REMEMBERED = 64
/** Maximum number of slots of a server. */
const MAX_SLOTS = 1_000_000

/** Returns where the bytes of `name` begin in the common file. */
export function slotBytesOf(name: string): number {
  return nodeCrypto().createHash('sha256').update(name).digest().readUInt32LE() * SERVER_BYTES
}

/**
 * Divides the connections to servers, of which a limit allows only some, between all processes of a service: other workers, and versions that drain. Each
 * connection has a slot of its server: a byte of a common file, which the process locks. The kernel ends the lock with the process, however that ends.
 * The file stays empty.
 */
export class SlotFile implements Disposable {
  readonly #path: string
  readonly #service: string
  readonly #file: OwnedFd
  readonly #events: SlotEvents
  #watch: Disposable | null = null
  closed = false

  private constructor(path: string, service: string, file: OwnedFd, events: SlotEvents) {
    this.#path = path
    this.#service = service
    this.#file = file
    this.#events = events
    this.#watchFile()
  }

  /** Opens the file, and creates it if necessary. Throws if the system has no locks on bytes. */
  static open(path: string, service: string, events: SlotEvents): SlotFile {
    const file = openLockFile(path, 0o600, 'slots of servers')
    try {
      lockBytes(file, 'none', 0)
      return new SlotFile(path, service, file, events)
    } catch (error) {
      file.close()
      throw error
    }
  }

  of(server: string): ServerSlots {
    return new ServerSlots(this, slotBytesOf(`${this.#service} ${server}`))
  }

  /** False if this process cannot notice that another one waits for a slot: then it keeps no idle connections. */
  get watched(): boolean {
    return this.#watch !== null
  }

  /** Makes all processes of the service look which of them wait. */
  touch(): void {
    this.#attempt(() => touch(this.#file), undefined)
  }

  /** See {@link lockBytes}. Returns true if the file is closed. */
  lock(kind: Parameters<typeof lockBytes>[1], at: number): boolean {
    return this.#attempt(() => lockBytes(this.#file, kind, at), true)
  }

  /** See {@link lockedBytes}. */
  locked(at: number, length = 1): ReturnType<typeof lockedBytes> {
    return this.#attempt(() => lockedBytes(this.#file, at, length), null)
  }

  /** Returns another open file description of the file, which shares the lock at `at`; null if the file is closed. Throws EMFILE. */
  share(at: number): OwnedFd | null {
    if (this.closed) return null
    const own = reopenWritable(this.#file, 'slot of a server')
    this.lock('shared', at)
    this.#attempt(() => lockBytes(own, 'shared', at), true)
    return own
  }

  /** If the kernel or the file system refuses, closes the file: from then on the process applies the limits by itself. */
  #attempt<T>(work: () => T, otherwise: T): T {
    if (this.closed) return otherwise
    try {
      return work()
    } catch (error) {
      this[Symbol.dispose]()
      this.#events.failed(error)
      return otherwise
    }
  }

  [Symbol.dispose](): void {
    if (this.closed) return
    this.closed = true
    this.#watch?.[Symbol.dispose]()
    this.#file.close()
  }

  #watchFile(): void {
    this.#watch = watchPaths(dirname(this.#path), [this.#path], () => {
      // Watches again first: a touch between the two would be missed.
      this.#attempt(() => this.#watchFile(), undefined)
      this.#events.touched()
    })
  }
}

export interface SlotEvents {
  /** A process has called {@link SlotFile.touch}. */
  touched(): void
  /** The file is closed, because it cannot be used any more. */
  failed(error: unknown): void
}

/** The slots of one server that this process has. */
export class ServerSlots {
  /** Another process waits for a slot, as far as this one knows: see {@link look}. */
  wanted = false
  readonly file: SlotFile
  readonly #base: number
  /** The numbers of the slots that {@link take} has locked. */
  readonly #taken = new Set<number>()
  /** Numbers that this process had, the last one at the end. */
  readonly #released: number[] = []
  #start: number | undefined
  /** How many slots came from another process with their connection. */
  #adopted = 0

  constructor(file: SlotFile, base: number) {
    this.file = file
    this.#base = base
  }

  /** How many slots this process has. */
  get held(): number {
    return this.#taken.size + this.#adopted
  }

  /** Returns one of the first `limit` slots that no process has; null if there is none. */
  take(limit: number): Slot | null {
    const most = Math.min(limit, MAX_SLOTS)
    if (this.held >= most) return null
    // Each process keeps to its own range as long as it can: the kernel merges neighbouring locks, and the search passes over them at once.
    const last = this.#released.pop()
    if (last !== undefined && last < most && this.#tryLock(last)) return this.#own(last)
    this.#start ??= Math.floor(Math.random() * most)
    const start = this.#start % most
    const number = this.#search(start, most) ?? this.#search(0, start)
    if (number === null) return null
    this.#start = number + 1
    return this.#own(number)
  }

  #own(number: number): Slot {
    this.#taken.add(number)
    return new Slot(this, number, null)
  }

  #tryLock(number: number): boolean {
    return !this.#taken.has(number) && this.file.lock('exclusive', this.#byteOf(number))
  }

  /** Locks a slot of `[from, to)`. */
  #search(from: number, to: number): number | null {
    for (let number = from; number < to; ) {
      if (this.#taken.has(number)) {
        number++
        continue
      }
      const at = this.#byteOf(number)
      if (this.file.lock('exclusive', at)) return number
      const other = this.file.locked(at, to - number)
      number += other !== null && other.start <= at ? Math.max(1, other.end - at) : 1
    }
    return null
  }

  /** Takes over the slot of a connection that has moved here. Owns the descriptor. */
  adopt(lock: OwnedFd): Slot {
    this.#adopted++
    return new Slot(this, -1, lock)
  }

  /** Tells other processes that this one waits, until `on` is false. */
  want(on: boolean): void {
    this.file.lock(on ? 'shared' : 'none', this.#base)
    if (on) this.file.touch()
  }

  /** Looks whether another process waits. */
  look(): boolean {
    this.wanted = this.file.locked(this.#base) !== null
    return this.wanted
  }

  /** @internal */
  drop(number: number, lock: OwnedFd | null): void {
    if (lock === null) {
      this.#taken.delete(number)
      if (this.#released.push(number) > MAX_REMEMBERED) this.#released.shift()
      this.file.lock('none', this.#byteOf(number))
    } else {
      this.#adopted--
      lock.close()
    }
    if (this.wanted) this.file.touch()
  }

  /** @internal Returns a descriptor that has the lock instead of this process, without an instant in which another process could take the slot. */
  handOver(number: number, lock: OwnedFd | null): OwnedFd | null {
    if (lock !== null) {
      this.#adopted--
      return lock
    }
    const at = this.#byteOf(number)
    const own = this.file.share(at)
    this.file.lock('none', at)
    this.#taken.delete(number)
    return own
  }

  #byteOf(number: number): number {
    return this.#base + FIRST_SLOT + number
  }
}

/** The right to one connection to a server. Has one owner: a {@link SlotTally}. */
export class Slot {
  #slots: ServerSlots | null
  readonly #number: number
  readonly #lock: OwnedFd | null

  constructor(slots: ServerSlots, number: number, lock: OwnedFd | null) {
    this.#slots = slots
    this.#number = number
    this.#lock = lock
  }

  /** Reports whether the slot is one of the first `limit`, as far as this process knows. */
  isWithin(limit: number): boolean {
    return this.#number < limit
  }

  /** Idempotent. */
  release(): void {
    const slots = this.#slots
    this.#slots = null
    slots?.drop(this.#number, this.#lock)
  }

  /** Returns a descriptor that has the slot from now on; null after {@link release}. If no descriptor is free, throws and changes nothing. */
  handOver(): OwnedFd | null {
    const lock = this.#slots?.handOver(this.#number, this.#lock) ?? null
    this.#slots = null
    return lock
  }
}

/** Counts a connection in the tally of its pool, and releases the connection's slot after the connection was closed. */
export class SlotTally implements Tally {
  readonly #all: Tally
  #slot: Slot | null
  readonly #onClosed: ((tally: SlotTally) => void) | undefined

  /** Calls `onClosed` when the connection closes, in the turn before its slot is released. */
  constructor(all: Tally, slot: Slot, onClosed?: (tally: SlotTally) => void) {
    this.#all = all
    this.#slot = slot
    this.#onClosed = onClosed
  }

  get open(): number {
    return this.#all.open
  }

  set open(count: number) {
    const closed = count < this.#all.open
    this.#all.open = count
    if (!closed) return
    this.#onClosed?.(this)
    // A stream subtracts itself just before it closes its descriptor.
    queueMicrotask(() => this.giveUp()?.release())
  }

  /** Takes the slot out of this tally, for another owner. */
  giveUp(): Slot | null {
    const slot = this.#slot
    this.#slot = null
    return slot
  }

  /** Returns a descriptor that has the slot from now on, see {@link Slot.handOver}. */
  handOver(): OwnedFd | null {
    const lock = this.#slot?.handOver() ?? null
    this.#slot = null
    return lock
  }
}
