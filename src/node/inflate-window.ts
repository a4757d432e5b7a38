import type { InflateRaw } from 'node:zlib'
import { internal } from './internal.js'

interface SyncInflate {
  _processChunk(bytes: Buffer, flush: number): Buffer
}

const zlib = () => process.getBuiltinModule('node:zlib')
/** The longest match of deflate. */
const LONGEST = 258
/** The distance from which each code of a distance starts, and the number of its extra bits (RFC 1951, 3.2.5). */
const DISTANCES = Array.from({ length: 30 }, (_, code) => {
  const extra = Math.max(0, (code >> 1) - 1)
  return { extra, start: code < 4 ? code + 1 : ((2 + (code & 1)) << extra) + 1 }
})

/** Writes bits as deflate does: from the lowest bit of each byte; Huffman codes from their highest bit. */
class Bits {
  readonly #bytes: number[] = []
  #count = 0

  /** The lowest bit first. */
  add(value: number, count: number): void {
    for (let i = 0; i < count; i++) this.#bit((value >> i) & 1)
  }

  addCode(code: number, count: number): void {
    for (let i = count - 1; i >= 0; i--) this.#bit((code >> i) & 1)
  }

  /** Fills the last byte. */
  bytes(): number[] {
    return this.#bytes
  }

  #bit(bit: number): void {
    const at = this.#count >> 3
    this.#bytes[at] = (this.#bytes[at] ?? 0) | (bit << (this.#count & 7))
    this.#count++
  }
}

/** Returns a block of deflate that repeats the last `length` bytes of the text before it. May repeat up to {@link LONGEST} bytes more. */
function repeating(length: number): Buffer {
  const code = DISTANCES.findLastIndex(({ start }) => start <= length)
  const { start, extra } = DISTANCES[code]!
  const bits = new Bits()
  // Not the last block; fixed codes.
  bits.add(0, 1)
  bits.add(1, 2)
  for (let done = 0; done < length; done += LONGEST) {
    // Code 285: a match of 258 bytes.
    bits.addCode(0b1100_0101, 8)
    bits.addCode(code, 5)
    bits.add(length - start, extra)
  }
  // The end of the block, and an empty stored block, which ends at a full byte.
  bits.addCode(0, 7)
  bits.add(0, 3)
  return Buffer.from([...bits.bytes(), 0, 0, 0xff, 0xff])
}

export const INFLATE_WINDOW = internal(
  'zlib.InflateRaw._processChunk()',
  'WebSockets with permessage-deflate and context takeover do not move',
  () => {
    const text = Buffer.from('the text before')
    const inflate = zlib().createInflateRaw({ dictionary: text })
    return inflateWindow(inflate, text.length).equals(text)
  },
)

function inflateNow(inflate: InflateRaw, bytes: Buffer): Buffer {
  return (inflate as unknown as SyncInflate)._processChunk(bytes, zlib().constants.Z_SYNC_FLUSH)
}

/**
 * Returns the last `length` bytes, at most 32,768, that `inflate` has produced: the text to which further input may refer. No input may be in work. Closes
 * `inflate`. Deflate itself can repeat that text, so no copy of it is needed while messages arrive.
 */
export function inflateWindow(inflate: InflateRaw, length: number): Buffer {
  if (length === 0) return Buffer.alloc(0)
  return inflateNow(inflate, repeating(length)).subarray(0, length)
}
