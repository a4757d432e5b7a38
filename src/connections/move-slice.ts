import { closeAll, MAX_FDS_PER_MESSAGE, type OwnedFd } from '../kernel/index.js'
import type { TurnBudget, TurnWork } from './counts.js'
import { type Departure, MAX_CONNECTION_FDS, type MovableConnections, type Witness } from './movable.js'

/** A turn of the event loop spends at most so long on connections, on either side. */
export const TURN_MS = 3
/** A slice ends when its records have so many bytes: one with much in flight goes alone. */
const SLICE_BYTES = 1024 * 1024

export interface Source {
  readonly listener: string
  readonly moving: MovableConnections
}

/** Connections that may leave, now or later. */
export function movableOf(sources: Iterable<Source>): number {
  let sum = 0
  for (const { moving } of sources) sum += moving.movable
  return sum
}

export interface Item {
  readonly source: Source
  readonly departure: Departure
}

/** Fills one slice with departures, until moves have had {@link TURN_MS} of this turn. */
export class SliceFiller {
  readonly items: Item[] = []
  readonly #budget: TurnBudget
  #fds = 0
  #bytes = 0

  constructor(work: TurnWork) {
    this.#budget = work.budget(TURN_MS)
  }

  get open(): boolean {
    return (
      this.#bytes < SLICE_BYTES &&
      this.#fds + MAX_CONNECTION_FDS <= MAX_FDS_PER_MESSAGE &&
      !this.#budget.usedUp
    )
  }

  add(source: Source, departure: Departure): void {
    this.items.push({ source, departure })
    this.#fds += departure.fds.length
    this.#bytes += departure.record.length
  }
}

/** Does something with each item, at least one in a turn of the event loop, while moves have had less than {@link TURN_MS} of it. Resolves behind the last. */
export function inTurns<T>(items: readonly T[], work: TurnWork, each: (item: T) => void): Promise<void> {
  return new Promise(resolve => {
    let at = 0
    const turn = () => {
      const budget = work.budget(TURN_MS)
      while (at < items.length) {
        each(items[at++]!)
        if (at < items.length && budget.usedUp) {
          setImmediate(() => work.run(turn))
          return
        }
      }
      resolve()
    }
    work.run(turn)
  })
}

/** In the order of the items. */
export function fdsOf(items: readonly Item[]): OwnedFd[] {
  return items.flatMap(({ departure }) => departure.fds)
}

export function closeItems(items: readonly Item[]): void {
  closeAll(fdsOf(items))
}

/** The first wave has this part of the movable connections of each kind, and at least so many. */
const PART = 0.01
const LEAST = 8
/** Where nothing is answered by then, though something was asked, the rest follows: some answers take long. */
export const LONGEST_PROOF_MS = 5_000
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

/** The witnesses of a first wave, by their receiver. */
interface Proof {
  readonly asked: number
  readonly answered: number
}

/** Resolves when this process has lived for `healthyMs` with these connections, and has answered over one if anything was asked there. */
export async function waitForProof(
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
