import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'

export interface SliceOptions {
  /** Most milliseconds of work in one turn of the event loop; default 3. */
  sliceMs?: number
  signal?: AbortSignal | undefined
}

/** Runs a generator that yields where it may pause, at most `sliceMs` in one turn, which it shares with other sliced work. An abort stops it between steps. */
export async function runInSlices<T>(work: Generator<unknown, T>, options: SliceOptions = {}): Promise<T> {
  const { sliceMs = 3, signal } = options
  const slice = new Slice(sliceMs)
  try {
    for (;;) {
      if (signal?.aborted) throw aborted(signal)
      const step = work.next()
      if (step.done) return step.value
      if (slice.over) await slice.next()
    }
  } finally {
    work.return(undefined as T)
  }
}

/** All sliced work shares this time per event-loop turn. */
const TURN_MS = 5
/** The last task of a turn gets this time all the same. */
const LEAST_MS = 1

/** When this turn's first slice started, or null. */
let turnStartedAt: number | null = null

function newTurn(): void {
  turnStartedAt = null
}

function endOfShare(sliceMs: number): number {
  const now = performance.now()
  if (turnStartedAt === null) {
    turnStartedAt = now
    setImmediate(newTurn)
  }
  const left = turnStartedAt + Math.max(TURN_MS, sliceMs) - now
  return now + Math.min(sliceMs, Math.max(LEAST_MS, left))
}

/** A share of each turn, for work that is no generator. */
export class Slice {
  readonly #sliceMs: number
  #end: number

  constructor(sliceMs: number) {
    this.#sliceMs = sliceMs
    this.#end = endOfShare(sliceMs)
  }

  /** This turn's share is used up: call {@link next}. */
  get over(): boolean {
    return performance.now() >= this.#end
  }

  async next(): Promise<void> {
    await nextTurn()
    this.#end = endOfShare(this.#sliceMs)
  }

  /** Call it after each piece of work with callbacks. Resolves in the next turn once this turn's share is used up. */
  async passed(): Promise<void> {
    // Runs after these callbacks.
    await null
    if (this.over) await this.next()
  }
}

export function* inSteps<T>(all: Iterable<T>, work: (one: T) => void): Generator<undefined, void> {
  let done = 0
  for (const one of all) {
    work(one)
    if (++done % 32 === 0) yield
  }
}

export function runAtOnce<T>(work: Generator<unknown, T>): T {
  for (;;) {
    const step = work.next()
    if (step.done) return step.value
  }
}

export function aborted(signal: AbortSignal): FdbError {
  return new FdbError('ERR_FDB_ABORTED', 'stopped by its AbortSignal; what was done before it stays valid', {
    cause: signal.reason,
  })
}

/** So few entries are processed at once. */
const FEW_ENTRIES = 256

/** Work left by large changes that count already: frees locations and notifies listeners, in slices, in order. Reads see no difference. */
export class DeferredWork {
  /** A step is running: nothing may be applied. */
  stepping = false
  readonly #work: Generator<undefined, void>[] = []
  readonly #sliceMs: number
  readonly #signal: AbortSignal
  readonly #onPause: () => void
  #running: Promise<unknown> | null = null

  /** `paused`: called when nothing is left, or other code has done the work. */
  constructor(sliceMs: number, signal: AbortSignal, paused: () => void) {
    this.#sliceMs = sliceMs
    this.#signal = signal
    this.#onPause = paused
  }

  get pending(): boolean {
    return this.#work.length > 0
  }

  add(work: Generator<undefined, void>, entries: number): void {
    if (entries <= FEW_ENTRIES && !this.pending) {
      runAtOnce(work)
      return
    }
    this.#work.push(work)
    this.#run()
  }

  /** Does all the work, for a caller that must wait for it. Two callers may take turns. */
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

  /** Resolves when listeners know every change that counts. */
  async done(): Promise<void> {
    while (this.pending && this.#running) await this.#running
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
        if (this.pending) this.#run()
        this.#onPause()
      })
  }
}
