import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

/** Makes orphaned descendants children of this process instead of init. Returns false if this system does not support it. */
export function adoptOrphans(): boolean {
  return native.adoptOrphans()
}

/** Returns the pid of a child that has ended, even one that other code started, without reaping it; 0 if none has ended; -1 if there is no child. */
export function endedChild(): number {
  return native.endedChild()
}

/** Reaps a child. Returns its exit code, or the negative number of the signal that ended it; null if it runs, or is not a child of this process. */
export function reapChild(pid: number): number | null {
  return native.reapChild(pid)
}

export interface ProgramStart {
  /** Absolute, or relative to this process's folder; PATH is not searched. */
  readonly file: string
  readonly cwd: string
  /** Includes argv[0]. */
  readonly argv: readonly string[]
  readonly env: Readonly<NodeJS.ProcessEnv>
}

export interface ChildStart extends ProgramStart {
  /** The name of an environment variable that the child sets to its own pid. */
  readonly pidVariable?: string
  /** The child gets duplicates of these descriptors as 3, 4, … */
  readonly fds: readonly OwnedFd[]
  /** The signal that the child gets when this thread ends in any way (Linux); 0: none. */
  readonly deathSignal: number
}

/** Placeholder that the child overwrites with its pid. */
const PID_ROOM = '0'.repeat(10)

/**
 * Starts a child with this process's stdin, stdout and stderr, as the leader of a new process group. Returns its pid after a successful execve. The
 * caller must reap it, because Node does not know it. Throws an error with the system call that failed: `execve`, `chdir`, `fork`.
 */
export function startChild({ file, cwd, argv, env, pidVariable, fds, deathSignal }: ChildStart): number {
  const variables = envAssignments({ ...env, ...(pidVariable !== undefined && { [pidVariable]: undefined }) })
  const first = pidVariable === undefined ? [] : [`${pidVariable}=${PID_ROOM}`]
  const pidAt = pidVariable === undefined ? -1 : Buffer.byteLength(pidVariable) + 1
  return native.spawn(
    joinWithNul([file, cwd, ...argv]),
    joinWithNul([...first, ...variables]),
    pidAt,
    fds.map(fd => fd.raw),
    deathSignal,
  )
}

/**
 * Replaces this program by another one in the same process (execve). Children stay children. `kept`, stdin, stdout and stderr stay open with the same
 * numbers; all other descriptors are closed. Does not return. Throws an error with the system call that failed (`execve`, `chdir`); then nothing has
 * changed.
 */
export function executeInstead(start: ProgramStart, kept: readonly OwnedFd[]): never {
  const { words, env, fds } = execArguments(start, kept)
  return native.execute(words, env, fds)
}

/** As {@link executeInstead}, but `given` become descriptors 3, 4, … of the new program. */
export function executeWith(start: ProgramStart, given: readonly OwnedFd[]): never {
  const { words, env, fds } = execArguments(start, given)
  return native.execute(words, env, fds, 3)
}

function execArguments({ file, cwd, argv, env }: ProgramStart, fds: readonly OwnedFd[]) {
  return {
    words: joinWithNul([file, cwd, ...argv]),
    env: joinWithNul(envAssignments(env)),
    fds: fds.map(fd => fd.raw),
  }
}

function envAssignments(env: Readonly<NodeJS.ProcessEnv>): string[] {
  return Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
}

/** Cuts each string at its first NUL, as the kernel would, and ends it with NUL. */
function joinWithNul(strings: readonly string[]): Buffer {
  return Buffer.from(strings.map(text => `${text.split('\0', 1)[0]}\0`).join(''))
}

/**
 * Blocks signals (bit n - 1 for signal n) in this thread; other threads forward theirs to it. The signals stay pending, even across
 * {@link executeInstead}. Throws if signals are held already.
 */
export function holdSignals(signals: number): void {
  native.holdSignals(signals)
}

/** Ends {@link holdSignals} of this program, or of the one that it replaced, so that pending signals are delivered. Returns whether SIGTERM was blocked. */
export function releaseSignals(): boolean {
  return native.releaseSignals()
}

/** Opens a pidfd of a process in this PID namespace; returns null if the kernel has no pidfds. Throws ESRCH. */
export function pidfdOf(pid: number, label = `pidfd of ${pid}`): OwnedFd | null {
  const raw = native.pidfdOpen(pid)
  return raw === null ? null : OwnedFd.own(raw, label)
}

/**
 * Opens a pidfd of the process that connected the other end of a Unix socket; returns null if the kernel cannot do that. Before Linux 6.16 returns
 * 'dead' for a reaped process; newer kernels return a pidfd for which {@link hasEnded} is true.
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

/** Reports whether the process that connected the other end of a Unix socket still lives; null if the kernel cannot tell. */
export function peerLives(socket: OwnedFd): boolean | null {
  const peer = peerPidfd(socket, 'pidfd of a peer')
  if (peer === 'dead') return false
  using pidfd = peer
  return pidfd === null ? null : !hasEnded(pidfd)
}

export function hasEnded(pidfd: OwnedFd): boolean {
  return native.pidfdDead(pidfd.raw)
}

/** Returns the pid; -1 if the process is dead, 0 if it is in another PID namespace. Throws EINVAL for another kind of descriptor. */
export function pidOfPidfd(pidfd: OwnedFd): number {
  return native.pidfdPid(pidfd.raw)
}

/** Throws ESRCH if the process has ended. */
export function signalTo(pidfd: OwnedFd, signal: number): void {
  native.pidfdSignal(pidfd.raw, signal)
}

/** Duplicates the descriptor `number` of another process. Throws EPERM (no access to the process), ESRCH, EBADF or ENOSYS. */
export function duplicateFrom(pidfd: OwnedFd, number: number, label: string): OwnedFd {
  return OwnedFd.own(native.pidfdTake(pidfd.raw, number), label)
}
