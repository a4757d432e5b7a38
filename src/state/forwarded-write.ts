import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { ChangeCursor } from './change-cursor.js'
import { CLEAR, DELETE, PUT, type StoredSchema } from './records.js'
import { addPrint } from './requests.js'
import { schemaRefusal } from './schema.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'
import type { NewWrite, UpdateResult } from './write-queue.js'

/** A change that its sender, a process without the right to write, has encoded for the process with the right to write. */
export interface ForwardedWrite {
  /** Request id: the change is made once, even if it arrives several times. */
  readonly request: string
  /**
   * The change, as encoded records without epoch and sequence. If empty, the writer only checks `reads`; if `reads` is empty too,
   * the writer only writes its log to disk.
   */
  readonly parts: readonly Uint8Array[]
  readonly reads: readonly EntryRead[]
  /** The writer answers when the change is on disk. */
  readonly durable?: boolean
}

export type Answer =
  | { readonly outcome: 'applied'; readonly existed: boolean; readonly sequence: number }
  /** Not made: an entry of `reads` has changed. */
  | { readonly outcome: 'conflict'; readonly sequence: number }
  /** Not made, because this process has no right to write: the sender must send the change to the process that has it. */
  | { readonly outcome: 'again' }
  | { readonly outcome: 'refused'; readonly error: FdbError }

/** Thrown if an entry has changed since an update read it. */
const CONFLICT: unique symbol = Symbol('conflict')

/** Thrown if this process does not write. */
export const NOT_WRITER: unique symbol = Symbol('another process writes')

/** Returns the answer for a change that was not made. `sequence` is the number of the log's last record. */
export function answerOf(error: unknown, sequence: number): Answer {
  if (error === CONFLICT) return { outcome: 'conflict', sequence }
  if (error === NOT_WRITER) return { outcome: 'again' }
  const refusal = FdbError.from(error)
  return refusal.code === 'ERR_FDB_FENCED' ? { outcome: 'again' } : { outcome: 'refused', error: refusal }
}

/** Collects the pieces of a forwarded change, and checks changes and schemas. The sender has checked the values. */
export class IncomingWrite {
  readonly #store: Store
  readonly #cursor: ChangeCursor
  readonly #parts: Uint8Array[] = []
  readonly #schemaVersions = new Map<string, number>()
  /** The sections whose schema is known to this process, and not in its log. */
  readonly #unwritten = new Set<SectionStore>()
  #bytes = 0
  #changes = 0
  #print = 0
  #deletion: { section: SectionStore; key: string } | null = null

  constructor(store: Store) {
    this.#store = store
    this.#cursor = new ChangeCursor(store, malformedError)
  }

