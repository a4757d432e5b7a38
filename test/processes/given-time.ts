import { existsSync, readFileSync } from 'node:fs'

/** Between two looks at the counters, which the kernel keeps in hundredths of a second. */
const LOOK_MS = 1_000
/** The least share that lengthens a deadline: a machine that gives less does not lengthen it more. */
const LEAST_SHARE = 1 / 20

/**
 * A clock for deadlines, in milliseconds, that runs as fast as the hypervisor lets this machine: while others have its processors, of
 * what was to run here a tenth did in spells of minutes (`steal` of /proc/stat beside `user` and `system`).
 */
export class GivenTime {
  #given = 0
  #at = performance.now()
  #counted = counters()

  /** How much has passed since it was made. */
  now(): number {
    const at = performance.now()
    const passed = at - this.#at
    if (passed < LOOK_MS) return this.#given + passed
    const counted = counters()
    this.#given += passed * shareBetween(this.#counted, counted)
    this.#at = at
    this.#counted = counted
    return this.#given
  }
}

/** Starts to look; the function returned gives the share of this machine's work since then that ran: 1 if it had its processors to itself. */
export function shareGiven(): () => number {
  const before = counters()
  return () => shareBetween(before, counters())
}

function shareBetween(before: Counted, now: Counted): number {
  const [had, stolen] = [now.had - before.had, now.stolen - before.stolen]
  return stolen > 0 ? Math.max(LEAST_SHARE, had / (had + stolen)) : 1
}

interface Counted {
  readonly had: number
  readonly stolen: number
}

/** Counts the work on all processors since the machine began, and the work of other machines in that time while work waited here. */
function counters(): Counted {
  if (!existsSync('/proc/stat')) return { had: 0, stolen: 0 }
  const [line = ''] = readFileSync('/proc/stat', 'latin1').split('\n', 1)
  const [, user = 0, nice = 0, system = 0, , , , , steal = 0] = line.split(/ +/).map(Number)
  return { had: user + nice + system, stolen: steal }
}
