import { closeSync, openSync } from 'node:fs'
import { memoryFile, sleepSync, truncate, writeAllAt } from './file.js'
import { type NativeError, native, READABLE } from './native.js'
import { closeOnThrow, OwnedFd } from './owned.js'
import { watch } from './watch.js'

export interface ProgramStart {
  /** Absolute, or relative to this process's folder; PATH is not searched. */
  readonly file: string
  /** '': this process's folder. */
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
 * Until it is disposed of, the addon starts processes by a thread that has none of the descriptors that this process gets later. A process that is started closes
 * its copies of all others, and a close may wait for as long as another user likes (FUSE). Call it before such descriptors can arrive. Returns null if
 * this system cannot.
 */
export function startApart(): Disposable | null {
  if (!native.openStarter()) {
    native.closeStarter()
    return null
  }
  let isOver = false
  return {
    [Symbol.dispose]() {
      if (isOver) return
      isOver = true
      native.closeStarter()
    },
  }
}

/** Whether processes are started as {@link startApart} says. */
export function startsApart(): boolean {
  return native.startsApart()
}

/** The source of a standard descriptor: nothing, the same of this process, or the number of another one. */
export type StandardSource = 'ignore' | 'inherit' | number

/** A program that {@link startGuarded} has started. */
export interface GuardedProgram {
  readonly pid: number
  /**
   * Ends the guardian. When this function returns, init or a subreaper (a service manager) is the program's parent, and its end is not reported. Idempotent.
   */
  orphan(): void
  unref(): void
}

/** Time for the guardian, which has nothing else to do, to end. */
const GUARDIAN_ENDS_MS = 1_000

/**
 * Starts a program as the leader of a new session, and as the child of a guardian: a small process that ends when {@link GuardedProgram.orphan} is called, or
 * when this process has ended. Calls `ended` once with the exit code, or the negative number of the signal; with null if the guardian was killed, and the
 * program's end is not known. During that call the program's pid belongs to no other process. Linux only. Throws as {@link startChild} does.
 */
export function startGuarded(
  { file, cwd, argv, env }: ProgramStart,
  standard: readonly StandardSource[],
  ended: (status: number | null) => void,
): GuardedProgram {
  const words = joinWithNul([file, cwd, ...argv])
  const variables = joinWithNul(envAssignments(env))
  const [pid, guardian, raw] = withNumbers(standard, numbers =>
    native.spawnGuarded(words, variables, numbers),
  )
  const leash = OwnedFd.own(raw, `guardian of ${pid}`)
  let isOrphan = false
  const orphan = () => {
    if (isOrphan) return
    isOrphan = true
    poll.close()
    leash.close()
    const until = performance.now() + GUARDIAN_ENDS_MS
    // The kernel gives the guardian's child another parent before the guardian can be reaped.
    while (native.reapChild(guardian) === null && performance.now() < until) sleepSync(1)
  }
  const poll = watch(leash, () => {
    const status = Buffer.alloc(4)
    const known = readStatus(leash, status)
    try {
      ended(known ? status.readInt32LE() : null)
    } finally {
      orphan()
    }
  })
  poll.start(READABLE)
  return { pid, orphan, unref: () => poll.unref() }
}

function withNumbers<T>(standard: readonly StandardSource[], start: (numbers: readonly number[]) => T): T {
  const nothing = openSync('/dev/null', 'r+')
  try {
    return start(
      standard.map((source, at) => (source === 'ignore' ? nothing : source === 'inherit' ? at : source)),
    )
  } finally {
    closeSync(nothing)
  }
}

/**
 * Starts a program as the leader of a new session, and as a child of this process. Calls `ended` once with the exit code, or the negative number of the signal.
 * Needs pidfds. Throws as {@link startChild} does.
 */
export function startInSession(
  { file, cwd, argv, env }: ProgramStart,
  standard: readonly StandardSource[],
  ended: (status: number) => void,
): { readonly pid: number; unref(): void } {
  const words = joinWithNul([file, cwd, ...argv])
  const variables = joinWithNul(envAssignments(env))
  const pid = withNumbers(standard, numbers => native.spawn(words, variables, -1, numbers, 0, true))
  const pidfd = watchedChild(pid)
  const poll = watch(pidfd, () => {
    poll.close()
    pidfd.close()
    // A program that replaces Node's handling of its children may have reaped it.
    ended(native.reapChild(pid) ?? 0)
  })
  poll.start(READABLE)
  return { pid, unref: () => poll.unref() }
}

/** Returns a pidfd of a child. If there is none, because this process has too many descriptors, ends the child, and throws. */
function watchedChild(pid: number): OwnedFd {
  try {
    return pidfdOf(pid)!
  } catch (error) {
    trySignal(pid, 'SIGKILL')
    const until = performance.now() + GUARDIAN_ENDS_MS
    while (native.reapChild(pid) === null && performance.now() < until) sleepSync(1)
    throw error
  }
}

/** Maximum number of marks of an {@link EndGuard}; the oldest are dropped. */
const MAX_MARKS = 64

/**
 * Kills processes when this process has ended in any way, also by SIGKILL: all whose environment has one of {@link marks} (`NAME=VALUE`). A guardian does it,
 * a small child of this process. execve() ends the guardian's watch as the end of the process does: dispose of the guard before.
 */
export class EndGuard implements Disposable {
  readonly #file: OwnedFd
  readonly #leash: OwnedFd
  #marks: string[] = []

