import { setImmediate as nextTurn } from 'node:timers/promises'
import { wrongOption } from '../checks/place.js'
import { FdbError } from '../errors.js'

export interface SliceOptions {
  /** Maximum time of work per turn of the event loop, in milliseconds; default 1. */
  sliceMs?: number | undefined
  signal?: AbortSignal | undefined
}

/** Runs a generator for at most `sliceMs` per turn of the event loop; all sliced work together gets {@link TURN_MS}. The generator yields where it may be paused or aborted. */
export async function runInSlices<T>(work: Generator<unknown, T>, options: SliceOptions = {}): Promise<T> {
  if (typeof (work as Partial<Generator> | null)?.next !== 'function')
    throw wrongOption('work', work, 'a generator: the result of a function*')
  const { sliceMs = 1, signal } = options
  const slice = new Slice(sliceMs)
  try {
    for (;;) {
      if (signal?.aborted) throw abortedError(signal)
      const step = work.next()
      if (step.done) return step.value
      if (slice.over) await slice.next()
    }
  } finally {
    work.return(undefined as T)
  }
}

/** All sliced work shares this time per event-loop turn. */
const TURN_MS = 2
/** Each task gets at least this time per turn. */
const LEAST_MS = 1

/** Start of this turn's first slice, or null. */
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

/** Measures the work's share of each turn of the event loop, for work that is not a generator. */
export class Slice {
  readonly #sliceMs: number
  #end: number

  constructor(sliceMs: number) {
    this.#sliceMs = sliceMs
    this.#end = endOfShare(sliceMs)
  }

  /** Whether this turn's share is used up, so that the caller must await {@link next}. */
  get over(): boolean {
    return performance.now() >= this.#end
  }

  async next(): Promise<void> {
    await nextTurn()
    this.#end = endOfShare(this.#sliceMs)
  }

  /** Lets the callbacks of settled promises run, then resolves: in this turn, or in the next one if this turn's share is used up. */
  async passed(): Promise<void> {
    await null
    if (this.over) await this.next()
  }
}

export function* inSteps<T>(all: Iterable<T>, work: (item: T) => void): Generator<undefined, void> {
  let done = 0
  for (const item of all) {
    work(item)
    if (++done % 32 === 0) yield
  }
}

export function runAtOnce<T>(work: Generator<unknown, T>): T {
  for (;;) {
    const step = work.next()
    if (step.done) return step.value
  }
}

function abortedError(signal: AbortSignal): FdbError {
  return new FdbError('ERR_FDB_ABORTED', 'stopped by its AbortSignal; earlier results remain valid', {
    cause: signal.reason,
  })
}

/** Work on up to this many entries runs synchronously. */
const FEW_ENTRIES = 256

/** Work that {@link DeferredWork} has yet to do. */
interface Pending {
  readonly steps: Generator<undefined, void>
  readonly ended: Promise<void>
  readonly end: () => void
}

function pending(steps: Generator<undefined, void>): Pending {
  let end = () => {}
  const ended = new Promise<void>(resolve => {
    end = resolve
  })
  return { steps, ended, end }
}

/** Runs the remaining work of large changes that are already in effect, in slices and in order: it frees locations and notifies listeners. Reads see no difference. */
export class DeferredWork {
  /** A step is running, so that no record may be applied. */
  stepping = false
  readonly #work: Pending[] = []
  readonly #sliceMs: number
  readonly #signal: AbortSignal
  readonly #onPause: () => void
  readonly #failed: (error: unknown) => void
  #running = false

  /** `onPause` is called when the work is done or was aborted; `failed` for work that has thrown, which is not continued. */
  constructor(sliceMs: number, signal: AbortSignal, onPause: () => void, failed: (error: unknown) => void) {
    this.#sliceMs = sliceMs
    this.#signal = signal
    this.#onPause = onPause
    this.#failed = failed
  }

  get pending(): boolean {
    return this.#work.length > 0
  }

  add(work: Generator<undefined, void>, entries: number): void {
    if (entries <= FEW_ENTRIES && !this.pending) {
      runAtOnce(work)
      return
    }
    this.#work.push(pending(work))
    this.#run()
  }

  /** Does all pending work, step by step. Several callers may run such generators at the same time. */
  *steps(): Generator<undefined, void> {
    for (let work = this.#work[0]; work !== undefined; work = this.#work[0]) {
      this.stepping = true
      try {
        if (work.steps.next().done) {
          this.#work.shift()
          work.end()
        }
      } finally {
        this.stepping = false
      }
      yield
    }
  }

  /** Resolves when the listeners were notified of every change that is in effect now, or when the work was aborted. Does not wait for later changes. */
  async done(): Promise<void> {
    if (this.#running) await this.#work.at(-1)?.ended
  }

  #run(): void {
    if (this.#running || this.#signal.aborted) return
    this.#running = true
    const work = async () => {
      await nextTurn()
      await runInSlices(this.steps(), { sliceMs: this.#sliceMs, signal: this.#signal })
    }
    work()
      .catch(error => {
        if (!this.#signal.aborted) this.#failed(error)
      })
      .finally(() => {
        this.#running = false
        if (this.#signal.aborted) for (const { end } of this.#work) end()
        else if (this.pending) this.#run()
        this.#onPause()
      })
  }
}
