import type { ForcedClose } from '../../operator/status-report.js'

/** Connections that were closed at the end of the drain, by what they were. */
export interface DrainCounts {
  /** Without a request or stream, as far as that is known. */
  readonly idle: number
  readonly busy: number
  /** Every one of them by name, where the keeper knows. */
  readonly closed?: readonly ForcedClose[]
}

/** Adds them up. */
export class ForcedCloses {
  readonly #closed = new Map<string, ForcedClose>()

  add(kind: string, reason: string, count = 1): void {
    if (count <= 0) return
    const key = `${kind} ${reason}`
    this.#closed.set(key, { kind, reason, count: count + (this.#closed.get(key)?.count ?? 0) })
  }

  addAll(closed: readonly ForcedClose[]): void {
    for (const { kind, reason, count } of closed) this.add(kind, reason, count)
  }

  get counts(): DrainCounts {
    const closed = [...this.#closed.values()]
    const sum = (of: readonly ForcedClose[]) => of.reduce((all, { count }) => all + count, 0)
    const busy = sum(closed.filter(({ reason }) => reason === 'answering' || reason === 'half-request'))
    return { idle: sum(closed) - busy, busy, closed }
  }
}

/** The counts of several servers, as one. */
export function addedUp(counts: readonly DrainCounts[]): DrainCounts {
  const closes = new ForcedCloses()
  let idle = 0
  let busy = 0
  for (const each of counts) {
    idle += each.idle
    busy += each.busy
    closes.addAll(each.closed ?? [])
  }
  return { idle, busy, closed: closes.counts.closed! }
}
