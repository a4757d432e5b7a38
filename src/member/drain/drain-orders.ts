import { LONGEST_MS } from '../../base/duration.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { WireEnvelope } from '../../wire/link.js'
import type { Moves } from './moves.js'

/** The limit in EndDrain that stands for the receiver's own one. */
export const OWN_LIMIT = 2 ** 32 - 1

/** The orders that a process that drains gets about its connections, from the process that serves or from the daemon. */
export class DrainOrders {
  readonly #moves: Pick<Moves, 'noReceiver' | 'open'>
  readonly #end: (timeoutMs: number | undefined) => void

  /** `end`: this process must close its remaining connections within this time (undefined: as configured), and end. */
  constructor(moves: Pick<Moves, 'noReceiver' | 'open'>, end: (timeoutMs: number | undefined) => void) {
    this.#moves = moves
    this.#end = end
  }

  /** Returns whether the message was an order. */
  handle({ endDrain, moveRequest }: WireEnvelope): boolean {
    if (moveRequest) this.#moves.noReceiver()
    if (endDrain) this.#end(limitOf(endDrain.timeoutMs ?? 0))
    return Boolean(moveRequest ?? endDrain)
  }

  /** Returns whether the items are a move channel, which this process then opens, and owns. */
  openChannel(items: BundleItem[]): boolean {
    const isChannel = items.some(({ role }) => role === 'moveChannel')
    if (isChannel) this.#moves.open(items)
    return isChannel
  }
}

function limitOf(timeoutMs: number): number | undefined {
  return timeoutMs === OWN_LIMIT ? undefined : Math.min(timeoutMs, LONGEST_MS)
}
