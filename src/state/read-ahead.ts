import { readAt } from '../kernel/index.js'
import type { Location } from './locations.js'
import type { Segment } from './segment.js'

/** Bytes of a segment that are read in one go. */
export const BLOCK_BYTES = 64 * 1024
const MOST_BLOCKS = 16
/** At most so much is held: of a segment, what lies together from a multiple of it on. */
export const READ_AHEAD_BYTES = BLOCK_BYTES * MOST_BLOCKS
/** A block takes as long to read as so many entries one by one. */
const WORTH = 16
const MOST_CREDIT = MOST_BLOCKS * WORTH
/** The credit of each entry that is read by itself, so that blocks are tried again. */
const REGAINED = 1 / 8

/** A segment, and how far it has been read: what lies below never changes. */
export interface ReadSegment {
  readonly segment: Segment
  /** File offset behind the last record that was applied. */
  readonly position: number
}

interface Block {
  readonly segment: Segment
  readonly number: number
  readonly bytes: Buffer
  filled: number
}

/** Reads entries by blocks while many are read at once, which takes a tenth of the system calls. Blocks, which may be secret, go when a turn asks for none. */
export class ReadAhead {
  readonly #blocks = new Array<Block | undefined>(MOST_BLOCKS)
  /** Entries found in blocks, less what these have cost. */
  #credit = MOST_CREDIT
  #used = false
  #checkTimer: NodeJS.Immediate | undefined

  /** Where in its block that begins which was found last; 0 where no block has it. */
  start = 0

  /** Reads to the start of `into`. Bytes read: fewer than asked for only where the file ends. */
  read(held: ReadSegment, at: Location, into: Buffer): number {
    const block = this.find(held, at)
    if (block === null) return readAt(held.segment.fd, into, 0, at.length, at.offset)
    return block.copy(into, 0, this.start, this.start + at.length)
  }

  /** The block that has all of it, from {@link start} on, until another is looked for; null: it is to be read by itself. */
  find({ segment, position }: ReadSegment, { offset, length }: Location): Buffer | null {
    const block = this.#blockOf(segment, position, offset, length)
    this.start = block === null ? 0 : offset % BLOCK_BYTES
    return block?.bytes ?? null
  }

  /** Null: it is to be read by itself. */
  #blockOf(segment: Segment, position: number, offset: number, length: number): Block | null {
    const start = offset % BLOCK_BYTES
    const end = start + length
    // Behind the last whole record lies what a writer may still be writing, or may have left and another may write anew.
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
    // The file was cut: reading it says where.
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
