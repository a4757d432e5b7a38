import { readdirSync } from 'node:fs'
import { constants, getPriority, setPriority } from 'node:os'

const LOW = constants.priority.PRIORITY_BELOW_NORMAL
/** Difference of nice values between V8's threads and the main thread. Small, because the main thread waits for V8's garbage collector. */
const BELOW = 5

/** Lowers this process's priority. Never throws and never raises it, which requires a privilege. */
export function lowerPriority(): void {
  try {
    if (getPriority() < LOW) setPriority(LOW)
  } catch {
    // The process keeps its priority.
  }
}

/** Returns the thread ids of V8's compiler and garbage collector. Call it before the program has started other threads. Returns none except on Linux. */
export function threadsOfV8(): number[] {
  try {
    return readdirSync('/proc/self/task')
      .map(Number)
      .filter(id => id !== process.pid)
  } catch {
    return []
  }
}

/**
 * Lowers the priority of V8's threads below the main thread. After a takeover they are as busy as the main thread, and on a busy machine
 * each would run for milliseconds before the main thread does. Never throws. On Linux a thread has its own priority (setpriority(2), "C library/kernel
 * differences").
 */
export function lowerThreads(threads: readonly number[]): void {
  try {
    const priority = Math.min(getPriority() + BELOW, constants.priority.PRIORITY_LOW)
    for (const thread of threads) setPriority(thread, priority)
  } catch {
    // The threads keep their priority.
  }
}
