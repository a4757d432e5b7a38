import type { ShardedMap } from '../sharded-map.js'
import type { ChangeCursor } from './change-cursor.js'
import { Digest } from './digest.js'
import type { Entries } from './entries.js'
import type { LeftWork } from './left-work.js'
import type { Location } from './locations.js'
import { CLEAR, PUT, type StoredSchema } from './records.js'
import type { SectionStore, StoredChange } from './section-store.js'
import { Layer } from './slot-map.js'

/** Entries between two yields. */
const STEP = 32
/** The most entries of a section that are changed one by one. */
const SMALL = 1024

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

type Tell = (key: string, put: boolean, before: Location | null) => void

function isSmall({ layer }: StagedSection): boolean {
  return layer.slots.size <= SMALL
}

/**
 * Changes that are looked at as they come and count all at once: those of a record, or of the several records of a large bulk with
 * its last one. Between these there are no others, so nothing else changes the sections meanwhile.
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

  /** The change that the cursor looks at, whose bytes lie there in the segment. */
  take(section: SectionStore, cursor: ChangeCursor, offset: number, length: number): void {
    const { op } = cursor.change
    if (op === CLEAR) {
      this.#clear(section)
      return
    }
    const { key } = cursor
    const staged = this.#of(section)
    const had = this.#drop(staged, key)
    if (op === PUT) {
      staged.layer.set(key, this.#entries.locations.add(this.ordinal, offset, length))
      staged.digest.add(section.nameBytes, cursor.keyBytes, cursor.value)
      staged.size++
      staged.bytes += length
    } else if (had) {
      if (!staged.cleared && section.slots.has(key)) staged.layer.set(key, null)
      else staged.layer.forget(key)
    }
  }

  #clear(section: SectionStore): void {
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

  /** To commit it, what large ones before it left to do must be done. */
  get isLarge(): boolean {
    for (const staged of this.#sections.values()) if (staged.cleared || !isSmall(staged)) return true
    return false
  }

  /** In one step, whatever its size. */
  commit(origin: StoredChange['origin'], left: LeftWork): void {
    const all = [...this.#sections.values()].map(staged => {
      const { section, layer, cleared, size, bytes, digest } = staged
      this.#entries.count += size - section.slots.size
      this.#entries.liveBytes += bytes - section.bytes
      section.bytes = bytes
      section.digest.merge(digest)
      if (cleared) return { staged, before: section.slots.replace(layer) }
      if (isSmall(staged)) return { staged, before: this.#set(staged) }
      section.slots.lay(layer, size)
      return { staged, before: null }
    })
    for (const { section } of this.#sections.values()) for (const reset of section.resets) reset()
    for (const { staged, before } of all) {
      const { section, layer } = staged
      const tell = (key: string, put: boolean, at: Location | null) =>
        section.tell(put ? 'put' : 'delete', key, origin, at)
      if (Array.isArray(before)) for (const { key, put, at } of before) tell(key, put, at)
      else if (before === null) left.add(this.#mergeLayer(section, tell), layer.slots.size)
      else {
        section.tell('clear', '', origin, null)
        left.add(this.#freeAll(before, staged, tell), before.size + layer.slots.size)
      }
    }
  }

  /** The few entries of a small one, each by itself. Returns what is to be told. */
  #set({ section, layer }: StagedSection): { key: string; put: boolean; at: Location | null }[] {
    return [...layer.entries()].map(([key, slot]) => {
      const below = section.slots.get(key)
      const at = this.#entries.locate(section, below)
      if (below !== undefined) this.#entries.free(section, below, this.ordinal)
      if (slot === null) section.slots.delete(key)
      else section.slots.set(key, slot)
      return { key, put: slot !== null, at }
    })
  }

  #mergeLayer(section: SectionStore, tell: Tell): Generator<undefined, void> {
    let was: Location | null = null
    return section.slots.merge(
      slot => {
        was = this.#entries.locate(section, slot)
        this.#entries.free(section, slot, this.ordinal)
      },
      (key, put) => {
        const before = was
        was = null
        tell(key, put, before)
      },
    )
  }

  *#freeAll(
    before: ShardedMap<number>,
    { section, layer }: StagedSection,
    tell: Tell,
  ): Generator<undefined, void> {
    let done = 0
    for (const [, slot] of before.entries()) {
      this.#entries.free(section, slot, this.ordinal)
      if (++done % STEP === 0) yield
    }
    for (const key of layer.slots.keys()) {
      tell(key, true, null)
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
