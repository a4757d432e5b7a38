import { FdbError } from '../errors.js'
import { hasEnded, type NativeError, type OwnedFd, procText, signalTo } from '../kernel/index.js'
import { type DeathWatch, openPidfd, pidOf, watchDeath, watchError } from './liveness.js'
import { isExiting, statIfSeen } from './main-process.js'

export interface ProcessIdentity {
  /** The pid in this PID namespace. For a process of another one the pid that it reports for itself, which is often 1. */
  readonly pid: number
  /** Start time in clock ticks since boot: a later process with the same pid has another. Absent if the process is not visible. */
  readonly startTime?: string
  /** A unique name that the process chose. Absent if its release does not choose one. */
  readonly instance?: string
}

const MOST_INSTANCE = 64
/** Interval at which a process without a pidfd is checked. */
const ALIVE_CHECK_MS = 100

/** Returns the identity of a process. A `pid` of 0 means that the process is in another PID namespace: the identity then has the pid that the process reported. */
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

/** Compares the chosen names if both processes have one; else pid and start time. */
export function isSame(one: ProcessIdentity, other: ProcessIdentity): boolean {
  if (one.instance !== undefined && other.instance !== undefined) return one.instance === other.instance
  return one.pid === other.pid && one.startTime === other.startTime
}

/** Whether the process may be alive. True for a process that is not visible, because it cannot be proved dead. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  if (startTime === undefined) return true
  const now = startTimeOf(pid)
  return now === undefined || now === startTime
}

/** Returns the effective user and group of a process; null if it is not visible. */
export function credentialsOf(pid: number): { uid: number; gid: number } | null {
  const status = procText(`${pid}/status`)
  const idOf = (what: string) => Number(new RegExp(`^${what}:\\t\\d+\\t(\\d+)`, 'm').exec(status)?.[1] ?? -1)
  const [uid, gid] = [idOf('Uid'), idOf('Gid')]
  return uid < 0 || gid < 0 ? null : { uid, gid }
}

/** Calls `onDead` when all threads of the process have ended. Needs no pidfd, but polls. Returns null for a process that is not visible. */
export function watchIdentity(identity: ProcessIdentity, onDead: () => void): DeathWatch | null {
  if (identity.startTime === undefined) return null
  let dead = false
  const timer = setInterval(() => {
    if (isAlive(identity)) return
    dead = true
    clearInterval(timer)
    onDead()
  }, ALIVE_CHECK_MS)
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
 * Calls `onDead` once when the process has ended. Without a pidfd polls its identity; returns null if it is not visible either. Does not
 * keep this process alive. Throws ERR_FDB_NO_DESCRIPTORS, ERR_FDB_NO_PIDFD.
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

/** Returns a process's start time in clock ticks; null if the process does not exist or all its threads have ended; undefined if unknown. */
export function startTimeOf(pid: number): string | null | undefined {
  const stat = statIfSeen(pid)
  if (!stat) return stat
  return stat.hasEnded ? null : String(stat.startTicks)
}

const SIGKILL = 9

/** Sends SIGKILL as {@link signalVerified}. Throws ERR_FDB_STUCK if the process cannot be identified or signalled. */
export function killVerified(identity: ProcessIdentity, pidfd: OwnedFd | null): void {
  const why = signalVerified(identity, pidfd, SIGKILL)
  if (why === null) return
  const { pid } = identity
  throw new FdbError('ERR_FDB_STUCK', `process ${pid} was not killed: ${why}; end it manually`, {
    details: { pids: [pid] },
  })
}

/**
 * Sends a signal through a pidfd, because a pid may be reused. Borrows `pidfd`, which must come from the kernel, not from the process. If it
 * is null, opens a pidfd and compares the identity with its process. Returns why the process cannot be identified or signalled; null if the
 * signal was sent, or if the process has ended.
 */
export function signalVerified(
  identity: ProcessIdentity,
  pidfd: OwnedFd | null,
  signal: number,
): string | null {
  if (pidfd !== null) return send(pidfd, signal)
  if (identity.startTime === undefined) return 'it cannot be seen from here (another PID namespace)'
  const opened = openPidfd(identity.pid)
  if (opened === 'dead') return null
  if (opened === null) return 'no pidfd can be opened for it'
  try {
    return isAlive(identity) ? send(opened, signal) : null
  } finally {
    opened.close()
  }
}

function send(pidfd: OwnedFd, signal: number): string | null {
  try {
    signalTo(pidfd, signal)
    return null
  } catch (error) {
    const { code } = error as NativeError
    return code === 'ESRCH' ? null : `it may not be signalled (${code})`
  }
}

const PID_POLL_MS = 5

/**
 * Finds out whether a peer whose channel has just ended is dead, or has only closed the channel. The channel usually ends before the pidfd
 * reports the death (in 232 of 300 kills): resolves with 'dead' as soon as it is known, but with 'alive' only after `graceMs`. A process that is
 * ending then is dead, although it may not get a processor for its last steps.
 *
 * Borrows `peer` until then. A number is a pid, for kernels without pidfds, and is polled; a process that has reused the pid looks like a
 * living peer. Pid 0, of a peer in another PID namespace, always counts as alive.
 */
export function fateOf(peer: OwnedFd | number, graceMs = 100): Promise<'dead' | 'alive'> {
  const isDead =
    typeof peer === 'number' ? () => peer > 0 && !exists(peer) : () => !peer.closed && hasEnded(peer)
  const isDying = () => isDead() || (typeof peer !== 'number' && !peer.closed && isEnding(peer))
  return new Promise(resolve => {
    const onDead = () => settle('dead')
    const watch = typeof peer === 'number' ? poll(isDead, onDead) : watchOrPoll(peer, isDead, onDead)
    // If this process was stopped or busy, the timer elapses before the watch is heard.
    const timer = setTimeout(() => settle(isDying() ? 'dead' : 'alive'), graceMs)
    function settle(fate: 'dead' | 'alive'): void {
      clearTimeout(timer)
      watch.close()
      resolve(fate)
    }
  })
}

/** Reports whether the process has ended or is ending: the kernel closes the descriptors of a process before its pidfd reports the death. */
export function isEnding(pidfd: OwnedFd): boolean {
  const pid = pidOf(pidfd)
  return (pid > 0 && isExiting(pid)) || hasEnded(pidfd)
}

/** Watches the pidfd or, if no descriptor is free for that, polls it. */
function watchOrPoll(pidfd: OwnedFd, isDead: () => boolean, onDead: () => void): { close(): void } {
  try {
    return watchDeath(pidfd, onDead)
  } catch {
    return poll(isDead, onDead)
  }
}

function poll(isDead: () => boolean, onDead: () => void): { close(): void } {
  const timer = setInterval(() => {
    if (isDead()) onDead()
  }, PID_POLL_MS)
  return { close: () => clearInterval(timer) }
}

/** Whether the process exists and a thread of it has not ended. */
function exists(pid: number): boolean {
  return startTimeOf(pid) !== null
}
