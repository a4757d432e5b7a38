import { crc32 } from 'node:zlib'
import { FdbError } from '../errors.js'
import { Digest } from './digest.js'
import type { Location } from './locations.js'
import type { StoredSchema } from './records.js'
import { isSameSchema, mergedSchema, type SectionSchema, storedForm } from './schema.js'
import { SlotMap } from './slot-map.js'

export interface StoredChange extends Omit<SectionChange, 'previous'> {
  /** The location of the replaced entry; null if there was none, and for `clear`. */
  readonly before: Location | null
}

/** One section of the log: its keys, the locations of its encoded values, its digest. */
export class SectionStore {
  readonly name: string
  readonly nameBytes: Buffer
  /** Maps keys to slots of the store's {@link Locations}. */
  slots = new SlotMap()
  digest = new Digest()
  readonly listeners = new Set<(change: StoredChange) => void>()
  /** Called after many entries have changed in one step, before the listeners. */
  readonly resets = new Set<() => void>()
  stored: StoredSchema | null = null
  schema: SectionSchema<never> | null = null
  /** Bytes of the encoded live entries. */
  bytes = 0
  readonly #report: (error: unknown, section: string) => void
  /** By kind of change: the checksum of that kind and the section's name. */
  readonly #prints: number[] = []

  /** `report` is called with exceptions of listeners. */
  constructor(name: string, report: (error: unknown, section: string) => void) {
    this.name = name
    this.nameBytes = Buffer.from(name)
    this.#report = report
  }

  notify(op: StoredChange['op'], key: string, origin: StoredChange['origin'], before: Location | null): void {
    for (const listener of this.listeners) {
      try {
        listener({ op, key, origin, before })
      } catch (error) {
        this.#report(error, this.name)
      }
    }
  }

  /** The schema that this process must write with its first change of the section, or null if the log has it. */
  get schemaToWrite(): StoredSchema | null {
    const { name, stored, schema } = this
    if (stored === null) return storedForm(name, schema)
    if (schema === null) return null
    const wanted = mergedSchema(stored, storedForm(name, schema))
    return isSameSchema(wanted, stored) ? null : wanted
  }

  /** Returns the 32-bit fingerprint of a change of one entry. The fingerprint of several changes is the sum. See {@link RequestMemory}. */
  printOf(op: number, key: string | Uint8Array): number {
    return crc32(key, (this.#prints[op] ??= crc32(Buffer.from([op]), crc32(this.nameBytes))))
  }

  /** Replaces the contents by those of another store's section, which must not be used afterwards. If `other` is null, empties this section. */
  takeOver(other: SectionStore | null): void {
    this.slots = other?.slots ?? new SlotMap()
    this.digest = other?.digest ?? new Digest()
    this.bytes = other?.bytes ?? 0
    this.stored = other?.stored ?? null
  }

  isNamed(buffer: Buffer, start: number, end: number): boolean {
    const name = this.nameBytes
    if (end - start !== name.length) return false
    for (let i = 0; i < name.length; i++) if (buffer[start + i] !== name[i]) return false
    return true
  }
}

/** A change that was applied. */
export interface SectionChange<T = unknown> {
  readonly op: 'put' | 'delete' | 'clear'
  /** Empty for `clear`. */
  readonly key: string
  /** 'local': this process made the change; 'replay': another process did. */
  readonly origin: 'local' | 'replay'
  /**
   * The value before the change; undefined if the entry was new, and for `clear`. The property reads the log: use it before
   * the listener returns. Throws as `get` does if the value cannot be decoded.
   */
  readonly previous: T | undefined
}

export type ChangeListener<T = unknown> = (change: SectionChange<T>) => void

export class AppliedChange<T> implements SectionChange<T> {
  readonly op: SectionChange['op']
  readonly key: string
  readonly origin: SectionChange['origin']
  readonly #before: Location | null
  readonly #read: (at: Location) => T
  #previous: T | undefined
  #isRead: boolean
  #expired = false

  private constructor({ op, key, origin, before }: StoredChange, read: (at: Location) => T) {
    this.op = op
    this.key = key
    this.origin = origin
    this.#before = before
    this.#read = read
    this.#isRead = before === null
  }

  /** `read` decodes the entry at a location; the location is valid until the listener returns. */
  static notify<T>(listener: ChangeListener<T>, change: StoredChange, read: (at: Location) => T): void {
    const applied = new AppliedChange(change, read)
    try {
      listener(applied)
    } finally {
      applied.#expired = true
    }
  }

  get previous(): T | undefined {
    if (this.#isRead) return this.#previous
    if (this.#expired) {
      throw new FdbError(
        'ERR_FDB_STATE_MOVED',
        `the log may no longer have the previous value of "${this.key}": read \`previous\` before the listener returns`,
      )
    }
    this.#previous = this.#read(this.#before!)
    this.#isRead = true
    return this.#previous
  }
}
