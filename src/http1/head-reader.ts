import { FdbError } from '../errors.js'
import { FieldScanner } from './field-scanner.js'
import { Fields } from './fields.js'
import { Http1Refusal, type Side } from './refusal.js'

/** Maximum sizes of a head. */
export type HeadLimits = typeof DEFAULT_HEAD_LIMITS

export const DEFAULT_HEAD_LIMITS = {
  /** Counts an empty line before the request, and the empty line at the end. */
  headBytes: 16 * 1024,
  fields: 100,
  targetBytes: 8 * 1024,
}

function headLimits(limits: Partial<HeadLimits> = {}): Readonly<HeadLimits> {
  const all = { ...DEFAULT_HEAD_LIMITS, ...limits }
  for (const [name, value] of Object.entries(all)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new FdbError(
        'ERR_FDB_HTTP1_LIMIT',
        `the limit ${name} is ${value}: it must be a positive integer; omit it for the default`,
        { details: { name, got: value } },
      )
    }
  }
  return all
}

const NOTHING = Buffer.alloc(0)

/**
 * Reads heads from a stream of bytes; the result does not depend on how the bytes were split. Scans a byte at most twice. Reads a head that arrives in
 * one piece without a copy. Holds no memory between heads. After a refusal each further call throws the same refusal.
 */
export abstract class HeadReader<Head> {
  protected readonly limits: Readonly<HeadLimits>
  protected readonly fields: FieldScanner
  readonly #side: Side
  #held = NOTHING
  #heldBytes = 0
  /** How many bytes of the chunk in the last {@link read} belong to the head. */
  consumed = 0
  #refusal: unknown

  constructor(side: Side, limits: Partial<HeadLimits> = {}) {
    this.limits = headLimits(limits)
    this.fields = new FieldScanner(this.limits.fields, side)
    this.#side = side
  }

  /** A copy of the incomplete head. A new reader that reads this copy is in the same state. */
  get pending(): Buffer {
    return Buffer.from(this.#held.subarray(0, this.#heldBytes))
  }

  /**
   * Reads `chunk[from, to)`. Returns the head when it is complete (see {@link consumed}), otherwise null. Throws {@link Http1Refusal}. The head is a
   * view of the chunk: valid until the chunk is overwritten or this reader reads again.
   */
  read(chunk: Buffer, from = 0, to = chunk.length): Head | null {
    if (this.#refusal !== undefined) throw this.#refusal
    try {
      return this.#heldBytes === 0 ? this.#readInPlace(chunk, from, to) : this.#readHeld(chunk, from, to)
    } catch (error) {
      this.#refusal = error
      throw error
    }
  }

  #readInPlace(chunk: Buffer, from: number, to: number): Head | null {
    const stop = Math.min(to, from + this.limits.headBytes)
    const at = this.scan(chunk, from, stop, from)
    if (this.fields.done) {
      this.consumed = at - from
      return this.#finish(chunk, from, at)
    }
    this.#checkSize(stop - from)
    this.#hold(chunk, from, stop)
    this.consumed = to - from
    return null
  }

  #readHeld(chunk: Buffer, from: number, to: number): Head | null {
    const before = this.#heldBytes
    this.#hold(chunk, from, Math.min(to, from + this.limits.headBytes - before))
    const at = this.scan(this.#held, before, this.#heldBytes, 0)
    if (!this.fields.done) {
      this.#checkSize(this.#heldBytes)
      this.consumed = to - from
      return null
    }
    this.consumed = at - before
    const bytes = this.#held
    this.#held = NOTHING
    this.#heldBytes = 0
    return this.#finish(bytes, 0, at)
  }

  #finish(bytes: Buffer, from: number, to: number): Head {
    const fields = new Fields(bytes, from, to - from - 2, this.fields)
    this.fields.reset()
    return this.finish(fields)
  }

  #checkSize(bytes: number): void {
    const limit = this.limits.headBytes
    if (bytes >= limit) throw new Http1Refusal('head-too-large', limit, this.#side, ` of ${limit} bytes`)
  }

  #hold(chunk: Buffer, from: number, to: number): void {
    const bytes = this.#heldBytes + to - from
    if (bytes > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(this.limits.headBytes, Math.max(256, bytes * 2)))
      grown.set(this.#held.subarray(0, this.#heldBytes))
      this.#held = grown
    }
    this.#held.set(chunk.subarray(from, to), this.#heldBytes)
    this.#heldBytes = bytes
  }

  /** Scans `bytes[at, to)` of a head that begins at `base`: the start line, then {@link fields}. Returns the position after the head, or `to` if the head is incomplete. */
  protected abstract scan(bytes: Uint8Array, at: number, to: number, base: number): number

  protected abstract finish(fields: Fields): Head
}

/** The version without its last digit. */
export const VERSION_BYTES: Uint8Array = Buffer.from('HTTP/1.', 'latin1')
const MAJOR = 5

/** Reports whether {@link VERSION_BYTES} begin at `bytes[at]`. */
export function isVersion(bytes: Uint8Array, at: number): boolean {
  return (
    bytes[at] === 0x48 &&
    bytes[at + 1] === 0x54 &&
    bytes[at + 2] === 0x54 &&
    bytes[at + 3] === 0x50 &&
    bytes[at + 4] === 0x2f &&
    bytes[at + 5] === 0x31 &&
    bytes[at + 6] === 0x2e
  )
}

/** Returns the refusal for a wrong byte at `index` of `HTTP/1.x`: if it is another digit, the version is unsupported, otherwise the line is invalid. */
export function versionRefusal(index: number, byte: number, offset: number, side: Side): Http1Refusal {
  const digit = byte >= 0x30 && byte <= 0x39
  if (digit && (index === MAJOR || index === VERSION_BYTES.length)) {
    return new Http1Refusal('version-unsupported', offset, side)
  }
  return new Http1Refusal(side === 'request' ? 'request-line' : 'status-line', offset, side)
}
