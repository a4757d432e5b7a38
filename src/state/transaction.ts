import type { ChangeCursor } from './change-cursor.js'
import { Digest, type PendingEntries } from './digest.js'
import type { Entries } from './entries.js'
import { emptyKey, type KeyBytes } from './key-bytes.js'
import type { FoundRecord } from './reader.js'
import { CLEAR, PUT, type StoredSchema } from './records.js'
import type { SectionStore, StoredChange } from './section-store.js'
import { KeyMap, type Layer } from './slot-map.js'
import { type DeferredWork, inSteps } from './time-slices.js'

interface StagedSection {
  readonly section: SectionStore
  readonly layer: Layer
  /** The transaction has cleared the section: all earlier entries are deleted. */
  readonly cleared: boolean
  /** Number of the section's entries after the transaction. */
  size: number
  /** Encoded bytes of the section's entries after the transaction. */
  bytes: number
  /** The commit adds this to the section's digest. */
  digest: Digest
}

/** A transaction with up to this many changed entries of a section is applied entry by entry; a larger one becomes a {@link Layer}. */
const SMALL = 1024

/** Changes that take effect all at once: those of a record, or of all records of a large bulk. */
export class Transaction {
  readonly ordinal: number
  /** File offset and sequence number of the end of the records before the transaction. */
  readonly begin: { readonly end: number; readonly sequence: number }
  /** Index of the bulk's next record. */
  next = 0
  readonly schemas: StoredSchema[] = []
  /** The fingerprint of the transaction's changes, see {@link SectionStore.printOf}. */
  print = 0
  readonly #entries: Entries
  #puts: BufferedPuts | null = null
  readonly #sections = new Map<SectionStore, StagedSection>()
  /** Caches the section of the last change, because the next change is usually of the same section. */
  #last: StagedSection | null = null

  constructor(entries: Entries, ordinal: number, { offset, record }: FoundRecord) {
    this.#entries = entries
    this.ordinal = ordinal
    this.begin = { end: offset, sequence: record.sequence - 1 }
  }

  #stagedOf(section: SectionStore): StagedSection {
    if (this.#last?.section === section) return this.#last
    let staged = this.#sections.get(section)
    if (!staged) {
      const { bytes, slots } = section
      const { size } = slots
      staged = { section, layer: new KeyMap(), cleared: false, size, bytes, digest: new Digest() }
      this.#sections.set(section, staged)
    }
    return (this.#last = staged)
  }

  /** Stages the cursor's change, whose bytes are at `offset` in the segment. */
  stage(
    section: SectionStore,
    cursor: ChangeCursor,
    offset: number,
    length: number,
    added: PendingEntries,
  ): void {
    const { op } = cursor.change
    if (op === CLEAR) {
      this.flush()
      this.#stageClear(section)
      return
    }
    const key = cursor.keyBytes
    const staged = this.#stagedOf(section)
    if (op === PUT) {
      if (staged.layer.size <= NEAR && section.slots.size <= NEAR) this.#stagePut(staged, key, offset, length)
      else {
        const puts = (this.#puts ??= new BufferedPuts())
        if (!puts.accepts(staged, key)) this.flush()
        puts.add(staged, key, offset, length)
      }
      added.add(staged.digest, section.nameBytes, cursor.buffer, cursor.change)
      return
    }
    this.flush()
    if (!this.#subtract(staged, key, staged.layer.get(key))) return
    if (!staged.cleared && section.slots.has(key)) staged.layer.set(key, null)
    else staged.layer.delete(key)
  }

  /** Stages the buffered puts. The caller must flush before it reuses the buffer of the changes or reads the results. */
  flush(): void {
    this.#puts?.flush(this.#stagePut)
  }

  readonly #stagePut = (staged: StagedSection, key: KeyBytes, offset: number, length: number): void => {
    const own = staged.layer.set(key, this.#entries.locations.add(this.ordinal, offset, length))
    this.#subtract(staged, key, own)
    staged.size++
    staged.bytes += length
  }

  #stageClear(section: SectionStore): void {
    const before = this.#stagedOf(section)
    for (const slot of newSlots(before)) this.#entries.locations.remove(slot)
    this.#last = null
    const digest = new Digest()
    digest.subtract(section.digest)
    this.#sections.set(section, {
      section,
      layer: new KeyMap(),
      cleared: true,
      size: 0,
      bytes: 0,
      digest,
    })
  }

