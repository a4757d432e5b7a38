import type { MovableConnections, Witness } from './movable.js'

/** Of each kind: this part of those that can move, and at least so many. */
const PART = 0.01
const LEAST = 8
/** Where nothing is answered by then, though something was asked, the rest follows: some answers take long. */
export const LONGEST_PROOF_MS = 5_000
/** How often it is looked. */
const LOOK_MS = 25

/** How many of each kind may go before the next version has shown that it can serve them. */
export class FirstWave {
  readonly #left = new Map<MovableConnections, number>()
  #gone = 0

  /** Whether one more of this kind may go. */
  mayLeave(moving: MovableConnections): boolean {
    return this.#leftOf(moving) > 0
  }

  left(moving: MovableConnections): void {
    this.#left.set(moving, this.#leftOf(moving) - 1)
    this.#gone++
  }

  /** How many have gone in it. */
  get gone(): number {
    return this.#gone
  }

  #leftOf(moving: MovableConnections): number {
    let left = this.#left.get(moving)
    if (left === undefined) {
      left = Math.max(LEAST, Math.ceil(moving.movable * PART))
      this.#left.set(moving, left)
    }
    return left
  }
}

/** What was seen on the connections of a first wave, by who took them. */
export interface Proof {
  readonly asked: number
  readonly answered: number
}

/**
 * Resolves when this process has lived for `healthyMs` with these connections, and has answered over one of them if
 * anything was asked there. `over`: nobody waits for it any more.
 */
export async function proved(
  witnesses: readonly Witness[],
  healthyMs: number,
  over: () => boolean,
): Promise<Proof> {
  const begun = performance.now()
  await pause(healthyMs)
  for (;;) {
    const asked = witnesses.filter(witness => witness.asked).length
    const answered = witnesses.filter(witness => witness.answered).length
    const late = performance.now() - begun >= healthyMs + LONGEST_PROOF_MS
    if (asked === 0 || answered > 0 || late || over()) return { asked, answered }
    await pause(LOOK_MS)
  }
}

function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms).unref())
}
