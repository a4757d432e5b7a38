import type { ChangeCursor } from './change-cursor.js'
import { Digest, type PendingEntries } from './digest.js'
import type { Entries } from './entries.js'
import { emptyKey, type KeyBytes } from './key-bytes.js'
import { KeyMap } from './key-map.js'
import type { FoundRecord } from './reader.js'
import { CLEAR, PUT, type StoredSchema } from './records.js'
import type { SectionStore, StoredChange } from './section-store.js'
import type { Layer } from './slot-map.js'
import { type DeferredWork, inSteps } from './time-slices.js'

interface StagedSection {
  readonly section: SectionStore
  readonly layer: Layer
  /** Earlier entries do not count. */
  readonly cleared: boolean
  /** The section's entries after the transaction. */
  size: number
  /** The bytes of their encoded changes. */
  bytes: number
  digest: Digest
}

/** Most entries of a section that are changed one by one. */
const SMALL = 1024

/** Changes that count all at once: those of a record, or of a large bulk's records with the last one. */
export class Transaction {
  readonly ordinal: number
  /** The end of the complete records before it: file offset, and number. */
  readonly begin: { readonly end: number; readonly sequence: number }
  next = 0
  readonly schemas: StoredSchema[] = []
  /** The fingerprint of its changes, see {@link SectionStore.printOf}. */
  print = 0
  readonly #entries: Entries
  /** Null: no put has waited. */
  #puts: WaitingPuts | null = null
  readonly #sections = new Map<SectionStore, StagedSection>()
  /** The section of the last change, as most changes follow one of the same section. */
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
        const puts = (this.#puts ??= new WaitingPuts())
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

  /** Call it before the buffer of its changes is reused, or its results are read. */
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

  /** Subtracts the key's present entry from the sums. `own`: its value in the layer. False: it had none. */
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

  /** Earlier deferred work must be done before a large one is committed. */
  get isLarge(): boolean {
    return [...this.#sections.values()].some(({ cleared, layer }) => cleared || layer.size > SMALL)
  }

  /** Makes all changes count, in one step whatever their number. */
  commit(origin: StoredChange['origin'], deferred: DeferredWork): void {
    const rest = [...this.#sections.values()].map(staged => this.#commitSection(staged, origin, deferred))
    for (const { section } of this.#sections.values()) for (const reset of section.resets) reset()
    for (const work of rest) work()
  }

  /** Returns the work to do once all sections are committed. */
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
      return () => section.notify(put ? 'put' : 'delete', key, origin, before)
    }
    if (cleared || (slots.empty && layer.size > SMALL)) {
      // Nothing to delete below.
      const before = slots.replace(layer as KeyMap<number>)
      return () => {
        if (cleared) section.notify('clear', '', origin, null)
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
        notifications.push(() => section.notify('put', key, origin, before))
        continue
      }
      notifications.push(change(key, slot !== null, below))
      if (slot === null) slots.delete(key)
      else slots.set(key, slot)
    }
    return () => {
      for (const tell of notifications) tell()
    }
  }

  *#afterClear(
    before: KeyMap<number>,
    { section, layer }: StagedSection,
    origin: StoredChange['origin'],
  ): Generator<undefined, void> {
    yield* inSteps(before.entries(), ([, slot]) => this.#entries.free(section, slot, this.ordinal))
    yield* inSteps(layer.keys(), key => section.notify('put', key, origin, null))
  }

  /** Frees its slots: the bulk will never be complete. */
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
/** Keys of so small a map are in the cache: no put waits. */
const NEAR = 16_384

/** Puts of a bulk that wait, so that the processor fetches the memory of many keys at once. */
class WaitingPuts {
  readonly #fields = new Uint32Array(FIELDS * MOST)
  readonly #key = emptyKey()
  #staged: StagedSection | null = null
  #count = 0
  /** A sum of the bytes read: unused reads would be optimized away. */
  touched = 0

  /** False: flush first, as waiting puts are of another section or buffer, or there is no room. */
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
