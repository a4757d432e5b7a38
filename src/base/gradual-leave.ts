/** The interval between two steps, in milliseconds. */
const STEP_MS = 20
/** The most that end in one step, so that a step takes a few milliseconds. */
const MOST = 200

/** Ends many connections one after the other, spread over a time, so that their clients do not all reconnect at once. */
export class GradualLeave<T> {
  readonly #end: (one: T) => void
  readonly #waiting = new Set<T>()
  /** When the last one ends (performance.now()). */
  #until = 0
  #timer: NodeJS.Timeout | undefined

  constructor(end: (one: T) => void) {
    this.#end = end
  }

  /** Ends `those` and all that still wait within this time. */
  within(those: Iterable<T>, ms: number): void {
    const until = performance.now() + ms
    const begins = this.#waiting.size === 0
    this.#until = begins ? until : Math.min(this.#until, until)
    for (const one of those) this.#waiting.add(one)
    // Repeated calls end no more than one.
    if (begins) this.#step()
    else this.#continue()
  }

  /** This one ends no more, because it has ended by itself. */
  forget(one: T): void {
    this.#waiting.delete(one)
  }

  /** The remaining ones do not end. */
  stop(): void {
    clearTimeout(this.#timer)
    this.#waiting.clear()
  }

  #step(): void {
    const steps = Math.max(1, (this.#until - performance.now()) / STEP_MS)
    const now = Math.min(MOST, Math.ceil(this.#waiting.size / steps))
    for (const one of [...this.#waiting].slice(0, now)) {
      this.#waiting.delete(one)
      this.#end(one)
    }
    this.#continue()
  }

  #continue(): void {
    clearTimeout(this.#timer)
    if (this.#waiting.size === 0) return
    // With few connections the pause between two is longer than a step.
    const left = Math.max(0, this.#until - performance.now())
    const pause = Math.max(left > STEP_MS ? STEP_MS : 0, left / (this.#waiting.size + 1))
    this.#timer = setTimeout(() => this.#step(), pause).unref()
  }
}
