import type { OwnedFd } from '../kernel/index.js'
import type { DeathWatch } from '../os/liveness.js'
import { isSame, type ProcessIdentity, watchProcess } from '../os/process-identity.js'
import type { ForeignUser } from '../wire/foreign-user.js'
import type { Peer } from './peer.js'

type Process = Pick<Peer, 'pid' | 'identity' | 'proven' | 'pidfd'>

/** Processes that may still have clients and have lost their connection: each connects again, or ends. */
export class LostProcesses {
  readonly #watches = new Map<Process, DeathWatch>()
  readonly #onEnd: () => void
  #closed = false

  /** `onEnd` is called when one of them has ended. */
  constructor(onEnd: () => void) {
    this.#onEnd = onEnd
  }

  get all(): Process[] {
    return [...this.#watches.keys()]
  }

  /**
   * Borrows the pidfd. Does not add a process whose end this one cannot see, nor itself: it would stay here for ever. `user`: the process belongs to
   * another user and counts to that user's share; it is not added if the share is used up.
   */
  add({ pid, identity, proven, pidfd: borrowed }: Process, user?: ForeignUser): void {
    const own = identity.startTime !== undefined && identity.pid === process.pid
    if (this.#closed || own || this.#find(identity) !== undefined) return
    if (user !== undefined && user.demandKept() !== null) return
    let pidfd: OwnedFd | null = null
    try {
      pidfd = borrowed?.dup().countAs(user?.fds ?? null) ?? null
      const lost = { pid, identity, proven, pidfd }
      const watch = watchProcess(pidfd, identity, () => {
        this.#remove(lost)
        this.#onEnd()
      })
      if (watch !== null) this.#watches.set(lost, watch)
      else pidfd?.close()
    } catch {
      // No descriptor is free, or it is no pidfd.
      pidfd?.close()
    }
  }

  /** The process has connected again. */
  remove(identity: ProcessIdentity): void {
    const process = this.#find(identity)
    if (process !== undefined) this.#remove(process)
  }

  /** From then on {@link add} does nothing. */
  close(): void {
    this.#closed = true
    for (const process of this.all) this.#remove(process)
  }

  #find(identity: ProcessIdentity): Process | undefined {
    return this.all.find(each => isSame(each.identity, identity))
  }

  #remove(process: Process): void {
    this.#watches.get(process)?.close()
    this.#watches.delete(process)
    process.pidfd?.close()
  }
}
