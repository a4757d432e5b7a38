import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import {
  hasEnded,
  type NativeError,
  type OwnedFd,
  openFilesOf,
  pidfdOf,
  processes,
  procText,
  trySignalTo,
} from '../kernel/index.js'
import { ancestryOf, endsWithUs, processStat, statIfSeen } from '../os/main-process.js'

/** USER_HZ on Linux: the unit of start times. */
const TICKS_A_SECOND = 100

/** Time between SIGTERM and SIGKILL for a version that failed before it served, and for leftover processes. */
export const GRACE_MS = 2_000
/** Time after the first SIGKILL before processes that have not ended, because they wait in the kernel, are given up. */
export const KILLED_MS = 5_000
/** Interval at which SIGKILL is repeated, because a process may fork while the others are killed. */
const KILL_AGAIN_MS = 500
const WAIT_CHECK_MS = 10

export interface EndOptions {
  /** Default: SIGTERM. */
  readonly signal?: NodeJS.Signals
  /** Time between the signal and SIGKILL; 0: only SIGKILL is sent. */
  readonly graceMs: number
  /** Time after the first SIGKILL before the processes are given up. Default 5000. */
  readonly killedMs?: number
  readonly lookMs?: number
  /** An abort ends the waiting and signalling. */
  readonly givenUp?: AbortSignal
  /** Called before the first SIGKILL. */
  readonly killing?: () => void
}

/** Ends processes by a signal and, after `graceMs`, by SIGKILL. Resolves with whether all have ended. */
export async function endProcesses(
  processes: { readonly hasEnded: boolean; signal(signal: number): void },
  { signal = 'SIGTERM', graceMs, killedMs = KILLED_MS, lookMs, givenUp, killing }: EndOptions,
): Promise<boolean> {
  const ended = (ms: number) => waitUntil(() => processes.hasEnded, ms, lookMs, givenUp)
  if (graceMs > 0) {
    processes.signal(constants.signals[signal])
    if (await ended(graceMs)) return true
  }
  if (givenUp?.aborted) return false
  killing?.()
  const until = performance.now() + killedMs
  for (let left = killedMs; left > 0; left = until - performance.now()) {
    processes.signal(constants.signals.SIGKILL)
    if (await ended(Math.min(left, KILL_AGAIN_MS))) return true
    if (givenUp?.aborted) return false
  }
  return false
}

/** Resolves with true as soon as `holds` returns true; with false after `ms`, or if `givenUp` aborts. */
export async function waitUntil(
  holds: () => boolean,
  ms: number,
  lookMs = WAIT_CHECK_MS,
  givenUp?: AbortSignal,
): Promise<boolean> {
  const until = performance.now() + ms
  while (!givenUp?.aborted) {
    if (holds()) return true
    if (performance.now() >= until) return false
    await new Promise(resolve => setTimeout(resolve, lookMs))
  }
  return false
}

/** An environment variable that a version's processes inherit, and by which they are found. */
export interface EnvironmentMark {
  readonly name: string
  readonly value: string
}

/** Signs of an orphan of a version that has left the version's process group and has another environment. */
export interface OrphanSigns {
  /** The orphan started at this tick of the kernel's clock or later, and before `before`. */
  readonly since: number
  readonly before: number
  /** The names of sockets in /proc/PID/fd (`socket:[4711]`). The orphan has at least one of these sockets open. */
  readonly sockets: ReadonlySet<string>
}

/** The running processes of a process group or session whose leader has ended. Keeps a pidfd of each; without pidfds it finds none. */
export class LeftoverProcesses implements Disposable {
  /** Null if that is unknown. `isHeld`: no other group or session can have the leader's number. */
  readonly #belongs: (pid: number, isHeld: boolean) => boolean | null
  /** Whether a process is in the leader's group or session. */
  readonly #isInside: (pid: number) => boolean
  readonly #members = new Map<number, OwnedFd>()
  /** The last look had no free descriptor. */
  #isIncomplete = false

