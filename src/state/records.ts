import { findChanges } from '../kernel/index.js'
import { fdbroker } from '../proto/state.js'
import { limitError, type StateLimits } from './limits.js'

const { Record: RecordMessage, SectionSchema } = fdbroker.state

export const PUT = fdbroker.state.Change.Op.PUT
export const DELETE = fdbroker.state.Change.Op.DELETE
export const CLEAR = fdbroker.state.Change.Op.CLEAR

/** Thrown for a payload that is not a record; the caller creates the error with the file offset. */
export class MalformedRecord extends Error {}

export interface StoredSchema {
  name: string
  version: number
  minReader: number
  codec: string
  secret: boolean
}

const NO_CHANGES: readonly number[] = Object.freeze([])

/** A scanned record; its changes are offsets into the buffer. */
export type ScannedRecord = ReturnType<typeof emptyRecord>

export function emptyRecord() {
  return {
    epoch: 0,
    sequence: 0,
    request: '',
    /** Alternating start and end offsets of the encoded Changes. */
    changes: NO_CHANGES as ArrayLike<number>,
    schemas: [] as StoredSchema[],
    requests: [] as string[],
    /** The fingerprints of the changes of `requests`, in the same order, or empty. */
    requestPrints: [] as number[],
    end: null as { entries: number; digest: string } | null,
    part: null as { index: number; last: boolean } | null,
    /** The number of consecutive records that this stands for. If above 1, each has one change, a put of the same section, and nothing else. */
    records: 1,
  }
}

/** One scanned Change; section, key and value are offsets into the buffer. */
export type ScannedChange = ReturnType<typeof emptyChange>

export function emptyChange() {
  return {
    op: PUT as number,
    version: 0,
    sectionStart: 0,
    sectionEnd: 0,
    keyStart: 0,
    keyEnd: 0,
    valueStart: 0,
    valueEnd: 0,
  }
}

export interface NewChange {
  section: string
  op: number
  key: string
  value?: Uint8Array | undefined
  version: number
}

/*
 * Encoding. Concatenated protobuf messages are one message: an envelope (epoch, sequence, request) and a body
 * (changes, schemas) that are encoded separately form one Record. So a change's body is encoded when the change is
 * made, and its position in the log (epoch and sequence) is added when it is appended.
 */

export function encodeBody(changes: NewChange[]): Uint8Array {
  return RecordMessage.encode({ changes: changes as fdbroker.state.Change.$Properties[] }).finish()
}

export function encodeSchema(schema: StoredSchema): Uint8Array {
  return RecordMessage.encode({ schemas: [schema] }).finish()
}

export function encodeEnvelope(envelope: fdbroker.state.Record.$Properties): Uint8Array {
  return RecordMessage.encode(envelope).finish()
}

/** Returns the tag and length that precede an encoded Change in a Record, to copy changes without decoding. */
export function changePrefix(length: number): Uint8Array {
  const bytes = [(4 << 3) | LEN]
  let remaining = length
  for (; remaining > 127; remaining >>>= 7) bytes.push((remaining & 127) | 128)
  bytes.push(remaining)
  return Uint8Array.from(bytes)
}

/*
 * Decoding. The generated decoder creates an object per change: a million changes of a few bytes would cost a second
 * and a gigabyte. So records are scanned in place. Unknown fields are skipped and stay in the log, and the allocated
 * memory is proportional to the size of the record.
 */

const VARINT = 0
const FIXED64 = 1
const LEN = 2
const FIXED32 = 5
const MAX_SCHEMAS = 4096
const MAX_REQUESTS = 1_000_000

/** The current offset. Shared by all scans, because none of these functions calls back. */
let at = 0

