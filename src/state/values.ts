import { types } from 'node:util'
import { FdbError, FdbTypeError } from '../errors.js'
import { bytes, type Codec } from './codec.js'
import type { SectionSchema } from './schema.js'
import type { SectionStore } from './section-store.js'

/** The codec of a section without a schema. */
const RAW = bytes()
const REMEDY = 'put a valid one, or delete the key'

/** An error of the application's `migrate`. Callers pass it on unchanged, because the value itself was readable. */
class MigrationError extends FdbError {}

/** Decodes and encodes the values of one section by its schema. Errors name the entry. */
export class Values<T> {
  readonly #section: SectionStore
  readonly #schema: SectionSchema<T> | null

  constructor(section: SectionStore, schema: SectionSchema<T> | null) {
    this.#section = section
    this.#schema = schema
  }

  get secret(): boolean {
    return (this.#schema?.secret ?? false) || (this.#section.stored?.secret ?? false)
  }

  /** Whether `migrate` converts such a value each time that it is decoded. */
  isOutdated({ version }: { version: number }): boolean {
    const { migrate, version: to = 0 } = this.#schema ?? {}
    return migrate !== undefined && version > 0 && version < to
  }

  /** Returns a new value, which the caller owns. Throws ERR_FDB_STATE_VALUE. */
  decode(key: string, raw: { value: Uint8Array; version: number }, remedy = REMEDY): T {
    const schema = this.#schema
    const { value, version } = raw
    if (!schema) return value as T
    try {
      const decoded = this.#migrate(schema, schema.codec.decode(value), key, version)
      this.#validate(schema, decoded)
      return decoded
    } catch (error) {
      if (error instanceof MigrationError) throw error
      throw new FdbError(
        'ERR_FDB_STATE_VALUE',
        `${this.#entryName(key)}: ${value.length} bytes of schema version ${version} are not a valid value for ` +
          `codec "${schema.codec.name}" at version ${schema.version}; ${remedy}`,
        { cause: this.#causeOf(error), details: { section: this.#section.name, key, version } },
      )
    }
  }

  #migrate(schema: SectionSchema<T>, value: T, key: string, from: number): T {
    const { migrate, version: to } = schema
    if (migrate === undefined || !this.isOutdated({ version: from })) return value
    const failed = (reason: string, cause?: unknown) =>
      new MigrationError(
        'ERR_FDB_STATE_VALUE',
        `${this.#entryName(key)}: migrate() from schema version ${from} to ${to} ${reason}; correct it, put a value ` +
          `of version ${to}, or delete the key`,
        { cause: this.#causeOf(cause), details: { section: this.#section.name, key, from, to } },
      )
    let migrated: T
    try {
      migrated = migrate(value, from, to)
    } catch (error) {
      throw failed(this.secret ? 'threw' : `threw (${(error as Error | null)?.message ?? error})`, error)
    }
    if (types.isPromise(migrated)) {
      migrated.catch(() => {})
      throw failed('returned a promise: it must be synchronous')
    }
    if (migrated === undefined) throw failed('returned undefined instead of the value')
    return migrated
  }

  /** Encodes a value. Throws the errors of `validate`, and a TypeError (ERR_FDB_STATE_VALUE) for a value that the codec refuses. */
  encode(key: string, value: T): Uint8Array {
    if (this.#schema !== null) this.#validate(this.#schema, value)
    const codec = this.#schema?.codec ?? RAW
    const refused = (reason: string, cause?: unknown) =>
      new FdbTypeError(
        'ERR_FDB_STATE_VALUE',
        `${this.#entryName(key)}: codec "${codec.name}" does not accept the value${reason}`,
        { cause, details: { section: this.#section.name, key } },
      )
    let encoded: Uint8Array
    try {
      encoded = (codec as Codec<unknown>).encode(value)
    } catch (error) {
      throw this.secret ? refused('') : refused(`: ${(error as Error).message}`, error)
    }
    if (types.isUint8Array(encoded)) return encoded
    throw refused(`: encode() returned ${typeof encoded}, not a Uint8Array`)
  }

  /** Calls `validate`, which throws for a wrong value. A promise would refuse nothing. */
  #validate(schema: SectionSchema<T>, value: T): void {
    const answer: unknown = schema.validate?.(value)
    if (!types.isPromise(answer)) return
    answer.catch(() => {})
    throw new FdbTypeError(
      'ERR_FDB_SCHEMA',
      `section "${this.#section.name}": validate() returned a promise; it must be synchronous`,
    )
  }

  #entryName(key: string): string {
    return `section "${this.#section.name}", key "${key}"`
  }

  /** Returns undefined for a secret section, because the cause may contain the value. */
  #causeOf(error: unknown): unknown {
    return this.secret ? undefined : error
  }
}
