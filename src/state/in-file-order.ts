import type { Location } from './locations.js'
import { READ_AHEAD_BYTES } from './read-ahead.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'

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
  store: Store,
  read: (key: string, slot: number) => T | null,
): Generator<T | null, undefined> {
  const listed = section.slots
  const { renewals } = listed
  const remaining = listed.entries()
  // A bulk or a rebuild of the log may have replaced the slots since the iteration began.
  const currentSlot = ([key, slot]: [string, number]) =>
    section.slots === listed && listed.renewals === renewals ? slot : section.slots.get(key)
  for (let most = FIRST_KEYS; ; most = Math.min(MOST_KEYS, most * GROWTH)) {
    const { slots } = section
    const { changes } = slots
    const groups = yield* nextBatch(remaining, most, currentSlot, store)
    if (groups.length === 0) return
    for (const group of groups) {
      for (let i = 0; i < group.keys.length; i++) {
        const key = group.keys[i]!
        // After a change of the section the slot may belong to another key: look it up again.
        const same = section.slots === slots && slots.changes === changes
        const slot = same ? group.slots[i] : section.slots.get(key)
        if (slot !== undefined) yield read(key, slot)
      }
    }
  }
}

/** Returns the next `most` keys, grouped by file offset; fewer at the end. */
function* nextBatch(
  remaining: Iterator<[string, number]>,
  most: number,
  currentSlot: (entry: [string, number]) => number | undefined,
  store: Store,
): Generator<null, KeyGroup[]> {
  const groups = new Map<number, KeyGroup>()
  const at: Location = { segment: 0, offset: 0, length: 0 }
  for (let count = 0, looked = 0; count < most; ) {
    const next = remaining.next()
    if (next.done) break
    if (++looked % KEYS_PER_STEP === 0) yield null
    const slot = currentSlot(next.value)
    if (slot === undefined) continue
    count++
    const { segment, offset } = store.entries.locations.get(slot, at)
    const block = segment * BLOCKS_PER_SEGMENT + Math.floor(offset / READ_AHEAD_BYTES)
    let group = groups.get(block)
    if (group === undefined) groups.set(block, (group = { keys: [], slots: [] }))
    group.keys.push(next.value[0])
    group.slots.push(slot)
  }
  return [...groups.values()]
}
