import {
  createWriteStream,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  type Stats,
  type WriteStream,
  writeSync,
} from 'node:fs'
import { native } from './native.js'
import { OwnedFd } from './owned.js'

/** Opens a file like `fs.openSync()`, with the same errors. */
export function openFile(path: string, flags: string | number, label: string, mode?: number): OwnedFd {
  const raw = openSync(path, flags, mode)
  native.adopt(raw)
  return OwnedFd.own(raw, label)
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

export function sizeOf(fd: OwnedFd): number {
  return native.fileSize(fd.raw)
}

export function truncate(fd: OwnedFd, size: number): void {
  ftruncateSync(fd.raw, size)
}

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
