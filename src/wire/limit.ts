import { LONGEST_MS } from '../base/duration.js'

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
  const timer = setTimeout(
    () => {
      // Timers come first in a turn of the event loop, then sockets are read, then this.
      reading = setImmediate(late)
    },
    Math.min(ms, LONGEST_MS),
  )
  if (unref) timer.unref()
  return {
    clear: () => {
      clearTimeout(timer)
      clearImmediate(reading)
    },
  }
}
