import type { Bytes } from './byte-stream.js'

export const NOTHING: Buffer = Buffer.alloc(0)

/** Up to this many bytes are cheaper written as text than as a buffer of their own. */
const SHORT = 4096

/** A copy of `chunk[from, to)`, for writing. */
export function copied(chunk: Buffer, from: number, to: number): Bytes {
  return to - from <= SHORT ? chunk.toString('latin1', from, to) : kept(chunk, from, to)
}

/** A copy of `chunk[from, to)`, for keeping. */
export function kept(chunk: Buffer, from: number, to = chunk.length): Buffer {
  const bytes = Buffer.allocUnsafeSlow(to - from)
  chunk.copy(bytes, 0, from, to)
  return bytes
}

/** `text` and behind it a copy of `chunk[from, to)`, for one write. */
export function joined(text: string, chunk: Buffer, from: number, to: number): Bytes {
  if (from === to) return text
  if (to - from <= SHORT) return text + chunk.toString('latin1', from, to)
  const bytes = Buffer.allocUnsafeSlow(text.length + to - from)
  bytes.write(text, 0, 'latin1')
  chunk.copy(bytes, text.length, from, to)
  return bytes
}

function toBuffer(bytes: Bytes): Buffer {
  return typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes
}

export function concat(pieces: readonly Bytes[]): Buffer {
  if (pieces.length === 0) return NOTHING
  return pieces.length === 1 ? toBuffer(pieces[0]!) : Buffer.concat(pieces.map(toBuffer))
}