  /** Must be called in the turn of the event loop that reaps the leader: later, if no member runs, the leader's pid may be reused. */
  private constructor(
    isInside: (pid: number) => boolean,
    belongs: (pid: number, isHeld: boolean) => boolean | null,
  ) {
    this.#isInside = isInside
    this.#belongs = belongs
    this.#look(true)
    // A member may have forked and ended during the look.
    if (this.#members.size === 0) this.#look(true)
  }

  static ofSession(leader: number): LeftoverProcesses {
    return new LeftoverProcesses(
      pid => statIfSeen(pid)?.session === leader,
      (pid, isHeld) => {
        const stat = statIfSeen(pid)
        return stat === undefined && isUnread(pid) ? null : isHeld && stat?.session === leader
      },
    )
  }

  /**
   * The descendants of this process, which adopts orphans, that are in the leader's process group or have the environment variable `mark`
   * (null: only those in the group). Also, with `orphans`, those without the variable that have these signs, and their descendants.
   */
  static ofGroup(
    leader: number,
    mark: EnvironmentMark | null,
    orphans: OrphanSigns | null = null,
  ): LeftoverProcesses {
    const text = mark === null ? null : `${mark.name}=${mark.value}`
    const isInside = (pid: number) => statIfSeen(pid)?.group === leader
    const belongs = (pid: number, isHeld: boolean) =>
      (isHeld && isInside(pid)) ||
      (text !== null && environmentHas(pid, text) === true) ||
      (mark !== null && orphans !== null && isOrphan(adoptedAncestor(pid), mark.name, orphans))
    // Descendants only, so that an error above never ends a process of another program.
    return new LeftoverProcesses(isInside, (pid, isHeld) => {
      if (pid === leader) return false
      if (belongs(pid, isHeld) && endsWithUs(pid)) return true
      return statIfSeen(pid) === undefined && isUnread(pid) ? null : false
    })
  }

  get pids(): number[] {
    this.#find()
    return [...this.#members].filter(([, pidfd]) => !hasEnded(pidfd)).map(([pid]) => pid)
  }

  get hasEnded(): boolean {
    return this.pids.length === 0
  }

  signal(signal: number): void {
    for (const pid of this.pids) trySignalTo(this.#members.get(pid)!, signal)
  }

  [Symbol.dispose](): void {
    for (const pidfd of this.#members.values()) pidfd.close()
    this.#members.clear()
  }

  #find(): void {
    const living = [...this.#members].filter(([, pidfd]) => !hasEnded(pidfd))
    // The kernel gives the leader's number to no other process as long as its group or session has a process.
    const isHeld = this.#isIncomplete || living.some(([pid]) => this.#isInside(pid))
    if (this.#isIncomplete || living.length > 0) this.#look(isHeld)
  }

  #look(isHeld: boolean): void {
    const all = processes()
    // Without a free descriptor this process sees none, not even itself.
    this.#isIncomplete = all.length === 0
    for (const pid of all) {
      const belongs = this.#members.has(pid) ? false : this.#belongs(pid, isHeld)
      // No descriptor was free to read about it, as another thread may have had the last one.
      if (belongs === null) this.#isIncomplete = true
      else if (belongs) this.#add(pid, isHeld)
    }
  }

  #add(pid: number, isHeld: boolean): void {
    try {
      const pidfd = pidfdOf(pid)
      if (pidfd === null) return
      // Checked again: before the pidfd was open, another process may have got the pid.
      if (this.#belongs(pid, isHeld) && !hasEnded(pidfd)) this.#members.set(pid, pidfd)
      else pidfd.close()
    } catch (error) {
      // The process has ended, or this process has reached its limit of open files.
      this.#isIncomplete ||= (error as NativeError).code !== 'ESRCH'
    }
  }
}

/**
 * Whether a process that started with `mark` in the last `withinMs` lives; null if that is unknown, because another user's process may be one: its environment is
 * unreadable.
 */
export function isAnyAlive({ name, value }: EnvironmentMark, withinMs: number): boolean | null {
  const text = `${name}=${value}`
  const uptime = Number.parseFloat(procText('uptime'))
  if (Number.isNaN(uptime)) return null
  const since = (uptime - withinMs / 1000 - 1) * TICKS_A_SECOND
  let found: boolean | null = false
  for (const pid of processes()) {
    const startTime = processStat(pid)?.startTicks
    if (startTime === undefined || startTime < since) continue
    const has = environmentHas(pid, text)
    if (has === true) return true
    if (has === null) found = null
  }
  return found
}

/** Whether a process of which nothing was read can be read, but for a free descriptor. */
function isUnread(pid: number): boolean {
  try {
    readFileSync(`/proc/${pid}/stat`)
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return code === 'EMFILE' || code === 'ENFILE'
  }
}

/** Whether the process started with this variable. Null if the environment is unreadable, because the process is another user's. */
function environmentHas(pid: number, mark: string): boolean | null {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EACCES' ? null : false
  }
}

/** Returns the child of this process from which `pid` descends, or 0. */
function adoptedAncestor(pid: number): number {
  let child = 0
  for (const at of ancestryOf(pid)) {
    if (at === process.pid) return child
    child = at
  }
  return 0
}

function isOrphan(pid: number, name: string, { since, before, sockets }: OrphanSigns): boolean {
  const startTicks = pid === 0 ? undefined : processStat(pid)?.startTicks
  if (startTicks === undefined || startTicks < since || startTicks >= before) return false
  if (`\0${procText(`${pid}/environ`)}`.includes(`\0${name}=`)) return false
  // openFilesOf() returns null if the process has ended, or belongs to another user.
  return (openFilesOf(pid) ?? []).some(([, target]) => sockets.has(target))
}
