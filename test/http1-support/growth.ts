/** How the time of some work grows with the size of its input. */
import { workOf } from '../processes/worked.js'

/** A busy machine takes the processor from a call that lasts longer, in every round. The kernel counts a thread's processor time this exactly. */
const SLICE_MS = 4

/** The least milliseconds that one call took, of several rounds: what else the machine does only adds. */
function leastTime(work: () => void): number {
  work()
  let calls = 1
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < 8; ) {
    const [began, worked] = [performance.now(), workOf()]
    for (let i = 0; i < calls; i++) work()
    const clock = performance.now() - began
    const took = clock < SLICE_MS ? clock : worked()
    if (took < 0.2) calls *= 2
    else {
      least = Math.min(least, took / calls)
      round++
    }
  }
  return least
}

export interface Growth {
  /** The growth of the size from the first measurement to the last one. */
  size: number
  /** The growth of the time. */
  time: number
}

/**
 * Doubles the size from `from` to `to`, and gives the growth. Stops where a size takes more than 50 ms for one call: that
 * says enough.
 */
export function growthOf(make: (size: number) => () => void, from: number, to: number): Growth {
  const first = leastTime(make(from))
  let size = from
  let last = first
  while (size < to) {
    size *= 2
    const work = make(size)
    const worked = workOf()
    work()
    const took = worked()
    if (took > 50) return { size: size / from, time: took / first }
    // Sizes between show only whether the next may be tried.
    if (size >= to) last = leastTime(work)
  }
  return { size: size / from, time: last / first }
}
