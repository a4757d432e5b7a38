import type { Bytes } from './byte-stream.js'

export const NOTHING: Buffer = Buffer.alloc(0)

export function kept(chunk: Buffer, from: number, to: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(to - from)
  chunk.copy(bytes, 0, from, to)
  return bytes
}

/** Returns a copy of `first[from, to)` followed by `more[moreFrom, moreTo)`, without the first `skipped` bytes. */
export function joined(
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

/** Text is latin1. */
export function toBuffer(bytes: Bytes): Buffer {
  return typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes
}

export function concat(pieces: readonly Buffer[]): Buffer {
  if (pieces.length === 0) return NOTHING
  return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces)
}

export const READ_BYTES: number = 64 * 1024

/** All sockets read into this memory in turn: no read allocates, and a paused socket holds no hidden bytes. */
export const READ_INTO: Buffer = Buffer.allocUnsafeSlow(READ_BYTES)
