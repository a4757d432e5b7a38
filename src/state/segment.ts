import { crc32 } from 'node:zlib'
import { FdbError } from '../errors.js'
import {
  addSeals,
  addSealsAside,
  closeAll,
  closeOnThrow,
  memoryFile,
  type NativeError,
  type OwnedFd,
  readAt,
  reopenReadOnly,
  reopenWritable,
  SEAL_GROW,
  SEAL_SEAL,
  SEAL_SHRINK,
  SEAL_WRITE,
  sealsOf,
  sizeOf,
  truncate,
  writeAt,
} from '../kernel/index.js'
import { fdbroker } from '../proto/state.js'

/** Bytes before a frame's payload: its length (u32le) and its CRC-32 (u32le). */
export const FRAME_HEADER = 8

/** Returns one frame; its payload is the concatenation of `parts`. */
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

const { Header } = fdbroker.state
const MAGIC = 'fdb-state'
const FORMAT = 1
const MAX_HEADER = 4096
/** Larger memory files are closed on another thread, because freeing their pages takes time. */
const LARGE_BYTES = 4 * 1024 * 1024
const ZEROS = Buffer.alloc(4096)

export type SegmentKind = 'epoch' | 'snapshot'

export interface SegmentHeader {
  readonly epoch: number
  readonly kind: SegmentKind
}

export interface FileHeader extends SegmentHeader {
  /** The service that owns the state file, or ''. */
  readonly service: string
  /** Number of marks that follow in a state file; 0 in a memory segment. */
  readonly marks: number
  /** The encoded numbers of a state file's mark; empty in other headers. */
  readonly mark: Uint8Array
}

export interface SegmentOptions {
  kind?: SegmentKind
  /** Shown in /proc/PID/fd; default `fdb-state-EPOCH`. */
  name?: string
}

/** The result of an append. append() does not throw: a seal is expected, and appending is a hot path. */
export interface AppendResult {
  /** Bytes written: fewer than requested if memory or disk ran out, or if another process sealed the segment during a huge write. */
  written: number
  /** 'sealed' if the right to write has ended; an error if the bytes were not written and the append may be retried. */
  refused: 'sealed' | FdbError | null
}

/**
 * One memory file of the state log: a header, then frames (proto/state.proto). Owns its descriptor. F_SEAL_WRITE seals the segment: no process may
 * write any more. F_SEAL_SHRINK alone releases it (see {@link markReleased}); appends continue. Sealing an unreleased segment also sets F_SEAL_GROW,
 * so that {@link released} can tell the two apart.
 */
export class Segment {
  readonly epoch: number
  readonly kind: SegmentKind
  /** The offset of the first record. */
  readonly start: number
  readonly fd: OwnedFd
  #end: number
  /** Whether this object was sealed, for a file that the kernel cannot seal (no memfd). */
  #sealedHere = false
  /** Cached: a handoff reads it at each step. */
  #sealable: boolean | undefined

  private constructor(fd: OwnedFd, epoch: number, kind: SegmentKind, start: number, end: number) {
    this.fd = fd
    this.epoch = epoch
    this.kind = kind
    this.start = start
    this.#end = end
  }

  static create(epoch: number, options: SegmentOptions = {}): Segment {
    const { kind = 'epoch', name = `fdb-state-${epoch}` } = options
    if (!Number.isSafeInteger(epoch) || epoch < 0) {
      throw new FdbError('ERR_FDB_OPTION', `epoch is ${epoch}; give a whole number of at least 0`)
    }
    const fd = memoryFile(name, `state segment ${epoch}`)
    return closeOnThrow([fd], () => {
      const bytes = headerFrame(epoch, kind)
      if (writeAt(fd, bytes, 0, bytes.length, 0) < bytes.length) {
        throw new FdbError(
          'ERR_FDB_STATE_FULL',
          `no memory for the ${bytes.length} bytes of a segment's header; free some`,
        )
      }
      return new Segment(fd, epoch, kind, bytes.length, bytes.length)
    })
  }

