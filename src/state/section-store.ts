import { crc32 } from 'node:zlib'
import { FdbError } from '../errors.js'
import { Digest } from './digest.js'
import type { Location } from './locations.js'
import type { StoredSchema } from './records.js'
import { isSameSchema, mergedSchema, type SectionSchema, storedForm } from './schema.js'
import { SlotMap } from './slot-map.js'

export interface StoredChange {
  readonly op: 'put' | 'delete' | 'clear'
  /** Empty for `clear`. */
  readonly key: string
  /** 'local': appended by this log; 'replay': read from a segment. */
  readonly origin: 'local' | 'replay'
  /** The location of the replaced entry; null: none, or all. */
  readonly before: Location | null
}

/** One section of the log: keys, locations of values, digest. No codec. */
export class SectionStore {
  readonly name: string
  readonly nameBytes: Buffer
  /** Slots are those of the store's locations. */
  slots = new SlotMap()
  digest = new Digest()
  readonly listeners = new Set<(change: StoredChange) => void>()
  /** Called after many entries have changed at once, before the listeners. */
  readonly resets = new Set<() => void>()
  stored: StoredSchema | null = null
  schema: SectionSchema<never> | null = null
  /** Bytes of the encoded changes in force. */
  bytes = 0
  readonly #report: (error: unknown, section: string) => void

  /** `report`: called with errors of listeners. */
  constructor(name: string, report: (error: unknown, section: string) => void) {
    this.name = name
    this.nameBytes = Buffer.from(name)
    this.#report = report
  }

  /** `before`: the location of the replaced entry. */
  notify(op: StoredChange['op'], key: string, origin: StoredChange['origin'], before: Location | null): void {
    for (const listener of this.listeners) {
      try {
        listener({ op, key, origin, before })
      } catch (error) {
        this.#report(error, this.name)
      }
    }
  }

  /** The schema to write before this process's first change of the section; null: none. */
  get schemaToWrite(): StoredSchema | null {
    const { name, stored, schema } = this
    if (stored === null) return storedForm(name, schema)
    if (schema === null) return null
    const wanted = mergedSchema(stored, storedForm(name, schema))
    return isSameSchema(wanted, stored) ? null : wanted
  }

  /** The 32-bit fingerprint of a change of one entry; several changes have the sum. See {@link RequestMemory}. */
  printOf(op: number, key: string | Uint8Array): number {
    return crc32(key, this.#printOf(op))
  }

  #printOf(op: number): number {
    return (this.#prints[op] ??= crc32(Buffer.from([op]), crc32(this.nameBytes)))
  }

  readonly #prints: number[] = []

  /** Takes the contents of another store's section, which must not be used any more; null: empty. */
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
  /** 'local': appended by this process; 'replay': read from what another one wrote. */
  readonly origin: 'local' | 'replay'
  /**
   * The entry before the change; undefined: there was none, or it is a `clear`. Read from the log when it is asked for, which must be
   * before the listener returns. Throws as `get` does where it cannot be decoded.
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

  /** `read`: decodes the entry at a location, while it is readable. */
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
        `what "${this.key}" was before may be gone from the log by now: read \`previous\` before the listener returns`,
      )
    }
    this.#previous = this.#read(this.#before!)
    this.#isRead = true
    return this.#previous
  }
}
