import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { Logger } from '../base/logger.js'
import { FOLDER_MODES, SOCKET_MODES } from '../base/socket-modes.js'
import { FdbError } from '../errors.js'
import {
  bindSocket,
  closeAll,
  inspectOne,
  type NativeError,
  OwnedFd,
  openLockFile,
  tryLock,
} from '../kernel/index.js'
import { commandOf } from '../listeners/index.js'
import {
  checkSocketPath,
  listenerAt,
  pause,
  requirePrivateFolder,
  retry,
  tryConnect,
  verifiedChannel,
} from './connect.js'
import { holderOfReservation, reserve } from './reservation.js'

/** A process that is ending releases its lock before its listener. After this time a process that still listens is not ending. */
const FOREIGN_GRACE_MS = 250
/**
 * Another user can fill the queue, and a client that finds it full tries again, perhaps when that user has filled it again. A daemon takes 1,024
 * connections from the queue in about 50 ms, more than a process makes in that time.
 */
export const CONTROL_BACKLOG = 1_024
const LOCK_ATTEMPTS = 50
const STATES = { absent: 'does not exist', refused: 'refuses connections', full: 'has a full queue' } as const

export interface AcquireOptions {
  signal?: AbortSignal | undefined
  /** Time limit in milliseconds. Default 10 000. */
  timeoutMs?: number | undefined
  /** Permission bits of the control socket. Default: `SOCKET_MODES.control`. */
  mode?: number | undefined
  /** A listener that a service manager bound at the path, which the manager keeps. Owned, unless `acquireControl()` rejects. */
  passed?: OwnedFd | null | undefined
}

export interface PathEntry {
  dev: bigint
  ino: bigint
}

/** This process is the first at the control path, and listens there. The caller owns the descriptors. */
export interface FirstControl {
  role: 'first'
  path: string
  /** The non-blocking listener at `path`. */
  listener: OwnedFd
  /** The locked lock file. The lock ends when the last duplicate of this descriptor is closed, in any process. */
  lock: OwnedFd
  /** The reservation, which protects the path if the lock file is removed; null if {@link reserve} returned none. */
  reservation: OwnedFd | null
  /** The file at `path` when the listener was bound, for {@link removeControl}. */
  entry: PathEntry
}

/** Another process listens at the control path; `channel` is a connection to it, which the caller owns. */
export interface NextControl {
  role: 'next'
  path: string
  channel: OwnedFd
}

/**
 * Makes this process the first one at a control path, which listens there, or connects it to the process that listens already. If several
 * processes start at the same time, exactly one becomes the first.
 *
 * The lock is flock() on `<path>.lock`. The lock belongs to the open file: a successor gets it by SCM_RIGHTS, like the listener, and it
 * ends with the last process that has it. A lock file can be removed; the reservation ({@link reserve}), which a successor gets too,
 * cannot. The socket is bound under a temporary name and renamed, so that the path never names a socket without a listener.
 */
export async function acquireControl(
  path: string,
  options: AcquireOptions = {},
): Promise<FirstControl | NextControl> {
  const { signal, timeoutMs = 10_000, mode = SOCKET_MODES.control, passed = null } = options
  path = resolve(path)
  checkSocketPath(path)
  const until = performance.now() + timeoutMs
  let state: keyof typeof STATES = 'absent'
  let lost = false
  const attempt = async (): Promise<FirstControl | NextControl | null> => {
    ensureFolder(dirname(path))
    const right = takeRight(path)
    lost = right === 'lost'
    if (typeof right === 'object' && right !== null) {
      try {
        if (passed !== null) return { role: 'first', path, ...right, listener: passed, entry: NO_ENTRY }
        await refuseForeign(path, until, signal)
        return { role: 'first', path, ...right, ...bindControl(path, mode) }
      } catch (error) {
        closeRight(right)
        throw error
      }
    }
    const result = tryConnect(path)
    if (result instanceof OwnedFd)
      return { role: 'next', path, channel: verifiedChannel(result, path, 'member') }
    state = result
    return null
  }
  const late = () => {
    if (lost) return lostControlError(path, STATES[state], timeoutMs)
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `after ${Math.round(timeoutMs)} ms the control socket ${path} ${STATES[state]}, while another process holds its lock ${path}.lock: that process is stuck or stopped (find it with fuser or lsof on the lock file)`,
      { retryable: true, details: { path, lock: `${path}.lock`, ms: timeoutMs, state } },
    )
  }
  return await retry(attempt, until, signal, late)
}

/** Proves the right to listen at a control path. The caller owns the descriptors. */
type Right = Pick<FirstControl, 'lock' | 'reservation'>

/** Returns null if another process has the lock, and 'lost' if it has only the reservation, because its lock file was removed. */
function takeRight(path: string): Right | 'lost' | null {
  const lock = takeLock(`${path}.lock`)
  if (lock === null) return null
  const reservation = reserve(path)
  if (reservation !== 'taken') return { lock, reservation }
  lock.close()
  return 'lost'
}

