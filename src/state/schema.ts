import { checkOptions } from '../checks/options.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { integer, unchecked } from '../checks/values.js'
import { FdbError } from '../errors.js'
import type { Codec } from './codec.js'
import type { StoredSchema } from './records.js'

export interface SectionOptions<T> {
  /** Version of the values' schema, from 1. Raise it when older readers would misread new values. */
  version: number
  /** The lowest schema version that can read values of this version; default 1. The log keeps the highest `minReader` that was ever used for the section. */
  minReader?: number | undefined
  codec: Codec<T>
  /** Called with each decoded (and migrated) value and with each value before it is put. Throws to refuse the value. */
  validate?: ((value: T) => void) | undefined
  /**
   * Converts a value of an older schema version to this version; `from` is the entry's version, `to` is this schema's version. Called each time
   * such an entry is decoded. When the handoff cannot be undone any more, the process that serves puts all such entries, converted: listeners get
   * these changes. May change the decoded value in place, and should
   * with protobuf, so that unknown fields survive. Must not overwrite new fields that exist already: an entry that a newer version wrote and an older
   * version then changed has the older version's number. Values of a newer version, or of no version, are not migrated.
   */
  migrate?: ((value: T, from: number, to: number) => T) | undefined
  /** Values are never logged, and the tools show them only on request. A section that was secret once stays secret. */
  secret?: boolean | undefined
  /**
   * `get` returns the same deeply frozen object to each caller, instead of decoding a new one each time. Useful for large values that are
   * read often and rarely changed. Default false. Values that cannot be frozen (bytes, a Date, a Map) are still decoded each time.
   */
  frozen?: boolean | undefined
  /**
   * A change of the section resolves when it is on disk, unless it is made with `durable: false`. So does an update of several sections
   * if it changes a durable section. Needs a `stateFile`. Default false.
   */
  durable?: boolean | undefined
  /** Maximum number of decoded immutable values in memory; default 1024, 0 for none. */
  cache?: number | undefined
}

export interface SectionSchema<T> extends Readonly<SectionOptions<T>> {
  readonly minReader: number
  readonly secret: boolean
  readonly frozen: boolean
  readonly durable: boolean
  readonly cache: number
}

const OPTIONS = map({
  version: absent(unchecked<number>(), Number.NaN),
  minReader: optional(unchecked<number>(), 1),
  codec: absent(unchecked<Codec<unknown>>()),
  validate: absent(unchecked()),
  migrate: absent(unchecked()),
  secret: optional(unchecked<boolean>(), false),
  cache: optional(integer(0, Number.MAX_SAFE_INTEGER), 1024),
  frozen: optional(unchecked<boolean>(), false),
  durable: optional(unchecked<boolean>(), false),
} satisfies ShapeOf<SectionOptions<unknown>>)

/** Checks and freezes the schema of a section. Several sections may use the same schema. */
export function defineSection<T>(options: SectionOptions<T>): SectionSchema<T> {
  const { minReader, secret, frozen, durable, cache } = checkSchema('defineSection()', options)
  return Object.freeze({ ...options, minReader, secret, frozen, durable, cache })
}

/** Checks a schema that a caller gives `call`, and returns it with its defaults. */
export function checkSchema<T>(call: string, options: SectionOptions<T>) {
  const given = checkOptions(call, options, OPTIONS)
  const { version, minReader, codec, migrate, validate, durable } = given
  if (!Number.isInteger(version) || version < 1 || version > 0xffff_ffff) {
    throw new FdbError('ERR_FDB_SCHEMA', `schema version is ${options.version}; give a whole number from 1`)
  }
  if (!Number.isInteger(minReader) || minReader < 1 || minReader > version) {
    throw new FdbError(
      'ERR_FDB_SCHEMA',
      `minReader is ${minReader}; give a whole number from 1 to the version, ${version}`,
    )
  }
  if (migrate !== undefined && typeof migrate !== 'function') {
    throw new FdbError(
      'ERR_FDB_SCHEMA',
      `migrate is ${typeof migrate}; give a function (value, from, to) => value`,
    )
  }
  if (validate !== undefined && typeof validate !== 'function') {
    throw new FdbError('ERR_FDB_SCHEMA', `validate is ${typeof validate}; give a function that throws`)
  }
  if (typeof durable !== 'boolean') {
    throw new FdbError('ERR_FDB_SCHEMA', `durable is ${String(durable)}; give true or false`)
  }
  const { name, encode, decode }: Partial<Codec<unknown>> = codec ?? {}
  if (typeof name !== 'string' || typeof encode !== 'function' || typeof decode !== 'function') {
    throw new FdbError('ERR_FDB_SCHEMA', 'the schema has no codec; give codec.json(), or another one')
  }
  if (name.length < 1 || Buffer.byteLength(name) > 64) {
    throw new FdbError('ERR_FDB_SCHEMA', `codec name "${name}" has ${name.length} letters; give 1 to 64`)
  }
  return given
}

/** Returns an error if the stored section must not be read with `schema`, otherwise null. */
export function schemaRefusal(
  stored: StoredSchema,
  schema: SectionSchema<never> | SectionSchema<unknown>,
): FdbError | null {
  const details = { section: stored.name, stored, version: schema.version }
  if (stored.minReader > schema.version) {
    return new FdbError(
      'ERR_FDB_SCHEMA',
      `section "${stored.name}" was written with schema version ${stored.version}, which needs a reader of version ` +
        `${stored.minReader} or newer; this process has version ${schema.version}. Run a release that has ` +
        `version ${stored.minReader} or newer: older releases cannot read this section any more`,
      { details },
    )
  }
  if (stored.codec !== '' && stored.codec !== schema.codec.name) {
    return new FdbError(
      'ERR_FDB_SCHEMA',
      `section "${stored.name}" was written with codec "${stored.codec}" (schema version ${stored.version}); this process ` +
        `has "${schema.codec.name}" (version ${schema.version}). Use the same codec, or a section of another name`,
      { details },
    )
  }
  return null
}

export function storedForm(name: string, schema: SectionSchema<never> | null): StoredSchema {
  if (!schema) return { name, version: 0, minReader: 0, codec: '', secret: false }
  const { version, minReader, codec, secret } = schema
  return { name, version, minReader, codec: codec.name, secret }
}

/** Merges two schemas of one section: `minReader` never decreases, and a secret section stays secret. */
export function mergedSchema(known: StoredSchema | null, written: StoredSchema): StoredSchema {
  if (known === null) return written
  const { name, version, codec } = written.version >= known.version ? written : known
  const minReader = Math.max(known.minReader, written.minReader)
  return { name, version, minReader, codec, secret: known.secret || written.secret }
}

export function isSameSchema(a: StoredSchema, b: StoredSchema): boolean {
  return (
    a.version === b.version && a.minReader === b.minReader && a.codec === b.codec && a.secret === b.secret
  )
}
