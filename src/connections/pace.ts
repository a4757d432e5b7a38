/**
 * A process that has just begun needs several times as long for each of its first requests: those who ask all the time come one after the other
 * within so many times that of the first wave, and no more milliseconds than this.
 */
const SPREAD = { waves: 3, mostMs: 750 }
/** So much of that may be made up for. */
const LATE_MS = 10

/**
 * How many connections may go by now, where so many may go in a second, evenly. Those that may and did not are not kept for long: what
 * comes after is no faster for it.
 */
export class Pace {
  readonly #perMs: number
  readonly #most: number
  readonly #atOnce: number
  #allowed: number
  #countedAt = performance.now()

  /** `most`: that may go without a pause, the first ones too; `atOnce`: it is worth a turn to send so many. */
  constructor({ perSecond, most, atOnce }: { perSecond: number; most: number; atOnce: number }) {
    this.#perMs = perSecond / 1000
    this.#most = most
    this.#atOnce = Math.min(atOnce, most)
    this.#allowed = most
  }

  /** May go now. */
  get allowed(): number {
    return this.#allowed
  }

  spend(connections: number): void {
    this.#allowed -= connections
  }

  /** When {@link allowed} is worth a turn, of `performance.now()`; in the past or now: it is. */
  ready(): number {
    const now = performance.now()
    if (!Number.isFinite(this.#perMs)) return now
    this.#allowed = Math.min(this.#most, this.#allowed + (now - this.#countedAt) * this.#perMs)
    this.#countedAt = now
    return now + Math.max(0, this.#atOnce - this.#allowed) / this.#perMs
  }
}

const { POSITIVE_INFINITY: ANY } = Number
/** All may go. It has nothing to remember: many may share it. */
export const UNBOUNDED = new Pace({ perSecond: ANY, most: ANY, atOnce: 1 })

/**
 * The pace of all those behind a first wave, which takes no longer than `mostMs`. `atOnce`: connections that are worth a turn; no more than
 * those are not spread.
 */
export function spread(of: {
  connections: number
  firstWaveMs: number
  mostMs: number
  atOnce: number
}): Pace {
  const { connections, firstWaveMs, mostMs, atOnce } = of
  if (connections <= atOnce) return UNBOUNDED
  const perMs = connections / Math.min(SPREAD.waves * firstWaveMs, SPREAD.mostMs, mostMs)
  return new Pace({ perSecond: 1000 * perMs, most: Math.max(atOnce, perMs * LATE_MS), atOnce })
}