  /** Opens another process's segment. Takes ownership of `fd`; closes it on ERR_FDB_STATE_FORMAT (no segment, or a newer format). */
  static open(fd: OwnedFd): Segment {
    return closeOnThrow([fd], () => {
      const { epoch, kind, start } = readHeader(fd, 0)
      return new Segment(fd, epoch, kind, start, start)
    })
  }

  /** Opens several segments. If opening one fails, closes all descriptors. */
  static openAll(fds: readonly OwnedFd[]): Segment[] {
    try {
      return fds.map(fd => Segment.open(fd))
    } catch (error) {
      closeAll(fds)
      throw error
    }
  }

  /** Returns the same memory with a read-only descriptor, which can neither write nor seal. */
  readOnly(): Segment {
    const fd = reopenReadOnly(this.fd, `state segment ${this.epoch} (read only)`)
    return new Segment(fd, this.epoch, this.kind, this.start, this.#end)
  }

  /** Returns the same memory by the same descriptor, with an owner of its own. Needs no further descriptor, so that a handoff cannot fail here after the Commit. */
  share(): Segment {
    return new Segment(this.fd.share(), this.epoch, this.kind, this.start, this.#end)
  }

  size(): number {
    return sizeOf(this.fd)
  }

  /** The offset of the next append. */
  get end(): number {
    return this.#end
  }

  /** Whether no process can write any more. Queries the kernel each time, because another process may have sealed the segment. */
  get sealed(): boolean {
    const seals = sealsOf(this.fd)
    return seals === null ? this.#sealedHere : (seals & SEAL_WRITE) !== 0
  }

  /** Whether the kernel can seal the segment. If it cannot (no memfd), a process does not learn of a seal by another one. */
  get sealable(): boolean {
    this.#sealable ??= sealsOf(this.fd) !== null
    return this.#sealable
  }

  /** Ends every process's right to write, for good. Idempotent. Needs a writable descriptor. */
  seal(): void {
    const wanted = this.#sealsToAdd()
    if (wanted !== 0) this.#addSeals(wanted, SEAL_WRITE)
  }

  /** As {@link seal}. Waits in another thread if another user's process uses pages of the segment; then rejects after half a second. */
  async sealAside(): Promise<void> {
    const wanted = this.#sealsToAdd()
    if (wanted === 0) return
    try {
      await addSealsAside(this.fd, wanted)
    } catch (error) {
      if (!this.fd.closed) this.#checkSeals(wanted, SEAL_WRITE, error as NativeError)
    }
  }

  #sealsToAdd(): number {
    const seals = sealsOf(this.fd)
    if (seals === null) this.#sealedHere = true
    if (seals === null || (seals & SEAL_WRITE) !== 0) return 0
    return (seals & SEAL_SHRINK) !== 0 ? SEAL_WRITE : SEAL_WRITE | SEAL_GROW | SEAL_SHRINK
  }

  /** Seals the segment of a process that is known to be dead. Reopens the descriptor for writing, as it may be read-only. */
  sealForDead(): void {
    if (this.#sealedForDead()) return
    using segment = this.#reopened()
    segment.seal()
  }

  /** As {@link sealForDead}, see {@link sealAside}. */
  async sealForDeadAside(): Promise<void> {
    if (this.#sealedForDead()) return
    using segment = this.#reopened()
    await segment.sealAside()
  }

  #sealedForDead(): boolean {
    if (!this.sealable) this.#sealedHere = true
    return this.sealed
  }

  #reopened(): Segment & Disposable {
    const fd = reopenWritable(this.fd, `state segment ${this.epoch} of a dead process`)
    const segment = new Segment(fd, this.epoch, this.kind, this.start, this.#end)
    return Object.assign(segment, { [Symbol.dispose]: () => fd.close() })
  }

  /** Marks that the standby must not take over again (F_SEAL_SHRINK); appends continue. Returns false if the segment was already sealed. Idempotent. */
  markReleased(): boolean {
    if (this.released) return true
    if (this.sealed) return false
    // Without seals no standby can take over again.
    if (!this.sealable) return true
    this.#addSeals(SEAL_SHRINK, SEAL_SHRINK)
    return this.released
  }

  /** Whether any process called {@link markReleased} on this memory before the seal. */
  get released(): boolean {
    const seals = sealsOf(this.fd)
    return seals !== null && (seals & SEAL_SHRINK) !== 0 && (seals & SEAL_GROW) === 0
  }

  /**
   * Seals the segment, and marks that this process takes the place of the one that had it (F_SEAL_SEAL): a successor of that one must not take
   * over when it dies. The kernel lets one process claim a segment; returns false in others. Throws as {@link seal}.
   */
  claim(): boolean {
    this.seal()
    if (this.claimed) return false
    if (!this.sealable) return true
    try {
      addSeals(this.fd, SEAL_SEAL)
      return true
    } catch (error) {
      this.#checkSeals(SEAL_SEAL, SEAL_SEAL, error as NativeError)
      return false
    }
  }

  /** Whether any process called {@link claim} on this memory. */
  get claimed(): boolean {
    return ((sealsOf(this.fd) ?? 0) & SEAL_SEAL) !== 0
  }

  #addSeals(wanted: number, needed: number): void {
    try {
      addSeals(this.fd, wanted)
    } catch (error) {
      this.#checkSeals(wanted, needed, error as NativeError)
    }
  }

  /** Throws ERR_FDB_STATE_SEAL unless the segment has the needed seals, although adding some has failed. */
  #checkSeals(wanted: number, needed: number, cause: NativeError): void {
    const seals = sealsOf(this.fd) ?? 0
    if ((seals & needed) === needed) return
    const { code } = cause
    const reason =
      code === 'EPERM'
        ? 'this descriptor is read-only, or the seals are sealed; seal through a writable descriptor'
        : code === 'EBUSY'
          ? 'a process maps the segment writable, or holds pages of it (splice); use pread and pwrite only'
          : 'see the cause'
    throw new FdbError(
      'ERR_FDB_STATE_SEAL',
      `segment of epoch ${this.epoch} cannot be given the seals ${wanted} (it has ${seals}; ${code}): ${reason}`,
      { cause },
    )
  }

