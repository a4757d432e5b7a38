import { readFileSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import { hasEnded, type OwnedFd } from '../kernel/index.js'
import { keyOf, pidOf, refuseNoPidfd } from '../os/liveness.js'
import type { Visitor } from './policy/gate.js'

/** Reports whether the pidfd is of the visitor's own process, by the kernel's word. Borrows the pidfd. */
export function isOwnProcess(visitor: Visitor, pidfd: OwnedFd): boolean {
  if (visitor.pidfd !== null) {
    const key = keyOf(pidfd)
    return key !== null && key === keyOf(visitor.pidfd)
  }
  return visitor.pid > 0 && pidOf(pidfd) === visitor.pid && isOfUser(pidfd, visitor.uid)
}

/**
 * Throws unless the visitor may act for the process of a pidfd: its own process, or one of its user; the daemon's user and root may act for every process.
 * Anybody can open a pidfd of any process, so that having one proves nothing. ERR_FDB_DENIED, ERR_FDB_NO_PIDFD. Borrows the pidfd.
 */
export function demandProcess(visitor: Visitor, pidfd: OwnedFd): void {
  // What is no pidfd may have the inode number of one.
  refuseNoPidfd(pidfd)
  if (!isForeign(visitor) || isOwnProcess(visitor, pidfd) || isOfUser(pidfd, visitor.uid)) return
  const pid = pidOf(pidfd)
  throw new FdbError(
    'ERR_FDB_DENIED',
    `process ${visitor.pid} (uid ${visitor.uid}) may not act for ${pid > 0 ? `process ${pid}` : 'the process of this pidfd'}, which is another user's: name a process of uid ${visitor.uid}`,
    { details: { pid, uid: visitor.uid } },
  )
}

/** Of a process that can be seen from here, and that has only this uid: real, effective and saved. */
function isOfUser(pidfd: OwnedFd, uid: number): boolean {
  const pid = pidOf(pidfd)
  if (pid === 0) return false
  try {
    const [, ids = ''] = /^Uid:\t(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? []
    // A process that lives still had this number when it was looked at.
    return ids.split('\t').every(id => Number(id) === uid) && !hasEnded(pidfd)
  } catch {
    return false
  }
}
