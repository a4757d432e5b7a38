import {
  constants,
  createWriteStream,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  openSync,
  readSync,
  type Stats,
  statSync,
  type WriteStream,
  writeSync,
} from 'node:fs'
import { FdbError } from '../errors.js'
import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

/** Opens a file like `fs.openSync()`, with the same errors. */
export function openFile(path: string, flags: string | number, label: string, mode?: number): OwnedFd {
  const raw = openSync(path, flags, mode)
  native.adopt(raw)
  return OwnedFd.own(raw, label)
}

/**
 * Opens a FIFO for writing, and null for another file: while it is open, another open of the FIFO does not wait for a reader. Throws if no process
 * reads from it.
 */
export function openFifo(path: string): OwnedFd | null {
  if (!statSync(path, { bigint: true, throwIfNoEntry: false })?.isFIFO()) return null
  try {
    return openFile(path, constants.O_WRONLY | constants.O_NONBLOCK, 'a FIFO')
  } catch (cause) {
    if ((cause as NativeError).code !== 'ENXIO') throw cause
    throw new Error('it is a FIFO, and no process reads from it', { cause })
  }
}

/** Returns the number of bytes read: less than `length` only at the end of the file. */
export function readAt(
  fd: OwnedFd,
  into: Uint8Array,
  offset: number,
  length: number,
  position: number,
): number {
  return native.pread(fd.raw, into, offset, length, position)
}

/** Returns the number of bytes written: less than `length` only if memory or disk is full. Throws EPERM if the file is sealed. */
export function writeAt(
  fd: OwnedFd,
  from: Uint8Array,
  offset: number,
  length: number,
  position: number,
): number {
  return native.pwrite(fd.raw, from, offset, length, position)
}

/** As {@link memoryFile}: each write, by any process that gets the descriptor, appends in one step. */
export function appendFile(name: string, label: string): OwnedFd {
  return appending(memoryFile(name, label))
}

