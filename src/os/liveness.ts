import { FdbError } from '../errors.js'
import {
  hasEnded,
  inspectOne,
  type NativeError,
  type OwnedFd,
  type Poll,
  pidfdOf,
  pidOfPidfd,
  READABLE,
  watch,
} from '../kernel/index.js'
import { outOfDescriptors } from './limits.js'

export interface DeathWatch {
  /** Whether the process has ended; true at once if it had ended before. */
  readonly dead: boolean
  /** Sets whether the watch keeps this process alive (initially it does). */
  ref(): void
  unref(): void
  /** Stops the watch. Idempotent. */
  close(): void
}

/**
 * Calls `onDead` once when the process of `pidfd` has ended, never before this function returns. Works for any PID namespace, and a reused
 * pid cannot mislead it. Borrows `pidfd` for this call only. Throws, and leaves no descriptor
 * open, if `pidfd` is no pidfd or this process has reached its limit of open files.
 */
export function watchDeath(pidfd: OwnedFd, onDead: () => void): DeathWatch {
  return watchOwn(pidfd.dup(), onDead)
}

/** As {@link watchDeath}, but polls `pidfd` itself instead of a duplicate, to save descriptors: a pidfd can have only one such watch. */
export function watchDeathDirectly(pidfd: OwnedFd, onDead: () => void): DeathWatch {
  return watchOwn(pidfd.share(), onDead)
}

function watchOwn(own: OwnedFd, onDead: () => void): DeathWatch {
  let dead: boolean
  let poll: Poll
  try {
    requirePidfd(own)
    dead = hasEnded(own)
    poll = watch(own, () => died())
  } catch (error) {
    own.close()
    throw error
  }
  let open = true
  const died = () => {
    if (!open) return
    dead = true
    close()
    onDead()
  }
  const soon = dead ? setImmediate(died) : undefined
  if (!dead) poll.start(READABLE)
  function close(): void {
    if (!open) return
    open = false
    clearImmediate(soon)
    poll.close()
    own.close()
  }
  return {
    get dead() {
      return dead
    },
    ref: () => (soon === undefined ? poll.ref() : soon.ref()),
    unref: () => (soon === undefined ? poll.unref() : soon.unref()),
    close,
  }
}

/** Returns the FdbError for an error of {@link watchDeath}. `pid` 0: unknown. */
export function watchError(pid: number, cause: unknown): FdbError {
  const name = pid > 0 ? `process ${pid}` : 'a process'
  if ((cause as NativeError).code !== 'EINVAL') return outOfDescriptors(`${name} cannot be watched`, cause)
  return new FdbError(
    'ERR_FDB_NO_PIDFD',
    `the descriptor that stands for ${name} is no pidfd: the sender is faulty and is refused`,
    { cause, details: { pid } },
  )
}

/** Throws ERR_FDB_NO_PIDFD if the descriptor cannot be watched. */
export function refuseNoPidfd(lifetime: OwnedFd): void {
  try {
    watchDeath(lifetime, () => {}).close()
  } catch (cause) {
    throw watchError(0, cause)
  }
}

/** Throws if the descriptor is no pidfd: a peer may send any descriptor, and a readable socket would look like a dead process. */
function requirePidfd(pidfd: OwnedFd): void {
  try {
    pidOfPidfd(pidfd)
  } catch (error) {
    // Other errors, such as a missing /proc: the descriptor cannot be checked, and is accepted.
    if ((error as NativeError).code === 'EINVAL') throw error
  }
}

/** Opens a pidfd of a process in this PID namespace. Returns 'dead' if no process has this pid, null if the kernel or a limit forbids it. */
export function openPidfd(pid: number): OwnedFd | 'dead' | null {
  try {
    return pidfdOf(pid)
  } catch (error) {
    return (error as NativeError).code === 'ESRCH' ? 'dead' : null
  }
}

/** Returns the pid of a pidfd's process in this namespace; 0 if it is in another one, dead, or no pidfd. */
export function pidOf(pidfd: OwnedFd): number {
  try {
    return Math.max(0, pidOfPidfd(pidfd))
  } catch {
    return 0
  }
}

/** Returns a key unique to the process of a pidfd: the number of the pidfd, or the pid before Linux 6.9; null if neither is known. */
export function keyOf(pidfd: OwnedFd): string | null {
  const number = pidfdNumber(pidfd)
  if (number !== null) return `pidfd ${number}`
  const pid = pidOf(pidfd)
  return pid > 0 ? `${pid}` : null
}

/** Returns the pidfd's inode, unique per process since boot; null if this kernel uses one inode for all. */
export function pidfdNumber(pidfd: OwnedFd): string | null {
  try {
    using own = ownPidfd()
    const { ino } = inspectOne(pidfd)
    return own !== null && inspectOne(own).ino !== ino ? ino : null
  } catch {
    return null
  }
}

/** Opens a pidfd of this process, for a peer that cannot see our pid; null if the kernel has none. */
export function ownPidfd(): OwnedFd | null {
  return pidfdOf(process.pid, 'own pidfd')
}

/** How late a timer may be on a busy machine. */
const LATE_MS = 250

/** Detects from late ticks that this process was suspended: it must not take that time for silence of other processes. */
export class SuspendDetector {
  #tickedAt = performance.now()
  #resumedAt = this.#tickedAt

  /** Records a tick; the caller ticks every `everyMs`. Returns when the last suspension ended, or the watch began, on the clock of performance.now(). */
  tick(everyMs: number, now: number = performance.now()): number {
    if (now - this.#tickedAt > 2 * everyMs + LATE_MS) this.#resumedAt = now
    this.#tickedAt = now
    return this.#resumedAt
  }

  restart(): void {
    this.#tickedAt = this.#resumedAt = performance.now()
  }
}
