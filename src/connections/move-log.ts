import { FdbError } from '../errors.js'
import {
  addSeals,
  closeOnThrow,
  memoryFile,
  type NativeError,
  type OwnedFd,
  readAt,
  SEAL_FUTURE_WRITE,
  SEAL_GROW,
  SEAL_SEAL,
  SEAL_WRITE,
  sealsOf,
  sizeOf,
  writeAt,
} from '../kernel/index.js'

/** An entry is the number of a slice and its record, 32 bits each, little endian. */
const ENTRY_BYTES = 8
const MOVED = 0x6d6f7665
const BACK = 0x6261636b
/** A valid log has fewer entries; further ones are ignored. */
const MOST_ENTRIES = 1_000_000
const READ_ENTRIES = 512
/** Seals that would prevent the sender's writes or the receiver's seal. */
const HINDERING = SEAL_WRITE | SEAL_FUTURE_WRITE | SEAL_GROW | SEAL_SEAL

export type MoveRecord = 'moved' | 'back'

/**
 * The outcome of each slice, in a memory file that both processes hold. The sender writes the outcome before it closes or takes back the
 * connections. A receiver that does not learn the outcome in time seals the log, then reads the outcome from it.
 */
export class MoveLog implements Disposable {
  readonly fd: OwnedFd
  #end = 0
  readonly #bytes = Buffer.alloc(ENTRY_BYTES)

  private constructor(fd: OwnedFd) {
    this.fd = fd
  }

  static create(): MoveLog {
    const fd = memoryFile('fdb-moves', 'move log')
    if (sealsOf(fd) === null) {
      fd.close()
      throw new FdbError(
        'ERR_FDB_NO_SEALS',
        'this kernel has no memory files that can be sealed: connections cannot move between processes, they drain instead',
      )
    }
    return new MoveLog(fd)
  }

  /** Opens a log that another process made. Takes ownership of `fd`, even if it throws ERR_FDB_MOVE_LOG. */
  static open(fd: OwnedFd): MoveLog {
    return closeOnThrow([fd], () => {
      const seals = sealsOf(fd)
      if (seals === null || (seals & HINDERING) !== 0 || sizeOf(fd) !== 0) {
        throw new FdbError(
          'ERR_FDB_MOVE_LOG',
          'a new move log must be an empty memory file without seals: the peer is faulty, no connection moves',
        )
      }
      return new MoveLog(fd)
    })
  }

  /** Returns false if the receiver has sealed the log. */
  append(slice: number, record: MoveRecord): boolean {
    this.#bytes.writeUInt32LE(slice, 0)
    this.#bytes.writeUInt32LE(record === 'moved' ? MOVED : BACK, 4)
    try {
      writeAt(this.fd, this.#bytes, 0, ENTRY_BYTES, this.#end)
    } catch (error) {
      if ((error as NativeError).code === 'EPERM') return false
      throw error
    }
    this.#end += ENTRY_BYTES
    return true
  }

  /** Prevents all further records. Idempotent. */
  seal(): void {
    addSeals(this.fd, SEAL_WRITE)
  }

  read(slice: number): MoveRecord | 'nothing' {
    const entries = Math.floor(sizeOf(this.fd) / ENTRY_BYTES)
    const chunk = Buffer.alloc(READ_ENTRIES * ENTRY_BYTES)
    // Reads backwards, because only the last slices can be undecided.
    for (let to = Math.min(entries, MOST_ENTRIES); to > 0; to -= READ_ENTRIES) {
      const from = Math.max(0, to - READ_ENTRIES)
      const got = readAt(this.fd, chunk, 0, (to - from) * ENTRY_BYTES, from * ENTRY_BYTES)
      for (let at = got - ENTRY_BYTES; at >= 0; at -= ENTRY_BYTES) {
        if (chunk.readUInt32LE(at) !== slice) continue
        const record = chunk.readUInt32LE(at + 4)
        if (record === MOVED) return 'moved'
        if (record === BACK) return 'back'
      }
    }
    return 'nothing'
  }

  close(): void {
    this.fd.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
