import { lstatSync, mkdirSync, renameSync, statSync, unlinkSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { Logger } from '../base/logger.js'
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
  listeningPid,
  pause,
  refuseOpenFolder,
  retry,
  trusted,
  tryConnect,
} from './connect.js'
import { holderOfReservation, reserve } from './reservation.js'

/** A dying process closes its lock before its listener: what still answers after this long is alive. */
const FOREIGN_GRACE_MS = 250
export const CONTROL_BACKLOG = 128
const LOCK_ATTEMPTS = 50
const STATES = { absent: 'does not exist', refused: 'refuses connections', full: 'has a full queue' } as const

export interface AcquireOptions {
  signal?: AbortSignal | undefined
  /** The limit for the whole start-up race, milliseconds. Default 10 000. */
  timeoutMs?: number | undefined
  /** Permission bits of the control socket. Default 0o600. */
  mode?: number | undefined
  /** Listens at the path already, bound by a service manager, whose the path stays. Taken, unless this rejects. */
  passed?: OwnedFd | null | undefined
}

export interface PathEntry {
  dev: bigint
  ino: bigint
}

/** This process holds the path: no other process did. The caller owns the descriptors. */
export interface FirstControl {
  role: 'first'
  path: string
  /** Listens at `path`, non-blocking. */
  listener: OwnedFd
  /** Holds the lock as long as this description is open anywhere: a dup passed to another process keeps it. */
  lock: OwnedFd
  /** Holds the right to the path when the lock file is removed; null where there is none. */
  reservation: OwnedFd | null
  /** The entry that `path` names; for {@link removeControl}. */
  entry: PathEntry
}

/** Another process holds the path; this is a connection to it. The caller owns it. */
export interface NextControl {
  role: 'next'
  path: string
  channel: OwnedFd
}

/**
 * Decides the start-up race for a control path: exactly one process becomes the first, all others get a connection to it.
 *
 * The judge is flock() on `<path>.lock`. It belongs to the open file description, so it crosses by SCM_RIGHTS with the listener, and ends
 * by itself when the last process that has it is gone, however that happened. A lock file can be removed; the reservation ({@link reserve})
 * cannot, and crosses in the same way. The socket's path is bound under a temporary name and renamed, so it never stops naming a listener.
 */
export async function acquireControl(
  path: string,
  options: AcquireOptions = {},
): Promise<FirstControl | NextControl> {
  const { signal, timeoutMs = 10_000, mode = 0o600, passed = null } = options
  path = resolve(path)
  checkSocketPath(path, TEMPORARY_SUFFIX.length)
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
    if (result instanceof OwnedFd) return { role: 'next', path, channel: trusted(result, path, 'member') }
    state = result
    return null
  }
  const late = () => {
    if (lost) return lostControl(path, STATES[state], timeoutMs)
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `after ${timeoutMs} ms the control socket ${path} ${STATES[state]}, while another process holds its lock ${path}.lock: that process is stuck or stopped (find it with fuser or lsof on the lock file)`,
      { retryable: true, details: { path, lock: `${path}.lock`, ms: timeoutMs, state } },
    )
  }
  return await retry(attempt, until, signal, late)
}

/** The right to a control path. The caller owns the descriptors. */
type Right = Pick<FirstControl, 'lock' | 'reservation'>

/** Null: another process has it. 'lost': it has, and its lock file was removed; it puts the file back itself. */
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

