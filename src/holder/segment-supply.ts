import type { Epoch } from '../protocol/conversation.js'
import type { Guest } from './admission.js'
import type { SegmentShelf } from './segment-shelf.js'

/** One that takes its segments later than this connects anew. */
const SUPPLY_MS = 5_000

/**
 * Gives generations that drain the segments that were made since: whoever answers from the state must see what is written
 * there.
 */
export class SegmentSupply {
  readonly #shelf: SegmentShelf
  readonly #drop: (guest: Guest) => void
  /** The highest epoch that each of them has. */
  readonly #tops = new Map<Guest, Epoch>()

  /** `drop`: it cannot be supplied now; it connects anew, and asks again. */
  constructor(shelf: SegmentShelf, drop: (guest: Guest) => void) {
    this.#shelf = shelf
    this.#drop = drop
  }

  add(guest: Guest): void {
    this.#tops.set(guest, guest.hello.top ?? 0)
    this.#supply(guest)
  }

  forget(guest: Guest): void {
    this.#tops.delete(guest)
  }

  /** New segments were made. */
  share(): void {
    for (const guest of [...this.#tops.keys()]) this.#supply(guest)
  }

  #supply(guest: Guest): void {
    const top = this.#tops.get(guest) ?? 0
    let newer: ReturnType<SegmentShelf['since']>
    try {
      newer = this.#shelf.since(top)
    } catch {
      // No descriptor left.
      this.#drop(guest)
      return
    }
    const { items, release } = newer
    if (items.length === 0) return
    this.#tops.set(guest, Math.max(top, ...items.map(({ epoch = 0 }) => epoch)))
    guest.link
      .sendBundle(items, SUPPLY_MS)
      .catch(() => this.#drop(guest))
      .finally(release)
  }
}