  append(bytes: Uint8Array): AppendResult {
    if (this.#sealedHere) return { written: 0, refused: 'sealed' }
    let written = 0
    try {
      // A short write reports no error; the next write fails with the error code.
      while (written < bytes.length) {
        const left = bytes.length - written
        written += writeAt(this.fd, bytes, written, left, this.#end + written)
      }
      this.#end += written
      return { written, refused: null }
    } catch (error) {
      const { code } = error as NativeError
      if (code === 'EPERM') return { written, refused: 'sealed' }
      return { written, refused: appendError(this, bytes.length, error as NativeError) }
    }
  }

  /**
   * Sets the offset of the next append to the end of the last complete record. Unless the segment is sealed, truncates later bytes, or zeroes them if
   * a release (F_SEAL_SHRINK) forbids truncation.
   */
  continueAt(offset: number): void {
    this.#end = offset
    const surplus = this.size() - offset
    if (surplus <= 0 || this.sealed) return
    try {
      truncate(this.fd, offset)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPERM' || this.sealed) return
      for (let at = offset; at < offset + surplus; at += ZEROS.length) {
        writeAt(this.fd, ZEROS, 0, Math.min(ZEROS.length, offset + surplus - at), at)
      }
    }
  }

  close(): void {
    if (!this.fd.closed && this.size() >= LARGE_BYTES) this.fd.closeAside()
    else this.fd.close()
  }
}

function appendError(segment: Segment, length: number, error: NativeError): FdbError {
  // The limit of files holds for memory files too.
  const limited = error.code === 'EFBIG'
  const full = limited || error.code === 'ENOSPC' || error.code === 'ENOMEM'
  const remedy = limited ? 'raise RLIMIT_FSIZE (ulimit -f, LimitFSIZE=)' : 'free memory'
  return new FdbError(
    full ? 'ERR_FDB_STATE_FULL' : 'ERR_FDB_STATE_IO',
    `cannot append ${length} bytes to the segment of epoch ${segment.epoch} at ${segment.end} (${error.code}); ` +
      (full ? `${remedy}, and try again` : 'see the cause'),
    { cause: error, retryable: full },
  )
}

/** The first bytes of each header's payload; no record starts with them. */
export const HEADER_MARK = Buffer.concat([Buffer.from([(1 << 3) | 2, MAGIC.length]), Buffer.from(MAGIC)])

export function isHeader(buffer: Buffer, start: number): boolean {
  return (
    buffer[start] === HEADER_MARK[0] && HEADER_MARK.equals(buffer.subarray(start, start + HEADER_MARK.length))
  )
}

/** Encodes the first frame of a segment. `more` has fields that only state files use. */
export function headerFrame(
  epoch: number,
  kind: SegmentKind,
  more: Partial<Pick<FileHeader, 'service' | 'marks' | 'mark'>> = {},
): Buffer {
  const number = kind === 'snapshot' ? Header.Kind.SNAPSHOT : Header.Kind.EPOCH
  return frame(Header.encode({ magic: MAGIC, format: FORMAT, epoch, kind: number, ...more }).finish())
}

/** Reads the header at a file offset; `start` is the file offset after it. Throws ERR_FDB_STATE_FORMAT. */
export function readHeader(fd: OwnedFd, from: number): FileHeader & { start: number } {
  const head = Buffer.alloc(MOST_HEADER_BYTES)
  const got = readAt(fd, head, 0, head.length, from)
  const header = parseHeader(head.subarray(0, got))
  return { ...header, start: from + header.start }
}

export const MOST_HEADER_BYTES = FRAME_HEADER + MAX_HEADER

/** Parses the header at the start of `bytes`; `start` is the offset after it. Throws ERR_FDB_STATE_FORMAT. */
export function parseHeader(bytes: Buffer): FileHeader & { start: number } {
  const length = bytes.length < FRAME_HEADER ? 0 : bytes.readUInt32LE(0)
  const start = FRAME_HEADER + length
  if (length === 0 || length > MAX_HEADER || start > bytes.length) {
    throw formatError(`its first ${bytes.length} bytes begin with no header`)
  }
  const payload = bytes.subarray(FRAME_HEADER, start)
  if (crc32(payload) !== bytes.readUInt32LE(4)) throw formatError('the checksum of its header is wrong')
  return { ...decodeHeader(payload), start }
}

/** Throws ERR_FDB_STATE_FORMAT. */
export function decodeHeader(payload: Uint8Array): FileHeader {
  let header: fdbroker.state.Header
  try {
    header = Header.decode(payload)
  } catch (error) {
    throw formatError((error as Error).message)
  }
  if (header.magic !== MAGIC) throw formatError('its header has another magic number')
  if (header.format > FORMAT || header.format < 1) {
    throw new FdbError(
      'ERR_FDB_STATE_FORMAT',
      `the segment has format ${header.format}, this version reads 1 to ${FORMAT}; use a newer fd-broker`,
    )
  }
  if (header.kind !== Header.Kind.EPOCH && header.kind !== Header.Kind.SNAPSHOT) {
    throw new FdbError(
      'ERR_FDB_STATE_FORMAT',
      `the segment is of unknown kind ${header.kind}; use a newer fd-broker`,
    )
  }
  const kind = header.kind === Header.Kind.SNAPSHOT ? 'snapshot' : 'epoch'
  const { epoch, service, marks, mark } = header
  return { epoch, kind, service, marks, mark }
}

function formatError(reason: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_FORMAT',
    `not a state segment: ${reason}; give a file that fd-broker wrote`,
  )
}
