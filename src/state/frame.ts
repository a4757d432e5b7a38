import { crc32 } from 'node:zlib'

/** u32le length, u32le crc32 of the payload. */
export const FRAME_HEADER = 8

/** One frame around a payload that is given in parts. */
export function frame(...parts: Uint8Array[]): Buffer {
  let length = 0
  for (const part of parts) length += part.length
  const bytes = Buffer.allocUnsafe(FRAME_HEADER + length)
  let at = FRAME_HEADER
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  bytes.writeUInt32LE(length, 0)
  bytes.writeUInt32LE(crc32(bytes.subarray(FRAME_HEADER)), 4)
  return bytes
}