  /** Linux only. Throws as {@link startChild} does. */
  constructor() {
    this.#file = memoryFile('marks', 'marks of programs')
    this.#leash = closeOnThrow([this.#file], () =>
      OwnedFd.own(native.killAtEnd(this.#file.raw), 'guardian of programs'),
    )
  }

  add(mark: string): void {
    this.#marks = [...this.#marks, mark].slice(-MAX_MARKS)
    const marks = Buffer.from(this.#marks.map(each => `${each}\0`).join(''))
    // Truncates behind them: this process may be killed at any moment.
    writeAllAt(this.#file, marks, 0)
    truncate(this.#file, marks.length)
  }

  /** Ends the guardian, which kills no process then. */
  [Symbol.dispose](): void {
    if (!this.#file.closed) truncate(this.#file, 0)
    this.#file.close()
    this.#leash.close()
  }
}

/** Returns false if the guardian has closed its end without a status. */
function readStatus(leash: OwnedFd, status: Buffer): boolean {
  try {
    return native.receive(leash.raw, status, 0, status.length) === status.length
  } catch {
    return false
  }
}

/**
 * Replaces this program by another one in the same process (execve). The children of the process stay. Stdin, stdout, stderr and `kept` stay open: `kept` with
 * their numbers, or as `first` and the numbers after it. All other descriptors are closed. Does not return. Throws an error with the system call that
 * failed (`execve`, `chdir`); then nothing has changed. If returning to the previous folder fails too (`fchdir`), this process stays in `cwd`.
 */
export function executeInstead(
  { file, cwd, argv, env }: ProgramStart,
  kept: readonly OwnedFd[],
  first?: number,
): never {
  const words = joinWithNul([file, cwd, ...argv])
  const variables = joinWithNul(envAssignments(env))
  const numbers = kept.map(fd => fd.raw)
  return first === undefined
    ? native.execute(words, variables, numbers)
    : native.execute(words, variables, numbers, first)
}

function envAssignments(env: Readonly<NodeJS.ProcessEnv>): string[] {
  return Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
}

/** Cuts each string at its first NUL, as the kernel would, and ends it with NUL. */
function joinWithNul(strings: readonly string[]): Buffer {
  return Buffer.from(strings.map(text => `${text.split('\0', 1)[0]}\0`).join(''))
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

/** As {@link signalTo}. Returns false if the process has ended, or if this process may not signal it. */
export function trySignalTo(pidfd: OwnedFd, signal: number): boolean {
  try {
    signalTo(pidfd, signal)
    return true
  } catch {
    return false
  }
}

/** Signals a process or, if `pid` is negative, a process group. Returns false if it has ended, or if this process may not signal it. */
export function trySignal(pid: number, signal: NodeJS.Signals | number): boolean {
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

/** Duplicates the descriptor `number` of another process. Throws EPERM (no access to the process), ESRCH, EBADF or ENOSYS. */
export function duplicateFrom(pidfd: OwnedFd, number: number, label: string): OwnedFd {
  return OwnedFd.own(native.pidfdTake(pidfd.raw, number), label)
}
