import { existsSync, lstatSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Logger } from '../base/logger.js'
import { SOCKET_MODES } from '../base/socket-modes.js'
import { FdbError } from '../errors.js'
import { closeOnThrow, type OwnedFd, watchPaths } from '../kernel/index.js'
import { listenerAt } from './connect.js'
import {
  bindControl,
  controlEntry,
  ensureFolder,
  type FirstControl,
  type FolderAccess,
  isNamed,
  type PathEntry,
  takeLock,
} from './control-path.js'
import { dropQueries, reserve } from './reservation.js'

/** The control path of this process, with its lock and reservation. */
export type HeldControl = Pick<FirstControl, 'path' | 'entry' | 'lock' | 'reservation'>

/** The parts that were created again; null for the others. The caller owns the descriptors, and closes those that they replace. */
export interface RestoredControl {
  /** The new listener at the path. Clients cannot reach the old one any more. */
  readonly listener: OwnedFd | null
  readonly lock: OwnedFd | null
  readonly reservation: OwnedFd | null
  readonly entry: PathEntry
}

/**
 * Restores the path of a control socket, its lock file and its reservation if a cleaner, of /tmp for example, has removed or replaced them.
 * Without the path clients do not find the service; without lock file and reservation a second process could start to serve. Does not touch
 * a path that a service manager bound. A missing folder gets the access of `folder`. Returns null if nothing was missing.
 *
 * Throws ERR_FDB_CONTROL_TAKEN if another process has the path or the lock, and the errors of {@link takeLock} and {@link bindControl}.
 */
function restoreControl(held: HeldControl, folder: FolderAccess | null): RestoredControl | null {
  const { path, entry } = held
  const made: OwnedFd[] = []
  const keep = (fd: OwnedFd | null) => {
    if (fd !== null) made.push(fd)
    return fd
  }
  return closeOnThrow(made, () => {
    if (!existsSync(path) || !existsSync(lockFile(path))) ensureFolder(dirname(path), folder)
    // The lock file first: a process that starts decides by the lock whether it may bind the path.
    const lock = keep(missingLock(held))
    const reservation = keep(missingReservation(held))
    const bound = isIntact(path, entry) ? null : bindControl(path, SOCKET_MODES.control)
    if (bound === null && made.length === 0) return null
    return { lock, reservation, listener: bound?.listener ?? null, entry: bound?.entry ?? entry }
  })
}

/** Returns `control` with the restored parts; closes the parts that they replace. */
export function withRestored(control: FirstControl, made: RestoredControl): FirstControl {
  const { entry, listener, lock, reservation } = made
  if (lock !== null) control.lock.close()
  if (listener !== null) control.listener.close()
  return {
    ...control,
    entry,
    listener: listener ?? control.listener,
    lock: lock ?? control.lock,
    reservation: reservation ?? control.reservation,
  }
}

/** Whether this process can see what is in the folder: one that has dropped its user may not enter it, and cannot tell whether a path is missing. */
function seesInside(folder: string): boolean {
  try {
    statSync(`${folder}/.`)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EACCES'
  }
}

function lockFile(path: string): string {
  return `${path}.lock`
}

function missingLock({ path, lock }: HeldControl): OwnedFd | null {
  const file = lockFile(path)
  if (isNamed(lock, file)) return null
  const taken = takeLock(file)
  if (taken !== null) return taken
  throw conflict(path, `the lock file ${file} was replaced, and another process holds the new one`)
}

function missingReservation({ path, reservation }: HeldControl): OwnedFd | null {
  if (reservation !== null) return null
  const made = reserve(path)
  // This process has the lock. If the name is taken, a former process at the path has not ended yet: the next check tries again.
  return made === 'taken' ? null : made
}

/** Whether the path need not be bound again. Throws ERR_FDB_CONTROL_TAKEN if another process listens there, or if it is not a socket. */
function isIntact(path: string, entry: PathEntry): boolean {
  if (entry.ino < 0n) return true
  const named = controlEntry(path)
  if (named === null) return false
  if (named.ino === entry.ino && named.dev === entry.dev) return true
  if (!lstatSync(path, { bigint: true }).isSocket()) throw conflict(path, 'it is not a socket any more')
  const pid = listenerAt(path)
  if (pid === null) return false
  throw conflict(path, `${pid === 0 ? 'another process' : `process ${pid}`} listens there now`)
}

