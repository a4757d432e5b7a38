import { FdbError } from '../errors.js'
import { hasEnded, type NativeError, type OwnedFd, signalTo } from '../kernel/index.js'
import { type DeathWatch, openPidfd, watchDeath, watchError } from './liveness.js'
import { statIfSeen } from './main-process.js'

export interface ProcessIdentity {
  /** The pid as seen from here; for another PID namespace the process's own number, which is often 1. */
  readonly pid: number
  /** Start time in clock ticks since boot, which distinguishes processes with the same pid. Absent: not visible from here. */
  readonly startTime?: string
  /** A name that the process chose. Absent: its release chooses none. */
  readonly instance?: string
}

const MOST_INSTANCE = 64
/** Polling interval without pidfds. */
const LOOK_MS = 100

/** Identifies a process. `pid` 0: it is not visible from here, and `reported` has its own data. */
export function identify(
  pid: number,
  reported: { pid?: number | null | undefined; instance?: string | null | undefined } = {},
): ProcessIdentity {
  const startTime = pid > 0 ? startTimeOf(pid) : null
  const { instance } = reported
  return {
    pid: pid || reported.pid || 0,
    ...(startTime ? { startTime } : {}),
    ...(instance && instance.length <= MOST_INSTANCE ? { instance } : {}),
  }
}

/** Compares the names that both processes chose, if they have one; otherwise pid and start time. */
export function isSame(one: ProcessIdentity, other: ProcessIdentity): boolean {
  if (one.instance !== undefined && other.instance !== undefined) return one.instance === other.instance
  return one.pid === other.pid && one.startTime === other.startTime
}

/** Whether the process may be alive. A process that is not visible from here cannot be proved dead, so it counts as alive. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  if (startTime === undefined) return true
  const now = startTimeOf(pid)
  return now === undefined || now === startTime
}

/** Calls `onDead` when the process has ended or is a zombie, without a pidfd. Null: it is not visible, so its death cannot be proved. */
export function watchIdentity(identity: ProcessIdentity, onDead: () => void): DeathWatch | null {
  if (identity.startTime === undefined) return null
  let dead = false
  const timer = setInterval(() => {
    if (isAlive(identity)) return
    dead = true
    clearInterval(timer)
    onDead()
  }, LOOK_MS)
  return {
    get dead() {
      return dead
    },
    ref: () => void timer.ref(),
    unref: () => void timer.unref(),
    close: () => clearInterval(timer),
  }
}

/**
 * Calls `onDead` once when the process has ended: by its pidfd, or by its identity if there is none. Does not keep this process alive.
 * Returns null if the death of the process cannot be proved. Throws ERR_FDB_NO_DESCRIPTORS, ERR_FDB_NO_PIDFD.
 */
export function watchProcess(
  pidfd: OwnedFd | null,
  identity: ProcessIdentity,
  onDead: () => void,
): DeathWatch | null {
  try {
    const watch = pidfd === null ? watchIdentity(identity, onDead) : watchDeath(pidfd, onDead)
    watch?.unref()
    return watch
  } catch (cause) {
    throw watchError(identity.pid, cause)
  }
}

/** Returns the start time; null if the process does not exist or is a zombie; undefined if unknown. */
export function startTimeOf(pid: number): string | null | undefined {
  const stat = statIfSeen(pid)
  if (!stat) return stat
  return stat.state === 'Z' || stat.state === 'X' ? null : String(stat.startTicks)
}

const SIGKILL = 9

/**
 * Sends SIGKILL through a pidfd, because a pid may be reused. `pidfd` is verified by the kernel, and borrowed; if it is null, a pidfd
 * is opened here, and the identity is checked again. Throws ERR_FDB_STUCK, without a signal, if that is impossible. Does nothing if the
 * process has ended.
 */
export function killVerified(identity: ProcessIdentity, pidfd: OwnedFd | null): void {
  if (pidfd !== null) {
    kill(identity, pidfd)
    return
  }
  if (identity.startTime === undefined)
    throw stuckError(identity, 'it cannot be seen from here (another PID namespace)')
  const opened = openPidfd(identity.pid)
  if (opened === 'dead') return
  if (opened === null) throw stuckError(identity, 'no pidfd can be opened for it')
  try {
    if (isAlive(identity)) kill(identity, opened)
  } finally {
    opened.close()
  }
}

function kill(identity: ProcessIdentity, pidfd: OwnedFd): void {
  try {
    signalTo(pidfd, SIGKILL)
  } catch (error) {
    const { code } = error as NativeError
    if (code !== 'ESRCH') throw stuckError(identity, `it may not be signalled (${code})`)
  }
}

function stuckError({ pid }: ProcessIdentity, why: string): FdbError {
  return new FdbError('ERR_FDB_STUCK', `process ${pid} was not killed: ${why}; end it manually`, {
    details: { pids: [pid] },
  })
}

const PID_POLL_MS = 5

/**
 * Returns whether the peer whose channel has just ended is dead or has only closed it. The end of a channel arrives before the pidfd
 * reports death (in 232 of 300 kills), so 'alive' is returned only after `graceMs`; 'dead' at once.
 *
 * Borrows `peer` until it resolves. A number is a pid, for kernels without pidfds: it is polled, which is weaker, because a reused pid
 * looks alive. Pid 0 (another namespace) can never be proved dead.
 */
export function fateOf(peer: OwnedFd | number, graceMs = 100): Promise<'dead' | 'alive'> {
  return new Promise(resolve => {
    const watch =
      typeof peer === 'number'
        ? poll(
            () => peer > 0 && !exists(peer),
            () => settle('dead'),
          )
        : watchOrPoll(peer, () => settle('dead'))
    const timer = setTimeout(() => settle('alive'), graceMs)
    function settle(fate: 'dead' | 'alive'): void {
      clearTimeout(timer)
      watch.close()
      resolve(fate)
    }
  })
}

/** Without a free descriptor for a watch, polls the pidfd. */
function watchOrPoll(pidfd: OwnedFd, onDead: () => void): { close(): void } {
  try {
    return watchDeath(pidfd, onDead)
  } catch {
    return poll(() => !pidfd.closed && hasEnded(pidfd), onDead)
  }
}

function poll(isDead: () => boolean, onDead: () => void): { close(): void } {
  const timer = setInterval(() => {
    if (isDead()) onDead()
  }, PID_POLL_MS)
  return { close: () => clearInterval(timer) }
}

/** Whether the process exists and is no zombie. */
function exists(pid: number): boolean {
  const startTime = startTimeOf(pid)
  if (startTime !== undefined) return startTime !== null
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}
