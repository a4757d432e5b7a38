import { FdbError } from '../errors.js'
import {
  hasEnded,
  inspectOne,
  type NativeError,
  type OwnedFd,
  type Poll,
  pidBehind,
  pidfdOf,
  READABLE,
  watch,
} from '../kernel/index.js'
import { noDescriptors } from './limits.js'

export interface DeathWatch {
  /** The process has ended. True at once for one that was dead before. */
  readonly dead: boolean
  /** Whether the watch keeps this process alive (it does at first). */
  ref(): void
  unref(): void
  /** `onDead` is not called any more. Idempotent. */
  close(): void
}

/**
 * Calls `onDead` once when the process of `pidfd` has ended, never before this function has returned. Works for a
 * process in any PID namespace and cannot be fooled by a reused pid. Borrows `pidfd` for this call only. Throws, and
 * holds nothing, when it is no pidfd, or when there is no descriptor left.
 */
export function watchDeath(pidfd: OwnedFd, onDead: () => void): DeathWatch {
  return watchOwn(pidfd.dup(), onDead)
}

/** The same without one more descriptor, for many processes: it polls this pidfd, so no other watch may. */
export function watchDeathThere(pidfd: OwnedFd, onDead: () => void): DeathWatch {
  return watchOwn(pidfd.share(), onDead)
}

function watchOwn(own: OwnedFd, onDead: () => void): DeathWatch {
  let dead: boolean
  let poll: Poll
  try {
    refuseOther(own)
    dead = hasEnded(own)
    poll = watch(own, () => died())
  } catch (error) {
    own.close()
    throw error
  }
  let open = true
  const died = () => {
    if (!open) return
    dead = true
    close()
    onDead()
  }
  const soon = dead ? setImmediate(died) : undefined
  if (!dead) poll.start(READABLE)
  function close(): void {
    if (!open) return
    open = false
    clearImmediate(soon)
    poll.close()
    own.close()
  }
  return {
    get dead() {
      return dead
    },
    ref: () => (soon === undefined ? poll.ref() : soon.ref()),
    unref: () => (soon === undefined ? poll.unref() : soon.unref()),
    close,
  }
}

/** Why {@link watchDeath} has thrown. */
export function unwatchable(pid: number, cause: unknown): FdbError {
  if ((cause as NativeError).code !== 'EINVAL')
    return noDescriptors(`process ${pid} cannot be watched`, cause)
  return new FdbError(
    'ERR_FDB_NO_PIDFD',
    `process ${pid} sent a descriptor as its pidfd that is none: it is faulty, and is refused`,
    { cause, details: { pid } },
  )
}

/** Throws ERR_FDB_NO_PIDFD. */
export function refuseNoPidfd(lifetime: OwnedFd): void {
  try {
    watchDeath(lifetime, () => {}).close()
  } catch (cause) {
    throw unwatchable(0, cause)
  }
}

/** A peer may call anything its pidfd; a socket that is readable would look like a dead process. */
function refuseOther(pidfd: OwnedFd): void {
  try {
    pidBehind(pidfd)
  } catch (error) {
    // Anything else: it cannot be looked at (no /proc), and is believed.
    if ((error as NativeError).code === 'EINVAL') throw error
  }
}

/** A pidfd of a process of this PID namespace; 'dead' when there is none, null when none can be had (kernel, limits). */
export function openPidfd(pid: number): OwnedFd | 'dead' | null {
  try {
    return pidfdOf(pid)
  } catch (error) {
    return (error as NativeError).code === 'ESRCH' ? 'dead' : null
  }
}

/** The pid of a pidfd's process as it is here; 0: in another PID namespace, or dead, or no pidfd. */
export function pidOf(pidfd: OwnedFd): number {
  try {
    return Math.max(0, pidBehind(pidfd))
  } catch {
    return 0
  }
}

/** Tells the process of a pidfd from all others: by the number of the pidfd, or of the process before Linux 6.9. Null: neither is known. */
export function keyOf(pidfd: OwnedFd): string | null {
  const number = pidfdNumber(pidfd)
  if (number !== null) return `pidfd ${number}`
  const pid = pidOf(pidfd)
  return pid > 0 ? `${pid}` : null
}

/** One for each process since boot; null: this kernel has the same for all. */
export function pidfdNumber(pidfd: OwnedFd): string | null {
  try {
    using own = ownPidfd()
    const { ino } = inspectOne(pidfd)
    return own !== null && inspectOne(own).ino !== ino ? ino : null
  } catch {
    return null
  }
}

/** A pidfd of this process, to hand to a peer that cannot see our pid; null where the kernel has none. */
export function ownPidfd(): OwnedFd | null {
  return pidfdOf(process.pid, 'own pidfd')
}

/** A timer may be this late on a busy machine. */
const LATE_MS = 250

/** Since when this process could hear others, by its own regular ticks: its own stall is not the silence of others. */
export class SuspendDetector {
  #tickedAt = performance.now()
  #since = this.#tickedAt

  /** Called every `everyMs`. Answers when, of performance.now(), the last stall ended, or the watch began. */
  tick(everyMs: number, now: number = performance.now()): number {
    if (now - this.#tickedAt > 2 * everyMs + LATE_MS) this.#since = now
    this.#tickedAt = now
    return this.#since
  }

  /** The watch begins anew. */
  restart(): void {
    this.#tickedAt = this.#since = performance.now()
  }
}
