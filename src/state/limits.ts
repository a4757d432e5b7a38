import { checkOptions, type Given } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { type Field, map, optional } from '../checks/shape.js'
import { predicate } from '../checks/values.js'
import { FdbError, type FdbErrorCode, FdbTypeError } from '../errors.js'

/** The limits of the state log, which are checked before memory is allocated. */
export interface StateLimits {
  /** Maximum bytes per record. A change, or a piece of an import, is one record; a large bulk is several records. */
  recordBytes: number
  changesPerRecord: number
  /** Maximum bytes per segment; at most 4 GiB - 1, because offsets have 32 bits. */
  segmentBytes: number
  /**
   * Maximum bytes of all segments of the log, including replaced and deleted entries until the next compaction. A process can read a larger
   * log, but not write to it.
   */
  logBytes: number
  /**
   * The writer starts a new segment, so that the current one can be compacted, when the current one has this many bytes and at least as many as all
   * earlier ones together. Under a daemon a value above the default has no effect.
   */
  renewBytes: number
  /** Maximum bytes of a key in UTF-8. */
  keyBytes: number
  /** Maximum bytes of a section's name in UTF-8. */
  sectionNameBytes: number
  sections: number
  /** Maximum bytes of an import, which is kept in memory until it is complete. */
  importBytes: number
  /** Maximum bytes of changes that wait to be appended: while writing is paused or fenced, or before this process writes. */
  waitingBytes: number
  waitingWrites: number
  /** Number of request ids that the log remembers, also across upgrades and compactions. A retry is recognized until this many later requests were made. */
  requests: number
  requestBytes: number
}

export const DEFAULT_LIMITS: Readonly<StateLimits> = Object.freeze({
  recordBytes: 16 * 1024 * 1024,
  changesPerRecord: 500_000,
  segmentBytes: 0xffff_ffff,
  logBytes: 8 * 1024 ** 3,
  renewBytes: 64 * 1024 * 1024,
  keyBytes: 65_535,
  sectionNameBytes: 255,
  sections: 1024,
  importBytes: 1024 ** 3,
  waitingBytes: 32 * 1024 * 1024,
  waitingWrites: 65_536,
  requests: 65_536,
  requestBytes: 255,
})

const amount = predicate<number>(
  'a whole number of at least 1',
  value => Number.isSafeInteger(value) && (value as number) >= 1,
)
const LIMITS = map(
  Object.fromEntries(
    Object.entries(DEFAULT_LIMITS).map(([name, most]) => [name, optional(amount, most)]),
  ) as Record<keyof StateLimits, Field<number>>,
)

export function limitsFrom(overrides: Given<StateLimits> = {}): Readonly<StateLimits> {
  const limits = checkOptions('stateLimits', overrides, LIMITS, 'stateLimits')
  if (mostBodyBytes(limits) < 1) {
    const wanted = 'at least 4096: the frame of a record needs some bytes'
    throw wrongOption('stateLimits.recordBytes', limits.recordBytes, wanted)
  }
  limits.segmentBytes = Math.min(limits.segmentBytes, DEFAULT_LIMITS.segmentBytes)
  return limits
}

/** Returns limits for a tool that reads a file of `bytes` bytes: they accept records of any writer. */
export function limitsToRead(bytes: number): Partial<StateLimits> {
  return {
    recordBytes: Math.max(bytes, DEFAULT_LIMITS.recordBytes),
    changesPerRecord: Math.max(bytes, DEFAULT_LIMITS.changesPerRecord),
  }
}

/** Returns the bytes of a record that are left for changes, after epoch, sequence, request id and a schema. */
export function mostBodyBytes(limits: StateLimits): number {
  return limits.recordBytes - 512 - limits.requestBytes - limits.sectionNameBytes
}

export function limitError(what: string, got: number, limit: keyof StateLimits, most: number): FdbError {
  const unit = limit.endsWith('Bytes') ? ' bytes' : ''
  return new FdbError(
    'ERR_FDB_STATE_LIMIT',
    `${what} is ${got}${unit}, the limit "${limit}" is ${most}; raise the limit in every process that reads this log, or stay below it`,
    { details: { limit, most, got } },
  )
}

/** Throws a TypeError unless `key` is a string: in the log, 1 and "1" would be the same key. */
export function checkKey(key: unknown, section: string): asserts key is string {
  if (typeof key !== 'string')
    throw wrongTypeError('ERR_FDB_STATE_KEY', `section "${section}": a key`, key, 'use String(key)')
}

export function checkNewKey(key: unknown, section: string, { keyBytes }: StateLimits): asserts key is string {
  checkKey(key, section)
  if (key.length > keyBytes || (key.length * 3 > keyBytes && Buffer.byteLength(key) > keyBytes)) {
    throw limitError('the length of a key', Buffer.byteLength(key), 'keyBytes', keyBytes)
  }
  if (/\p{Surrogate}/u.test(key)) {
    throw new FdbError('ERR_FDB_STATE_VALUE', 'a key has half a surrogate pair; give valid Unicode text')
  }
}

export function checkSectionName(name: unknown): asserts name is string {
  if (typeof name !== 'string') throw wrongTypeError('ERR_FDB_OPTION', 'the name of a section', name)
  if (name !== '' && !/\p{Surrogate}/u.test(name)) return
  const wrong = name === '' ? 'is empty; give a string' : 'has half a surrogate pair; give valid Unicode text'
  throw new FdbError('ERR_FDB_OPTION', `the name of a section ${wrong}`)
}

/** Returns '' for undefined. */
export function checkRequest(request: unknown, { requestBytes }: StateLimits): string {
  if (request === undefined) return ''
  if (typeof request !== 'string')
    throw wrongTypeError('ERR_FDB_OPTION', 'option "request"', request, 'use String(id)')
  const length = Buffer.byteLength(request)
  if (length > requestBytes)
    throw limitError('the length of a request id', length, 'requestBytes', requestBytes)
  return request
}

function wrongTypeError(code: FdbErrorCode, what: string, got: unknown, remedy = ''): FdbTypeError {
  const kind = got === null ? 'null' : typeof got
  return new FdbTypeError(
    code,
    `${what} is of type ${kind}; give a string${remedy === '' ? '' : ` (${remedy})`}`,
  )
}