function closeRight({ lock, reservation }: Right): void {
  closeAll(reservation === null ? [lock] : [lock, reservation])
}

function lostControlError(path: string, state: string, ms: number): FdbError {
  const pid = holderOfReservation(path)
  const holder = pid === null ? 'another process' : `process ${pid} (${commandOf(pid) || 'command unknown'})`
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${holder} serves at the control path ${path}, but its files were removed: the path ${state}, and that process has not restored it within ${ms} ms. It is stuck or stopped, or may not write to the folder (its log says so). Continue it, or end it, and try again`,
    { retryable: true, details: { path, lock: `${path}.lock`, ms, state: 'lost', pid: pid ?? 0 } },
  )
}

/** Returns device and inode of the file at `path`; null if there is none. */
export function controlEntry(path: string): PathEntry | null {
  const stat = looked(path, () => lstatSync(path, { bigint: true, throwIfNoEntry: false }))
  return stat === undefined ? null : { dev: stat.dev, ino: stat.ino }
}

/**
 * Removes the socket's path at the end of the service; call it before closing listener and lock. Returns false, and does nothing, if the
 * path names another file now, or if another process has the lock: that process has taken over. Never throws. If this process may not
 * remove the path, because it dropped privileges after bind, the next process at the path replaces it.
 *
 * The lock file is not removed: a process that has just opened it could then lock the removed file, while a third process creates and locks
 * a new one, and both would be the first.
 */
export function removeControl(
  control: Pick<FirstControl, 'path' | 'entry' | 'lock'>,
  logger: Logger,
): boolean {
  const { path, entry, lock } = control
  try {
    if (!tryLock(lock)) return false
    const now = controlEntry(path)
    if (now === null || now.ino !== entry.ino || now.dev !== entry.dev) return false
    unlinkSync(path)
    return true
  } catch (err) {
    logger.warn(
      { err, control: path },
      'the path of the control socket cannot be removed: the next process at this path replaces it',
    )
    return false
  }
}

/** Removes the path if this process still has the lock, and closes socket and lock. */
export function releaseControl(control: FirstControl, logger: Logger): void {
  removeControl(control, logger)
  closeControl(control)
}

/**
 * Calls `before` and removes the control socket that an ended process left. Does nothing if another process serves or starts at the path.
 * Never throws.
 */
export function removeDeadControl(path: string, before: () => void = () => {}): void {
  try {
    if (!lstatSync(path, { bigint: true }).isSocket()) return
    const right = takeRight(path)
    if (right === null || right === 'lost') return
    try {
      if (listenerAt(path) !== null) return
      before()
      unlinkSync(path)
    } finally {
      closeRight(right)
    }
  } catch {
    // The next process at this path replaces the socket.
  }
}

/** Closes this process's descriptors. Keeps the path, which another process may need that has duplicates of them. */
export function closeControl(control: FirstControl): void {
  control.listener.close()
  closeRight(control)
}

/** Stands for a path that this process must not remove, because a service manager owns it. */
export const NO_ENTRY: PathEntry = { dev: -1n, ino: -1n }

/** One byte, which the limit of {@link checkSocketPath} reserves. */
const TEMPORARY_SUFFIX = '~'

/** Locks the lock file. Returns null if another process has the lock. The path names the returned file, not a newer one. */
export function takeLock(path: string): OwnedFd | null {
  for (let attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
    let lock: OwnedFd
    try {
      lock = openLockFile(path, 0o600, 'control lock')
    } catch (error) {
      throw lockError(path, error as NativeError)
    }
    try {
      if (!tryLock(lock)) {
        lock.close()
        return null
      }
    } catch (error) {
      lock.close()
      throw pathError(`cannot lock ${path}`, error as NativeError)
    }
    if (isNamed(lock, path)) return lock
    lock.close()
  }
  throw new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `the lock file ${path} was replaced ${LOCK_ATTEMPTS} times while it was being locked: stop the program that removes it, or choose a folder on a local file system`,
    { details: { path } },
  )
}

/** Whether the path names the file of this descriptor. */
export function isNamed(fd: OwnedFd, path: string): boolean {
  const { dev, ino } = inspectOne(fd)
  const named = looked(path, () => statSync(path, { bigint: true, throwIfNoEntry: false }))
  return named !== undefined && String(named.ino) === ino && String(named.dev) === dev
}

/** Returns whether a socket is at the path. Throws ERR_FDB_CONTROL_PATH if another file is there. */
export function checkIsSocket(path: string): boolean {
  const kind = looked(path, () => lstatSync(path, { bigint: true, throwIfNoEntry: false }))
  if (kind === undefined) return false
  if (kind.isSocket()) return true
  throw new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `${path} exists and is not a socket: it was not changed; choose another control path or remove it`,
    { details: { path } },
  )
}

/** Throws if a process listens at the path without its lock. */
async function refuseForeign(path: string, until: number, signal: AbortSignal | undefined): Promise<void> {
  if (!checkIsSocket(path)) return
  const grace = Math.min(until, performance.now() + FOREIGN_GRACE_MS)
  for (;;) {
    const pid = listenerAt(path)
    if (pid === null) return
    if (performance.now() >= grace) {
      const holder = pid === 0 ? 'a live process' : `a live process (pid ${pid})`
      throw new FdbError(
        'ERR_FDB_FOREIGN',
        `${holder} listens on ${path} and does not hold its lock ${path}.lock: it is not fd-broker, or its lock file was removed. Stop it, or choose another control path`,
        { details: { path, pid } },
      )
    }
    await pause(10, signal)
  }
}

/** Binds the control socket and replaces the file at `path`. The caller must have the lock. */
export function bindControl(path: string, mode: number): { listener: OwnedFd; entry: PathEntry } {
  const temporary = path + TEMPORARY_SUFFIX
  let listener: OwnedFd | undefined
  try {
    removeIfThere(temporary)
    const wanted = { kind: 'unix', host: temporary, backlog: CONTROL_BACKLOG, mode } as const
    listener = bindSocket(wanted, 'control listener')
    const entry = controlEntry(temporary)!
    renameSync(temporary, path)
    return { listener, entry }
  } catch (error) {
    if (listener !== undefined) {
      listener.close()
      leaveIfDenied(temporary)
    }
    throw pathError(`cannot bind the control socket ${path}`, error as NativeError)
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

/** As {@link removeIfThere}, after an error, which a second one must not hide. */
function leaveIfDenied(path: string): void {
  try {
    removeIfThere(path)
  } catch {
    // The next process at this path removes the file, or reports why it cannot.
  }
}

/** Returns the answer of the file system about a path. */
function looked<T>(path: string, look: () => T): T {
  try {
    return look()
  } catch (error) {
    throw pathError(`cannot look at ${path}`, error as NativeError)
  }
}

/** Makes the folder of a control socket if it is missing: with mode and group of `former`, if that was there before. */
export function ensureFolder(folder: string, former: FolderAccess | null = null): void {
  try {
    mkdirSync(folder, { mode: FOLDER_MODES.private })
    if (former !== null) giveAccess(folder, former)
  } catch (error) {
    const there = looked(folder, () => statSync(folder, { throwIfNoEntry: false }))
    if (!there?.isDirectory()) {
      throw pathError(`cannot create the folder ${folder} of the control socket`, error as NativeError)
    }
    requirePrivateFolder(folder, there, new Set([process.geteuid?.() ?? there.uid, 0]))
  }
}

/** Which other users reach a folder. */
export type FolderAccess = Readonly<Pick<Stats, 'mode' | 'gid'>>

function giveAccess(folder: string, { mode, gid }: FolderAccess): void {
  let bits = mode & 0o7777
  const made = statSync(folder)
  if (made.gid !== gid) {
    try {
      chownSync(folder, made.uid, gid)
    } catch {
      // This process is not in that group: another group must not have its rights.
      bits &= ~0o2070
    }
  }
  chmodSync(folder, bits)
}

/** Returns the error for a lock file that cannot be opened. The file of another user, as root leaves one, is refused in a folder of this user too. */
function lockError(path: string, error: NativeError): FdbError {
  const what = `cannot open the lock file ${path}`
  const uid = ownerOf(path)
  const own = process.geteuid?.()
  if (error.code !== 'EACCES' || uid === undefined || uid === own) return pathError(what, error)
  const why = `${what} (EACCES), which belongs to uid ${uid}, not to uid ${own}: remove it if no process of that user serves there, or run as that user`
  return new FdbError('ERR_FDB_CONTROL_PATH', why, { cause: error, details: { path, uid } })
}

/** Returns undefined also for a file in a folder that this user may not enter. */
function ownerOf(path: string): number | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })?.uid
  } catch {
    return undefined
  }
}

function pathError(what: string, error: NativeError): FdbError {
  if (FdbError.is(error)) return error
  const remedy: Record<string, string> = {
    ENOENT: 'create its parent folder first (one level is created, no more), or choose another path',
    EEXIST: 'there is a file of that name, which is not a folder; choose another path',
    ENOTDIR: 'a part of the path is not a folder; correct it',
    EACCES: 'give this user write access to the folder, or choose another path',
    EPERM: 'give this user write access to the folder, or choose another path',
    EROFS:
      'the folder is on a read-only file system, but a process that starts must take the lock there; mount it read-write for this process too (ReadWritePaths= in a unit), or choose another path',
    ELOOP: 'it is a symbolic link, which is not followed; remove it',
    ENOSPC: 'the file system is full',
    // Node refuses the call because of --permission.
    ERR_ACCESS_DENIED:
      'start Node with --allow-fs-read=* and --allow-fs-write=* too, or without --permission',
  }
  return new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `${what} (${error.code}): ${remedy[error.code] ?? 'see the cause'}`,
    {
      cause: error,
    },
  )
}
