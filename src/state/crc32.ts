import { crc32 } from 'node:zlib'

const POLYNOMIAL = 0xedb88320
/** More bytes are summed faster by a call. */
const FEW = 128

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ POLYNOMIAL : sum >>> 1
  return sum
})

/** `crc32` of `node:zlib`, of a part of a buffer. Of a few bytes, as a key has, no view is made: that and the call take several times as long as the sum. */
export function crc32Of(buffer: Uint8Array, start: number, end: number, value: number): number {
  // Of no bytes zlib says 0, whatever came before.
  if (end - start > FEW || end <= start) return crc32(buffer.subarray(start, end), value)
  let sum = ~value
  for (let i = start; i < end; i++) sum = TABLE[(sum ^ buffer[i]!) & 0xff]! ^ (sum >>> 8)
  return ~sum >>> 0
}
