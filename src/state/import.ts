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
  type ScannedChange,
  type ScannedRecord,
  type StoredSchema,
  scanChange,
  scanRecord,
} from './records.js'
import { addPrint } from './requests.js'
import { isSameSchema, mergedSchema, schemaRefusal, storedForm } from './schema.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'
import { Values } from './values.js'

/** The changes of one import, all or nothing, with the schemas of their sections: a Record without its place. */
export function encodeImport(schemas: readonly StoredSchema[], changes: NewChange[]): Buffer {
  return Buffer.concat([...schemas.map(encodeSchema), encodeBody(changes)])
}

/**
 * Checks what somebody else encoded with {@link encodeImport}, in one piece or several: every change has a section with a schema
 * that this log has, takes over, or registered itself; what is registered must be able to decode and accept each value.
 * `replace`: the sections that have a schema in it are emptied first, in the same change. Changes nothing.
 */
export class ImportCheck {
  /** The body of the record to append, at whose bounds it may be divided; empty when there is nothing to change. */
  readonly parts: Uint8Array[] = []
  puts = 0
  bytes = 0
  /** Of its changes, see {@link SectionStore.printOf}. */
  print = 0
  readonly #store: Store
  readonly #limits: StateLimits
  readonly #replace: boolean
  /** Of sections that have a schema in it, the highest version. */
  readonly #given = new Map<string, number>()
  #section: SectionStore | null = null
  #group: Uint8Array[] = []

  constructor(store: Store, limits: StateLimits, replace: boolean) {
    this.#store = store
    this.#limits = limits
    this.#replace = replace
  }

  /** One of those that it changes; null: none. */
  get section(): SectionStore | null {
    return this.#section ?? firstOf(this.#store, this.#given.keys())
  }

  /** The next piece. Yields where it may be interrupted. */
  *add(bytes: Buffer): Generator<unknown, void> {
    const record = scan(bytes, this.#limits)
    for (const schema of record.schemas) this.#addSchema(schema)
    const change = emptyChange()
    for (let i = 0; i < record.changes.length; i += 2) {
      if (i % (2 * PART_CHANGES) === 0) yield
      const [start, end] = [record.changes[i]!, record.changes[i + 1]!]
      try {
        scanChange(bytes, start, end, change)
      } catch (error) {
        throw malformed((error as Error).message)
      }
      this.#check(bytes, change)
      this.#group.push(changePrefix(end - start), bytes.subarray(start, end))
      if (this.#group.length >= 2 * PART_CHANGES) this.#close()
    }
    this.#close()
    this.bytes += bytes.length
  }

  #addSchema(schema: StoredSchema): void {
    const section = this.#store.sectionNamed(schema.name)
    checkSchema(section, schema)
    const newest = newer(schema, section)
    if (section.stored === null || !isSameSchema(newest, section.stored)) {
      this.#group.push(encodeSchema(newest))
    }
    if (this.#replace && !this.#given.has(schema.name)) {
      this.#group.push(encodeBody([{ section: schema.name, op: CLEAR, key: '', version: schema.version }]))
      this.print = addPrint(this.print, section.printOf(CLEAR, ''))
    }
    this.#given.set(schema.name, Math.max(newest.version, this.#given.get(schema.name) ?? 0))
  }

  #check(bytes: Buffer, change: ScannedChange): void {
    const { op, version, sectionStart, sectionEnd, keyStart, keyEnd, valueStart, valueEnd } = change
    if (op !== PUT && op !== DELETE) throw malformed(`a change of kind ${op}`)
    const name = bytes.toString('utf8', sectionStart, sectionEnd)
    const section = this.#section?.name === name ? this.#section : this.#store.sectionNamed(name)
    this.#section = section
    if (!this.#given.has(name) && section.stored === null && section.schema === null) {
      throw new FdbError(
        'ERR_FDB_STATE_IMPORT',
        `section "${name}" is not in the state, and nothing says its schema; import it with its line under "sections"`,
      )
    }
    this.print = addPrint(this.print, section.printOf(op, bytes.subarray(keyStart, keyEnd)))
    const key = bytes.toString('utf8', keyStart, keyEnd)
    if (Buffer.byteLength(key) !== keyEnd - keyStart) throw malformed('a key that is not UTF-8')
    if (op !== PUT) return
    this.#checkVersion(section, key, version)
    const value = bytes.subarray(valueStart, valueEnd)
    new Values(section, section.schema).decode(key, { value, version }, 'nothing was imported')
    this.puts++
  }

  /** Who may read it must be known: the log says the lowest reader of all that it has. */
  #checkVersion({ name, stored, schema }: SectionStore, key: string, version: number): void {
    const known = Math.max(stored?.version ?? 0, schema?.version ?? 0, this.#given.get(name) ?? 0)
    if (version <= known) return
    throw new FdbError(
      'ERR_FDB_STATE_IMPORT',
      `section "${name}", key "${key}" is of schema version ${version}, and only up to ${known} is it known who may read them; ` +
        'import it with its line under "sections". Nothing was imported',
      { details: { section: name, key, version, known } },
    )
  }

  #close(): void {
    if (this.#group.length > 0) this.parts.push(Buffer.concat(this.#group))
    this.#group = []
  }
}

/** What the log is to say of the section: what it says, what the import says, and what this process writes with. */
function newer(given: StoredSchema, { name, schema, stored }: SectionStore): StoredSchema {
  return mergedSchema(stored, schema === null ? given : mergedSchema(given, storedForm(name, schema)))
}

function firstOf(store: Store, names: Iterable<string>): SectionStore | null {
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

function malformed(why: string): FdbError {
  return new FdbError('ERR_FDB_STATE_IMPORT', `the import cannot be read: ${why}; nothing was imported`)
}
