import { constants } from 'node:os'
import { adoptOrphans, type ChildStart, endedChild, reapChild, startChild } from '../kernel/index.js'

/** Exit code, or 128 and the number of the signal that ended it. */
type Ended = (code: number) => void

/**
 * All children of this process: those that it starts, and those that it adopts when their own parents end (as PID 1, or as a
 * subreaper). It reaps every child there is, so that Node must not start any here. A child's number is its own until it is reaped,
 * which is done in the turn in which its end is told: no signal meets a stranger.
 */
export class Children {
  readonly #ended = new Map<number, Ended>()
  readonly #groups = new Set<number>()
  readonly #reap = () => this.#reapAll()

  constructor() {
    adoptOrphans()
    process.on('SIGCHLD', this.#reap)
  }

  /** Who is waited for is known: what has ended is reaped from now on. */
  begin(): void {
    this.#reapAll()
  }

  /** Its pid. Throws what {@link startChild} throws. */
  start(start: ChildStart, ended: Ended): number {
    const pid = startChild(start)
    this.#ended.set(pid, ended)
    return pid
  }

  /** Somebody else's child that is to become ours: its end is told if it ends as that. */
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

  /** Of a child that nobody waits for any more. */
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
      const status = reapChild(pid)
      const ended = this.#ended.get(pid)
      this.#ended.delete(pid)
      ended?.(status === null ? 0 : status < 0 ? 128 - status : status)
    }
  }
}

function sent(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, constants.signals[signal])
  } catch {
    // It has ended, or has become another user's.
    return false
  }
}