function varint(buffer: Buffer, end: number): number {
  let value = 0
  let factor = 1
  for (let i = 0; i < 10; i++) {
    if (at >= end) throw new MalformedRecord('a number exceeds its field')
    const byte = buffer[at++]!
    value += (byte & 127) * factor
    if (byte < 128) {
      if (value > Number.MAX_SAFE_INTEGER) throw new MalformedRecord('a number above 2^53 - 1')
      return value
    }
    factor *= 128
  }
  throw new MalformedRecord('a number of more than 10 bytes')
}

function lengthOf(buffer: Buffer, end: number): number {
  const length = varint(buffer, end)
  if (length > end - at) throw new MalformedRecord(`a field of ${length} bytes, but ${end - at} are left`)
  return length
}

/** Skips an unknown field. Throws for groups (wire types 3 and 4), which no release writes. */
function skip(buffer: Buffer, wire: number, end: number): void {
  if (wire === VARINT) varintSkip(buffer, end)
  else if (wire === LEN) {
    // lengthOf() moves `at`.
    const length = lengthOf(buffer, end)
    at += length
  } else if (wire === FIXED64) at += 8
  else if (wire === FIXED32) at += 4
  else throw new MalformedRecord(`a field of the unsupported wire type ${wire}`)
  if (at > end) throw new MalformedRecord('a field exceeds its message')
}

function varintSkip(buffer: Buffer, end: number): void {
  for (let i = 0; i < 10; i++) {
    if (at >= end) break
    if (buffer[at++]! < 128) return
  }
  throw new MalformedRecord('a number exceeds its field')
}

function text(buffer: Buffer, end: number): string {
  return message(buffer, end).toString()
}

function message(buffer: Buffer, end: number): Buffer {
  const length = lengthOf(buffer, end)
  at += length
  return buffer.subarray(at - length, at)
}

function checkRoom(list: readonly unknown[], most: number, what: string): void {
  if (list.length >= most) throw new MalformedRecord(`more than ${most} ${what}`)
}

/** Scans a Record; {@link scanChange} scans its changes. Throws MalformedRecord, or ERR_FDB_STATE_LIMIT for more than `changesPerRecord` changes. */
export function scanRecord(buffer: Buffer, start: number, end: number, limits: StateLimits): ScannedRecord {
  const record = emptyRecord()
  const changes = new FoundChanges(limits.changesPerRecord)
  at = start
  while (at < end) {
    const tag = varint(buffer, end)
    if (tag === ((4 << 3) | LEN)) {
      const length = lengthOf(buffer, end)
      changes.add(at, at + length)
      at += length
      if (changes.count % FEW_CHANGES === 0) at = changes.findMore(buffer, at, end)
    } else if (tag === ((1 << 3) | VARINT)) record.epoch = varint(buffer, end)
    else if (tag === ((2 << 3) | VARINT)) record.sequence = varint(buffer, end)
    else if (tag === ((3 << 3) | LEN)) record.request = text(buffer, end)
    else if (tag === ((5 << 3) | LEN)) {
      checkRoom(record.schemas, MAX_SCHEMAS, 'schemas')
      record.schemas.push(decodeSchema(message(buffer, end)))
    } else if (tag === ((6 << 3) | LEN)) {
      checkRoom(record.requests, MAX_REQUESTS, 'requests')
      record.requests.push(text(buffer, end))
    } else if (tag === ((7 << 3) | LEN)) record.end = decodeEnd(message(buffer, end))
    else if (tag === ((8 << 3) | LEN)) record.part = decodePart(message(buffer, end))
    else if (tag === ((9 << 3) | VARINT)) {
      checkRoom(record.requestPrints, MAX_REQUESTS, 'requests')
      record.requestPrints.push(varint(buffer, end))
    } else if (tag === ((9 << 3) | LEN)) {
      const length = lengthOf(buffer, end)
      const prints = at + length
      while (at < prints) {
        checkRoom(record.requestPrints, MAX_REQUESTS, 'requests')
        record.requestPrints.push(varint(buffer, prints))
      }
    } else if (tag >= 1 << 3) skip(buffer, tag & 7, end)
    else throw new MalformedRecord('field number 0')
  }
  if (changes.count > limits.changesPerRecord) {
    const what = `the number of changes in the record of sequence ${record.sequence}`
    throw limitError(what, changes.count, 'changesPerRecord', limits.changesPerRecord)
  }
  record.changes = changes.ranges
  return record
}

