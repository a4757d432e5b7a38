import type { BytesOrText } from './byte-stream.js'

export const NO_BYTES: Buffer = Buffer.alloc(0)

export function copyRange(chunk: Buffer, from: number, to: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(to - from)
  chunk.copy(bytes, 0, from, to)
  return bytes
}

/** Returns a copy of `first[from, to)` and `more[moreFrom, moreTo)` together, without the first `skipped` bytes of the whole. */
export function joinCopies(
  first: Buffer,
  from: number,
  to: number,
  more: Buffer,
  moreFrom: number,
  moreTo: number,
  skipped = 0,
): Buffer {
  const start = Math.min(from + skipped, to)
  const moreStart = Math.min(moreFrom + skipped - (start - from), moreTo)
  const all = Buffer.allocUnsafeSlow(to - start + moreTo - moreStart)
  first.copy(all, 0, start, to)
  more.copy(all, to - start, moreStart, moreTo)
  return all
}

export function toBuffer(bytes: BytesOrText): Buffer {
  return typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes
}

export function concat(pieces: readonly Buffer[]): Buffer {
  if (pieces.length === 0) return NO_BYTES
  return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces)
}

export const READ_BYTES: number = 64 * 1024

/** All polled sockets read into this buffer, so that a read allocates nothing. */
export const READ_INTO: Buffer = Buffer.allocUnsafeSlow(READ_BYTES)
