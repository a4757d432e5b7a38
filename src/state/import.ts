import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { PART_CHANGES } from './bulk.js'
import { ChangeCursor } from './change-cursor.js'
import type { LogCore } from './core.js'
import { checkRequest, limitError, mostBodyBytes } from './limits.js'
import {
  CLEAR,
  changePrefix,
  DELETE,
  encodeBody,
  encodeSchema,
  type NewChange,
  PUT,
  type StoredSchema,
} from './records.js'
import { addPrint } from './requests.js'
import { isSameSchema, mergedSchema, schemaRefusal, storedForm } from './schema.js'
import type { SectionStore } from './section-store.js'
import { runInSlices } from './time-slices.js'
import { Values } from './values.js'
import type { Writer } from './writer.js'

/** An import waits at most this many turns of the event loop for room in the queue. */
const TURNS = 1000

/** Encodes the changes of an import, with the schemas of their sections, as a Record without a position. */
export function encodeImport(schemas: readonly StoredSchema[], changes: NewChange[]): Buffer {
  return Buffer.concat([...schemas.map(encodeSchema), encodeBody(changes)])
}

/**
 * An import in pieces, which are checked on arrival and kept in memory: schemas must be compatible with those of the log, and values with their
 * schema. {@link commit} makes the whole import as one change.
 */
export class StagedImport {
  readonly #core: LogCore
  readonly #writer: Writer
  readonly #replace: boolean
  readonly #cursor: ChangeCursor
  /** The encoded changes. The appender may split them into records between two parts. */
  readonly #parts: Uint8Array[] = []
  readonly #schemaVersions = new Map<string, number>()
  #group: Uint8Array[] = []
  #groupBytes = 0
  #puts = 0
  #bytes = 0
  /** The fingerprint of the import's changes, see {@link SectionStore.printOf}. */
  #print = 0
  #section: SectionStore | null = null

  /** `replace` first empties the sections whose schema the import has, in the same change. */
  constructor(core: LogCore, writing: Writer, replace: boolean) {
    this.#core = core
    this.#writer = writing
    this.#replace = replace
    this.#cursor = new ChangeCursor(core.store, malformedError)
  }

  /** Adds a piece; await it before adding the next one. Rejects with ERR_FDB_SCHEMA, ERR_FDB_STATE_VALUE, ERR_FDB_STATE_IMPORT, ERR_FDB_STATE_LIMIT. */
  async add(bytes: Buffer): Promise<void> {
    const { limits, sliceMs, closing } = this.#core
    const most = mostBodyBytes(limits)
    if (bytes.length > most) throw limitError('a piece of an import', bytes.length, 'recordBytes', most)
    const all = this.#bytes + bytes.length
    if (all > limits.importBytes) throw limitError('an import', all, 'importBytes', limits.importBytes)
    await runInSlices(this.#stage(bytes), { sliceMs, signal: closing })
    this.#bytes = all
  }

  *#stage(bytes: Buffer): Generator<unknown, void> {
    const { schemas, changes } = this.#cursor.scan(bytes)
    for (const schema of schemas) this.#addSchema(schema)
    this.#cursor.setChanges(bytes, changes)
    for (let i = 0; i < changes.length; i += 2) {
      if (i % (2 * PART_CHANGES) === 0) yield
      const [start, end] = [changes[i]!, changes[i + 1]!]
      this.#checkChange(this.#cursor.readSection(i / 2))
      this.#push(changePrefix(end - start), bytes.subarray(start, end))
      if (this.#group.length >= 2 * PART_CHANGES) this.#closePart()
    }
    this.#closePart()
  }

  #addSchema(schema: StoredSchema): void {
    const section = this.#core.store.sectionNamed(schema.name)
    this.#section ??= section
    checkSchema(section, schema)
    const newest = newestSchema(schema, section)
    if (section.stored === null || !isSameSchema(newest, section.stored)) {
      this.#push(encodeSchema(newest))
    }
    if (this.#replace && !this.#schemaVersions.has(schema.name)) {
      this.#push(encodeBody([{ section: schema.name, op: CLEAR, key: '', version: schema.version }]))
      this.#print = addPrint(this.#print, section.printOf(CLEAR, ''))
    }
    this.#schemaVersions.set(
      schema.name,
      Math.max(newest.version, this.#schemaVersions.get(schema.name) ?? 0),
    )
  }

