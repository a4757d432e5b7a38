import { afterReading, type Limit } from '../base/after-reading.js'
import { jsonObject } from '../base/json.js'
import { FdbError } from '../errors.js'
import { readAt, sizeOf } from '../kernel/index.js'
import type { Position } from './history.js'
import type { StagedImport } from './import.js'
import type { KnownSection } from './overview.js'
import type { SegmentKind } from './segment.js'
import type { StateLog } from './state-log.js'

/** Commands that `fd-broker state` sends to a running service. To read state, the client copies the service's log and decodes the copy. */
export const STATE_COMMANDS = {
  segments: 'fd-broker.state.segments',
  read: 'fd-broker.state.read',
  part: 'fd-broker.state.part',
  import: 'fd-broker.state.import',
  sections: 'fd-broker.state.sections',
  get: 'fd-broker.state.get',
  put: 'fd-broker.state.put',
  delete: 'fd-broker.state.delete',
} as const

export const PAGE_BYTES = 1024 * 1024

export interface SegmentsReply {
  /** The log's position after the first `size` bytes of each segment. */
  position: Position
  segments: { kind: SegmentKind; epoch: number; size: number }[]
}

export interface ReadRequest {
  kind: SegmentKind
  epoch: number
  /** File offset of the first requested byte. The reply has at most {@link PAGE_BYTES}. */
  from: number
}

/** The first line of `import`, before the encoded changes of the last (or only) piece. The command commits all pieces. */
export interface ImportRequest {
  /** Request id: a retry with the same id has no further effect. */
  request?: string
  replace?: boolean
  /** The import whose earlier pieces were sent by `part`, and their number. */
  after?: PartRequest
}

/** The first line of `part`, before the encoded changes of one piece of an import. */
export interface PartRequest {
  /** The client's id of the import. */
  import: string
  /** Number of the piece, from 0. */
  part: number
  replace?: boolean
}

export interface ImportReply {
  puts: number
}

/** The request of `get` and `delete`, and the first line of `put`, before the value. `get` replies with an {@link EntryReply} in a line, then the value. */
export interface EntryRequest {
  section: string
  key: string
  /** For `put` and `delete`: the request id; a retry with the same id has no further effect. */
  request?: string
  /** For `get`: allows values of secret sections. */
  secrets?: boolean
}

export interface EntryReply {
  /** The schema version of the value; undefined if the entry does not exist. */
  version?: number
}

export interface DeleteReply {
  existed: boolean
}

type Register = (name: string, handler: (body: Buffer) => Promise<Uint8Array | string>) => unknown

const MOST_IMPORTS = 4
/** The service drops an unfinished import if no piece arrives for this time. */
const IMPORT_IDLE_MS = 30_000

export function serveStateCommands(register: Register, log: StateLog): void {
  register(STATE_COMMANDS.segments, async () => JSON.stringify(segmentsOf(log)))
  register(STATE_COMMANDS.read, async body => readPage(log, parse(body)))
  const imports = new Imports(log)
  register(STATE_COMMANDS.part, async body => {
    const { head, rest } = withHead<PartRequest>(body)
    await imports.add(head, rest)
    return ''
  })
  register(STATE_COMMANDS.import, async body => {
    const { head, rest } = withHead<ImportRequest>(body)
    const { request, replace, after } = head
    const staged = after ? imports.claim(after) : log.stageImport({ replace: replace === true })
    await staged.add(rest)
    const reply: ImportReply = await staged.commit(typeof request === 'string' ? request : '')
    return JSON.stringify(reply)
  })
  register(STATE_COMMANDS.sections, async () => JSON.stringify(log.knownSections()))
  register(STATE_COMMANDS.get, async body => getEntry(log, entryIn(parse(body))))
  register(STATE_COMMANDS.put, async body => {
    const { head, rest } = withHead<EntryRequest>(body)
    const { section, key, request } = entryIn(head)
    knownIn(log, section)
    await log.section(section).putBytes_(key, rest, { request })
    return ''
  })
  register(STATE_COMMANDS.delete, async body => {
    const { section, key, request } = entryIn(parse(body))
    knownIn(log, section)
    return JSON.stringify({
      existed: await log.section(section).delete(key, { request }),
    } satisfies DeleteReply)
  })
}

function entryIn({ section, key, request = '', secrets }: Partial<EntryRequest>): Required<EntryRequest> {
  if ([section, key, request].every(each => typeof each === 'string'))
    return { section: section!, key: key!, request, secrets: secrets === true }
  throw malformedRequest()
}

/** Throws for an unknown section, so that a misspelt name does not create one. */
function knownIn(log: StateLog, name: string): KnownSection {
  const all = log.knownSections()
  const known = all.find(section => section.name === name)
  if (known) return known
  throw new FdbError(
    'ERR_FDB_STATE_NO_ENTRY',
    `there is no section ${JSON.stringify(name)} (there are: ${all.map(section => section.name).join(', ') || 'none'})`,
  )
}

