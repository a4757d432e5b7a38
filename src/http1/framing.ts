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

/** Follows the body of one message and knows after every byte where it stands. It never copies or keeps a byte. */
export class Framing implements FramingRecord {
  readonly kind: FramingKind
  readonly side: Side
  left: number
  phase = 0
  count = 0
  hash = 0
  /** Where the last {@link advance} has met blanks that should not be passed on, see {@link takeBlanks}. */
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

  /** Goes on where another tracker, maybe of another process, was. Refuses what none can have said. */
  static fromRecord(record: FramingRecord, side: Side): Framing {
    const framing = new Framing(record.kind, side, record.left)
    framing.phase = record.phase
    framing.count = record.count
    framing.hash = record.hash
    if (!KINDS.includes(record.kind) || !isPosition(framing)) {
      throw new FdbError(
        'ERR_FDB_HTTP1_RECORD',
        `no body can be at kind ${record.kind}, left ${record.left}, phase ${record.phase}, count ${record.count}, hash ${record.hash}: the record is damaged or from an incompatible version, close the connection`,
        { details: { ...record } },
      )
    }
    return framing
  }

  toRecord(): FramingRecord {
    return { kind: this.kind, left: this.left, phase: this.phase, count: this.count, hash: this.hash }
  }

  /** Where in the bytes of the last {@link advance} blanks stood behind chunk sizes, not to be passed on. Null: nowhere. */
  takeBlanks(): number[] | null {
    const { blanks } = this
    this.blanks = null
    return blanks
  }

  /** The last byte of the message has been seen. Never true for `until-close` and `tunnel`. */
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

  /** The stream may end here without cutting the message short. */
  get mayEnd(): boolean {
    return this.done || this.kind === 'until-close' || this.kind === 'tunnel'
  }

  /** For `chunked`: the next byte is that of another chunk's size. */
  get betweenChunks(): boolean {
    return this.kind === 'chunked' && isBetweenChunks(this)
  }

  /** {@link advance} up to the end of the present chunk, if it ends in these bytes. For `chunked` only. */
  advanceChunk(bytes: Uint8Array, from: number, to: number, data?: number[]): number {
    this.blanks = null
    return advanceChunked(this, bytes, from, to, data, true) - from
  }

  /**
   * Follows the body through `bytes[from, to)`; returns how many of them belong to it, all unless it is {@link done}. Throws {@link Http1Refusal} at the first byte
   * that breaks the chunk syntax. `data` collects start and end of each part that is content.
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

/** One chunk around `content`, which is not copied. Nothing for no content: an empty chunk would end the body. */
export function encodeChunk(content: Buffer): Buffer[] {
  if (content.length === 0) return []
  return [Buffer.from(`${content.length.toString(16)}\r\n`, 'latin1'), content, CRLF]
}

/** Follows a body like {@link Framing.advance} and returns the parts of `bytes` that are content; `taken`: how many bytes belong to the message. */
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
