import { crc32 } from 'node:zlib'
import type { Bytes } from './key-bytes.js'

const POLYNOMIAL = 0xedb88320
/** More bytes are summed faster by a call. */
const FEW = 128

/** Of each byte, its sum; and with one, two and three zeros behind it: so four bytes are summed in one step. */
const BYTE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ POLYNOMIAL : sum >>> 1
  return sum
})
const behind = (sum: number) => BYTE[sum & 0xff]! ^ (sum >>> 8)
const SECOND = BYTE.map(behind)
const THIRD = SECOND.map(behind)
const FOURTH = THIRD.map(behind)

/** `crc32` of `node:zlib`, of a part of a buffer. Of a few bytes, as a key has, no view is made: that and the call take several times as long as the sum. */
export function crc32Of({ buffer, view }: Bytes, start: number, end: number, value: number): number {
  // Of no bytes zlib says 0, whatever came before.
  if (end - start > FEW || end <= start) return crc32(buffer.subarray(start, end), value)
  let sum = ~value
  let at = start
  for (; at + 4 <= end; at += 4) {
    const four = sum ^ view.getInt32(at, true)
    sum =
      FOURTH[four & 0xff]! ^ THIRD[(four >>> 8) & 0xff]! ^ SECOND[(four >>> 16) & 0xff]! ^ BYTE[four >>> 24]!
  }
  for (; at < end; at++) sum = BYTE[(sum ^ buffer[at]!) & 0xff]! ^ (sum >>> 8)
  return ~sum >>> 0
}