function lostControl(path: string, state: string, ms: number): FdbError {
  const pid = holderOfReservation(path)
  const holder = pid === null ? 'another process' : `process ${pid} (${commandOf(pid) || 'command unknown'})`
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${holder} serves under the control path ${path}, whose files were removed; the path ${state}, and was not put back within ${ms} ms: that process is stuck or stopped, or may not write to the folder (its log says so). Continue it, or end it, and try again`,
    { retryable: true, details: { path, lock: `${path}.lock`, ms, state: 'lost', pid: pid ?? 0 } },
  )
}

/** The entry that `path` names now, or null. A successor remembers it when it takes over the listener and the lock. */
export function controlEntry(path: string): PathEntry | null {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  return stat === undefined ? null : { dev: stat.dev, ino: stat.ino }
}

/**
 * Removes the socket's path when the last holder leaves for good; call it before the listener and the lock are
 * closed. Does nothing (false) when the path is not the one that was bound, or the lock not ours: another process
 * has taken it over. Never throws: one that cannot be removed (privileges were dropped since it was bound) stays, for the next
 * process to replace.
 *
 * The lock file stays. Removing it would race: a process that opened it just before would lock a file that has
 * no name, while a third creates and locks a new one; two firsts.
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
    logger.warn({ err, control: path }, 'the path of the control socket cannot be removed')
    return false
  }
}

/** The service ends with its holder: the path goes, if it still is ours, and the socket and the lock with it. */
export function letGoOfControl(control: FirstControl, logger: Logger): void {
  removeControl(control, logger)
  closeControl(control)
}

/** The path stays: it still names the socket if another process has that. */
export function closeControl(control: FirstControl): void {
  control.listener.close()
  closeRight(control)
}

/** For a path that is not ours to remove. */
export const NO_ENTRY: PathEntry = { dev: -1n, ino: -1n }

const TEMPORARY_SUFFIX = '~'

/** The lock, or null when another has it. Never a lock on a file that lost its name meanwhile. */
export function takeLock(path: string): OwnedFd | null {
  for (let attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
    let lock: OwnedFd
    try {
      lock = openLockFile(path, 0o600, 'control lock')
    } catch (error) {
      throw pathError(`cannot open the lock file ${path}`, error as NativeError)
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
    const mine = inspectOne(lock)
    const named = statSync(path, { bigint: true, throwIfNoEntry: false })
    if (named !== undefined && String(named.ino) === mine.ino && String(named.dev) === mine.dev) return lock
    lock.close()
  }
  throw new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `the lock file ${path} was replaced ${LOCK_ATTEMPTS} times while it was being locked: stop what removes it, or choose a folder on a local file system`,
    { details: { path } },
  )
}

/** Throws when something lives at the path although its lock was free. */
async function refuseForeign(path: string, until: number, signal: AbortSignal | undefined): Promise<void> {
  const kind = lstatSync(path, { throwIfNoEntry: false })
  if (kind === undefined) return
  if (!kind.isSocket()) {
    throw new FdbError(
      'ERR_FDB_CONTROL_PATH',
      `${path} exists and is not a socket: it is left as it is; choose another control path or remove it`,
      { details: { path } },
    )
  }
  const grace = Math.min(until, performance.now() + FOREIGN_GRACE_MS)
  for (;;) {
    const result = tryConnect(path)
    if (result === 'absent' || result === 'refused') return
    let pid = 0
    if (result instanceof OwnedFd) {
      pid = listeningPid(result)
      result.close()
    }
    if (performance.now() >= grace) {
      const who = pid === 0 ? 'a live process' : `a live process (pid ${pid})`
      throw new FdbError(
        'ERR_FDB_FOREIGN',
        `${who} listens on ${path} and does not hold its lock ${path}.lock: it is not fd-broker, or its lock file was removed. Stop it, or choose another control path`,
        { details: { path, pid } },
      )
    }
    await pause(10, signal)
  }
}

/** Under the lock only. */
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
      removeIfThere(temporary)
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

export function ensureFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 })
  } catch (error) {
    const there = statSync(folder, { throwIfNoEntry: false })
    if (!there?.isDirectory()) {
      throw pathError(`cannot create the folder ${folder} of the control socket`, error as NativeError)
    }
    refuseOpenFolder(folder, there, new Set([process.geteuid?.() ?? there.uid, 0]))
  }
}

function pathError(what: string, error: NativeError): FdbError {
  if (FdbError.is(error)) return error
  const remedy: Record<string, string> = {
    ENOENT: 'create its parent folder first (one level is created, no more), or choose another path',
    ENOTDIR: 'a part of the path is not a folder; correct it',
    EACCES: 'give this user write access to the folder, or choose another path',
    EPERM: 'give this user write access to the folder, or choose another path',
    EROFS:
      'the folder is on a read-only file system, but a process that starts must take the lock there; mount it read-write for this process too (ReadWritePaths= in a unit), or choose another path',
    ELOOP: 'it is a symbolic link, which is not followed; remove it',
    ENOSPC: 'the file system is full',
  }
  return new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `${what} (${error.code}): ${remedy[error.code] ?? 'see the cause'}`,
    {
      cause: error,
    },
  )
}
