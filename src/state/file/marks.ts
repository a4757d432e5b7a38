import type { OwnedFd } from '../../kernel/index.js'
import { headerFrame, readHeader } from '../segment.js'

/** The length of the state file at a sync, and the sequence number of the last change in the file at that sync. */
export interface Mark {
  readonly length: number
  readonly sequence: number
}

/** A state file has two marks, which are overwritten alternately: a power cut can damage only one of them. */
export const MARKS = 2

const NUMBERS_BYTES = 16
const NOTHING: Mark = { length: 0, sequence: 0 }

export function markFrame(epoch: number, { length, sequence }: Mark): Buffer {
  const mark = Buffer.allocUnsafe(NUMBERS_BYTES)
  mark.writeBigUInt64LE(BigInt(length), 0)
  mark.writeBigUInt64LE(BigInt(sequence), 8)
  return headerFrame(epoch, 'epoch', { mark })
}

export function firstMarks(epoch: number): Buffer {
  const mark = markFrame(epoch, NOTHING)
  return Buffer.concat(Array.from({ length: MARKS }, () => mark))
}

/** Reads the marks at a file offset. `mark` is the newest complete one, or null; `end` is the offset after the marks. */
export function readMarks(
  fd: OwnedFd,
  at: number,
  epoch: number,
  count: number,
): { mark: Mark | null; end: number } {
  const { length } = markFrame(epoch, NOTHING)
  const marks = Array.from({ length: Math.min(count, MARKS) }, (_, i) => readMark(fd, at + i * length))
  const whole = marks.filter(mark => mark !== null)
  const mark = whole.reduce<Mark | null>(
    (newest, each) => (newest !== null && newest.length >= each.length ? newest : each),
    null,
  )
  return { mark, end: at + count * length }
}

function readMark(fd: OwnedFd, at: number): Mark | null {
  try {
    const { mark } = readHeader(fd, at)
    if (mark.length !== NUMBERS_BYTES) return null
    const numbers = Buffer.from(mark)
    return { length: Number(numbers.readBigUInt64LE(0)), sequence: Number(numbers.readBigUInt64LE(8)) }
  } catch {
    return null
  }
}
