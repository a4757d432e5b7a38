import { checkKeys } from '../base/check-option.js'
import { FdbError, type FdbErrorCode, FdbTypeError } from '../errors.js'

/** Every bound of the state log. All are checked before memory is spent. */
export interface StateLimits {
  /** The most bytes of one record: of a change, and of an import. A large bulk takes several. */
  recordBytes: number
  /** The most changes of one record. */
  changesPerRecord: number
  /** The most bytes of one segment; offsets are kept in 32 bits, so never above 4 GiB - 1. */
  segmentBytes: number
  /**
   * The most bytes of all segments of the log, with what does not count any more until it is compacted. A process that reads a
   * larger log reads it, and may write no more.
   */
  logBytes: number
  /**
   * A segment that has so many bytes, and as many as all before it, is followed by a new one, so that it can be compacted. Under a
   * daemon the default counts too, where that is less.
   */
  renewBytes: number
  /** The most bytes of a key, in UTF-8. */
  keyBytes: number
  /** The most bytes of a section's name, in UTF-8. */
  sectionNameBytes: number
  sections: number
  /** The most bytes of an import, which is kept in memory until it is whole. */
  importBytes: number
  /** Changes that wait to be appended (while paused, fenced, or before this log writes at all). */
  waitingBytes: number
  waitingWrites: number
  /** Request ids remembered: a retry is recognised until this many later requests were made, however long that takes, and across upgrades and compactions. */
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

export function limitsFrom(given: Partial<StateLimits> | undefined): Readonly<StateLimits> {
  if (given !== undefined) checkKeys('stateLimits', given, DEFAULT_LIMITS)
  const limits = { ...DEFAULT_LIMITS, ...given }
  for (const [name, value] of Object.entries(limits)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        `state limit "${name}" is ${String(value)}; give a whole number of at least 1`,
      )
    }
  }
  if (mostBodyBytes(limits) < 1) {
    throw new FdbError(
      'ERR_FDB_OPTION',
      `state limit "recordBytes" is ${limits.recordBytes}, less than the frame of a record; give at least 4096`,
    )
  }
  limits.segmentBytes = Math.min(limits.segmentBytes, DEFAULT_LIMITS.segmentBytes)
  return limits
}

/** For a tool that reads a file of so many bytes: accepts any limit of its writer. */
export function limitsToRead(bytes: number): Partial<StateLimits> {
  return {
    recordBytes: Math.max(bytes, DEFAULT_LIMITS.recordBytes),
    changesPerRecord: Math.max(bytes, DEFAULT_LIMITS.changesPerRecord),
  }
}

/** Bytes of a record for changes: epoch, sequence, request id and a schema come first. */
export function mostBodyBytes(limits: StateLimits): number {
  return limits.recordBytes - 512 - limits.requestBytes - limits.sectionNameBytes
}

export function overLimit(what: string, got: number, limit: keyof StateLimits, most: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_LIMIT',
    `${what} is ${got}, the limit "${limit}" is ${most}; raise the limit in every process that reads this log, or make it smaller`,
    { details: { limit, most, got } },
  )
}

/** Throws a TypeError unless it is a string: the log would not tell 1 from "1". */
export function checkKey(key: unknown, section: string): asserts key is string {
  if (typeof key !== 'string')
    throw wrongKind('ERR_FDB_STATE_KEY', `section "${section}": a key`, key, 'String(key) makes one')
}

export function checkNewKey(key: unknown, section: string, { keyBytes }: StateLimits): asserts key is string {
  checkKey(key, section)
  if (key.length > keyBytes || (key.length * 3 > keyBytes && Buffer.byteLength(key) > keyBytes)) {
    throw overLimit('the length of a key', Buffer.byteLength(key), 'keyBytes', keyBytes)
  }
  if (/\p{Surrogate}/u.test(key)) {
    throw new FdbError('ERR_FDB_STATE_VALUE', 'a key with half a surrogate pair; keys are Unicode text')
  }
}

export function checkSectionName(name: unknown): asserts name is string {
  if (typeof name !== 'string') throw wrongKind('ERR_FDB_OPTION', 'the name of a section', name)
}

/** Returns '' for undefined. */
export function checkRequest(request: unknown, { requestBytes }: StateLimits): string {
  if (request === undefined) return ''
  if (typeof request !== 'string')
    throw wrongKind('ERR_FDB_OPTION', 'option "request"', request, 'String(id) makes one')
  const length = Buffer.byteLength(request)
  if (length > requestBytes)
    throw overLimit('the length of a request id', length, 'requestBytes', requestBytes)
  return request
}

function wrongKind(code: FdbErrorCode, what: string, got: unknown, remedy = ''): FdbTypeError {
  const kind = got === null ? 'null' : typeof got
  return new FdbTypeError(
    code,
    `${what} is of type ${kind}; give a string${remedy === '' ? '' : ` (${remedy})`}`,
  )
}
