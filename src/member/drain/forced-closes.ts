/** Connections of one kind that were closed for one reason. */
export interface ForcedClose {
  /** `http`, `https`, `http2`, `tls`, `net`; of the proxy also `events`, `webSocket`, `tunnel`, `tcp`; or the name of an application's protocol. */
  readonly kind: string
  /**
   * Why they had not gone before: `idle` (no request came whose answer could have announced the end), `answering`,
   * `half-request` (its head or body did not end), `refused` (by the next process), `upgraded` (taken over by the
   * application, which has no hooks to move it), `handshake`, `closing` (it had its last answer, and did not go), `open` (of a protocol that is not known here, or has no requests).
   */
  readonly reason: string
  readonly count: number
}

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

/** Of several servers. */
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
