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

/** Opens a file of a file system, as `fs.openSync()`; throws what that throws. */
export function openFile(path: string, flags: string | number, label: string, mode?: number): OwnedFd {
  const raw = openSync(path, flags, mode)
  native.adopt(raw)
  return OwnedFd.own(raw, label)
}

/** Bytes read, fewer only at the end of the file. */
export function readAt(
  fd: OwnedFd,
  into: Uint8Array,
  offset: number,
  length: number,
  position: number,
): number {
  return native.pread(fd.raw, into, offset, length, position)
}

/** Bytes written: fewer only where memory or disk ran out. Throws EPERM where it is sealed. */
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

/** With its metadata. */
export function sync(fd: OwnedFd): void {
  fsyncSync(fd.raw)
}

/** fdatasync(2): syncs the data, and only the metadata that reading it needs. */
export function syncData(fd: OwnedFd): void {
  fdatasyncSync(fd.raw)
}

/** Does not close it. */
export function writerInto(fd: OwnedFd): WriteStream {
  return createWriteStream('', { fd: fd.raw, autoClose: false })
}

/** A name in a folder is on the disk when the folder is. */
export function syncFolder(path: string): void {
  using folder = openFile(path, 'r', `folder ${path}`)
  sync(folder)
}

/** A file that `fs.promises.open()` opened, and closes: for calls that must be made at once. */
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

/** Without its metadata. */
export function syncNow(file: OpenFile): void {
  fdatasyncSync(file.fd)
}

export function identityNow(file: OpenFile): { dev: bigint; ino: bigint } {
  return fstatSync(file.fd, { bigint: true })
}

/** flock(): false when another open file holds it. Ends when the file is closed. */
export function tryLockNow(file: OpenFile): boolean {
  return native.tryLock(file.fd)
}

/** Reads on where `fd` stands, as /proc wants to be read. 0: its end. */
export function readOn(fd: OwnedFd, into: Uint8Array): number {
  return readSync(fd.raw, into)
}

/** The same until all is written. */
export function writeAllAt(fd: OwnedFd, bytes: Uint8Array, position: number): void {
  // A write that was cut short says so by its count; why is said by the next one.
  for (let done = 0; done < bytes.length; )
    done += native.pwrite(fd.raw, bytes, done, bytes.length - done, position + done)
}

/** Created with `mode` when it is not there; never through a symbolic link. */
export function openLockFile(path: string, mode: number, label: string): OwnedFd {
  return OwnedFd.own(native.openLockFile(path, mode), label)
}

/** flock(): false when another open file description holds it. Ends when the last descriptor of this one is closed. */
export function tryLock(fd: OwnedFd): boolean {
  return native.tryLock(fd.raw)
}
