import { type OwnedFd, readAt } from '../../kernel/index.js'
import { FRAME_HEADER } from '../frame.js'
import { HEADER_MARK, readHeader } from '../segment.js'

const SEARCHED = 1024 * 1024

/**
 * Whether a whole header begins behind this offset: all before it was synced. Of files without marks, which releases up to 0.3.0
 * wrote; a value may look like a header there.
 */
export function headerBehind(fd: OwnedFd, offset: number, size: number): boolean {
  const buffer = Buffer.allocUnsafe(Math.min(SEARCHED, Math.max(0, size - offset)))
  for (let from = offset + 1; from < size; from += Math.max(1, buffer.length - HEADER_MARK.length)) {
    const got = readAt(fd, buffer, 0, Math.min(buffer.length, size - from), from)
    const searched = buffer.subarray(0, got)
    for (let at = searched.indexOf(HEADER_MARK); at >= 0; at = searched.indexOf(HEADER_MARK, at + 1)) {
      if (from + at - FRAME_HEADER > offset && isWhole(fd, from + at - FRAME_HEADER)) return true
    }
    if (got < buffer.length) break
  }
  return false
}

function isWhole(fd: OwnedFd, offset: number): boolean {
  try {
    readHeader(fd, offset)
    return true
  } catch {
    return false
  }
}
