import { FdbError } from '../errors.js'

export interface DeadlineOptions {
  signal?: AbortSignal | undefined
  /** What is waited for, as a noun: "the holder's Welcome". Stands in the message. */
  what: string
}

/** A time limit that has been set. */
export interface Limit {
  /** Idempotent. */
  clear(): void
}

/**
 * Calls `late` when `ms` milliseconds have passed and what had arrived by then has been read: a process that was kept from
 * listening (a busy event loop, a SIGSTOP) hears the others out before it says that they are late.
 */
export function afterHearing(ms: number, late: () => void, { unref = false } = {}): Limit {
  let reading: NodeJS.Immediate | undefined
  const timer = setTimeout(() => {
    // Timers come first in a turn of the event loop, then sockets are read, then this.
    reading = setImmediate(late)
  }, ms)
  if (unref) timer.unref()
  return {
    clear: () => {
      clearTimeout(timer)
      clearImmediate(reading)
    },
  }
}

/**
 * Settles as `promise` does, unless `ms` milliseconds pass first (ERR_FDB_DEADLINE) or `signal` aborts (its
 * reason). The promise itself goes on; a late rejection of it is swallowed, never unhandled.
 */
export function withDeadline<T>(promise: Promise<T>, ms: number, options: DeadlineOptions): Promise<T> {
  const { signal, what } = options
  return new Promise<T>((resolve, reject) => {
    const clear = () => {
      limit.clear()
      signal?.removeEventListener('abort', onAbort)
    }
    const onAbort = () => {
      clear()
      reject(signal?.reason)
    }
    const limit = afterHearing(ms, () => {
      clear()
      reject(deadlineError(what, ms))
    })
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
