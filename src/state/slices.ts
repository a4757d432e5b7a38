import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'

export interface SliceOptions {
  /** The most milliseconds of work in one turn of the event loop; default 3. */
  sliceMs?: number
  signal?: AbortSignal | undefined
}

/**
 * Work in steps: a generator yields wherever it may be interrupted, as often as it likes (a step should take well
 * under a millisecond). Runs it to its end, at most `sliceMs` in one turn. Aborting stops it between two steps.
 */
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

/** The share that work has in each turn, for what is no generator. */
export class Slice {
  readonly #sliceMs: number
  #started = performance.now()

  constructor(sliceMs: number) {
    this.#sliceMs = sliceMs
  }

  /** This turn has had its share: {@link next} is due. */
  get over(): boolean {
    return performance.now() - this.#started >= this.#sliceMs
  }

  async next(): Promise<void> {
    await nextTurn()
    this.#started = performance.now()
  }

  /**
   * After each bit of work that others hear of: what they do in the same turn counts too. Resolves in the next turn once this one
   * has had its share.
   */
  async passed(): Promise<void> {
    // Behind whoever has just been told.
    await null
    if (this.over) await this.next()
  }
}

/** Things of which each is little work, as work in steps. */
export function* inSteps<T>(all: Iterable<T>, work: (one: T) => void): Generator<undefined, void> {
  let done = 0
  for (const one of all) {
    work(one)
    if (++done % 32 === 0) yield
  }
}

/** The same work in one go. */
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
