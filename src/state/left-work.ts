import { setImmediate as nextTurn } from 'node:timers/promises'
import { runAtOnce, runInSlices } from './slices.js'

/** Entries that are so few are not worth a turn of their own. */
const AT_ONCE = 256

/**
 * What changes of many entries left to do once they count: places are freed and listeners told, in slices, in the order in which
 * it was left. Reads find the same before, meanwhile and after.
 */
export class LeftWork {
  /** A step is being done: nothing may be applied. */
  stepping = false
  readonly #work: Generator<undefined, void>[] = []
  readonly #sliceMs: number
  readonly #signal: AbortSignal
  readonly #paused: () => void
  #running: Promise<unknown> | null = null

  /** `paused`: called when nothing is left, or when somebody else is doing it. */
  constructor(sliceMs: number, signal: AbortSignal, paused: () => void) {
    this.#sliceMs = sliceMs
    this.#signal = signal
    this.#paused = paused
  }

  get waits(): boolean {
    return this.#work.length > 0
  }

  /** `entries`: how many it is about. */
  add(work: Generator<undefined, void>, entries: number): void {
    if (entries <= AT_ONCE && !this.waits) {
      runAtOnce(work)
      return
    }
    this.#work.push(work)
    this.#run()
  }

  /** Does all of it, for who cannot go on before. Two may do it in turns. */
  *steps(): Generator<undefined, void> {
    for (let work = this.#work[0]; work !== undefined; work = this.#work[0]) {
      this.stepping = true
      try {
        if (work.next().done) this.#work.shift()
      } finally {
        this.stepping = false
      }
      yield
    }
  }

  /** Resolves when listeners know of every change that counts. */
  async done(): Promise<void> {
    while (this.waits && this.#running) await this.#running
  }

  #run(): void {
    if (this.#running || this.#signal.aborted) return
    const work = async () => {
      await nextTurn()
      await runInSlices(this.steps(), { sliceMs: this.#sliceMs, signal: this.#signal })
    }
    this.#running = work()
      .catch(() => {})
      .finally(() => {
        this.#running = null
        if (this.waits) this.#run()
        this.#paused()
      })
  }
}
