import { constants } from 'node:os'
import { adoptOrphans, type ChildStart, endedChild, reapChild, startChild } from '../kernel/index.js'

/** Exit code, or 128 and the number of the signal that ended it. */
type Ended = (code: number) => void

/**
 * All children of this process: those that it starts, and those that it adopts when their own parents end (as PID 1, or as a
 * subreaper). It reaps every child there is, so that Node must not start any here. A child's number is its own until it is reaped,
 * which is done in the turn in which its end is told: no signal meets a stranger.
 */
export class ChildProcesses {
  readonly #ended = new Map<number, Ended>()
  readonly #groups = new Set<number>()
  readonly #reap = () => this.#reapAll()

  constructor() {
    adoptOrphans()
    process.on('SIGCHLD', this.#reap)
  }

  /** All expected children are known: those that have ended are reaped from now on. */
  startReaping(): void {
    this.#reapAll()
  }

  /** Its pid. Throws what {@link startChild} throws. */
  start(start: ChildStart, ended: Ended): number {
    const pid = startChild(start)
    this.#ended.set(pid, ended)
    return pid
  }

  /** A child of another process becomes ours when its parent ends; `ended` is told of its end then. */
  expect(pid: number, ended: Ended): void {
    this.#ended.set(pid, ended)
  }

  /** False: there is none of this number to be signalled. */
  signal(pid: number, signal: NodeJS.Signals): boolean {
    if (!this.#ended.has(pid)) return false
    return sent(pid, signal)
  }

  /** With all that is in its group, now, and what is left of that when it has ended. */
  kill(pid: number): void {
    if (!this.#ended.has(pid)) return
    this.#groups.add(pid)
    sent(pid, 'SIGKILL')
    sent(-pid, 'SIGKILL')
  }

  /** Its end is not reported any more. */
  forget(pid: number): void {
    if (this.#ended.has(pid)) this.#ended.set(pid, () => {})
  }

  close(): void {
    process.off('SIGCHLD', this.#reap)
  }

  #reapAll(): void {
    for (;;) {
      const pid = endedChild()
      if (pid <= 0) return
      // Its number is the group's as long as it is not reaped.
      if (this.#groups.delete(pid)) sent(-pid, 'SIGKILL')
      const code = reaped(pid) ?? 0
      const ended = this.#ended.get(pid)
      this.#ended.delete(pid)
      ended?.(code)
    }
  }
}

/** Reaps a child. Returns its exit code, or 128 and the number of its signal; null: Node has reaped it. */
function reaped(pid: number): number | null {
  const status = reapChild(pid)
  return status !== null && status < 0 ? 128 - status : status
}

function sent(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, constants.signals[signal])
  } catch {
    // It has ended, or has become another user's.
    return false
  }
}

/** Node reaps what it has started at once: a child that has ended and is there after this time was adopted. */
export const ADOPTED_MS = 500

/** Children that this process did not start, whose parents have ended: Node reaps only its own, and these would stay zombies. */
export class ZombieReaper {
  readonly #ended: (pid: number, code: number) => void
  #seen = { pid: 0, at: 0 }

  /** Orphans come to this process from now on. `ended` is told of each that was reaped, with its code, or 128 and its signal's number. */
  constructor(ended: (pid: number, code: number) => void) {
    this.#ended = ended
    adoptOrphans()
  }

  /** One has ended, and is to be looked at again after {@link ADOPTED_MS}. */
  get waiting(): boolean {
    return this.#seen.pid !== 0
  }

  /** Reaps those that have ended. Answers whether this process has children, its own too. */
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
      const code = reaped(pid)
      if (code !== null) this.#ended(pid, code)
    }
  }
}
