import { everyAfterReading, type Limit } from '../base/after-reading.js'

/** An object with one deadline. Only the wheel may change the fields. */
export interface Timed {
  /** When the entry expires, in milliseconds of {@link TimerWheel.now}; undefined while not armed. */
  deadline: number
  /** The tick at which the wheel checks the deadline next; -1 while not armed. */
  tick: number
  onDeadline(): void
}

const SLOTS = 256

/** Watches any number of deadlines with one timer. An entry expires up to two ticks late, never early, and not before what has arrived is read. Postponing a deadline costs two assignments. */
export class TimerWheel {
  readonly tickMs: number
  /** Made on first use: most stay empty. */
  readonly #slots: (Set<Timed> | undefined)[] = new Array(SLOTS).fill(undefined)
  #count = 0
  #tick = 0
  /** `performance.now()` at the last tick. Ticks only while a deadline is armed. */
  now: number = performance.now()
  #timer: Limit | undefined

  constructor(tickMs = 250) {
    this.tickMs = tickMs
  }

  /** Calls `entry.onDeadline()` once, after `ms` milliseconds, unless the entry is armed again or disarmed until then. */
  arm(entry: Timed, ms: number): void {
    if (this.#timer === undefined) this.#start()
    const deadline = this.now + ms + this.tickMs
    entry.deadline = deadline
    if (entry.tick < 0) this.#insert(entry)
    else if (deadline - this.now <= (entry.tick - this.#tick - 1) * this.tickMs) {
      this.#remove(entry)
      this.#insert(entry)
    }
  }

  disarm(entry: Timed): void {
    if (entry.tick >= 0) this.#remove(entry)
  }

  /** Returns the milliseconds until the entry expires, at least 0; -1 if it is not armed. */
  remaining(entry: Timed): number {
    return entry.tick < 0 ? -1 : Math.max(0, entry.deadline - this.tickMs - this.now)
  }

  #tickOf(deadline: number): number {
    const ticks = Math.ceil((deadline - this.now) / this.tickMs)
    return this.#tick + Math.min(Math.max(ticks, 1), SLOTS - 1)
  }

  #insert(entry: Timed): void {
    entry.tick = this.#tickOf(entry.deadline)
    const slot = entry.tick % SLOTS
    const entries = (this.#slots[slot] ??= new Set())
    entries.add(entry)
    this.#count++
  }

  #remove(entry: Timed): void {
    this.#slots[entry.tick % SLOTS]!.delete(entry)
    entry.tick = -1
    this.#count--
  }

  #start(): void {
    this.now = performance.now()
    // Entries that are armed by what arrived during a stop of the process count from the end of the stop.
    this.#timer = everyAfterReading(this.tickMs, readUntil => this.#turn(readUntil), {
      unref: true,
      look: () => {
        this.now = performance.now()
      },
    })
  }

  #turn(readUntil: number): void {
    this.now = performance.now()
    // A deadline is a tick later than its entry asks: what came in time is read, although a callback took long since the reading.
    const over = Math.min(this.now, readUntil + this.tickMs)
    this.#tick++
    for (const entry of [...(this.#slots[this.#tick % SLOTS] ?? [])]) {
      if (entry.tick !== this.#tick) continue
      this.#remove(entry)
      if (entry.deadline > over) this.#insert(entry)
      else entry.onDeadline()
    }
    if (this.#count > 0) return
    this.#timer?.clear()
    this.#timer = undefined
  }
}
