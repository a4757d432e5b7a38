import { readAt } from '../kernel/index.js'
import type { Location } from './locations.js'
import type { Segment } from './segment.js'

/** Bytes of one read of a segment. */
export const BLOCK_BYTES = 64 * 1024
const MOST_BLOCKS = 16
/** Maximum bytes that the cache holds. Blocks of one aligned range of this size do not displace each other. */
export const READ_AHEAD_BYTES = BLOCK_BYTES * MOST_BLOCKS
/** The credit that a block costs: reading a block takes as long as reading this many entries one by one. */
const BLOCK_COST = 16
const MOST_CREDIT = MOST_BLOCKS * BLOCK_COST
/** The credit that each entry read alone gives back, so that blocks are tried again after a while. */
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

/** Reads entries by blocks while many nearby ones are read, which takes a tenth of the system calls. Blocks may hold secrets: they are dropped after a turn without reads. */
export class ReadAhead {
  readonly #blocks = new Array<Block | undefined>(MOST_BLOCKS)
  /** Rises with each entry found in a block, falls with each block that is read. If too low for a block, entries are read alone. */
  #credit = MOST_CREDIT
  #used = false
  #checkTimer: NodeJS.Immediate | undefined

  /** Offset of the last found entry in its block; 0 if it was read alone. */
  start = 0

  /** Reads an entry into `into`. Returns the number of bytes, which is smaller at the end of the file. */
  read(held: ReadSegment, at: Location, into: Buffer): number {
    const block = this.find(held, at)
    if (block === null) return readAt(held.segment.fd, into, 0, at.length, at.offset)
    return block.copy(into, 0, this.start, this.start + at.length)
  }

  /** Returns the block with the whole entry, which begins at {@link start}, or null if the caller must read the entry alone. Valid until the next call. */
  find({ segment, position }: ReadSegment, { offset, length }: Location): Buffer | null {
    const block = this.#blockOf(segment, position, offset, length)
    this.start = block === null ? 0 : offset % BLOCK_BYTES
    return block?.bytes ?? null
  }

  #blockOf(segment: Segment, position: number, offset: number, length: number): Block | null {
    const start = offset % BLOCK_BYTES
    const end = start + length
    // Bytes after the last complete record may still change.
    if (end > BLOCK_BYTES || offset + length > position) return null
    const number = (offset - start) / BLOCK_BYTES
    const at = number % MOST_BLOCKS
    const found = this.#blocks[at]
    if (found?.segment === segment && found.number === number && end <= found.filled) {
      if (this.#credit < MOST_CREDIT) this.#credit++
      this.#used = true
      return found
    }
    if (this.#credit < BLOCK_COST) {
      this.#credit += REGAINED
      return null
    }
    this.#credit -= BLOCK_COST
    const bytes = found?.bytes ?? Buffer.allocUnsafeSlow(BLOCK_BYTES)
    const wanted = Math.min(BLOCK_BYTES, position - number * BLOCK_BYTES)
    const filled = readAt(segment.fd, bytes, 0, wanted, number * BLOCK_BYTES)
    const block = { segment, number, bytes, filled }
    this.#blocks[at] = block
    this.#used = true
    this.#checkTimer ??= setImmediate(() => this.#dropUnused())
    // If the file was truncated, the caller's own read reports it.
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
