import { type BigIntStats, linkSync, lstatSync, renameSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import {
  connectToUnix,
  type NativeError,
  namesSocket,
  type OwnedFd,
  openFile,
  peerCredentials,
  peerLives,
  sleepSync,
  tryLock,
} from '../kernel/index.js'
import { dropSecondName } from './kept-path.js'
import { commandOf, controlOf, isBound, type Occupant } from './occupant.js'
import { isPath, type ListenerSpec } from './spec.js'

/**
 * Removes the path of a Unix listener that is no longer needed. Call it before you close the socket: only then the kernel can tell whether the path
 * belongs to it. Keeps the path if another program has replaced it, or if the kernel cannot tell (no unix_diag, an overlay file system). Never
 * throws. Returns whether the path was removed.
 */
export function removeUnixPath(fd: OwnedFd, spec: ListenerSpec | null): boolean {
  if (!isPath(spec)) return false
  const { path } = spec
  try {
    dropSecondName(fd, path)
    return namesSocket(fd, path) === true && removeAside(fd, path)
  } catch {
    // This process has no permission to remove the path, or another process has removed it.
    return false
  }
}

/** Reports whether the path of this specification leads to the socket. */
export function isSocketAt(fd: OwnedFd, spec: ListenerSpec | null): boolean {
  return isPath(spec) && namesSocket(fd, spec.path) === true
}

/**
 * Renames the path, and checks again that it leads to the socket before removing it. If another process has replaced the path meanwhile, puts
 * that process's socket back.
 */
function removeAside(fd: OwnedFd, path: string): boolean {
  const aside = `${path}.closed-${process.pid}`
  renameSync(path, aside)
  const isOurs = namesSocket(fd, aside) === true
  try {
    if (!isOurs) linkSync(aside, path)
  } finally {
    unlinkSync(aside)
  }
  return isOurs
}

/** Milliseconds to wait for the folder's lock, which a process holds for a few hundred microseconds to replace a path. */
const LOCK_MS = 500

/** Result if a process listens on the path. `occupant` is null if the kernel does not report the process. */
export interface Occupied {
  readonly occupant: Occupant | null
}

/** Result if the path exists but is not a socket. */
export interface NoSocket {
  readonly noSocket: true
}

/**
 * Removes a Unix path on which no process listens any more, and calls `bind`. Holds a lock (flock) of the folder meanwhile, if the folder can be
 * read: if several processes want to replace the same path, each one checks it after the previous one has bound its new socket.
 *
 * Renames the stale socket, and checks the renamed file before it deletes it: a program that does not take the lock may have bound a new socket at the
 * path in between. Then the function renames that socket back.
 * (Binding a temporary name and renaming it would leave the temporary name in getsockname() forever.)
 */
export function replaceStale(path: string, bind: () => OwnedFd): OwnedFd | Occupied | NoSocket {
  const folder = lockFolder(dirname(path))
  if (folder === 'held') return { occupant: null }
  try {
    return removeStale(path) ?? bind()
  } finally {
    folder?.close()
  }
}

function lockFolder(path: string): OwnedFd | null | 'held' {
  let folder: OwnedFd
  try {
    folder = openFile(path, 'r', 'folder of a Unix path')
  } catch {
    return null
  }
  try {
    for (const end = performance.now() + LOCK_MS; !tryLock(folder); sleepSync(1)) {
      if (performance.now() < end) continue
      folder.close()
      return 'held'
    }
    return folder
  } catch {
    // The file system has no locks.
    folder.close()
    return null
  }
}

/** Removes a stale socket. Returns null when the path is free. */
function removeStale(path: string): Occupied | NoSocket | null {
  const before = statPath(path)
  if (before === null) return null
  if (!before.isSocket()) return { noSocket: true }
  const owner = findListener(path)
  if (owner !== 'stale') return { occupant: owner }
  // The connection was refused although a socket is bound: its process has called bind, and not yet listen.
  if (isBound(path)) return { occupant: null }
  const aside = `${path}.stale-${process.pid}`
  try {
    renameSync(path, aside)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null
    throw error
  }
  const moved = statPath(aside)
  if (moved === null) return null
  // Compares the time too, because a file system may reuse the inode number of a deleted file.
  const same = moved.ino === before.ino && moved.dev === before.dev && moved.mtimeNs === before.mtimeNs
  try {
    if (!same) linkSync(aside, path)
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error
  }
  unlinkSync(aside)
  return same ? null : { occupant: null }
}

function statPath(path: string): BigIntStats | null {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false }) ?? null
}

/** Reports whether a process listens at this path; true also if that is unknown. The server there gets a connection that ends at once. */
export function isListenedAt(path: string): boolean {
  return findListener(path) !== 'stale'
}

/** Returns the process that called listen() on this path, as the kernel reports it; null if it has ended or is unknown. */
function findListener(path: string): Occupant | null | 'stale' {
  try {
    using connection = connectToUnix(path, 'probe')
    const { pid } = peerCredentials(connection)
    // The process may have handed the socket over to another one and ended.
    const isKnown = pid > 0 && peerLives(connection) !== false
    return isKnown ? { pid, command: commandOf(pid), control: controlOf(pid) } : null
  } catch (error) {
    if (isErrno(error, 'ECONNREFUSED') || isErrno(error, 'ENOENT')) return 'stale'
    // The backlog is full, this user must not connect, or it is a datagram socket: the path is in use.
    return null
  }
}

export function isErrno(error: unknown, code: string): boolean {
  return (error as Partial<NativeError> | null)?.code === code
}
