import { readAt } from '../kernel/index.js'
import type { Location } from './locations.js'
import type { Segment } from './segment.js'

/** Bytes of one read of a segment. */
export const BLOCK_BYTES = 64 * 1024
const MOST_BLOCKS = 16
/** Most bytes held: of one segment, from a multiple of this on. */
export const READ_AHEAD_BYTES = BLOCK_BYTES * MOST_BLOCKS
/** Reading a block takes as long as so many entries one by one. */
const WORTH = 16
const MOST_CREDIT = MOST_BLOCKS * WORTH
/** Credit for each entry read by itself, so that blocks are tried again. */
const REGAINED = 1 / 8

/** A segment and its read position; bytes before that never change. */
export interface ReadSegment {
  readonly segment: Segment
  readonly position: number
}

interface Block {
  readonly segment: Segment
  readonly number: number
  readonly bytes: Buffer
  filled: number
}

/** Reads entries by blocks while many are read at once, with a tenth of the system calls. Blocks, which may hold secrets, are dropped after a turn without reads. */
export class ReadAhead {
  readonly #blocks = new Array<Block | undefined>(MOST_BLOCKS)
  /** Entries found in blocks, minus the cost of these blocks. */
  #credit = MOST_CREDIT
  #used = false
  #checkTimer: NodeJS.Immediate | undefined

  /** The start of the last found entry in its block; 0: not in a block. */
  start = 0

  /** Reads to the start of `into`. Returns the bytes read: fewer at the end of the file. */
  read(held: ReadSegment, at: Location, into: Buffer): number {
    const block = this.find(held, at)
    if (block === null) return readAt(held.segment.fd, into, 0, at.length, at.offset)
    return block.copy(into, 0, this.start, this.start + at.length)
  }

  /** The block with the whole entry, which begins at {@link start}, valid until the next call; null: read it by itself. */
  find({ segment, position }: ReadSegment, { offset, length }: Location): Buffer | null {
    const block = this.#blockOf(segment, position, offset, length)
    this.start = block === null ? 0 : offset % BLOCK_BYTES
    return block?.bytes ?? null
  }

  /** Null: read it by itself. */
  #blockOf(segment: Segment, position: number, offset: number, length: number): Block | null {
    const start = offset % BLOCK_BYTES
    const end = start + length
    // Bytes behind the last complete record may still change.
    if (end > BLOCK_BYTES || offset + length > position) return null
    const number = (offset - start) / BLOCK_BYTES
    const at = number % MOST_BLOCKS
    const found = this.#blocks[at]
    if (found?.segment === segment && found.number === number && end <= found.filled) {
      if (this.#credit < MOST_CREDIT) this.#credit++
      this.#used = true
      return found
    }
    if (this.#credit < WORTH) {
      this.#credit += REGAINED
      return null
    }
    this.#credit -= WORTH
    const bytes = found?.bytes ?? Buffer.allocUnsafeSlow(BLOCK_BYTES)
    const wanted = Math.min(BLOCK_BYTES, position - number * BLOCK_BYTES)
    const filled = readAt(segment.fd, bytes, 0, wanted, number * BLOCK_BYTES)
    const block = { segment, number, bytes, filled }
    this.#blocks[at] = block
    this.#used = true
    this.#checkTimer ??= setImmediate(() => this.#dropUnused())
    // The file was cut: the caller's read reports it.
    return end <= filled ? block : null
  }

  #dropUnused(): void {
    this.#checkTimer = undefined
    if (!this.#used) {
      this.#blocks.fill(undefined)
      return
    }
    this.#used = false
    this.#checkTimer = setImmediate(() => this.#dropUnused())
  }
}
