import { LONGEST_MS } from '../../base/duration.js'
import type { Logger } from '../../base/logger.js'
import type { DrainLimits, DrainReport } from '../../operator/status-report.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { Link, WireEnvelope } from '../../wire/link.js'
import type { Settings } from '../options/options.js'
import type { Moves } from './moves.js'

/** The limit in EndDrain that stands for the receiver's own one. */
export const OWN_LIMIT = 2 ** 32 - 1

/** Orders an older generation to end with the service: to close its connections within `timeoutMs`, those between two requests at once. */
export function orderToEnd(link: Pick<Link, 'post'>, timeoutMs: number): void {
  link.post({ endDrain: { timeoutMs } })
  refuseMoves(link)
}

/** Tells an older generation that no process takes its connections. */
export function refuseMoves(link: Pick<Link, 'post'>): void {
  link.post({ moveRequest: { nobody: true } })
}

/** The oldest of too many versions that drain closes its connections within this time. */
const EARLY_MS = 10_000

export function drainLimits(settings: Pick<Settings, 'drainGenerations' | 'drainTimeout'>): DrainLimits {
  const { drainGenerations: most, drainTimeout } = settings
  return { most, timeoutMs: Math.min(EARLY_MS, drainTimeout) }
}

/** A version that drains, as it has reported. */
export interface Drainer extends Pick<DrainReport, 'pid' | 'generation' | 'phase' | 'connections'> {
  readonly link: Pick<Link, 'post'>
}

/** Lets the oldest versions end earlier if too many drain: each is told once. */
export class DrainLimit {
  readonly #told = new WeakSet<object>()
  readonly #logger: Logger

  constructor(logger: Logger) {
    this.#logger = logger
  }

  apply(drainers: readonly Drainer[], { most, timeoutMs }: DrainLimits): void {
    const draining = drainers.filter(({ phase }) => phase === 'leaving')
    draining.sort((a, b) => a.generation - b.generation)
    for (const { link, pid, generation, connections } of draining.slice(0, -most)) {
      if (this.#told.has(link)) continue
      this.#told.add(link)
      this.#logger.warn(
        { pid, generation, connections, timeoutMs },
        `more than ${most} older versions drain (drain.generations): the oldest closes its connections`,
      )
      link.post({ endDrain: { timeoutMs } })
    }
  }
}

interface DrainActions {
  /** This process must close its remaining connections within this time (undefined: as configured), and end. */
  end(timeoutMs: number | undefined): void
  /** No process will take the connections of this one, which was told to end. */
  serviceEnds(): void
}

/** The orders that a process that drains gets about its connections, from the process that serves or from the daemon. */
export class DrainOrders {
  readonly #moves: Pick<Moves, 'noReceiver' | 'open'>
  readonly #actions: DrainActions
  #ends = false

  constructor(moves: Pick<Moves, 'noReceiver' | 'open'>, actions: DrainActions) {
    this.#moves = moves
    this.#actions = actions
  }

  /** Returns whether the message was an order. */
  handle({ endDrain, moveRequest }: WireEnvelope): boolean {
    if (endDrain) {
      this.#ends = true
      this.#actions.end(limitOf(endDrain.timeoutMs ?? 0))
    }
    if (moveRequest && this.#ends) this.#actions.serviceEnds()
    else if (moveRequest) this.#moves.noReceiver()
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
