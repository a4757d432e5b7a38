import { constants, getPriority, setPriority } from 'node:os'

const LOW = constants.priority.PRIORITY_BELOW_NORMAL

/** Leaves the processor to others, from now on. Never throws, and gives nobody a higher priority: that takes a right, and was not asked for. */
export function lowerPriority(): void {
  try {
    if (getPriority() < LOW) setPriority(LOW)
  } catch {
    // What follows comes sooner, no more.
  }
}
