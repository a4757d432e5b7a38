import type { ChangeNotifier } from '../../wire/pending.js'

/** At most this much of the ordered time is kept for the last connections; of a short time half. */
const LAST_MS = 5_000
/** Work under way gets this time even if less was ordered. */
const LEAST_MS = 500
/** After the ordered time the last changes get this long to be made. */
const LATE_MS = 500

/** The orders to end this process. The earliest end counts, so a later order can only shorten the time. */
export class EndOrder {
  /** False as soon as one order says so: the standby must not serve again instead of this process. */
  handBack = true
  #leaveAt = Number.POSITIVE_INFINITY
  #endAt = Number.POSITIVE_INFINITY

  /** Records the order to end within `ms` milliseconds. Returns whether that is earlier than before. */
  give(ms: number): boolean {
    const now = performance.now()
    if (now + ms >= this.#endAt) return false
    this.#endAt = now + ms
    this.#leaveAt = Math.min(this.#leaveAt, now + Math.max(ms - Math.min(ms / 2, LAST_MS), LEAST_MS))
    return true
  }

  get isGiven(): boolean {
    return this.#endAt < Number.POSITIVE_INFINITY
  }

  /** Milliseconds until remaining connections are closed; infinite without an order. */
  get leftMs(): number {
    return Math.max(0, this.#endAt - performance.now())
  }

  /** Milliseconds until this process must leave to end in time; infinite without an order. */
  get leavingMs(): number {
    return Math.max(0, this.#leaveAt - performance.now())
  }

  /** Resolves when `holds` returns true, after `ms`, or when this process must leave to end in time. */
  async untilLeaving(changes: ChangeNotifier, holds: () => boolean, ms: number): Promise<void> {
    const latest = performance.now() + ms
    await untilDue(changes, holds, () => Math.min(latest, this.#leaveAt))
  }

  /** Resolves when `work` has settled, or a little after the ordered time. */
  async untilEnd(changes: ChangeNotifier, work: Promise<unknown>): Promise<void> {
    const settled = settledOf(changes, work)
    await untilDue(changes, settled, () => this.#endAt + LATE_MS)
  }
}

/** Returns a function that returns true when `work` has settled. Notifies `changes` of that. */
export function settledOf(changes: ChangeNotifier, work: Promise<unknown>): () => boolean {
  let settled = false
  const settle = () => {
    settled = true
    changes.notify()
  }
  work.then(settle, settle)
  return () => settled
}

/** Waits until `holds` returns true or `due` is over. After each change `due` may be earlier. */
async function untilDue(changes: ChangeNotifier, holds: () => boolean, due: () => number): Promise<void> {
  for (;;) {
    const at = due()
    const ms = at === Number.POSITIVE_INFINITY ? null : Math.max(0, at - performance.now())
    await changes.until(() => holds() || due() < at, ms)
    if (holds() || performance.now() >= due()) return
  }
}