  /** Subtracts the key's current entry from size, bytes and digest. Returns whether the key had an entry. `own` is the key's value in the layer. */
  #subtract(staged: StagedSection, key: KeyBytes, own: number | null | undefined): boolean {
    const { section, cleared, digest } = staged
    if (own === null) return false
    const slot = own ?? (cleared || section.slots.size === 0 ? undefined : section.slots.get(key))
    if (slot === undefined) return false
    staged.bytes -= this.#entries.subtract(section, slot, digest).length
    staged.size--
    if (own !== undefined) this.#entries.locations.remove(own)
    return true
  }

  /** Whether the transaction is large: earlier deferred work must be done before its commit. */
  get isLarge(): boolean {
    return [...this.#sections.values()].some(({ cleared, layer }) => cleared || layer.size > SMALL)
  }

  /** Makes all changes take effect in one step. A large transaction leaves work in `deferred`. */
  commit(origin: StoredChange['origin'], deferred: DeferredWork): void {
    const remaining = [...this.#sections.values()].map(staged =>
      this.#commitSection(staged, origin, deferred),
    )
    for (const { section } of this.#sections.values()) for (const reset of section.resets) reset()
    for (const work of remaining) work()
  }

  /** Commits one section. Returns a function that notifies the listeners; call it after all sections are committed. */
  #commitSection(staged: StagedSection, origin: StoredChange['origin'], deferred: DeferredWork): () => void {
    const { section, layer, cleared, size, bytes, digest } = staged
    const { slots } = section
    this.#entries.count += size - slots.size
    this.#entries.liveBytes += bytes - section.bytes
    section.bytes = bytes
    section.digest.merge(digest)
    const change = (key: string, put: boolean, below: number | undefined) => {
      const before = this.#entries.locate(section, below)
      if (below !== undefined) this.#entries.free(section, below, this.ordinal)
      const after =
        put && section.listeners.size > 0
          ? this.#entries.locate(section, section.slots.get(key) ?? staged.layer.get(key) ?? undefined)
          : null
      return () => section.notify(put ? 'put' : 'delete', key, origin, before, after)
    }
    if (cleared || (slots.empty && layer.size > SMALL)) {
      // There are no earlier entries to keep: the layer becomes the main map.
      const before = slots.replace(layer as KeyMap<number>)
      return () => {
        if (cleared) section.notify('clear', '', origin, null, null)
        if (before.size > 0 || section.listeners.size > 0)
          deferred.add(this.#afterClear(before, staged, origin), before.size + size)
      }
    }
    if (layer.size > SMALL) {
      slots.setLayer(layer, size)
      return () =>
        deferred.add(
          slots.merge((key, put, below) => change(key, put, below)()),
          layer.size,
        )
    }
    const notifications: (() => void)[] = []
    for (const [key, slot] of layer.entries()) {
      const below = slots.get(key)
      if (slot !== null && below !== undefined) {
        const before = this.#entries.locate(section, below)
        this.#entries.move(section, slot, below, this.ordinal)
        const after = this.#entries.locate(section, below)
        notifications.push(() => section.notify('put', key, origin, before, after))
        continue
      }
      notifications.push(change(key, slot !== null, below))
      if (slot === null) slots.delete(key)
      else slots.set(key, slot)
    }
    return () => {
      for (const notify of notifications) notify()
    }
  }

  *#afterClear(
    before: KeyMap<number>,
    { section, layer }: StagedSection,
    origin: StoredChange['origin'],
  ): Generator<undefined, void> {
    yield* inSteps(before.entries(), ([, slot]) => this.#entries.free(section, slot, this.ordinal))
    const located = (slot: number | null) => this.#entries.locate(section, slot ?? undefined)
    yield* inSteps(layer.entries(), ([key, slot]) => section.notify('put', key, origin, null, located(slot)))
  }

  /** Frees the slots of a bulk that will never be complete. */
  abandon(deferred: DeferredWork): void {
    for (const staged of this.#sections.values())
      deferred.add(
        inSteps(newSlots(staged), slot => this.#entries.locations.remove(slot)),
        staged.layer.size,
      )
  }
}

function* newSlots({ layer }: StagedSection): Generator<number> {
  for (const [, slot] of layer.entries()) if (slot !== null) yield slot
}

const MOST = 32
const FIELDS = 5
/** Maps up to this size fit into the processor's cache, so that buffering puts would not help. */
const NEAR = 16_384

/** Buffers puts of a bulk and touches the memory of all their keys first, so that the processor fetches it in parallel. */
class BufferedPuts {
  readonly #fields = new Uint32Array(FIELDS * MOST)
  readonly #key = emptyKey()
  #staged: StagedSection | null = null
  #count = 0
  /** Combines the touched values, because the compiler would remove unused reads. */
  touched = 0

  /** Whether the caller may call {@link add}. If not, the caller must flush first: the buffer is full, or its puts are of another section or record. */
  accepts(staged: StagedSection, { bytes }: KeyBytes): boolean {
    return this.#count === 0 || (this.#count < MOST && this.#staged === staged && this.#key.bytes === bytes)
  }

  add(staged: StagedSection, { bytes, start, end, hash }: KeyBytes, offset: number, length: number): void {
    this.#staged = staged
    this.#key.bytes = bytes
    const at = FIELDS * this.#count++
    this.#fields[at] = hash
    this.#fields[at + 1] = start
    this.#fields[at + 2] = end
    this.#fields[at + 3] = offset
    this.#fields[at + 4] = length
  }

  flush(put: (staged: StagedSection, key: KeyBytes, offset: number, length: number) => void): void {
    const count = this.#count
    const staged = this.#staged
    if (staged === null) return
    this.#count = 0
    this.#staged = null
    const { layer, section, cleared } = staged
    const fields = this.#fields
    for (let i = 0; i < count; i++) this.touched ^= layer.touch(fields[FIELDS * i]!)
    if (!cleared) for (let i = 0; i < count; i++) this.touched ^= section.slots.touch(fields[FIELDS * i]!)
    const key = this.#key
    for (let i = 0; i < count; i++) {
      const at = FIELDS * i
      key.hash = fields[at]!
      key.start = fields[at + 1]!
      key.end = fields[at + 2]!
      key.text = null
      put(staged, key, fields[at + 3]!, fields[at + 4]!)
    }
  }
}