function conflict(path: string, why: string): FdbError {
  return new FdbError(
    'ERR_FDB_CONTROL_TAKEN',
    `the control path ${path} of this process was taken over: ${why}. Stop the other process (fuser or lsof on the path and its .lock show it), or this one`,
    { details: { path } },
  )
}

/** Interval of checks in addition to inotify, which may be missing, and does not report a renamed parent folder. */
const POLL_MS = 5_000
/** Minimum time between two repairs: a program that removes the path again and again must not keep this process busy. */
const PAUSE_MS = 250

interface WatchedControl {
  /** The control path to watch; null if another process watches it now. */
  control(): HeldControl | null
  /** Called after a repair. Owns the new descriptors. */
  restored(made: RestoredControl): void
  /** Called after each check, and again after the next one if it throws: accepts at the listener, unless it does already. */
  accept(): void
  readonly logger: Logger
}

/** Watches the path of a control socket and its lock file, and restores them when they are removed: at once if inotify works. */
export class ControlWatch {
  readonly #watched: WatchedControl
  #timer: NodeJS.Timeout | undefined
  #soon: NodeJS.Timeout | undefined
  #notice: Disposable | null = null
  /** The last check found everything in place, so that {@link #notice} watches the files that are there now. */
  #current = false
  /** The access of the path's folder when the path was last in place. */
  #folder: FolderAccess | null = null
  #repairedAt = Number.NEGATIVE_INFINITY
  /** Message of the last failure, which is logged once if the next check fails in the same way. */
  #failure = ''
  #logged = ''

  constructor(watched: WatchedControl) {
    this.#watched = watched
  }

  /** Idempotent. */
  start(): void {
    this.#timer ??= setInterval(() => this.check(), POLL_MS).unref()
  }

  /** Idempotent. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#disarm()
  }

  /** Restores missing parts now. Never throws. */
  check(): void {
    const { logger } = this.#watched
    const control = this.#watched.control()
    clearTimeout(this.#soon)
    if (control === null || !this.#current) this.#disarm()
    if (control === null || this.#timer === undefined) return
    this.#current = false
    if (!seesInside(dirname(control.path))) return
    try {
      // The watch starts before the check, so that it reports a removal during the check.
      if (this.#notice === null) this.#watch(control)
      if (control.reservation !== null) dropQueries(control.reservation)
      const made = restoreControl(control, this.#folder)
      this.#folder = statSync(dirname(control.path))
      if (made !== null) {
        this.#repairedAt = performance.now()
        if (made.lock !== null || made.listener !== null)
          logger.warn(
            { control: control.path },
            'the control path or its lock file was removed: this process has restored it',
          )
        this.#watched.restored(made)
      }
      this.#watched.accept()
      this.#failure = this.#logged = ''
      this.#current = made === null
      if (made !== null) this.#lookSoon()
    } catch (err) {
      this.#failed(err as Error, control.path)
    }
  }

  /** Logs a failure if it persists: a starting process only holds the lock for a moment. */
  #failed(err: Error, control: string): void {
    this.#repairedAt = performance.now()
    const again = this.#failure === err.message
    this.#failure = err.message
    if (!again) {
      this.#lookSoon()
    } else if (this.#logged !== err.message) {
      this.#logged = err.message
      const { logger } = this.#watched
      logger.error(
        { err, control },
        'the control path was removed and cannot be restored yet, or its socket cannot be watched: no command and no next version finds this process until then',
      )
    }
  }

  #watch({ path }: HeldControl): void {
    this.#notice = watchPaths(dirname(path), [path, `${path}.lock`], () => {
      this.#notice = null
      this.#lookSoon()
    })
  }

  #lookSoon(): void {
    const wait = this.#repairedAt + PAUSE_MS - performance.now()
    clearTimeout(this.#soon)
    this.#soon = setTimeout(() => this.check(), Math.max(0, wait)).unref()
  }

  #disarm(): void {
    clearTimeout(this.#soon)
    this.#soon = undefined
    this.#notice?.[Symbol.dispose]()
    this.#notice = null
  }
}
