import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { ChangeCursor } from './change-cursor.js'
import { CLEAR, DELETE, PUT, type StoredSchema } from './records.js'
import { addPrint } from './requests.js'
import { schemaRefusal } from './schema.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'
import type { NewWrite, UpdateResult } from './write-queue.js'

/** A change for the process that may write, as its author encoded it. */
export interface ForwardedWrite {
  /** The change is made once, however often it is sent. */
  readonly request: string
  /** Records without a position, together one change. Empty: `reads` must be confirmed; without those the disk must catch up. */
  readonly parts: readonly Uint8Array[]
  readonly reads: readonly EntryRead[]
  /** Answered when it is on the disk. */
  readonly durable?: boolean
}

export type Answer =
  | { readonly outcome: 'applied'; readonly existed: boolean; readonly sequence: number }
  /** Nothing was done: an entry of `reads` has changed. */
  | { readonly outcome: 'conflict'; readonly sequence: number }
  /** Nothing was done by this process; another may do it. */
  | { readonly outcome: 'again' }
  | { readonly outcome: 'refused'; readonly error: FdbError }

/** An entry that an update has read has changed since. */
const CONFLICT: unique symbol = Symbol('conflict')

/** This process does not write: the author must ask another. */
export const NOT_HERE: unique symbol = Symbol('another process writes')

/** The answer for a change that was not made. `sequence`: of the last record. */
export function answerOf(error: unknown, sequence: number): Answer {
  if (error === CONFLICT) return { outcome: 'conflict', sequence }
  if (error === NOT_HERE) return { outcome: 'again' }
  const refusal = FdbError.from(error)
  return refusal.code === 'ERR_FDB_FENCED' ? { outcome: 'again' } : { outcome: 'refused', error: refusal }
}

/** A forwarded change in pieces. Each must consist of changes and schemas that every process may read; the author has checked the values. */
export class IncomingWrite {
  readonly #store: Store
  readonly #cursor: ChangeCursor
  readonly #parts: Uint8Array[] = []
  readonly #schemaVersions = new Map<string, number>()
  #bytes = 0
  #changes = 0
  #print = 0
  #deletion: { section: SectionStore; key: string } | null = null

  constructor(store: Store) {
    this.#store = store
    this.#cursor = new ChangeCursor(store, malformed)
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Throws ERR_FDB_MESSAGE, ERR_FDB_SCHEMA, ERR_FDB_STATE_LIMIT. */
  add(part: Uint8Array): void {
    const bytes = Buffer.from(part.buffer, part.byteOffset, part.byteLength)
    this.#bytes += bytes.length
    const { waitingBytes } = this.#store.limits
    if (this.#bytes > waitingBytes) throw tooLarge(this.#bytes, waitingBytes)
    const record = this.#cursor.scan(bytes)
    const { epoch, sequence, request, requests, end, part: piece } = record
    if (epoch > 0 || sequence > 0 || request !== '' || requests.length > 0 || end || piece)
      throw malformed('a record with a place of its own')
    for (const schema of record.schemas) this.#addSchema(schema)
    this.#cursor.setChanges(bytes, record.changes)
    for (let index = 0; index < record.changes.length / 2; index++) this.#addChange(index)
    this.#parts.push(bytes)
  }

  /** Makes the write to append. It resolves with whether there was an entry, and rejects with {@link CONFLICT}. */
  toWrite({ request, reads, durable = false }: Omit<ForwardedWrite, 'parts'>): NewWrite {
    const sections: SectionStore[] = []
    const deletes = this.#changes === 1 ? this.#deletion : null
    const readResult = () => (deletes === null ? false : deletes.section.slots.has(deletes.key))
    const parts = this.#parts
    const changes = this.#changes > 0
    // Without changes a durable write asks for the disk alone.
    if (!changes && reads.length === 0 && !durable) throw malformed('there is no change in it')
    if (changes && reads.length === 0)
      return { sections, parts, request, prints: [this.#print], readResult: readResult, foreign: true }
    const makeUpdate = (): UpdateResult => {
      if (!reads.every(read => isUnchanged(this.#store, read))) throw CONFLICT
      return { sections, parts, reads: [], result: readResult() }
    }
    // An update that runs again may have another result.
    return { sections, parts: [], request, prints: [0], makeUpdate, foreign: true }
  }

  #addSchema(schema: StoredSchema): void {
    const section = this.#store.sectionNamed(schema.name)
    const refusal = section.schema ? schemaRefusal(schema, section.schema) : null
    if (refusal) throw refusal
    if (section.stored && section.stored.codec !== '' && section.stored.codec !== schema.codec)
      throw new FdbError(
        'ERR_FDB_SCHEMA',
        `section "${schema.name}" has codec "${section.stored.codec}"; the change was made with "${schema.codec}"`,
      )
    this.#schemaVersions.set(
      schema.name,
      Math.max(schema.version, this.#schemaVersions.get(schema.name) ?? 0),
    )
  }

  #addChange(index: number): void {
    const cursor = this.#cursor
    const section = cursor.readSection(index)
    const { key, change } = cursor
    const { op } = change
    if (op !== PUT && op !== DELETE && op !== CLEAR) throw malformed(`a change of kind ${op}`)
    if (op === PUT) this.#checkVersion(section, change.version)
    this.#changes++
    this.#deletion = op === DELETE ? { section, key } : null
    this.#print = addPrint(this.#print, cursor.printIn(section))
  }

  /** The version's lowest reader must be known. */
  #checkVersion({ name, stored }: SectionStore, version: number): void {
    const said = stored !== null || this.#schemaVersions.has(name)
    const known = Math.max(stored?.version ?? 0, this.#schemaVersions.get(name) ?? 0)
    if (said && version <= known) return
    throw new FdbError(
      'ERR_FDB_SCHEMA',
      `a change of section "${name}" is of schema version ${version}, of which the process that serves does not know who may read it`,
      { details: { section: name, version, known } },
    )
  }
}

/** The error for a sent change without an answer: it may have been made. */
export function mayBeMade(why: string, request: string, cause?: unknown): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${why} whether a change was made: it may have been. Make such changes with a \`request\` id, and try again with the same`,
    { details: { request }, cause },
  )
}

export function tooLarge(bytes: number, waitingBytes: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_LIMIT',
    `a change of ${bytes} bytes is too large to be made through the process that serves now: the limit "waitingBytes" is ` +
      `${waitingBytes}; make several of it, or make it there`,
    { details: { limit: 'waitingBytes', most: waitingBytes, got: bytes } },
  )
}

function malformed(why: string): FdbError {
  return new FdbError('ERR_FDB_MESSAGE', `a forwarded change cannot be read: ${why}; nothing was changed`)
}

const MARK_BYTES = 16
const NONE: Uint8Array = new Uint8Array(0)

export interface EntryRead {
  readonly section: string
  readonly key: string
  /** {@link markOf} the entry when it was read. */
  readonly mark: Uint8Array
}

/** Identifies an entry's value and schema version, equally in all processes; empty: no entry. The same value has the same mark. */
export function markOf(store: Store, section: SectionStore | undefined, key: string): Uint8Array {
  const slot = section?.slots.get(key)
  if (section === undefined || slot === undefined) return NONE
  const { value, version } = store.entries.read(section, key, slot)
  const hash = nodeCrypto().createHash('sha256').update(`${version} `).update(value).digest()
  return hash.subarray(0, MARK_BYTES)
}

function isUnchanged(store: Store, { section, key, mark }: EntryRead): boolean {
  return Buffer.compare(markOf(store, store.sections.get(section), key), mark) === 0
}
