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
  /** Where the entry lay that it took the place of; null: there was none, or all of them. */
  readonly before: Location | null
}

/** One section as the log has it: keys, where their values lie, the digest. Knows nothing of codecs. */
export class SectionStore {
  readonly name: string
  readonly nameBytes: Buffer
  /** Key to slot in the store's locations. */
  slots = new SlotMap()
  digest = new Digest()
  readonly listeners = new Set<(change: StoredChange) => void>()
  /** Called when any number of entries has changed at once, before the listeners are told of each. */
  readonly resets = new Set<() => void>()
  /** The schema in the log; null while there is none. */
  stored: StoredSchema | null = null
  schema: SectionSchema<never> | null = null
  /** The length of the encoded changes that are in force. */
  bytes = 0
  readonly #report: (error: unknown, section: string) => void

  /** `report`: told of what a listener throws. */
  constructor(name: string, report: (error: unknown, section: string) => void) {
    this.name = name
    this.nameBytes = Buffer.from(name)
    this.#report = report
  }

  /** Tells all listeners. `before`: where the entry lay that the change took the place of. */
  notify(op: StoredChange['op'], key: string, origin: StoredChange['origin'], before: Location | null): void {
    for (const listener of this.listeners) {
      try {
        listener({ op, key, origin, before })
      } catch (error) {
        this.#report(error, this.name)
      }
    }
  }

  /** The schema that this process must write to the log before its first change of the section; null: none. */
  get schemaToWrite(): StoredSchema | null {
    const { name, stored, schema } = this
    if (stored === null) return storedForm(name, schema)
    if (schema === null) return null
    const wanted = mergedSchema(stored, storedForm(name, schema))
    return isSameSchema(wanted, stored) ? null : wanted
  }

  /** The fingerprint of a change of one entry, as 32 bits: a change of several has their sum. See {@link RequestMemory}. */
  printOf(op: number, key: string | Uint8Array): number {
    return crc32(key, this.#printOf(op))
  }

  #printOf(op: number): number {
    return (this.#prints[op] ??= crc32(Buffer.from([op]), crc32(this.nameBytes)))
  }

  readonly #prints: number[] = []

  /** Has what the section of another store has, which is used up; null: nothing. */
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

  /** `read`: decodes what lies there, as long as it does. */
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
