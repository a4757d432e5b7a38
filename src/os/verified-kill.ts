import { FdbError } from '../errors.js'
import { type NativeError, type OwnedFd, signalTo } from '../kernel/index.js'
import { openPidfd } from './liveness.js'
import { isAlive, type ProcessIdentity } from './process-identity.js'

const SIGKILL = 9

/**
 * SIGKILL, never by a number, which may be another process's by now. `pidfd` is one of which the kernel has said whose it is;
 * without one it is opened here, and the process looked at again. Throws ERR_FDB_STUCK when that cannot be: nobody is
 * signalled then. One that has ended meanwhile is no error. Borrows `pidfd`.
 */
export function killVerified(identity: ProcessIdentity, pidfd: OwnedFd | null): void {
  if (pidfd !== null) {
    kill(identity, pidfd)
    return
  }
  if (identity.startTime === undefined)
    throw stuck(identity, 'it cannot be seen from here (another PID namespace)')
  const opened = openPidfd(identity.pid)
  if (opened === 'dead') return
  if (opened === null) throw stuck(identity, 'there is no pidfd to be had for it')
  try {
    if (isAlive(identity)) kill(identity, opened)
  } finally {
    opened.close()
  }
}

function kill(identity: ProcessIdentity, pidfd: OwnedFd): void {
  try {
    signalTo(pidfd, SIGKILL)
  } catch (error) {
    const { code } = error as NativeError
    if (code !== 'ESRCH') throw stuck(identity, `it may not be signalled (${code})`)
  }
}

function stuck({ pid }: ProcessIdentity, why: string): FdbError {
  return new FdbError('ERR_FDB_STUCK', `process ${pid} is not ended: ${why}; end it by hand`, {
    details: { pids: [pid] },
  })
}
