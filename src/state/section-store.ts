import { crc32 } from 'node:zlib'
import { FdbError } from '../errors.js'
import { Digest } from './digest.js'
import type { Location } from './locations.js'
import type { StoredSchema } from './records.js'
import { isSameSchema, mergedSchema, type SectionSchema, storedForm } from './schema.js'
import { SlotMap } from './slot-map.js'

export interface StoredChange {
  readonly op: SectionChange['op']
  readonly key: string
  readonly origin: SectionChange['origin']
  /** The location of the replaced entry; null if there was none, and for `clear`. */
  readonly before: Location | null
  /** The location of the entry that was put; null for other changes, and if a later change has deleted the entry already. */
  readonly after: Location | null
}

/** One section of the log: its keys, the locations of its encoded values, its digest. */
export class SectionStore {
  readonly name: string
  readonly nameBytes: Buffer
  /** Maps keys to slots of the store's {@link Locations}. */
  slots = new SlotMap()
  digest = new Digest()
  /** The schema versions of all entries; may also have versions of entries that were replaced or deleted. */
  versions = new Set<number>()
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

  notify(
    op: StoredChange['op'],
    key: string,
    origin: StoredChange['origin'],
    before: Location | null,
    after: Location | null,
  ): void {
    for (const listener of this.listeners) {
      try {
        listener({ op, key, origin, before, after })
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
    this.versions = other?.versions ?? new Set()
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

interface AnyChange<T> {
  /** 'local': this process made the change; 'replay': another process did. */
  readonly origin: 'local' | 'replay'
  /**
   * The value before the change; undefined if the entry was new, and for `clear`. The property reads the log: use it before
   * the listener returns. Throws as `get` does if the value cannot be decoded.
   */
  readonly previous: T | undefined
}

interface PutChange<T> extends AnyChange<T> {
  readonly op: 'put'
  readonly key: string
  /** The new value. Read it before the listener returns, as `previous`. */
  readonly value: T
}

interface DeleteChange<T> extends AnyChange<T> {
  readonly op: 'delete'
  readonly key: string
  readonly value: undefined
}

interface ClearChange<T> extends AnyChange<T> {
  readonly op: 'clear'
  readonly key: ''
  readonly value: undefined
}

/** A change that was applied. `bulk()` of another section accepts it. */
export type SectionChange<T = unknown> = PutChange<T> | DeleteChange<T> | ClearChange<T>

export type ChangeListener<T = unknown> = (change: SectionChange<T>) => void

export class AppliedChange<T> {
  readonly op: SectionChange['op']
  readonly key: string
  readonly origin: SectionChange['origin']
  readonly #before: Location | null
  readonly #after: Location | null
  readonly #read: (at: Location) => T
  #previous: T | undefined
  #value: T | undefined
  #previousIsRead: boolean
  #valueIsRead: boolean
  #expired = false

  private constructor({ op, key, origin, before, after }: StoredChange, read: (at: Location) => T) {
    this.op = op
    this.key = key
    this.origin = origin
    this.#before = before
    this.#after = after
    this.#read = read
    this.#previousIsRead = before === null
    this.#valueIsRead = after === null
  }

  /** `read` decodes the entry at a location; the location is valid until the listener returns. */
  static notify<T>(listener: ChangeListener<T>, change: StoredChange, read: (at: Location) => T): void {
    const applied = new AppliedChange(change, read)
    try {
      listener(applied as unknown as SectionChange<T>)
    } finally {
      applied.#expired = true
    }
  }

  get previous(): T | undefined {
    if (!this.#previousIsRead) {
      this.#previous = this.#readAt(this.#before!, 'previous')
      this.#previousIsRead = true
    }
    return this.#previous
  }

  get value(): T | undefined {
    if (!this.#valueIsRead) {
      this.#value = this.#readAt(this.#after!, 'value')
      this.#valueIsRead = true
    }
    return this.#value
  }

  #readAt(at: Location, property: string): T {
    if (!this.#expired) return this.#read(at)
    throw new FdbError(
      'ERR_FDB_STATE_MOVED',
      `the log may no longer have this value of "${this.key}": read \`${property}\` before the listener returns`,
    )
  }
}
