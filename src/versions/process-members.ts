import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import { hasEnded, type OwnedFd, pidfdOf, signalTo } from '../kernel/index.js'
import { endsWithUs, lineOf, processes, statOf } from '../os/main-process.js'

/** USER_HZ of every Linux: the unit of a start time. */
const TICKS_A_SECOND = 100

/** Between SIGTERM and SIGKILL for a version that failed before it served, and for the processes that a version leaves behind. */
export const GRACE_MS = 2_000
/** How long SIGKILL may take: a process that lives longer waits in the kernel. */
const KILLED_MS = 5_000
/** SIGKILL is repeated: a process may fork while the others are killed. */
const KILL_AGAIN_MS = 500
const LOOK_MS = 10

export interface EndOptions {
  /** The first signal. Default: SIGTERM. */
  readonly signal?: NodeJS.Signals
  /** Until SIGKILL, milliseconds; 0: at once. */
  readonly graceMs: number
  /** How long SIGKILL may take, milliseconds. */
  readonly killedMs?: number
  readonly lookMs?: number
  /** Ends the waiting; nothing more is sent. */
  readonly givenUp?: AbortSignal
  readonly killing?: () => void
}

/** Ends processes: sends a signal, and SIGKILL if they have not ended after the grace. Resolves with whether they have ended. */
export async function endProcesses(
  processes: { readonly ended: boolean; signal(signal: number): void },
  { signal = 'SIGTERM', graceMs, killedMs = KILLED_MS, lookMs, givenUp, killing }: EndOptions,
): Promise<boolean> {
  const ended = (ms: number) => within(() => processes.ended, ms, lookMs, givenUp)
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

/** Resolves with whether the condition has come to hold within this time. `givenUp`: false, and it is not looked at any more. */
export async function within(
  holds: () => boolean,
  ms: number,
  lookMs = LOOK_MS,
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

/** An environment variable that only certain processes have. */
export interface Mark {
  readonly name: string
  readonly value: string
}

/** How an orphan is known that has left the group of its leader and has no mark: by its time and its sockets. */
export interface OrphanSigns {
  /** It was started since this tick of the kernel's clock, and before that one. */
  readonly since: number
  readonly before: number
  /** It has one of these: `socket:[4711]`. */
  readonly sockets: ReadonlySet<string>
}

/** The processes that a leader has left behind when it ended, held by their pidfds; without pidfds none is held. */
export class ProcessMembers implements Disposable {
  readonly #belongs: (pid: number) => boolean
  readonly #members = new Map<number, OwnedFd>()

  /** Finds them in the turn in which the leader is reaped: its number cannot be another's yet, nor while a member lives. */
  private constructor(belongs: (pid: number) => boolean) {
    this.#belongs = belongs
    this.#find()
  }

  /** The processes that did not leave the session of this leader. */
  static ofSession(leader: number): ProcessMembers {
    return new ProcessMembers(pid => statOf(pid)?.session === leader)
  }

  /**
   * Finds descendants of this process, which adopts orphans: those in the group of this leader, and those that have the variable `mark` in
   * the environment that they were started with; null: only the group. `orphans`: also processes with these signs that have no mark of this
   * name, with their descendants.
   */
  static ofGroup(leader: number, mark: Mark | null, orphans: OrphanSigns | null = null): ProcessMembers {
    const text = mark === null ? null : `${mark.name}=${mark.value}`
    const belongs = (pid: number) =>
      statOf(pid)?.group === leader ||
      (text !== null && environmentHas(pid, text) === true) ||
      (mark !== null && orphans !== null && isOrphan(adopted(pid), mark.name, orphans))
    // Whatever else is wrong, no signal leaves the tree of this process.
    return new ProcessMembers(pid => pid !== leader && belongs(pid) && endsWithUs(pid))
  }

  get pids(): number[] {
    this.#find()
    return [...this.#members].filter(([, pidfd]) => !hasEnded(pidfd)).map(([pid]) => pid)
  }

  get ended(): boolean {
    return this.pids.length === 0
  }

  signal(signal: number): void {
    for (const pid of this.pids) {
      try {
        signalTo(this.#members.get(pid)!, signal)
      } catch {
        // The process has ended meanwhile, or has become another user's.
      }
    }
  }

  /** Idempotent. */
  [Symbol.dispose](): void {
    for (const pidfd of this.#members.values()) pidfd.close()
    this.#members.clear()
  }

  #find(): void {
    const first = this.#members.size === 0
    if (!first && [...this.#members.values()].every(pidfd => hasEnded(pidfd))) return
    for (const pid of processes()) if (!this.#members.has(pid) && this.#belongs(pid)) this.#add(pid)
  }

  #add(pid: number): void {
    try {
      const pidfd = pidfdOf(pid)
      if (pidfd === null) return
      // The process is looked at again: the number may have become another's before the descriptor was its.
      if (this.#belongs(pid) && !hasEnded(pidfd)) this.#members.set(pid, pidfd)
      else pidfd.close()
    } catch {
      // The process has ended, or there is no descriptor left.
    }
  }
}

/** Whether a process may live that was started with `mark`: an unreadable environment (another user's) counts if it is that young. */
export function mayLive({ name, value }: Mark, withinMs: number): boolean {
  const text = `${name}=${value}`
  let uptime: number
  try {
    uptime = Number.parseFloat(readFileSync('/proc/uptime', 'latin1'))
  } catch {
    return true
  }
  const since = (uptime - withinMs / 1000 - 1) * TICKS_A_SECOND
  // The caller looks again where there are none.
  return processes().some(pid => {
    const startTime = statOf(pid)?.startTicks
    return startTime !== undefined && startTime >= since && environmentHas(pid, text) !== false
  })
}

/** Null of another user's process: its environment cannot be read. */
function environmentHas(pid: number, mark: string): boolean | null {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EACCES' ? null : false
  }
}

/** The child of this process that a descendant of it descends from; 0: it is no descendant. */
function adopted(pid: number): number {
  let child = 0
  for (const at of lineOf(pid)) {
    if (at === process.pid) return child
    child = at
  }
  return 0
}

function isOrphan(pid: number, name: string, { since, before, sockets }: OrphanSigns): boolean {
  const startTicks = pid === 0 ? undefined : statOf(pid)?.startTicks
  if (startTicks === undefined || startTicks < since || startTicks >= before) return false
  try {
    if (`\0${readFileSync(`/proc/${pid}/environ`, 'latin1')}`.includes(`\0${name}=`)) return false
    const folder = `/proc/${pid}/fd`
    return readdirSync(folder).some(number => sockets.has(leads(`${folder}/${number}`)))
  } catch {
    // The process has ended, or is another user's.
    return false
  }
}

function leads(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