/** After this many changes the addon looks for more in one call. */
const FEW_CHANGES = 16
const FOUND_AT_ONCE = 2048
const found = new Uint32Array(2 * FOUND_AT_ONCE)

/** The ranges of a record's changes. Counts all, and stores up to `most`. */
class FoundChanges {
  count = 0
  readonly #most: number
  #few: number[] = []
  readonly #many: Uint32Array[] = []

  constructor(most: number) {
    this.#most = most
  }

  add(start: number, end: number): void {
    if (++this.count <= this.#most) this.#few.push(start, end)
  }

  /** Adds the changes that begin at offset `from` of the buffer. Returns the offset of the first field that is no change, or that the caller must read itself. */
  findMore(buffer: Buffer, from: number, end: number): number {
    for (let start = from; ; ) {
      const count = findChanges(buffer, start, end, found)
      if (count === 0) return start
      start = found[2 * count - 1]!
      const stored = Math.min(count, this.#most - this.count)
      this.count += count
      if (stored > 0) this.#store(found.slice(0, 2 * stored))
      if (count < FOUND_AT_ONCE) return start
    }
  }

  #store(ranges: Uint32Array): void {
    if (this.#few.length > 0) this.#many.push(Uint32Array.from(this.#few))
    this.#few = []
    this.#many.push(ranges)
  }

  get ranges(): ArrayLike<number> {
    if (this.#many.length === 0) return this.#few
    if (this.#few.length > 0) this.#store(new Uint32Array(0))
    let length = 0
    for (const each of this.#many) length += each.length
    const all = new Uint32Array(length)
    let at = 0
    for (const each of this.#many) {
      all.set(each, at)
      at += each.length
    }
    return all
  }
}

export function scanChange(buffer: Buffer, start: number, end: number, into: ScannedChange): ScannedChange {
  into.op = PUT
  into.version = 0
  into.sectionStart = into.sectionEnd = into.keyStart = into.keyEnd = into.valueStart = into.valueEnd = start
  at = start
  while (at < end) {
    const tag = varint(buffer, end)
    if (tag === ((1 << 3) | LEN)) {
      const length = lengthOf(buffer, end)
      into.sectionStart = at
      into.sectionEnd = at += length
    } else if (tag === ((3 << 3) | LEN)) {
      const length = lengthOf(buffer, end)
      into.keyStart = at
      into.keyEnd = at += length
    } else if (tag === ((4 << 3) | LEN)) {
      const length = lengthOf(buffer, end)
      into.valueStart = at
      into.valueEnd = at += length
    } else if (tag === ((2 << 3) | VARINT)) into.op = varint(buffer, end)
    else if (tag === ((5 << 3) | VARINT)) into.version = varint(buffer, end)
    else if (tag >= 1 << 3) skip(buffer, tag & 7, end)
    else throw new MalformedRecord('field number 0')
  }
  return into
}

function decodeSchema(bytes: Uint8Array): StoredSchema {
  const { name, version, minReader, codec, secret } = guarded(() => SectionSchema.decode(bytes))
  return { name, version, minReader, codec, secret }
}

function decodeEnd(bytes: Uint8Array): { entries: number; digest: string } {
  const { entries, digest } = guarded(() => fdbroker.state.End.decode(bytes))
  return { entries, digest }
}

function decodePart(bytes: Uint8Array): { index: number; last: boolean } {
  const { index, last } = guarded(() => fdbroker.state.Part.decode(bytes))
  return { index, last }
}

function guarded<T>(decode: () => T): T {
  try {
    return decode()
  } catch (error) {
    throw new MalformedRecord((error as Error).message)
  }
}
