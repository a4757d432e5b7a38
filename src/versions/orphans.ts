import { adoptOrphans, endedChild, reapChild } from '../kernel/index.js'

/** Node reaps what it has started at once: a child that has ended and is there after this time was adopted. */
export const ADOPTED_MS = 500

/**
 * Children that this process did not start: those whose own parents have ended. PID 1 has them from the kernel; any other
 * process asks for them. Node waits only for its own children, and the others would stay as zombies.
 */
export class Orphans {
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
      const status = reapChild(pid)
      // Node may have reaped it meanwhile.
      if (status !== null) this.#ended(pid, status < 0 ? 128 - status : status)
    }
  }
}
