import { rmSync } from 'node:fs'
import { type FileHandle, lstat } from 'node:fs/promises'
import { native } from '../../native.js'
import type { LogPiece } from '../history.js'
import { headerFrame, type Segment } from '../segment.js'
import type { StateLog } from '../state-log.js'
import { createBeside, makeSecret, replaceStateFile } from './place.js'

/** The most bytes of one write: reading them from the log takes well under a millisecond. */
const CHUNK = 256 * 1024

/** How far the log has been copied: to this offset of this segment. */
interface Reached {
  segment: { kind: Segment['kind']; epoch: number }
  offset: number
  /** The segment was final, and this its end. */
  whole: boolean
}

/** What is to be copied next. */
interface Next {
  piece: LogPiece
  from: number
}

/**
 * A file on the disk that becomes a copy of a log: its segments one behind the other, byte for byte. Written by one call at a
 * time. A write that failed is made again, at the same place. Owns its descriptor; a file that did not come to be the state
 * file is removed when it is closed.
 */
export class FileCopy {
  readonly #handle: FileHandle
  readonly #path: string
  #installed = false
  #secret: boolean
  #reached: Reached | null = null
  #size = 0
  /** A write has failed: what lies behind `#size` is to be cut off. */
  #cut = false
  #closed = false
  /** Ends with a whole record. */
  whole = false
  /** The last change in it, as of the last time that it was {@link whole}. */
  sequence = 0
  /** The last change that the disk has. */
  syncedSequence = 0
  /** Changes were written since it was brought to the disk. */
  unsynced = false

  private constructor(path: string, handle: FileHandle, secret: boolean) {
    this.#path = path
    this.#handle = handle
    this.#secret = secret
  }

  /** A new one, beside the state file of this path. */
  static async create(path: string, secret: boolean): Promise<FileCopy> {
    const { path: beside, handle } = await createBeside(path, secret)
    return new FileCopy(beside, handle, secret)
  }

  get path(): string {
    return this.#path
  }

  get size(): number {
    return this.#size
  }

  /** Bytes of the log that are not in it; null: it cannot be continued, as what it lacks was merged with what it has. */
  behind(log: StateLog): number | null {
    const pieces = log.pieces()
    const at = this.#place(pieces)
    if (at === null) return null
    let bytes = 0
    for (const { segment, end } of pieces.slice(at.index)) bytes += end - segment.start
    return bytes - at.copied
  }

  /**
   * Copies what comes next, at most 256 KiB. Returns how many bytes of the log: 0 when there is no more; null when it cannot
   * be continued.
   */
  async copySome(log: StateLog): Promise<number | null> {
    const pieces = log.pieces()
    const next = this.#next(pieces)
    if (next === null) return null
    if (next === 'all') {
      this.#noteEnd(pieces)
      return 0
    }
    const { piece, from } = next
    const { segment, end, final } = piece
    const { kind, epoch } = segment
    const to = Math.min(end, from + CHUNK)
    const sequence = log.sequence
    const header = from === segment.start ? headerFrame(epoch, kind) : Buffer.alloc(0)
    const bytes = Buffer.allocUnsafe(header.length + to - from)
    header.copy(bytes)
    native.pread(segment.fd.raw, bytes, header.length, to - from, from)
    if (log.secret && !this.#secret) {
      await makeSecret(this.#handle)
      this.#secret = true
    }
    await this.#append(bytes)
    this.#reached = { segment: { kind, epoch }, offset: to, whole: final && to === end }
    this.unsynced = true
    this.whole = to === end
    if (this.whole) this.sequence = sequence
    return to - from
  }

  /** Where it was at the end of a segment that was written then, and that is final now. */
  #noteEnd(pieces: readonly LogPiece[]): void {
    const { segment, offset = 0 } = this.#reached ?? {}
    const piece = pieces.find(
      each => each.segment.kind === segment?.kind && each.segment.epoch === segment.epoch,
    )
    if (this.#reached !== null && piece?.final && piece.end === offset) this.#reached.whole = true
  }

  #next(pieces: readonly LogPiece[]): Next | 'all' | null {
    const at = this.#place(pieces)
    if (at === null) return null
    for (const [i, piece] of pieces.slice(at.index).entries()) {
      const from = piece.segment.start + (i === 0 ? at.copied : 0)
      if (from < piece.end) return { piece, from }
      // What comes behind it may not have begun.
      if (!piece.final) break
    }
    return 'all'
  }

  /** The piece that it ends in, and how much of that it has. */
  #place(pieces: readonly LogPiece[]): { index: number; copied: number } | null {
    const reached = this.#reached
    if (reached === null) return { index: 0, copied: 0 }
    const { kind, epoch } = reached.segment
    const index = pieces.findIndex(({ segment }) => segment.kind === kind && segment.epoch === epoch)
    if (index >= 0) return { index, copied: reached.offset - pieces[index]!.segment.start }
    // It was merged: with just what is here, or with more.
    const merged = pieces.findIndex(({ segment }) => segment.kind === 'snapshot' && segment.epoch === epoch)
    return merged >= 0 && reached.whole ? { index: merged + 1, copied: 0 } : null
  }

  async #append(bytes: Uint8Array): Promise<void> {
    if (this.#cut) {
      await this.#handle.truncate(this.#size)
      this.#cut = false
    }
    this.#cut = true
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, this.#size + done)
      done += bytesWritten
    }
    this.#size += bytes.length
    this.#cut = false
  }

  /**
   * Brings it to the disk. Where it is {@link whole} a header follows, which says so: damage before it is not what a power
   * cut leaves.
   */
  async sync(): Promise<void> {
    const { sequence, whole, unsynced } = this
    if (!unsynced) return
    this.unsynced = false
    try {
      await this.#handle.datasync()
    } catch (error) {
      this.unsynced = true
      throw error
    }
    if (whole) this.syncedSequence = sequence
    const epoch = this.#reached?.segment.epoch
    if (whole && epoch !== undefined) await this.#append(headerFrame(epoch, 'epoch'))
  }

  /** From now on it is the state file. */
  async install(path: string): Promise<void> {
    await replaceStateFile(this.#path, path)
    this.#installed = true
  }

  /** It is what the path names: nobody has removed or replaced it. */
  async isAt(path: string): Promise<boolean> {
    const own = await this.#handle.stat({ bigint: true })
    const there = await lstat(path, { bigint: true }).catch(() => null)
    return there?.ino === own.ino && there.dev === own.dev
  }

  /** Idempotent. A write that is under way ends first. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    if (!this.#installed) rmSync(this.#path, { force: true })
    await this.#handle.close().catch(() => {})
  }
}
