import { constants } from 'node:os'
import { adoptOrphans, type ChildStart, endedChild, reapChild, startChild } from '../kernel/index.js'

/** Gets the exit code, or 128 plus the number of the signal. */
type OnEnded = (code: number) => void

/**
 * Starts and reaps all children of this process, including adopted ones (as PID 1, or as a subreaper). Reaps every child, so Node must
 * not start any in this process. A pid belongs to its child until the child is reaped, in the same turn as its end is reported: no signal hits
 * another process.
 */
export class ChildProcesses {
  readonly #onEnded = new Map<number, OnEnded>()
  readonly #groups = new Set<number>()
  readonly #reap = () => this.#reapAll()

  constructor() {
    adoptOrphans()
    process.on('SIGCHLD', this.#reap)
  }

  /** Starts reaping: all expected children are registered. */
  startReaping(): void {
    this.#reapAll()
  }

  /** Starts a child and returns its pid. Throws as {@link startChild} does. */
  start(start: ChildStart, ended: OnEnded): number {
    const pid = startChild(start)
    this.#onEnded.set(pid, ended)
    return pid
  }

  /** Registers a process that this one adopts when its parent ends; `ended` reports its end. */
  expect(pid: number, ended: OnEnded): void {
    this.#onEnded.set(pid, ended)
  }

  /** Signals a child. Returns false if there is no such child. */
  signal(pid: number, signal: NodeJS.Signals): boolean {
    if (!this.#onEnded.has(pid)) return false
    return send(pid, signal)
  }

  /** Kills a child and its group, now and again when it has ended. */
  kill(pid: number): void {
    if (!this.#onEnded.has(pid)) return
    this.#groups.add(pid)
    send(pid, 'SIGKILL')
    send(-pid, 'SIGKILL')
  }

  /** Stops reporting a child's end. */
  forget(pid: number): void {
    if (this.#onEnded.has(pid)) this.#onEnded.set(pid, () => {})
  }

  close(): void {
    process.off('SIGCHLD', this.#reap)
  }

  #reapAll(): void {
    for (;;) {
      const pid = endedChild()
      if (pid <= 0) return
      // The group id is the child's until the child is reaped.
      if (this.#groups.delete(pid)) send(-pid, 'SIGKILL')
      const code = reap(pid) ?? 0
      const ended = this.#onEnded.get(pid)
      this.#onEnded.delete(pid)
      ended?.(code)
    }
  }
}

/** Reaps a child and returns its exit code, or 128 plus the number of its signal; null if Node has reaped it. */
function reap(pid: number): number | null {
  const status = reapChild(pid)
  return status !== null && status < 0 ? 128 - status : status
}

function send(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, constants.signals[signal])
  } catch {
    // The process has ended, or runs as another user now.
    return false
  }
}

/** Node reaps its own children at once: an ended child that remains this long was adopted. */
export const ADOPTED_MS = 500

/** Reaps adopted children, which Node leaves as zombies. */
export class ZombieReaper {
  readonly #ended: (pid: number, code: number) => void
  #seen = { pid: 0, at: 0 }

  /** Makes this process adopt orphans. `ended` gets each reaped pid and its code, or 128 plus the number of its signal. */
  constructor(ended: (pid: number, code: number) => void) {
    this.#ended = ended
    adoptOrphans()
  }

  /** Whether an ended child must be looked at again after {@link ADOPTED_MS}. */
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
