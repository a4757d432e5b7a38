import { setTimeout as sleep } from 'node:timers/promises'
import { FdbError } from '../errors.js'

export const ASK_RETRY_MS = 50
/** A process that gets less time for its answer may be late without being stuck. */
const LEAST_ANSWER_MS = 1_000

/**
 * Calls `ask` with the milliseconds that are left, and again after an error that `mayRetry` accepts, until the timeout. If the time for the last
 * answer was too short, rejects with the error before.
 */
export async function askAgain<T>(
  timeout: number,
  mayRetry: (error: FdbError) => boolean,
  ask: (leftMs: number) => Promise<T>,
): Promise<T> {
  const until = performance.now() + timeout
  let refusal: FdbError | null = null
  for (;;) {
    const left = Math.max(1, Math.round(until - performance.now()))
    try {
      return await ask(left)
    } catch (error) {
      if (!FdbError.is(error)) throw error
      if (refusal !== null && error.code === 'ERR_FDB_DEADLINE' && left < LEAST_ANSWER_MS) throw refusal
      if (!mayRetry(error) || performance.now() + ASK_RETRY_MS >= until) throw error
      refusal = error
    }
    await sleep(ASK_RETRY_MS)
  }
}
