import type { Epoch } from '../handoff/messages.js'
import type { Caller } from './admission.js'
import type { SegmentSet } from './segment-set.js'

/** A caller that does not take its segments within this time is dropped, and reconnects. */
const SUPPLY_MS = 5_000

/** Sends new segments to draining generations and followers, which must see changes that other processes write. */
export class SegmentSupply {
  readonly #segmentSet: Pick<SegmentSet, 'since'>
  readonly #drop: (caller: Caller) => void
  /** The highest epoch that each caller has. */
  readonly #tops = new Map<Caller, Epoch>()

  /** `drop`: called for a caller to which sending failed; the caller reconnects and asks again. */
  constructor(segmentSet: Pick<SegmentSet, 'since'>, drop: (caller: Caller) => void) {
    this.#segmentSet = segmentSet
    this.#drop = drop
  }

  /** `top`: the highest epoch that the caller has. */
  add(caller: Caller, top: Epoch = caller.hello.top ?? 0): void {
    this.#tops.set(caller, top)
    this.#supply(caller)
  }

  forget(caller: Caller): void {
    this.#tops.delete(caller)
  }

  /** Sends each caller the segments that it does not have. */
  share(): void {
    for (const caller of [...this.#tops.keys()]) this.#supply(caller)
  }

  #supply(caller: Caller): void {
    const top = this.#tops.get(caller) ?? 0
    let newer: ReturnType<SegmentSet['since']>
    try {
      newer = this.#segmentSet.since(top, { whole: caller.intent === 'follow' })
    } catch {
      // This process has reached its limit of open files.
      this.#drop(caller)
      return
    }
    const { items, release } = newer
    if (items.length === 0) return
    this.#tops.set(caller, Math.max(top, ...items.map(({ epoch = 0 }) => epoch)))
    caller.link
      .sendBundle(items, SUPPLY_MS)
      .catch(() => this.#drop(caller))
      .finally(release)
  }
}
