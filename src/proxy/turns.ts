import { setImmediate as nextTurn } from 'node:timers/promises'

export interface TurnOptions {
  /** The most milliseconds of work in one turn of the event loop; default 3. */
  sliceMs?: number
  /** Stops the work between two steps; it then rejects with the signal's reason. */
  signal?: AbortSignal
}

/** Runs work that yields wherever it may be interrupted (a step should take well under a millisecond). */
export async function inTurns<T>(work: Generator<unknown, T>, options: TurnOptions = {}): Promise<T> {
  const { sliceMs = 3, signal } = options
  let started = performance.now()
  try {
    for (;;) {
      signal?.throwIfAborted()
      const step = work.next()
      if (step.done) return step.value
      if (performance.now() - started >= sliceMs) {
        await nextTurn()
        started = performance.now()
      }
    }
  } finally {
    work.return(undefined as T)
  }
}

/** The same work in one go. */
export function atOnce<T>(work: Generator<unknown, T>): T {
  for (;;) {
    const step = work.next()
    if (step.done) return step.value
  }
}
