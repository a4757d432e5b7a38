import { readdirSync } from 'node:fs'
import { constants, getPriority, setPriority } from 'node:os'

const LOW = constants.priority.PRIORITY_BELOW_NORMAL
/** The nice value of V8's threads, below the main thread's. The main thread waits for V8's collector, so these must not starve. */
const BELOW = 5

/** Lowers the priority from now on. Never throws, and raises no priority: that takes a right, and was not asked for. */
export function lowerPriority(): void {
  try {
    if (getPriority() < LOW) setPriority(LOW)
  } catch {
    // Without it later work comes sooner, no more.
  }
}

/** At the start of a process, when nothing else has made one: the threads in which V8 compiles and collects, by number. None but on Linux. */
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
 * Puts them below the one that answers. In a process that has just taken over from another they have as much to do as that one, and on a busy machine the
 * scheduler lets each of them run for milliseconds first. Never throws. On Linux a thread has a priority of its own (setpriority(2), "C library/kernel
 * differences").
 */
export function lowerThreads(threads: readonly number[]): void {
  try {
    const priority = Math.min(getPriority() + BELOW, constants.priority.PRIORITY_LOW)
    for (const thread of threads) setPriority(thread, priority)
  } catch {
    // They are as they were.
  }
}
