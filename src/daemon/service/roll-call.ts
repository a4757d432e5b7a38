import { FdbError } from '../../errors.js'
import type { OwnedFd } from '../../kernel/index.js'
import { type DeathWatch, openPidfd, watchDeath } from '../../os/liveness.js'
import { isAlive, isSame, type ProcessIdentity, watchIdentity } from '../../os/process-identity.js'
import type { RightsHolder } from './rights-holders.js'

/** How long is waited for rights-holders whose death cannot be seen from here (another PID namespace). */
const UNSEEN_MS = 5_000

/**
 * Whom a restarted daemon waits for: rights-holders that are neither back, nor proved dead, nor known to have given up. One that is stopped is waited
 * for as long as it lives; one that cannot be seen, a few seconds.
 */
export class RollCall {
  #members: RightsHolder[] = []
  readonly #unseen = new Set<RightsHolder>()
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
    return [...this.#members]
  }

  /** The members that are awaited and these, each once, as it is known now. */
  membersAnd(present: readonly (ProcessIdentity | undefined)[]): RightsHolder[] {
    const all = this.members
    for (const one of present) {
      if (one === undefined) continue
      const known = all.findIndex(member => isSame(member, one))
      all.splice(known < 0 ? all.length : known, 1, one)
    }
    return all
  }

  /** The pids of the members that are not among these. */
  missing(present: readonly (ProcessIdentity | undefined)[]): number[] {
    return this.#members
      .filter(member => !present.some(one => one !== undefined && isSame(one, member)))
      .map(({ pid }) => pid)
  }

  /** It has no right any more: it is dead, or has given up. */
  excuse(member: RightsHolder): void {
    if (this.#remove(other => isSame(member, other))) this.#changed()
  }

  /** Idempotent. */
  close(): void {
    clearTimeout(this.#timer)
    for (const watch of this.#watches.splice(0)) watch.close()
    this.#members = []
  }

  #remove(which: (member: RightsHolder) => boolean): boolean {
    const left = this.#members.filter(member => !which(member))
    const any = left.length < this.#members.length
    this.#members = left
    return any
  }

  #add(member: RightsHolder): void {
    const { pid, startTime } = member
    const pidfd = startTime === undefined ? null : openPidfd(pid)
    if (pidfd === 'dead') return
    const died = () => this.excuse(member)
    // The process is looked at again: the number may have become another process's before the descriptor was its.
    if (isAlive(member)) {
      this.#members.push(member)
      const watch = watchOf(member, pidfd, died)
      if (watch === null) this.#unseen.add(member)
      else this.#watch(watch)
    }
    pidfd?.close()
  }

  #watch(watch: DeathWatch): void {
    watch.unref()
    this.#watches.push(watch)
  }

  #giveUpUnseen(): void {
    if (this.#remove(member => this.#unseen.has(member))) this.#changed()
  }
}

/** Null: its death cannot be seen. */
function watchOf(member: RightsHolder, pidfd: OwnedFd | null, died: () => void): DeathWatch | null {
  if (pidfd === null) return watchIdentity(member, died)
  try {
    return watchDeath(pidfd, died)
  } catch {
    // No descriptor left.
    return watchIdentity(member, died)
  }
}

/** Told to whoever would join before all are there. */
export function stillAwaited(pids: readonly number[]): FdbError {
  const missing = pids.map(pid => `process ${pid}`).join(', ')
  const why = `the daemon was restarted and waits for ${missing}: try again`
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}
