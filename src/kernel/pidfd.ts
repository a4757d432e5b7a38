import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

/** Of a process of this PID namespace; null where the kernel has none. ESRCH throws. */
export function pidfdOf(pid: number, label = `pidfd of ${pid}`): OwnedFd | null {
  const raw = native.pidfdOpen(pid)
  return raw === null ? null : OwnedFd.own(raw, label)
}

/**
 * Of the process at the other end of a Unix socket, as the kernel noted it; null where the kernel has none. 'dead': that was reaped, and this
 * kernel has none of such (before Linux 6.16); others give one that has ended.
 */
export function peerPidfd(socket: OwnedFd, label: string): OwnedFd | 'dead' | null {
  try {
    const raw = native.peerPidfd(socket.raw)
    return raw === null ? null : OwnedFd.own(raw, label)
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'EINVAL' || code === 'ESRCH') return 'dead'
    throw error
  }
}

/** Whether the process at the other end of a Unix socket, as the kernel noted it, has not ended; null where the kernel has no pidfd of it. */
export function peerLives(socket: OwnedFd): boolean | null {
  const peer = peerPidfd(socket, 'pidfd of a peer')
  if (peer === 'dead') return false
  using pidfd = peer
  return pidfd === null ? null : !hasEnded(pidfd)
}

export function hasEnded(pidfd: OwnedFd): boolean {
  return native.pidfdDead(pidfd.raw)
}

/** -1: it is dead; 0: it is in another PID namespace. EINVAL is thrown for what is no pidfd. */
export function pidBehind(pidfd: OwnedFd): number {
  return native.pidfdPid(pidfd.raw)
}

/** ESRCH throws. */
export function signalTo(pidfd: OwnedFd, signal: number): void {
  native.pidfdSignal(pidfd.raw, signal)
}

/** A dup of the descriptor `number` of that process. EPERM (not ours to look into), ESRCH, EBADF, ENOSYS throw. */
export function takeFrom(pidfd: OwnedFd, number: number, label: string): OwnedFd {
  return OwnedFd.own(native.pidfdTake(pidfd.raw, number), label)
}
