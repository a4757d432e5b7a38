import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

/** Descendants whose parents end become children of this process, not of init. False: this system knows no such thing. */
export function adoptOrphans(): boolean {
  return native.adoptOrphans()
}

/** A child that has ended and was not reaped, by anybody's start; 0: none has ended; -1: there is no child. Reaps nothing. */
export function endedChild(): number {
  return native.endedChild()
}

/** Its exit code, or the negative number of the signal that ended it; null: it has not ended, or is no child of ours. */
export function reapChild(pid: number): number | null {
  return native.reapChild(pid)
}

export interface ProgramStart {
  /** Absolute, or relative to this process's folder: no PATH is searched. */
  readonly file: string
  readonly cwd: string
  /** With argv[0]. */
  readonly argv: readonly string[]
  readonly env: Readonly<NodeJS.ProcessEnv>
}

export interface ChildStart extends ProgramStart {
  /** A variable that has the child's own pid. */
  readonly pidVariable?: string
  /** They become 3, 4, … in the child; borrowed. */
  readonly fds: readonly OwnedFd[]
  /** The signal that the child gets when this thread ends, however that happens (Linux); 0: none. */
  readonly deathSignal: number
}

/** The child writes its number over them. */
const PID_ROOM = '0'.repeat(10)

/**
 * Starts a child that heads a process group of its own, with our stdin, stdout and stderr. Returns its pid after execve. The caller reaps
 * it: Node knows nothing of it. Throws the system call that failed: `execve`, `chdir`, `fork`.
 */
export function startChild({ file, cwd, argv, env, pidVariable, fds, deathSignal }: ChildStart): number {
  const variables = assignments({ ...env, ...(pidVariable !== undefined && { [pidVariable]: undefined }) })
  const first = pidVariable === undefined ? [] : [`${pidVariable}=${PID_ROOM}`]
  const pidAt = pidVariable === undefined ? -1 : Buffer.byteLength(pidVariable) + 1
  return native.spawn(
    terminated([file, cwd, ...argv]),
    terminated([...first, ...variables]),
    pidAt,
    fds.map(fd => fd.raw),
    deathSignal,
  )
}

/**
 * Becomes another program, as the same process: its children stay its children, `kept` stay open by the numbers that they have (with stdin, stdout and stderr),
 * all else is closed. Does not return; throws the system call that failed (`execve`, `chdir`), with nothing changed.
 */
export function executeInstead(start: ProgramStart, kept: readonly OwnedFd[]): never {
  const { words, env, fds } = wordsOf(start, kept)
  return native.execute(words, env, fds)
}

/** {@link executeInstead}, but `given` are 3, 4, … of the other program. */
export function executeWith(start: ProgramStart, given: readonly OwnedFd[]): never {
  const { words, env, fds } = wordsOf(start, given)
  return native.execute(words, env, fds, 3)
}

function wordsOf({ file, cwd, argv, env }: ProgramStart, fds: readonly OwnedFd[]) {
  return {
    words: terminated([file, cwd, ...argv]),
    env: terminated(assignments(env)),
    fds: fds.map(fd => fd.raw),
  }
}

function assignments(env: Readonly<NodeJS.ProcessEnv>): string[] {
  return Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
}

/** Each ends at its first NUL, as it would for the kernel. */
function terminated(strings: readonly string[]): Buffer {
  return Buffer.from(strings.map(text => `${text.split('\0', 1)[0]}\0`).join(''))
}

/**
 * Blocks signals in this thread, bit n - 1 for signal n; the other threads hand theirs to it. Signals stay pending, over
 * {@link executeInstead} as well. Throws when some are held already.
 */
export function holdSignals(signals: number): void {
  native.holdSignals(signals)
}

/** Ends {@link holdSignals}, of this image or of the one before it: pending signals are delivered. Returns whether SIGTERM was blocked. */
export function releaseSignals(): boolean {
  return native.releaseSignals()
}

/** Opens a process of this PID namespace; null where the kernel has no pidfds. Throws ESRCH. */
export function pidfdOf(pid: number, label = `pidfd of ${pid}`): OwnedFd | null {
  const raw = native.pidfdOpen(pid)
  return raw === null ? null : OwnedFd.own(raw, label)
}

/**
 * The process at the other end of a Unix socket, as the kernel noted it; null where the kernel has no such call. 'dead': it was reaped, and
 * this kernel gives no pidfd then (before Linux 6.16); newer ones give a pidfd that has ended.
 */
export function peerPidfd(socket: OwnedFd, label: string): OwnedFd | 'dead' | null {
  try {
    const raw = native.peerPidfd(socket.raw)
    return raw === null ? null : OwnedFd.own(raw, label)
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'EINVAL' || code === 'ESRCH') return 'dead'
    throw error
  }
}

/** Whether the process at the other end of a Unix socket, as the kernel noted it, has not ended; null where the kernel has no pidfd of it. */
export function peerLives(socket: OwnedFd): boolean | null {
  const peer = peerPidfd(socket, 'pidfd of a peer')
  if (peer === 'dead') return false
  using pidfd = peer
  return pidfd === null ? null : !hasEnded(pidfd)
}

export function hasEnded(pidfd: OwnedFd): boolean {
  return native.pidfdDead(pidfd.raw)
}

/** -1: it is dead; 0: it is in another PID namespace. EINVAL is thrown for what is no pidfd. */
export function pidBehind(pidfd: OwnedFd): number {
  return native.pidfdPid(pidfd.raw)
}

/** ESRCH throws. */
export function signalTo(pidfd: OwnedFd, signal: number): void {
  native.pidfdSignal(pidfd.raw, signal)
}

/** A dup of the descriptor `number` of that process. EPERM (not ours to look into), ESRCH, EBADF, ENOSYS throw. */
export function duplicateFrom(pidfd: OwnedFd, number: number, label: string): OwnedFd {
  return OwnedFd.own(native.pidfdTake(pidfd.raw, number), label)
}
