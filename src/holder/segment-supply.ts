import type { Epoch } from '../handoff/messages.js'
import type { Caller } from './admission.js'
import type { SegmentSet } from './segment-set.js'

/** One that takes its segments later than this connects anew. */
const SUPPLY_MS = 5_000

/** Gives draining generations and followers the segments made since: a process that answers from the state must see all of it. */
export class SegmentSupply {
  readonly #segmentSet: Pick<SegmentSet, 'since'>
  readonly #drop: (caller: Caller) => void
  /** The highest epoch that each of them has. */
  readonly #tops = new Map<Caller, Epoch>()

  /** `drop`: it cannot be supplied now; it connects anew, and asks again. */
  constructor(segmentSet: Pick<SegmentSet, 'since'>, drop: (caller: Caller) => void) {
    this.#segmentSet = segmentSet
    this.#drop = drop
  }

  /** `top`: the highest epoch that it has. */
  add(caller: Caller, top: Epoch = caller.hello.top ?? 0): void {
    this.#tops.set(caller, top)
    this.#supply(caller)
  }

  forget(caller: Caller): void {
    this.#tops.delete(caller)
  }

  /** New segments were made. */
  share(): void {
    for (const caller of [...this.#tops.keys()]) this.#supply(caller)
  }

  #supply(caller: Caller): void {
    const top = this.#tops.get(caller) ?? 0
    let newer: ReturnType<SegmentSet['since']>
    try {
      newer = this.#segmentSet.since(top, { whole: caller.intent === 'follow' })
    } catch {
      // No descriptor left.
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