function getEntry(log: StateLog, { section, key, secrets }: Required<EntryRequest>): Buffer {
  if (knownIn(log, section).secret && !secrets) throw secretSection(section)
  const entry = log.rawSection(section).get(key)
  const reply: EntryReply = entry ? { version: entry.version } : {}
  return headed(reply, entry?.value ?? Buffer.alloc(0))
}

export function secretSection(name: string): FdbError {
  return new FdbError('ERR_FDB_STATE_SECRET', `section "${name}" is secret; set "secrets" to read its values`)
}

interface PendingImport {
  staged: StagedImport
  parts: number
  /** A piece that has come in time while this process was stopped is read first. */
  limit: Limit
}

/** Holds unfinished imports in memory. An import that its client abandons is dropped and changes nothing. */
class Imports {
  readonly #log: StateLog
  readonly #pending = new Map<string, PendingImport>()

  constructor(log: StateLog) {
    this.#log = log
  }

  async add({ import: id, part, replace }: Partial<PartRequest>, piece: Buffer): Promise<void> {
    if (typeof id !== 'string' || !Number.isSafeInteger(part)) throw malformedRequest()
    if (part === 0) this.#start(id, replace === true)
    const arriving = this.#importAt(id, part)
    // NaN matches no number, so that further pieces and the commit are refused while this piece is checked.
    arriving.parts = Number.NaN
    try {
      await arriving.staged.add(piece)
    } catch (error) {
      this.#drop(id)
      throw error
    }
    arriving.parts = part! + 1
    if (this.#pending.get(id) !== arriving) return
    arriving.limit.clear()
    arriving.limit = this.#limit(id)
  }

  /** Returns the import and removes it from this table. Throws ERR_FDB_STATE_MOVED unless it has exactly `part` pieces. */
  claim({ import: id, part }: Partial<PartRequest>): StagedImport {
    const { staged } = this.#importAt(id ?? '', part)
    this.#drop(id ?? '')
    return staged
  }

  #start(id: string, replace: boolean): void {
    this.#drop(id)
    if (this.#pending.size >= MOST_IMPORTS) {
      throw new FdbError(
        'ERR_FDB_BUSY',
        `${MOST_IMPORTS} imports are running: try again when one of them has ended`,
        { retryable: true },
      )
    }
    this.#pending.set(id, { staged: this.#log.stageImport({ replace }), parts: 0, limit: this.#limit(id) })
  }

  #limit(id: string): Limit {
    return afterReading(IMPORT_IDLE_MS, () => this.#drop(id), { unref: true })
  }

  #importAt(id: string, part: number | undefined): PendingImport {
    const arriving = this.#pending.get(id)
    if (arriving?.parts === part && arriving) return arriving
    throw new FdbError(
      'ERR_FDB_STATE_MOVED',
      `this process has ${arriving?.parts ?? 0} pieces of the import, not ${String(part)}: start the import again`,
      { retryable: true },
    )
  }

  #drop(id: string): void {
    this.#pending.get(id)?.limit.clear()
    this.#pending.delete(id)
  }
}

/** Returns the body of a command or reply: a head as a line of JSON, then bytes. {@link withHead} reads it. */
export function headed(head: object, bytes: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${JSON.stringify(head)}\n`), bytes])
}

/** Splits a body into the JSON object of its first line and the remaining bytes. */
export function withHead<T>(body: Buffer): { head: Partial<T>; rest: Buffer } {
  const end = body.indexOf(0x0a)
  if (end < 0) throw malformedRequest()
  return { head: parse(body.subarray(0, end)) as Partial<T>, rest: body.subarray(end + 1) }
}

function segmentsOf(log: StateLog): SegmentsReply {
  const { position } = log
  const readTo = new Map(log.pieces().map(({ segment, end }) => [segment, end]))
  const segments = log.segments.map(segment => {
    const { kind, epoch, end, sealed, fd } = segment
    // An unsealed segment counts only as far as this process has appended or read it.
    return { kind, epoch, size: sealed ? sizeOf(fd) : Math.max(end, readTo.get(segment) ?? 0) }
  })
  return { position, segments }
}

function readPage(log: StateLog, { kind, epoch, from }: Partial<ReadRequest>): Buffer {
  if (typeof from !== 'number' || !Number.isSafeInteger(from) || from < 0) throw malformedRequest()
  const segment = log.segments.find(each => each.kind === kind && each.epoch === epoch)
  if (segment === undefined) {
    throw new FdbError(
      'ERR_FDB_STATE_MOVED',
      `the ${String(kind)} segment of epoch ${String(epoch)} no longer exists: the log was compacted; start the copy again`,
      { retryable: true },
    )
  }
  const page = Buffer.allocUnsafe(PAGE_BYTES)
  return page.subarray(0, readAt(segment.fd, page, 0, page.length, from))
}

function parse(body: Buffer): Record<string, never> {
  const value = jsonObject(body.toString())
  if (value === undefined) throw malformedRequest()
  return value as Record<string, never>
}

function malformedRequest(): FdbError {
  return new FdbError(
    'ERR_FDB_MESSAGE',
    'this release of fd-broker does not understand the request: use the command of the same release',
  )
}
