import { hasEnded, type OwnedFd } from '../kernel/index.js'
import { watchDeath } from './liveness.js'
import { startTimeOf } from './process-identity.js'

const PID_POLL_MS = 5

/**
 * Is the peer whose channel has just ended dead, or has it only closed? A channel's end arrives before the pidfd
 * tells (in 232 of 300 kills), so a live answer is given only after `graceMs`; a dead one at once.
 *
 * Borrows `peer` until it has resolved. A number is a pid, for kernels without pidfds: it is looked for again and again, which
 * is weaker: a reused pid looks alive. Pid 0 (another namespace) can never be proved dead.
 */
export function fateOf(peer: OwnedFd | number, graceMs = 100): Promise<'dead' | 'alive'> {
  return new Promise(resolve => {
    const watch =
      typeof peer === 'number'
        ? polled(
            () => peer > 0 && !exists(peer),
            () => settle('dead'),
          )
        : watched(peer, () => settle('dead'))
    const timer = setTimeout(() => settle('alive'), graceMs)
    function settle(fate: 'dead' | 'alive'): void {
      clearTimeout(timer)
      watch.close()
      resolve(fate)
    }
  })
}

/** Where there is no descriptor left for a watch of its own, the pidfd is looked at again and again. */
function watched(pidfd: OwnedFd, onDead: () => void): { close(): void } {
  try {
    return watchDeath(pidfd, onDead)
  } catch {
    return polled(() => !pidfd.closed && hasEnded(pidfd), onDead)
  }
}

function polled(isDead: () => boolean, onDead: () => void): { close(): void } {
  const timer = setInterval(() => {
    if (isDead()) onDead()
  }, PID_POLL_MS)
  return { close: () => clearInterval(timer) }
}

/** A zombie does not. */
function exists(pid: number): boolean {
  const startTime = startTimeOf(pid)
  if (startTime !== undefined) return startTime !== null
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}
