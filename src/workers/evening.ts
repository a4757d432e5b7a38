import type { Logger } from '../base/logger.js'
import { Backoff, IN_BACKGROUND } from '../base/time.js'
import type { Slot } from './slot.js'

/** Of the mean: less is not worth a move. */
const TOLERATED = 0.03
const MOST = 500

/** So many connections are to go from one to another. */
export interface Excess<T> {
  readonly from: T
  readonly to: T
  readonly count: number
}

/** From the one with most to the one with fewest, as far as both come to the mean; null: they are even. */
export function excessOf<T>(
  counts: readonly { readonly of: T; readonly connections: number }[],
): Excess<T> | null {
  const sorted = counts.toSorted((a, b) => a.connections - b.connections)
  const [least, most] = [sorted[0], sorted.at(-1)]
  if (least === undefined || most === undefined || sorted.length < 2) return null
  const mean = counts.reduce((sum, { connections }) => sum + connections, 0) / counts.length
  const over = Math.max(most.connections - mean, mean - least.connections)
  if (over <= mean * TOLERATED) return null
  const count = Math.min(Math.floor((most.connections - least.connections) / 2), Math.ceil(over), MOST)
  return count < 1 ? null : { from: most.of, to: least.of, count }
}

/**
 * Evens out the connections that last: the kernel gives each worker the same part of those that come, which is the same number only by and
 * large, and not of those that stay.
 */
export class Evening {
  readonly #slots: () => readonly Slot[]
  readonly #move: (excess: Excess<Slot>) => Promise<void>
  readonly #logger: Logger
  #timer: NodeJS.Timeout | undefined
  /** A move may come to nothing, as with connections that cannot move while they are busy. */
  readonly #backoff = new Backoff(IN_BACKGROUND)
  #over = true
  /** What was to be moved when it was tried last. */
  #before = 0

  constructor(slots: () => readonly Slot[], move: (excess: Excess<Slot>) => Promise<void>, logger: Logger) {
    this.#slots = slots
    this.#move = move
    this.#logger = logger
  }

  start(): void {
    this.#over = false
    this.#backoff.reset()
    this.#later()
  }

  stop(): void {
    this.#over = true
    clearTimeout(this.#timer)
  }

  #later(): void {
    clearTimeout(this.#timer)
    if (this.#over) return
    this.#timer = setTimeout(() => void this.#look(), this.#backoff.next())
    this.#timer.unref()
  }

  async #look(): Promise<void> {
    const counts = this.#slots().flatMap(slot => {
      const { connections } = slot
      return connections === null ? [] : [{ of: slot, connections }]
    })
    const excess = excessOf(counts)
    const inVain = excess !== null && this.#before > 0 && excess.count >= this.#before
    if (!inVain) this.#backoff.reset()
    this.#before = excess?.count ?? 0
    if (excess !== null)
      await this.#move(excess).catch(error =>
        this.#logger.debug({ err: error }, 'connections were not evened out'),
      )
    this.#later()
  }
}
