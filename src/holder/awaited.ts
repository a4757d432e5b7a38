import type { OwnedFd } from '../fd/owned.js'
import { type DeathWatch, openPidfd, watchDeath } from '../host/liveness.js'
import { isAlive, type RightsHolder } from './rights-holders.js'

/** How long is waited for rights-holders whose death cannot be seen from here (another PID namespace). */
const UNSEEN_MS = 5_000

/**
 * Whom a restarted daemon waits for: rights-holders that are neither back nor proved dead. One that is stopped is waited
 * for as long as it lives; one that cannot be seen, a few seconds.
 */
export class Awaited {
  readonly #members = new Map<number, RightsHolder>()
  readonly #unseen = new Set<number>()
  readonly #watches: DeathWatch[] = []
  readonly #changed: () => void
  readonly #timer: NodeJS.Timeout

  /** `changed` is told of deaths and of the end of the wait for the unseen, never before this has returned. */
  constructor(members: readonly RightsHolder[], changed: () => void) {
    this.#changed = changed
    for (const member of members) if (isAlive(member)) this.#add(member)
    this.#timer = setTimeout(() => this.#giveUpUnseen(), UNSEEN_MS)
  }

  get members(): RightsHolder[] {
    return [...this.#members.values()]
  }

  get pids(): number[] {
    return [...this.#members.keys()]
  }

  provedDead(pid: number): void {
    if (this.#members.delete(pid)) this.#changed()
  }

  /** Idempotent. */
  close(): void {
    clearTimeout(this.#timer)
    for (const watch of this.#watches.splice(0)) watch.close()
    this.#members.clear()
  }

  #add(member: RightsHolder): void {
    const { pid, startTime } = member
    const pidfd = startTime === undefined ? null : openPidfd(pid)
    if (pidfd === 'dead') return
    // Looked at again: the number may have become another process's before the descriptor was its.
    if (isAlive(member)) {
      this.#members.set(pid, member)
      if (pidfd === null) this.#unseen.add(pid)
      else this.#watch(pid, pidfd)
    }
    pidfd?.close()
  }

  #watch(pid: number, pidfd: OwnedFd): void {
    const watch = watchDeath(pidfd, () => this.provedDead(pid))
    watch.unref()
    this.#watches.push(watch)
  }

  #giveUpUnseen(): void {
    for (const pid of this.#unseen) this.#members.delete(pid)
    if (this.#unseen.size > 0) this.#changed()
  }
}