  #checkChange(section: SectionStore): void {
    const { change, key, value } = this.#cursor
    const { op, version } = change
    const { name, stored, schema } = section
    if (op !== PUT && op !== DELETE) throw malformedError(`a change of kind ${op}`)
    this.#section = section
    if (!this.#schemaVersions.has(name) && stored === null && schema === null) {
      throw new FdbError(
        'ERR_FDB_STATE_IMPORT',
        `section "${name}" is not in the state, and the import does not declare its schema; import it together with the first line of the export, whose "sections" declares the schema`,
      )
    }
    this.#print = addPrint(this.#print, this.#cursor.printIn(section))
    if (op !== PUT) return
    this.#checkVersion(section, key, version)
    new Values(section, schema).decode(key, { value, version }, 'nothing was imported')
    this.#puts++
  }

  /** Throws unless a schema of this or a newer version is known: only schemas declare `minReader`. */
  #checkVersion({ name, stored, schema }: SectionStore, key: string, version: number): void {
    const known = Math.max(stored?.version ?? 0, schema?.version ?? 0, this.#schemaVersions.get(name) ?? 0)
    if (version <= known) return
    throw new FdbError(
      'ERR_FDB_STATE_IMPORT',
      `section "${name}", key "${key}" has schema version ${version}, but the declared schemas go up to version ${known} only; ` +
        'import it together with the first line of the export, whose "sections" declares the schema. Nothing was imported',
      { details: { section: name, key, version, known } },
    )
  }

  /** Adds `pieces` to the current part, or all of them to a new part if they do not fit. */
  #push(...pieces: Uint8Array[]): void {
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0)
    if (this.#groupBytes + bytes > mostBodyBytes(this.#core.limits)) this.#closePart()
    this.#group.push(...pieces)
    this.#groupBytes += bytes
  }

  #closePart(): void {
    if (this.#group.length > 0) this.#parts.push(Buffer.concat(this.#group))
    this.#group = []
    this.#groupBytes = 0
  }

  /** Makes the change. Rejects as {@link Section.put} does. */
  async commit(request: string): Promise<{ puts: number }> {
    checkRequest(request, this.#core.limits)
    const sections = this.#section ? [this.#section] : []
    for (let turn = 0; this.#parts.length > 0; turn++) {
      try {
        await this.#writer.write({ sections, parts: this.#parts, request, prints: [this.#print] })
        break
      } catch (error) {
        const full = FdbError.is(error) && error.code === 'ERR_FDB_STATE_BACKPRESSURE'
        if (!full || turn >= TURNS) throw error
      }
      await nextTurn()
    }
    return { puts: this.#puts }
  }
}

/** Returns the section's new schema in the log, merged from the schemas of the log, the import and this process. */
function newestSchema(imported: StoredSchema, { name, schema, stored }: SectionStore): StoredSchema {
  return mergedSchema(stored, schema === null ? imported : mergedSchema(imported, storedForm(name, schema)))
}

function checkSchema(section: SectionStore, imported: StoredSchema): void {
  const { name, schema, stored } = section
  if (schema) {
    const refusal = schemaRefusal(imported, schema)
    if (refusal) throw refusal
  } else if (stored && stored.codec !== '' && !['', stored.codec].includes(imported.codec)) {
    throw new FdbError(
      'ERR_FDB_SCHEMA',
      `section "${name}" has codec "${stored.codec}" (schema version ${stored.version}); the import was written with ` +
        `"${imported.codec}" (version ${imported.version}). Import it into a section of another name`,
    )
  }
}

function malformedError(reason: string): FdbError {
  return new FdbError('ERR_FDB_STATE_IMPORT', `the import cannot be read: ${reason}; nothing was imported`)
}
