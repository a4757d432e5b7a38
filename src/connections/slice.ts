import { closeAll, MAX_FDS_PER_MESSAGE, type OwnedFd } from '../kernel/index.js'
import type { Departure, MovableConnections } from './movable.js'
import { MAX_CONNECTION_FDS } from './movable.js'
import type { TurnBudget, TurnWork } from './turn-work.js'

/** A turn of the event loop spends at most so long on connections, on either side. */
export const TURN_MS = 3
/** A slice ends when its records have so many bytes: one with much in flight goes alone. */
const SLICE_BYTES = 1024 * 1024

/** The connections of one server on one listener. */
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

/** A connection between two servers. */
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

  /** Whether one more may be asked for. */
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

/**
 * Does something with each item, while moves have had less than {@link TURN_MS} of a turn of the event loop, and at least
 * one in each turn. Resolves when all are done.
 */
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