  /** Throws ERR_FDB_MESSAGE, ERR_FDB_SCHEMA, ERR_FDB_STATE_LIMIT. */
  add(part: Uint8Array): void {
    const bytes = Buffer.from(part.buffer, part.byteOffset, part.byteLength)
    this.#bytes += bytes.length
    const { waitingBytes } = this.#store.limits
    if (this.#bytes > waitingBytes) throw tooLargeError(this.#bytes, waitingBytes)
    const record = this.#cursor.scan(bytes)
    const { epoch, sequence, request, requests, end, part: piece } = record
    if (epoch > 0 || sequence > 0 || request !== '' || requests.length > 0 || end || piece)
      throw malformedError('a record with a position of its own')
    for (const schema of record.schemas) this.#addSchema(schema)
    this.#cursor.setChanges(bytes, record.changes)
    for (let index = 0; index < record.changes.length / 2; index++) this.#addChange(index)
    this.#parts.push(bytes)
  }

  /** Whether the change deletes one entry, and nothing else. */
  get deletesOne(): boolean {
    return this.#changes === 1 && this.#deletion !== null
  }

  /** Returns the write to append. If the change deletes one entry, the write resolves with whether the entry existed. Rejects with {@link CONFLICT} if an entry of `reads` has changed. */
  toWrite({ request, reads, durable = false }: Omit<ForwardedWrite, 'parts'>): NewWrite {
    const sections = [...this.#unwritten]
    const deletes = this.deletesOne ? this.#deletion : null
    const readResult = () => (deletes === null ? false : deletes.section.slots.has(deletes.key))
    const parts = this.#parts
    const changes = this.#changes > 0
    // A durable write without changes only waits until the log is on disk.
    if (!changes && reads.length === 0 && !durable) throw malformedError('there is no change in it')
    if (changes && reads.length === 0)
      return { sections, parts, request, prints: [this.#print], readResult, foreign: true }
    const makeUpdate = (): UpdateResult => {
      if (!reads.every(read => isUnchanged(this.#store, read))) throw CONFLICT
      return { sections, parts, reads: [], result: readResult() }
    }
    // Print 0 matches every change: an update that runs again may change other entries.
    return { sections, parts: [], request, prints: [0], makeUpdate, foreign: true }
  }

  #addSchema(schema: StoredSchema): void {
    const section = this.#store.sectionNamed(schema.name)
    const refusal = section.schema ? schemaRefusal(schema, section.schema) : null
    if (refusal) throw refusal
    if (section.stored && section.stored.codec !== '' && section.stored.codec !== schema.codec)
      throw new FdbError(
        'ERR_FDB_SCHEMA',
        `section "${schema.name}" has codec "${section.stored.codec}"; the change was made with "${schema.codec}". Use the same codec, or a section of another name`,
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
    if (op !== PUT && op !== DELETE && op !== CLEAR) throw malformedError(`a change of kind ${op}`)
    if (op === PUT) this.#checkVersion(section, change.version)
    this.#changes++
    this.#deletion = op === DELETE ? { section, key } : null
    this.#print = addPrint(this.#print, cursor.printIn(section))
  }

  /**
   * Throws unless a schema of this or a newer version is known: only schemas declare `minReader`. That of this process counts too: a service that has begun
   * again, after the end of all processes with its state, has no schema in its log yet.
   */
  #checkVersion(section: SectionStore, version: number): void {
    const { name, stored, schema } = section
    const declared = stored !== null || this.#schemaVersions.has(name)
    const written = Math.max(stored?.version ?? 0, this.#schemaVersions.get(name) ?? 0)
    if (declared && version <= written) return
    const known = Math.max(written, schema?.version ?? 0)
    if (schema !== null && version <= known) {
      this.#unwritten.add(section)
      return
    }
    throw new FdbError(
      'ERR_FDB_SCHEMA',
      `a change of section "${name}" has schema version ${version}, but the serving process knows schemas up to version ${known} only`,
      { details: { section: name, version, known } },
    )
  }
}

/** The error for a change that was sent, and perhaps made, but not answered. */
export function unknownOutcomeError(reason: string, request: string, cause?: unknown): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${reason}; a forwarded change may have been made. Give such changes a \`request\` id and retry with the same id`,
    { details: { request }, cause },
  )
}

export function tooLargeError(bytes: number, waitingBytes: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_LIMIT',
    `a change of ${bytes} bytes is too large to be forwarded to the serving process: the limit "waitingBytes" is ` +
      `${waitingBytes}; split it, or make it in the serving process`,
    { details: { limit: 'waitingBytes', most: waitingBytes, got: bytes } },
  )
}

function malformedError(reason: string): FdbError {
  return new FdbError('ERR_FDB_MESSAGE', `a forwarded change cannot be read: ${reason}; nothing was changed`)
}

const MARK_BYTES = 16
const NONE: Uint8Array = new Uint8Array(0)

export interface EntryRead {
  readonly section: string
  readonly key: string
  /** The result of {@link markOf} when the entry was read. */
  readonly mark: Uint8Array
}

/** Returns a hash of an entry's value and schema version, or no bytes if the entry does not exist. All processes compute the same mark. */
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
