import { FdbError } from '../errors.js'
import type { StateLimits } from './limits.js'
import { PART_CHANGES } from './parts.js'
import {
  CLEAR,
  changePrefix,
  DELETE,
  emptyChange,
  encodeBody,
  encodeSchema,
  MalformedRecord,
  type NewChange,
  PUT,
  type ScannedRecord,
  type StoredSchema,
  scanChange,
  scanRecord,
} from './records.js'
import { schemaRefusal, storedForm } from './schema.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'

/** An entry as it lies in the log: bytes of the section's codec, and the schema version that wrote them. */
export interface RawEntry {
  key: string
  value: Uint8Array
  version: number
}

export interface RawSection {
  /** In no particular order. */
  keys(): Iterable<string>
  get(key: string): RawEntry | undefined
}

/** The changes of one import, all or nothing, with the schemas of their sections: a Record without its place. */
export function encodeImport(schemas: readonly StoredSchema[], changes: NewChange[]): Buffer {
  return Buffer.concat([...schemas.map(encodeSchema), encodeBody(changes)])
}

export interface CheckedImport {
  /** The body of the record to append, at whose bounds it may be divided; empty when there is nothing to change. */
  parts: Uint8Array[]
  section: SectionStore | null
  puts: number
}

/**
 * Checks what somebody else encoded with {@link encodeImport}: every change has a section with a schema that this log
 * has, takes over, or registered itself; what is registered must be able to decode and accept each value.
 * `replace`: the sections that have a schema in it are emptied first, in the same change. Yields where it may
 * be interrupted; changes nothing.
 */
export function* checkImport(
  store: Store,
  limits: StateLimits,
  bytes: Buffer,
  replace: boolean,
): Generator<unknown, CheckedImport> {
  const record = scan(bytes, limits)
  const parts: Uint8Array[] = []
  let group: Uint8Array[] = []
  const close = () => {
    if (group.length > 0) parts.push(Buffer.concat(group))
    group = []
  }
  const given = new Set<string>()
  for (const schema of record.schemas) {
    const section = store.sectionNamed(schema.name)
    checkSchema(section, schema)
    given.add(schema.name)
    if (section.schema) {
      if (section.needsSchema) group.push(encodeSchema(storedForm(section.name, section.schema)))
    } else if (section.stored === null || schema.version > section.stored.version) {
      group.push(encodeSchema(schema))
    }
    if (replace)
      group.push(encodeBody([{ section: schema.name, op: CLEAR, key: '', version: schema.version }]))
  }
  const change = emptyChange()
  let section: SectionStore | null = null
  let puts = 0
  for (let i = 0; i < record.changes.length; i += 2) {
    if (i % (2 * PART_CHANGES) === 0) yield
    const [start, end] = [record.changes[i]!, record.changes[i + 1]!]
    try {
      scanChange(bytes, start, end, change)
    } catch (error) {
      throw malformed((error as Error).message)
    }
    const { op, version, sectionStart, sectionEnd, keyStart, keyEnd, valueStart, valueEnd } = change
    if (op !== PUT && op !== DELETE) throw malformed(`a change of kind ${op}`)
    const name = bytes.toString('utf8', sectionStart, sectionEnd)
    if (section?.name !== name) section = store.sectionNamed(name)
    if (!given.has(name) && section.stored === null && section.schema === null) {
      throw new FdbError(
        'ERR_FDB_STATE_IMPORT',
        `section "${name}" is not in the state, and nothing says its schema; import it with its line under "sections"`,
      )
    }
    const key = bytes.toString('utf8', keyStart, keyEnd)
    if (Buffer.byteLength(key) !== keyEnd - keyStart) throw malformed('a key that is not UTF-8')
    if (op === PUT) {
      checkValue(section, key, bytes.subarray(valueStart, valueEnd), version)
      puts++
    }
    group.push(changePrefix(end - start), bytes.subarray(start, end))
    if (group.length >= 2 * PART_CHANGES) close()
  }
  close()
  return { parts, section: section ?? firstOf(store, given), puts }
}

function firstOf(store: Store, names: Set<string>): SectionStore | null {
  for (const name of names) return store.sectionNamed(name)
  return null
}

function scan(bytes: Buffer, limits: StateLimits): ScannedRecord {
  let record: ScannedRecord
  try {
    record = scanRecord(bytes, 0, bytes.length, limits)
  } catch (error) {
    if (error instanceof MalformedRecord) throw malformed(error.message)
    throw error
  }
  return record
}

function checkSchema(section: SectionStore, given: StoredSchema): void {
  const { name, schema, stored } = section
  if (schema) {
    const refusal = schemaRefusal(given, schema)
    if (refusal) throw refusal
  } else if (stored && stored.codec !== '' && given.codec !== stored.codec) {
    throw new FdbError(
      'ERR_FDB_SCHEMA',
      `section "${name}" has codec "${stored.codec}" (schema version ${stored.version}); the import was written with ` +
        `"${given.codec}" (version ${given.version}). Import it into a section of another name`,
    )
  }
}

function checkValue({ name, schema }: SectionStore, key: string, value: Uint8Array, version: number): void {
  if (!schema) return
  try {
    let decoded = schema.codec.decode(value)
    if (version > 0 && version < schema.version && schema.migrate) {
      decoded = schema.migrate(decoded, version, schema.version)
    }
    schema.validate?.(decoded)
  } catch (error) {
    throw new FdbError(
      'ERR_FDB_STATE_VALUE',
      `section "${name}", key "${key}": ${value.length} bytes of schema version ${version} are no valid value for codec ` +
        `"${schema.codec.name}" at version ${schema.version}; nothing was imported`,
      { cause: schema.secret ? undefined : error, details: { section: name, key, version } },
    )
  }
}

function malformed(why: string): FdbError {
  return new FdbError('ERR_FDB_STATE_IMPORT', `the import cannot be read: ${why}; nothing was imported`)
}
