import {
  adoptOrphans,
  type ChildStart,
  endedChild,
  reapChild,
  startChild,
  trySignal,
} from '../kernel/index.js'

/** Gets the exit code, or 128 plus the number of the signal. */
type OnEnded = (code: number) => void

/**
 * Starts and reaps the children of this process, also those that it adopts as PID 1 or as a subreaper. Node must not start children here:
 * this class would reap them. A child is reaped in the turn of the event loop in which its end is reported, and until then no other process
 * gets its pid: a signal never reaches another process.
 */
export class ChildProcesses {
  readonly #onEnded = new Map<number, OnEnded>()
  readonly #groups = new Set<number>()
  readonly #reap = () => this.reapAll()

  constructor() {
    adoptOrphans()
    process.on('SIGCHLD', this.#reap)
  }

  /** Starts a child and returns its pid. Throws as {@link startChild} does. */
  start(start: ChildStart, ended: OnEnded): number {
    const pid = startChild(start)
    this.#onEnded.set(pid, ended)
    return pid
  }

  /** Registers a process that is a child of this one, or will be when its parent ends. `ended` is called when the process has ended. */
  expect(pid: number, ended: OnEnded): void {
    this.#onEnded.set(pid, ended)
  }

  /** Signals a child. Returns false if the child has ended, or if the signal is refused. */
  signal(pid: number, signal: NodeJS.Signals): boolean {
    return this.#onEnded.has(pid) && trySignal(pid, signal)
  }

  /** Kills a child and its process group, and the group once more when the child has ended. */
  kill(pid: number): void {
    if (!this.#onEnded.has(pid)) return
    this.#groups.add(pid)
    trySignal(pid, 'SIGKILL')
    trySignal(-pid, 'SIGKILL')
  }

  /** Stops reporting a child's end. */
  forget(pid: number): void {
    if (this.#onEnded.has(pid)) this.#onEnded.set(pid, () => {})
  }

  close(): void {
    process.off('SIGCHLD', this.#reap)
  }

  /** Reaps the children that have ended. Also called once when all children are registered: some may have ended before. */
  reapAll(): void {
    for (;;) {
      const pid = endedChild()
      if (pid <= 0) return
      // Before the child is reaped: until then no other group can have its pid as number.
      if (this.#groups.delete(pid)) trySignal(-pid, 'SIGKILL')
      const code = reap(pid) ?? 0
      const ended = this.#onEnded.get(pid)
      this.#onEnded.delete(pid)
      ended?.(code)
    }
  }
}

/** Reaps a child. Returns its exit code, or 128 plus the number of its signal; null if Node has reaped it. */
function reap(pid: number): number | null {
  const status = reapChild(pid)
  return status !== null && status < 0 ? 128 - status : status
}

/** Node reaps its own children at once. A child that has ended and is not reaped for this time is an adopted one. */
export const ADOPTED_MS = 500

/** Reaps adopted children, which Node leaves as zombies. */
export class ZombieReaper {
  readonly #ended: (pid: number, code: number) => void
  #seen = { pid: 0, at: 0 }

  /** Makes this process adopt orphans. `ended` gets the pid of each reaped one and its exit code, or 128 plus the number of its signal. */
  constructor(ended: (pid: number, code: number) => void) {
    this.#ended = ended
    adoptOrphans()
  }

  /** Whether {@link reap} must be called again after {@link ADOPTED_MS}, because a child has ended that Node may still reap. */
  get isWaiting(): boolean {
    return this.#seen.pid !== 0
  }

  /** Reaps ended orphans. Returns whether this process has any children. */
  reap(): boolean {
    for (;;) {
      const pid = endedChild()
      if (pid <= 0) {
        this.#seen = { pid: 0, at: 0 }
        return pid === 0
      }
      const now = performance.now()
      if (this.#seen.pid !== pid) this.#seen = { pid, at: now }
      if (now - this.#seen.at < ADOPTED_MS) return true
      const code = reap(pid)
      if (code !== null) this.#ended(pid, code)
    }
  }
}
