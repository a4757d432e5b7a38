import { FdbError } from '../errors.js'
import { hasEnded, type NativeError, type OwnedFd, signalTo } from '../kernel/index.js'
import { type DeathWatch, openPidfd, unwatchable, watchDeath } from './liveness.js'
import { statIfSeen } from './main-process.js'

export interface ProcessIdentity {
  /** The pid as it is seen from here; from another PID namespace as the process says: many are 1 there. */
  readonly pid: number
  /** Start time in clock ticks since boot: tells a process from a later one with its pid. Absent: cannot be seen from here. */
  readonly startTime?: string
  /** A name that the process has given itself. Absent: of a release that gave none. */
  readonly instance?: string
}

const MOST_INSTANCE = 64
/** How often it is looked where the kernel does not tell of deaths. */
const LOOK_MS = 100

/** `pid` 0: the kernel does not see it from here, and `told` is what it says itself. */
export function identify(
  pid: number,
  told: { pid?: number | null | undefined; instance?: string | null | undefined } = {},
): ProcessIdentity {
  const startTime = pid > 0 ? startTimeOf(pid) : null
  const { instance } = told
  return {
    pid: pid || told.pid || 0,
    ...(startTime ? { startTime } : {}),
    ...(instance && instance.length <= MOST_INSTANCE ? { instance } : {}),
  }
}

/** Processes are the same by the names that they have given themselves, if both have; else by what is seen of them from here. */
export function isSame(one: ProcessIdentity, other: ProcessIdentity): boolean {
  if (one.instance !== undefined && other.instance !== undefined) return one.instance === other.instance
  return one.pid === other.pid && one.startTime === other.startTime
}

/** One that could not be seen when it was identified cannot be proved dead either, nor one that cannot be seen now. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  if (startTime === undefined) return true
  const now = startTimeOf(pid)
  return now === undefined || now === startTime
}

/** Without a pidfd: calls `onDead` once the process has ended, or is a zombie. Null: it cannot be seen, nor proved dead. */
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
 * Null: its death cannot be proved. Throws ERR_FDB_NO_DESCRIPTORS, ERR_FDB_NO_PIDFD.
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
    throw unwatchable(identity.pid, cause)
  }
}

/** Null: there is no such process, or a zombie; undefined: it cannot be told. */
export function startTimeOf(pid: number): string | null | undefined {
  const stat = statIfSeen(pid)
  if (!stat) return stat
  return stat.state === 'Z' || stat.state === 'X' ? null : String(stat.startTicks)
}

const SIGKILL = 9

/**
 * Sends SIGKILL, never by a number, which may be another process's by now. `pidfd` is one that the kernel has vouched for; without one it
 * is opened here, and the process is looked at again. Throws ERR_FDB_STUCK when that is impossible: no process is signalled then. A process
 * that has ended meanwhile is no error. Borrows `pidfd`.
 */
export function killVerified(identity: ProcessIdentity, pidfd: OwnedFd | null): void {
  if (pidfd !== null) {
    kill(identity, pidfd)
    return
  }
  if (identity.startTime === undefined)
    throw stuck(identity, 'it cannot be seen from here (another PID namespace)')
  const opened = openPidfd(identity.pid)
  if (opened === 'dead') return
  if (opened === null) throw stuck(identity, 'there is no pidfd to be had for it')
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
    if (code !== 'ESRCH') throw stuck(identity, `it may not be signalled (${code})`)
  }
}

function stuck({ pid }: ProcessIdentity, why: string): FdbError {
  return new FdbError('ERR_FDB_STUCK', `process ${pid} is not ended: ${why}; end it by hand`, {
    details: { pids: [pid] },
  })
}

const PID_POLL_MS = 5

/**
 * Is the peer whose channel has just ended dead, or has it only closed? A channel's end arrives before the pidfd
 * tells (in 232 of 300 kills), so a live answer is given only after `graceMs`; a dead one at once.
 *
 * Borrows `peer` until it has resolved. A number is a pid, for kernels without pidfds: it is looked for again and again, which
 * is weaker: a reused pid looks alive. Pid 0 (another namespace) can never be proved dead.
 */
export function fateOf(peer: OwnedFd | number, graceMs = 100): Promise<'dead' | 'alive'> {
  return new Promise(resolve => {
    const watch =
      typeof peer === 'number'
        ? polled(
            () => peer > 0 && !exists(peer),
            () => settle('dead'),
          )
        : watched(peer, () => settle('dead'))
    const timer = setTimeout(() => settle('alive'), graceMs)
    function settle(fate: 'dead' | 'alive'): void {
      clearTimeout(timer)
      watch.close()
      resolve(fate)
    }
  })
}

/** Where there is no descriptor left for a watch of its own, the pidfd is looked at again and again. */
function watched(pidfd: OwnedFd, onDead: () => void): { close(): void } {
  try {
    return watchDeath(pidfd, onDead)
  } catch {
    return polled(() => !pidfd.closed && hasEnded(pidfd), onDead)
  }
}

function polled(isDead: () => boolean, onDead: () => void): { close(): void } {
  const timer = setInterval(() => {
    if (isDead()) onDead()
  }, PID_POLL_MS)
  return { close: () => clearInterval(timer) }
}

/** A zombie does not. */
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
