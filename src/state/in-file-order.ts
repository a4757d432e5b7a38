import type { Entries } from './entries.js'
import type { Location } from './locations.js'
import { READ_AHEAD_BYTES } from './read-ahead.js'
import type { SectionStore } from './section-store.js'
import type { SlotMap } from './slot-map.js'

/** Maximum keys per batch: so many that one read-ahead range has thousands of them if the log has a million entries. */
const MOST_KEYS = 262_144
/** Keys of the first batch: small, for callers that need only a few entries. */
const FIRST_KEYS = 64
const GROWTH = 16
const KEYS_PER_STEP = 256
/** Number of read-ahead blocks in the largest segment. */
const BLOCKS_PER_SEGMENT = 2 ** 32 / READ_AHEAD_BYTES

/** Keys whose entries are in the same read-ahead range of a segment, and their slots. */
interface KeyGroup {
  readonly keys: string[]
  readonly slots: number[]
}

/** Yields `read`'s result for each key, in batches by file offset, so that one read serves many keys; null where the caller may pause. Skips deleted keys. */
export function* inFileOrder<T>(
  section: SectionStore,
  entries: Pick<Entries, 'locations'>,
  read: (key: string, slot: number) => T | null,
): Generator<T | null, undefined> {
  const remaining = new RemainingKeys(section)
  for (let most = FIRST_KEYS; ; most = Math.min(MOST_KEYS, most * GROWTH)) {
    const { slots } = section
    const { changes } = slots
    const parts = yield* remaining.nextBatch(most, entries)
    if (parts.length === 0) return
    for (const part of parts) {
      for (let i = 0; i < part.keys.length; i++) {
        const key = part.keys[i]!
        // After a change of the section the slot may belong to another key: look it up again.
        const same = section.slots === slots && slots.changes === changes
        const slot = same ? part.slots[i] : section.slots.get(key)
        if (slot !== undefined) yield read(key, slot)
      }
    }
  }
}

class RemainingKeys {
  readonly #section: SectionStore
  readonly #slots: SlotMap
  readonly #renewals: number
  readonly #runs: Iterator<Iterable<[string, number]>>
  #run: Iterator<[string, number]> | null = null

  constructor(section: SectionStore) {
    const { slots } = section
    this.#section = section
    this.#slots = slots
    this.#renewals = slots.renewals
    this.#runs = slots.runs()
  }

  /** Returns the next `most` keys, grouped by file offset; fewer at the end. */
  *nextBatch(most: number, entries: Pick<Entries, 'locations'>): Generator<null, KeyGroup[]> {
    const parts = new Map<number, KeyGroup>()
    const at: Location = { segment: 0, offset: 0, length: 0 }
    for (let count = 0, looked = 0; count < most; ) {
      const entry = this.#next()
      if (entry === null) break
      if (++looked % KEYS_PER_STEP === 0) yield null
      const slot = this.#slotOf(entry)
      if (slot === undefined) continue
      count++
      const { segment, offset } = entries.locations.get(slot, at)
      const block = segment * BLOCKS_PER_SEGMENT + Math.floor(offset / READ_AHEAD_BYTES)
      let part = parts.get(block)
      if (part === undefined) parts.set(block, (part = { keys: [], slots: [] }))
      part.keys.push(entry[0])
      part.slots.push(slot)
    }
    return [...parts.values()]
  }

  /** Looks the slot up again if a bulk or a rebuild of the log has replaced the slots. */
  #slotOf([key, slot]: [string, number]): number | undefined {
    const { slots } = this.#section
    return slots === this.#slots && slots.renewals === this.#renewals ? slot : slots.get(key)
  }

  #next(): [string, number] | null {
    for (;;) {
      const next = this.#run?.next()
      if (next !== undefined && !next.done) return next.value
      const run = this.#runs.next()
      if (run.done) return null
      this.#run = run.value[Symbol.iterator]()
    }
  }
}
