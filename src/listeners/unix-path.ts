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
import { commandOf, controlOf, isBound, type Occupant } from './occupant.js'
import { parseListenerSpec } from './spec.js'

/**
 * Removes the path of a Unix listener that is needed no more, while its socket is still held: only then the kernel can say whether the path
 * is this socket's. Leaves a path alone that another program has put there, or of which the kernel does not say (no unix_diag, an overlay
 * file system). Never throws; returns whether it was removed.
 */
export function removeUnixPath(fd: OwnedFd, spec: string): boolean {
  try {
    const { kind, path, abstract } = parseListenerSpec(spec)
    if (kind !== 'unix' || abstract || namesSocket(fd, path) !== true) return false
    return removeAside(fd, path)
  } catch {
    // It may not be removed by us, or was meanwhile.
    return false
  }
}

/** Whether it is the socket that the path of this specification leads to; not known of one of another release that this one cannot read. */
export function isAt(fd: OwnedFd, spec: string): boolean {
  try {
    const { kind, path, abstract } = parseListenerSpec(spec)
    return kind === 'unix' && !abstract && namesSocket(fd, path) === true
  } catch {
    return false
  }
}

/** Looked at again under another name: another process may have put its own there in between, which goes back. */
function removeAside(fd: OwnedFd, path: string): boolean {
  const aside = `${path}.closed-${process.pid}`
  renameSync(path, aside)
  const own = namesSocket(fd, aside) === true
  try {
    if (!own) linkSync(aside, path)
  } finally {
    unlinkSync(aside)
  }
  return own
}

/** Another process that replaces a path in the folder holds the lock for a few hundred microseconds. */
const LOCK_MS = 500

/** The path leads to a listener; null: its process must be looked for. */
export interface Occupied {
  readonly occupant: Occupant | null
}

/** It is there, and is no socket. */
export interface NoSocket {
  readonly noSocket: true
}

/**
 * Clears a Unix path on which no process listens any more, and has `bind` bind it. Several processes may find the path stale: each holds a
 * lock of its folder in turn, and sees the path that the one before has made (flock; there is none if the folder may not be read).
 *
 * The stale socket is renamed aside and looked at again before it is deleted: a live one that a program without this lock has bound there
 * meanwhile is put back. (Binding a temporary name and renaming it over the stale one would leave the temporary name in getsockname() for
 * good.)
 */
export function replaceStale(path: string, bind: () => OwnedFd): OwnedFd | Occupied | NoSocket {
  const folder = lock(dirname(path))
  if (folder === 'held') return { occupant: null }
  try {
    return clear(path) ?? bind()
  } finally {
    folder?.close()
  }
}

function lock(path: string): OwnedFd | null | 'held' {
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
    // A file system without locks.
    folder.close()
    return null
  }
}

/** Null: the path is free. */
function clear(path: string): Occupied | NoSocket | null {
  const before = lookAt(path)
  if (before === null) return null
  if (!before.isSocket()) return { noSocket: true }
  const owner = probe(path)
  if (owner !== 'stale') return { occupant: owner }
  // Refused, but bound: another process is between its bind and its listen.
  if (isBound(path)) return { occupant: null }
  const aside = `${path}.stale-${process.pid}`
  try {
    renameSync(path, aside)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null
    throw error
  }
  const moved = lookAt(aside)
  if (moved === null) return null
  // The time too: a file system may give the inode number of a deleted file to the next one.
  const same = moved.ino === before.ino && moved.dev === before.dev && moved.mtimeNs === before.mtimeNs
  try {
    if (!same) linkSync(aside, path)
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error
  }
  unlinkSync(aside)
  return same ? null : { occupant: null }
}

function lookAt(path: string): BigIntStats | null {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false }) ?? null
}

/** The process that listens on this path: the pid that called listen(), by the kernel, if it lives; null when it cannot be named. */
function probe(path: string): Occupant | null | 'stale' {
  try {
    using connection = connectToUnix(path, 'probe')
    const { pid } = peerCredentials(connection)
    // It may have handed the socket over and ended.
    const named = pid > 0 && peerLives(connection) !== false
    return named ? { pid, command: commandOf(pid), control: controlOf(pid) } : null
  } catch (error) {
    if (isErrno(error, 'ECONNREFUSED') || isErrno(error, 'ENOENT')) return 'stale'
    return null // backlog full, no right to connect, a datagram socket: somebody is there
  }
}

/** Whether a system call failed with this. */
export function isErrno(error: unknown, code: string): boolean {
  return (error as Partial<NativeError> | null)?.code === code
}