/** As {@link appendFile}, of the file at `path`, which is created if it is missing. Throws if another kind of file is there. */
export function appendFileAt(path: string, label: string): OwnedFd {
  const { O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants
  return appending(openFile(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, label, 0o600))
}

function appending(fd: OwnedFd): OwnedFd {
  try {
    if (!isRegularFile(fd)) throw new Error('it is no regular file')
    native.appendAlways(fd.raw)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** Appends to a file of {@link appendFile} or {@link appendFileAt}. Returns the number of bytes written. */
export function append(fd: OwnedFd, bytes: Uint8Array): number {
  return native.pwrite(fd.raw, bytes, 0, bytes.length, 0)
}

/** Frees the memory of whole pages in `[0, length)`, which then read as zeros; the size stays. */
export function freeStart(fd: OwnedFd, length: number): void {
  native.freeStart(fd.raw, length)
}

export function sizeOf(fd: OwnedFd): number {
  return native.fileSize(fd.raw)
}

export function truncate(fd: OwnedFd, size: number): void {
  ftruncateSync(fd.raw, size)
}

/** See `FILES_ONLY` of the walls. */
export function isRegularFile(fd: OwnedFd): boolean {
  return fstatSync(fd.raw, { bigint: true }).isFile()
}

/** For a regular file or a folder. */
export function statOf(fd: OwnedFd): Stats {
  return fstatSync(fd.raw)
}

/** Syncs data and metadata to disk. */
export function sync(fd: OwnedFd): void {
  fsyncSync(fd.raw)
}

/** fdatasync(2): syncs the data, and only the metadata that reading it needs. */
export function syncData(fd: OwnedFd): void {
  fdatasyncSync(fd.raw)
}

/** Returns a stream that writes to the descriptor and does not close it. */
export function writerInto(fd: OwnedFd): WriteStream {
  return createWriteStream('', { fd: fd.raw, autoClose: false })
}

/** Syncs a folder, so that the new names of files in the folder are on disk. */
export function syncFolder(path: string): void {
  using folder = openFile(path, 'r', `folder ${path}`)
  sync(folder)
}

/** A file opened by `fs.promises.open()`, which owns it. The functions below make synchronous calls on it. */
export interface OpenFile {
  readonly fd: number
}

export function writeNow(file: OpenFile, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(file.fd, bytes, done, bytes.length - done, position + done)
}

export function truncateNow(file: OpenFile, size: number): void {
  ftruncateSync(file.fd, size)
}

export function syncNow(file: OpenFile): void {
  fdatasyncSync(file.fd)
}

export function identityNow(file: OpenFile): { dev: bigint; ino: bigint } {
  return fstatSync(file.fd, { bigint: true })
}

/** Takes an flock() that lasts until the file is closed. Returns false if another open file holds it. */
export function tryLockNow(file: OpenFile): boolean {
  return native.tryLock(file.fd)
}

/** As {@link tryLock}. Returns null if the file system has no locks, as some network file systems. */
export function lockIfPossible(file: OwnedFd | OpenFile): boolean | null {
  try {
    return file instanceof OwnedFd ? tryLock(file) : tryLockNow(file)
  } catch {
    return null
  }
}

/** Reads from the descriptor's current position, as files in /proc require. Returns 0 at the end. */
export function readNext(fd: OwnedFd, into: Uint8Array): number {
  return readSync(fd.raw, into)
}

/** Writes all bytes, in several calls if necessary. */
export function writeAllAt(fd: OwnedFd, bytes: Uint8Array, position: number): void {
  // A short write reports no error; the next write throws it.
  for (let done = 0; done < bytes.length; )
    done += native.pwrite(fd.raw, bytes, done, bytes.length - done, position + done)
}

/** Opens a lock file, and creates it with `mode` if it does not exist. Does not follow a symbolic link. */
export function openLockFile(path: string, mode: number, label: string): OwnedFd {
  return OwnedFd.own(native.openLockFile(path, mode), label)
}

/** Takes an flock() that lasts until the last descriptor of this open file description is closed. Returns false if another one holds it. */
export function tryLock(fd: OwnedFd): boolean {
  return native.tryLock(fd.raw)
}

const LOCK_KINDS = { none: 0, shared: 1, exclusive: 2 } as const

/**
 * Changes the lock of this open file description on the bytes `[start, start + length)`. The bytes need not exist. The lock ends with the last
 * descriptor of the description, in any process. Returns false, and changes nothing, if another description has a lock there.
 */
export function lockBytes(fd: OwnedFd, kind: keyof typeof LOCK_KINDS, start: number, length = 1): boolean {
  return native.lockRange(fd.raw, LOCK_KINDS[kind], start, length)
}

/** Returns a range that another open file description has locked, with which an exclusive lock on these bytes would conflict; null if there is none. */
export function lockedBytes(fd: OwnedFd, start: number, length = 1): { start: number; end: number } | null {
  const found = native.findLock(fd.raw, LOCK_KINDS.exclusive, start, length)
  return found === null ? null : { start: found[0], end: found[1] }
}

/** Sets the times of a file to now. {@link watchPaths} notices it. */
export function touch(fd: OwnedFd): void {
  const now = Date.now() / 1000
  futimesSync(fd.raw, now, now)
}

/**
 * Creates an empty file in memory. The file can be sealed if the kernel supports it ({@link sealsOf}), and cannot be executed if the kernel has
 * SEAL_EXEC. /proc shows `name`.
 */
export function memoryFile(name: string, label: string): OwnedFd {
  try {
    return OwnedFd.own(native.memfd(name), label)
  } catch (cause) {
    const { code, syscall } = cause as NativeError
    // After a failed memfd_create the addon tries an unlinked temporary file (mkostemp).
    if (syscall !== 'mkostemp') throw cause
    throw new FdbError(
      'ERR_FDB_NO_SEALS',
      `memfd_create is missing or refused (by seccomp), and no temporary file can be created instead in ${process.env.TMPDIR || '/tmp'} (${code}): allow memfd_create, or set TMPDIR to a writable folder`,
      { cause },
    )
  }
}

/** Returns null for a file that cannot be sealed. */
export function sealsOf(fd: OwnedFd): number | null {
  return native.getSeals(fd.raw)
}

/** Maximum attempts to seal a file while pages of it are in use. */
const ATTEMPTS = 4

/**
 * Throws EPERM for a read-only descriptor, or if SEAL_SEAL is set. Throws EBUSY if a process maps the file writable, or uses pages of it for longer
 * than half a second. The kernel itself waits only 150 ms for pages in use (memfd_wait_for_pins() in mm/memfd.c), so this function tries again.
 */
export function addSeals(fd: OwnedFd, seals: number): void {
  for (let left = ATTEMPTS - 1; ; left--) {
    try {
      native.addSeals(fd.raw, seals)
      return
    } catch (error) {
      if (left === 0 || (error as NativeError).code !== 'EBUSY') throw error
    }
  }
}

/** As {@link addSeals}, but waits in another thread: another user's process may use the pages for as long as it likes. */
export async function addSealsAside(fd: OwnedFd, seals: number): Promise<void> {
  // The caller may close its descriptor meanwhile.
  using own = fd.dup()
  for (let attempt = 1; ; attempt++) {
    try {
      await native.addSealsAside(own.raw, seals)
      return
    } catch (error) {
      if (attempt === ATTEMPTS || (error as NativeError).code !== 'EBUSY') throw error
    }
  }
}

/**
 * Opens the same memory read-only, as a new open file description: a process of another user that gets it can neither write nor seal the memory.
 * Returns a duplicate if the memory belongs to another user (this process has changed its user), because the kernel refuses to open it then.
 */
export function reopenReadOnly(fd: OwnedFd, label: string): OwnedFd {
  return reopen(fd, () => OwnedFd.own(native.reopenReadOnly(fd.raw), label))
}

/** Opens the same memory for writing; `fd` may be read-only. Returns a duplicate if the memory belongs to another user. */
export function reopenWritable(fd: OwnedFd, label: string): OwnedFd {
  return reopen(fd, () => {
    const raw = openSync(`/proc/self/fd/${fd.raw}`, 'r+')
    native.adopt(raw)
    return OwnedFd.own(raw, label)
  })
}

function reopen(fd: OwnedFd, open: () => OwnedFd): OwnedFd {
  try {
    return open()
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'EACCES') return fd.dup()
    if (code !== 'ENOENT') throw error
    throw new FdbError(
      'ERR_FDB_NO_PROC',
      '/proc is not mounted, but fd-broker needs it to open memory read-only for another process: mount it in this mount namespace (mount -t proc proc /proc)',
      { cause: error },
    )
  }
}

const NOTHING = new Int32Array(new SharedArrayBuffer(4))

/** Blocks this thread. Use it only to wait for another process that answers within milliseconds. */
export function sleepSync(ms: number): void {
  Atomics.wait(NOTHING, 0, 0, ms)
}
