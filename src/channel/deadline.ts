import { FdbError } from '../errors.js'

export interface DeadlineOptions {
  signal?: AbortSignal | undefined
  /** What is waited for, as a noun: "the holder's Welcome". Stands in the message. */
  what: string
}

/**
 * Settles as `promise` does, unless `ms` milliseconds pass first (ERR_FDB_DEADLINE) or `signal` aborts (its
 * reason). The promise itself goes on; a late rejection of it is swallowed, never unhandled.
 */
export function withDeadline<T>(promise: Promise<T>, ms: number, options: DeadlineOptions): Promise<T> {
  const { signal, what } = options
  return new Promise<T>((resolve, reject) => {
    const clear = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
    const onAbort = () => {
      clear()
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      clear()
      reject(deadlineError(what, ms))
    }, ms)
    promise.then(
      value => {
        clear()
        resolve(value)
      },
      error => {
        clear()
        reject(error)
      },
    )
    if (signal?.aborted) onAbort()
    else signal?.addEventListener('abort', onAbort, { once: true })
  })
}

export function deadlineError(what: string, ms: number): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${what} did not happen within ${ms} ms: the other side is stuck, stopped or overloaded; raise the deadline if it is only slow`,
    { retryable: true, details: { what, ms } },
  )
}
