import { FdbError } from '../errors.js'
import {
  advanceChunked,
  CHUNKED_DONE,
  type FramingKind,
  type FramingRecord,
  isBetweenChunks,
  isChunkPosition,
} from './chunked.js'
import type { Side } from './refusal.js'

const KINDS: readonly FramingKind[] = ['none', 'length', 'chunked', 'until-close', 'tunnel']

/** Follows the body of a message, to find its end. Stores no bytes. */
export class Framing implements FramingRecord {
  readonly kind: FramingKind
  readonly side: Side
  left: number
  phase = 0
  count = 0
  hash = 0
  /** See {@link takeBlanks}. */
  blanks: number[] | null = null

  private constructor(kind: FramingKind, side: Side, left = 0) {
    this.kind = kind
    this.side = side
    this.left = left
  }

  static none(): Framing {
    return new Framing('none', 'request')
  }

  static length(bytes: number): Framing {
    return new Framing('length', 'request', bytes)
  }

  static chunked(side: Side): Framing {
    return new Framing('chunked', side)
  }

  static untilClose(): Framing {
    return new Framing('until-close', 'response')
  }

  static tunnel(): Framing {
    return new Framing('tunnel', 'response')
  }

  /** Creates a tracker that continues where another one stopped, possibly in another process. Throws ERR_FDB_HTTP1_RECORD for an impossible state. */
  static fromRecord(record: FramingRecord, side: Side): Framing {
    const framing = new Framing(record.kind, side, record.left)
    framing.phase = record.phase
    framing.count = record.count
    framing.hash = record.hash
    if (!KINDS.includes(record.kind) || !isPosition(framing)) {
      throw new FdbError(
        'ERR_FDB_HTTP1_RECORD',
        `no body can have the state kind ${record.kind}, left ${record.left}, phase ${record.phase}, count ${record.count}, hash ${record.hash}: the record is damaged or from an incompatible version, close the connection`,
        { details: { ...record } },
      )
    }
    return framing
  }

  toRecord(): FramingRecord {
    return { kind: this.kind, left: this.left, phase: this.phase, count: this.count, hash: this.hash }
  }

  /** Returns and clears the positions of blanks after chunk sizes in the bytes of the last {@link advance}, or null. The relay must not forward these blanks. */
  takeBlanks(): number[] | null {
    const { blanks } = this
    this.blanks = null
    return blanks
  }

  /** Whether the body is complete. Never true for `until-close` and `tunnel`. */
  get done(): boolean {
    switch (this.kind) {
      case 'none':
        return true
      case 'length':
        return this.left === 0
      case 'chunked':
        return this.phase === CHUNKED_DONE
      default:
        return false
    }
  }

  /** Whether the body is complete if the sender closes the connection here. */
  get mayEnd(): boolean {
    return this.done || this.kind === 'until-close' || this.kind === 'tunnel'
  }

  /** Whether the next byte is the first digit of a chunk's size. */
  get betweenChunks(): boolean {
    return this.kind === 'chunked' && isBetweenChunks(this)
  }

  /** How many of the next bytes belong to the body in any case, so that {@link skip} may be called in place of {@link advance}. */
  get unseen(): number {
    if (this.kind === 'length') return this.left
    return this.kind === 'until-close' ? Number.POSITIVE_INFINITY : 0
  }

  /** Advances by at most {@link unseen} bytes, without a look at them. */
  skip(bytes: number): void {
    if (this.kind === 'length') this.left -= bytes
  }

  /** As {@link advance}, but stops at the end of the current chunk. Call it only for a chunked body. */
  advanceChunk(bytes: Uint8Array, from: number, to: number, data?: number[]): number {
    this.blanks = null
    return advanceChunked(this, bytes, from, to, data, true) - from
  }

  /**
   * Advances through `bytes[from, to)`, and returns how many of these bytes belong to the body. Throws {@link Http1Refusal} at the first byte that
   * breaks the chunk syntax. Appends the start and end of each piece of content to `data`.
   */
  advance(bytes: Uint8Array, from: number, to: number, data?: number[]): number {
    if (this.kind === 'chunked') {
      this.blanks = null
      return advanceChunked(this, bytes, from, to, data) - from
    }
    let taken = to - from
    if (this.kind === 'none') taken = 0
    else if (this.kind === 'length') {
      taken = Math.min(this.left, taken)
      this.left -= taken
    }
    if (data !== undefined && taken > 0) data.push(from, from + taken)
    return taken
  }
}

function isPosition(framing: Framing): boolean {
  const { kind, left, phase, count, hash } = framing
  if (!Number.isSafeInteger(left) || left < 0) return false
  if (kind === 'chunked') return isChunkPosition(framing)
  return phase === 0 && count === 0 && hash === 0 && (kind === 'length' || left === 0)
}

export const LAST_CHUNK: Buffer = Buffer.from('0\r\n\r\n', 'latin1')

const CRLF = Buffer.from('\r\n', 'latin1')

/** Returns a chunk with `content` in pieces, which share its memory. Returns no pieces for empty content, because an empty chunk would end the body. */
export function encodeChunk(content: Buffer): Buffer[] {
  if (content.length === 0) return []
  return [Buffer.from(`${content.length.toString(16)}\r\n`, 'latin1'), content, CRLF]
}

/** As {@link Framing.advance}, but also returns the pieces of content. `taken`: how many bytes belong to the body. */
export function takeContent(
  framing: Framing,
  bytes: Buffer,
  from = 0,
  to = bytes.length,
): { taken: number; content: Buffer[] } {
  const spans: number[] = []
  const taken = framing.advance(bytes, from, to, spans)
  const content: Buffer[] = []
  for (let i = 0; i < spans.length; i += 2) content.push(bytes.subarray(spans[i]!, spans[i + 1]!))
  return { taken, content }
}
