import { FdbError } from '../errors.js'
import { Pending } from './pending.js'

export interface DeadlineOptions {
  signal?: AbortSignal | undefined
  /** What is waited for, as a noun: "the holder's Welcome". Stands in the message. */
  what: string
}

/**
 * Settles as `promise` does, unless `ms` milliseconds pass first (ERR_FDB_DEADLINE) or `signal` aborts (its
 * reason). The promise itself goes on; a late rejection of it is swallowed, never unhandled.
 */
export function withDeadline<T>(
  promise: Promise<T>,
  ms: number,
  { signal, what }: DeadlineOptions,
): Promise<T> {
  const pending = new Pending<T>({ signal })
  pending.limit(ms, () => pending.reject(deadlineError(what, ms)))
  promise.then(
    value => pending.resolve(value),
    error => pending.reject(error),
  )
  return pending.answer
}

export function deadlineError(what: string, ms: number): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${what} did not happen within ${ms} ms: the other side is stuck, stopped or overloaded; raise the deadline if it is only slow`,
    { retryable: true, details: { what, ms } },
  )
}
