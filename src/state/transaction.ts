import { Digest } from './digest.js'
import type { StoredSchema } from './records.js'
import type { SectionStore } from './section-store.js'
import { Layer } from './slot-map.js'

/** What a bulk does to one section, once it counts. */
export interface StagedSection {
  section: SectionStore
  layer: Layer
  /** What was there before does not count. */
  cleared: boolean
  /** Entries of the section then. */
  size: number
  /** To be added to the section's digest. */
  digest: Digest
  /** Of the encoded changes that count then. */
  bytes: number
}

/** What a transaction needs of its store. */
export interface StagingStore {
  /** A new slot for an entry; it counts for nothing yet. */
  stageSlot(offset: number, length: number): number
  freeStaged(slot: number): void
  /** Takes the entry that lies at a slot out of a digest. Returns the bytes of its encoded change. */
  subtract(section: SectionStore, slot: number, digest: Digest): number
}

/**
 * A bulk of several records, whose changes are looked at as they come and count all at once with its last record.
 * Between its records there are no others, so nothing else changes the sections meanwhile.
 */
export class Transaction {
  /** Of the segment that it is in. */
  readonly ordinal: number
  /** The index of the part that must come next. */
  next = 0
  readonly schemas: StoredSchema[] = []
  /** Of its changes so far, see {@link SectionStore.printOf}. */
  print = 0
  readonly #store: StagingStore
  readonly #sections = new Map<SectionStore, StagedSection>()

  constructor(store: StagingStore, ordinal: number) {
    this.#store = store
    this.ordinal = ordinal
  }

  get sections(): Iterable<StagedSection> {
    return this.#sections.values()
  }

  #of(section: SectionStore): StagedSection {
    let staged = this.#sections.get(section)
    if (!staged) {
      const { size } = section.slots
      staged = { section, layer: new Layer(), cleared: false, size, digest: new Digest(), bytes: 0 }
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
    this.#drop(staged, key)
    staged.layer.set(key, this.#store.stageSlot(change.offset, change.length))
    staged.digest.add(section.nameBytes, change.keyBytes, change.value)
    staged.size++
    staged.bytes += change.length
  }

  delete(section: SectionStore, key: string): void {
    const staged = this.#of(section)
    if (!this.#drop(staged, key)) return
    if (!staged.cleared && section.slots.has(key)) staged.layer.set(key, null)
    else staged.layer.forget(key)
  }

  clear(section: SectionStore): void {
    const before = this.#of(section)
    for (const slot of before.layer.made()) this.#store.freeStaged(slot)
    const digest = new Digest()
    digest.subtract(section.digest)
    this.#sections.set(section, { section, layer: new Layer(), cleared: true, size: 0, digest, bytes: 0 })
  }

  /** Takes what the key has up to now out of the sums; false: it has nothing. */
  #drop(staged: StagedSection, key: string): boolean {
    const { section, layer, cleared, digest } = staged
    const made = layer.get(key)
    if (made === null) return false
    const slot = made ?? (cleared ? undefined : section.slots.get(key))
    if (slot === undefined) return false
    const length = this.#store.subtract(section, slot, digest)
    staged.size--
    if (made === undefined) return true
    staged.bytes -= length
    this.#store.freeStaged(made)
    return true
  }
}
