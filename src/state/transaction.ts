import type { ChangeCursor } from './change-cursor.js'
import { addVersions, type ChangeRun } from './change-run.js'
import { Digest, type PendingEntries } from './digest.js'
import type { Entries } from './entries.js'
import { KeyMap, NONE, NULL } from './key-map.js'
import type { FoundRecord } from './reader.js'
import { CLEAR, PUT, type StoredSchema } from './records.js'
import type { SectionStore, StoredChange } from './section-store.js'
import type { Layer } from './slot-map.js'
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
  /** The schema versions of the entries that the transaction puts. */
  readonly versions: Set<number>
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
  readonly #sections = new Map<SectionStore, StagedSection>()
  /** Scratch memory of {@link stageRun}. */
  #below = new Uint32Array(0)
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
      const digest = new Digest()
      staged = { section, layer: new KeyMap(), cleared: false, size, bytes, digest, versions: new Set() }
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
      this.#stageClear(section)
      return
    }
    const { key } = cursor
    const staged = this.#stagedOf(section)
    if (op === PUT) {
      const own = staged.layer.set(key, this.#entries.locations.add(this.ordinal, offset, length))
      this.#subtract(staged, key, own)
      staged.size++
      staged.bytes += length
      staged.versions.add(cursor.change.version)
      added.add(staged.digest, section.nameBytes, cursor.buffer, cursor.change)
      return
    }
    if (!this.#subtract(staged, key, staged.layer.get(key))) return
    if (!staged.cleared && section.slots.has(key)) staged.layer.set(key, null)
    else staged.layer.delete(key)
  }

  /** Stages consecutive puts. `base` is the offset of the run's buffer in the segment. */
  stageRun(section: SectionStore, run: ChangeRun, base: number): void {
    const staged = this.#stagedOf(section)
    const { layer, cleared, digest } = staged
    let below: Uint32Array | null = null
    if (!cleared && section.slots.size > 0) {
      below = this.#below.length < run.count ? (this.#below = new Uint32Array(run.count)) : this.#below
      section.slots.findAll(run, run.first, run.count, below)
    }
    for (let from = 0; from < run.count; ) {
      const { done, bytes } = this.#entries.setRun(layer, run, from, this.ordinal, base)
      for (let i = 0; i < done; i++) {
        const own = this.#entries.replaced[i]!
        const slot = own === NONE && below !== null ? below[from + i]! : own
        if (slot === NONE || slot === NULL) continue
        this.#subtractSlot(staged, slot)
        if (own !== NONE) this.#entries.locations.remove(own)
      }
      digest.addRun(section.nameBytes, run, from, done)
      addVersions(staged.versions, run, from, done)
      staged.size += done
      staged.bytes += bytes
      from += done
    }
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
      versions: new Set(),
    })
  }

  /** Subtracts the key's current entry from size, bytes and digest. Returns whether the key had an entry. `own` is the key's value in the layer. */
  #subtract(staged: StagedSection, key: string, own: number | null | undefined): boolean {
    const { section, cleared } = staged
    if (own === null) return false
    const slot = own ?? (cleared || section.slots.size === 0 ? undefined : section.slots.get(key))
    if (slot === undefined) return false
    this.#subtractSlot(staged, slot)
    if (own !== undefined) this.#entries.locations.remove(own)
    return true
  }

  #subtractSlot(staged: StagedSection, slot: number): void {
    staged.bytes -= this.#entries.subtract(staged.section, slot, staged.digest).length
    staged.size--
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
    const { section, layer, cleared, size, bytes, digest, versions } = staged
    const { slots } = section
    this.#entries.count += size - slots.size
    this.#entries.liveBytes += bytes - section.bytes
    section.bytes = bytes
    section.digest.merge(digest)
    if (cleared) section.versions = versions
    else for (const version of versions) section.versions.add(version)
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
