import { Digest } from './digest.js'
import type { Entries } from './entries.js'
import type { LeftWork } from './left-work.js'
import type { Location } from './locations.js'
import type { StoredSchema } from './records.js'
import type { SectionStore, StoredChange } from './section-store.js'
import type { ShardedMap } from './sharded-map.js'
import { Layer } from './slot-map.js'

/** Entries between two yields. */
const STEP = 32

/** What a bulk does to one section, once it counts. */
interface StagedSection {
  section: SectionStore
  layer: Layer
  /** What was there before does not count. */
  cleared: boolean
  /** Entries of the section then, and bytes of their encoded changes. */
  size: number
  bytes: number
  /** To be added to the section's digest. */
  digest: Digest
}

/**
 * Changes that are looked at as they come and count all at once: a bulk of several records with its last one. Between its records
 * there are no others, so nothing else changes the sections meanwhile.
 */
export class Transaction {
  /** Of the segment that it is in. */
  readonly ordinal: number
  /** The index of the part that must come next. */
  next = 0
  readonly schemas: StoredSchema[] = []
  /** Of its changes so far, see {@link SectionStore.printOf}. */
  print = 0
  readonly #entries: Entries
  readonly #sections = new Map<SectionStore, StagedSection>()

  constructor(entries: Entries, ordinal: number) {
    this.#entries = entries
    this.ordinal = ordinal
  }

  #of(section: SectionStore): StagedSection {
    let staged = this.#sections.get(section)
    if (!staged) {
      const { bytes, slots } = section
      const { size } = slots
      staged = { section, layer: new Layer(), cleared: false, size, bytes, digest: new Digest() }
      this.#sections.set(section, staged)
    }
    return staged
  }

  put(
    section: SectionStore,
    key: string,
    change: { keyBytes: Uint8Array; value: Uint8Array; offset: number; length: number },
  ): void {
    const staged = this.#of(section)
    const { offset, length, keyBytes, value } = change
    this.#drop(staged, key)
    staged.layer.set(key, this.#entries.locations.add(this.ordinal, offset, length))
    staged.digest.add(section.nameBytes, keyBytes, value)
    staged.size++
    staged.bytes += length
  }

  delete(section: SectionStore, key: string): void {
    const staged = this.#of(section)
    if (!this.#drop(staged, key)) return
    if (!staged.cleared && section.slots.has(key)) staged.layer.set(key, null)
    else staged.layer.forget(key)
  }

  clear(section: SectionStore): void {
    const before = this.#of(section)
    for (const slot of before.layer.made()) this.#entries.locations.remove(slot)
    const digest = new Digest()
    digest.subtract(section.digest)
    this.#sections.set(section, { section, layer: new Layer(), cleared: true, size: 0, bytes: 0, digest })
  }

  /** Takes what the key has up to now out of the sums; false: it has nothing. */
  #drop(staged: StagedSection, key: string): boolean {
    const { section, layer, cleared, digest } = staged
    const made = layer.get(key)
    if (made === null) return false
    const slot = made ?? (cleared ? undefined : section.slots.get(key))
    if (slot === undefined) return false
    staged.bytes -= this.#entries.subtract(section, slot, digest).length
    staged.size--
    if (made !== undefined) this.#entries.locations.remove(made)
    return true
  }

  /** In one step, whatever its size. What large bulks left to do must be done. */
  commit(origin: StoredChange['origin'], left: LeftWork): void {
    const all = [...this.#sections.values()].map(staged => {
      const { section, layer, cleared, size, bytes, digest } = staged
      this.#entries.count += size - section.slots.size
      this.#entries.liveBytes += bytes - section.bytes
      section.bytes = bytes
      section.digest.merge(digest)
      const before = cleared ? section.slots.replace(layer) : null
      if (!cleared) section.slots.lay(layer, size)
      return { staged, before }
    })
    for (const { section } of this.#sections.values()) for (const reset of section.resets) reset()
    for (const { staged, before } of all) {
      const { section, layer } = staged
      if (before === null) {
        left.add(this.#mergeLayer(section, origin), layer.slots.size)
        continue
      }
      section.tell('clear', '', origin, null)
      left.add(this.#freeAll(before, staged, origin), before.size + layer.slots.size)
    }
  }

  #mergeLayer(section: SectionStore, origin: StoredChange['origin']): Generator<undefined, void> {
    let was: Location | null = null
    return section.slots.merge(
      slot => {
        was = this.#entries.locate(section, slot)
        this.#entries.free(section, slot, this.ordinal)
      },
      (key, put) => {
        const before = was
        was = null
        section.tell(put ? 'put' : 'delete', key, origin, before)
      },
    )
  }

  *#freeAll(
    before: ShardedMap<number>,
    { section, layer }: StagedSection,
    origin: StoredChange['origin'],
  ): Generator<undefined, void> {
    let done = 0
    for (const [, slot] of before.entries()) {
      this.#entries.free(section, slot, this.ordinal)
      if (++done % STEP === 0) yield
    }
    for (const key of layer.slots.keys()) {
      section.tell('put', key, origin, null)
      if (++done % STEP === 0) yield
    }
  }

  /** It will never be whole, and counts for nothing. */
  giveUp(left: LeftWork): void {
    let made = 0
    for (const { layer } of this.#sections.values()) made += layer.slots.size
    left.add(this.#freeMade(), made)
  }

  *#freeMade(): Generator<undefined, void> {
    let done = 0
    for (const { layer } of this.#sections.values()) {
      for (const slot of layer.made()) {
        this.#entries.locations.remove(slot)
        if (++done % STEP === 0) yield
      }
    }
  }
}
