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
  /** Whether the process has ended, perhaps before the watch began. */
  readonly dead: boolean
  /** Makes the watch keep this process alive, which is the default. */
  ref(): void
  unref(): void
  /** Stops the watch. Idempotent. */
  close(): void
}

/**
 * Calls `onDead` once when the process of `pidfd` has ended, but not before this function returns. The process may be in another PID
 * namespace. Borrows `pidfd` for this call only. Throws, without an open descriptor, if `pidfd` is not a pidfd, or if this process has
 * reached its limit of open files.
 */
export function watchDeath(pidfd: OwnedFd, onDead: () => void): DeathWatch {
  return watchOwn(pidfd.dup(), onDead)
}

/** As {@link watchDeath}, but saves a descriptor: polls `pidfd` itself, not a duplicate. A pidfd can have only one such watch. */
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

/** Resolves when the process of `pidfd` has ended. */
export function untilEnded(pidfd: OwnedFd): Promise<void> {
  return new Promise(resolve => void watchDeath(pidfd, resolve))
}

/** Resolves with whether the process of `pidfd` ends within `ms`. */
export function endsWithin(pidfd: OwnedFd, ms: number): Promise<boolean> {
  return new Promise(resolve => {
    const death = watchDeath(pidfd, () => {
      clearTimeout(timer)
      resolve(true)
    })
    const timer = setTimeout(() => {
      death.close()
      // If this process was stopped or busy, the timer elapses before the watch is heard.
      resolve(!pidfd.closed && hasEnded(pidfd))
    }, ms)
  })
}

/** Returns the FdbError for an error of {@link watchDeath}. `pid` is 0 if unknown. */
export function watchError(pid: number, cause: unknown): FdbError {
  const name = pid > 0 ? `process ${pid}` : 'a process'
  if ((cause as NativeError).code !== 'EINVAL') return outOfDescriptors(`${name} cannot be watched`, cause)
  return new FdbError(
    'ERR_FDB_NO_PIDFD',
    `the descriptor that stands for ${name} is no pidfd: the sender is faulty and is refused`,
    { cause, details: { pid } },
  )
}

/** Throws ERR_FDB_NO_PIDFD if the descriptor is not a pidfd; ERR_FDB_NO_DESCRIPTORS if it cannot be watched now. */
export function refuseNoPidfd(lifetime: OwnedFd): void {
  try {
    watchDeath(lifetime, () => {}).close()
  } catch (cause) {
    throw watchError(0, cause)
  }
}

/** Throws if the descriptor, which a peer may have sent, is not a pidfd: a readable socket would look like a dead process. */
function requirePidfd(pidfd: OwnedFd): void {
  try {
    pidOfPidfd(pidfd)
  } catch (error) {
    // Accepts a descriptor that cannot be checked, because /proc is missing, for example.
    if ((error as NativeError).code === 'EINVAL') throw error
  }
}

/** Opens a pidfd of a process in this PID namespace. Returns 'dead' if it does not exist; null without pidfds or a free descriptor. */
export function openPidfd(pid: number): OwnedFd | 'dead' | null {
  try {
    return pidfdOf(pid)
  } catch (error) {
    return (error as NativeError).code === 'ESRCH' ? 'dead' : null
  }
}

/** As {@link openPidfd}, but returns null for a process that does not exist too. */
export function pidfdOfLiving(pid: number): OwnedFd | null {
  const pidfd = openPidfd(pid)
  return pidfd === 'dead' ? null : pidfd
}

/** Returns the pid of a pidfd's process; 0 if it has ended or is in another PID namespace, or if the descriptor is not a pidfd. */
export function pidOf(pidfd: OwnedFd): number {
  try {
    return Math.max(0, pidOfPidfd(pidfd))
  } catch {
    return 0
  }
}

/** Returns a text that identifies the process of a pidfd: the pidfd's number or, before Linux 6.9, the pid; null if neither is known. */
export function processKey(pidfd: OwnedFd): string | null {
  const number = pidfdNumber(pidfd)
  if (number !== null) return `pidfd ${number}`
  const pid = pidOf(pidfd)
  return pid > 0 ? `${pid}` : null
}

/** Returns the pidfd's inode, which no other process since boot has; null before Linux 6.9, where all pidfds have the same inode. */
export function pidfdNumber(pidfd: OwnedFd): string | null {
  try {
    using own = ownPidfd()
    const { ino } = inspectOne(pidfd)
    return own !== null && inspectOne(own).ino !== ino ? ino : null
  } catch {
    return null
  }
}

/** Opens a pidfd of this process, to send it to a peer in another PID namespace; null if the kernel has no pidfds. */
export function ownPidfd(): OwnedFd | null {
  return pidfdOf(process.pid, 'own pidfd')
}

/** Maximum delay of a timer on a busy machine. */
const LATE_MS = 250

/** Detects from a late timer that this process was suspended: it must not count this time as silence of other processes. */
export class SuspendDetector {
  #tickedAt = performance.now()
  #resumedAt = this.#tickedAt

  /** Must be called every `everyMs`. Returns when the last suspension ended or the watch began, as `performance.now()`. */
  tick(everyMs: number, now: number = performance.now()): number {
    if (now - this.#tickedAt > 2 * everyMs + LATE_MS) this.#resumedAt = now
    this.#tickedAt = now
    return this.#resumedAt
  }

  restart(): void {
    this.#tickedAt = this.#resumedAt = performance.now()
  }
}
