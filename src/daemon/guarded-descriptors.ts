import { readFileSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import { hasEnded, type OwnedFd } from '../kernel/index.js'
import {
  type Claimed,
  type ClaimOrder,
  type DescriptorHolder,
  type DescriptorOrder,
  type DescriptorUser,
  type HeldDescriptor,
  serviceIn,
} from '../operator/held-descriptors.js'
import { keyOf, pidOf, refuseNoPidfd } from '../os/liveness.js'
import type { Gate, Visitor } from './policy/gate.js'
import type { Action, ServicePolicy } from './policy/policy.js'
import type { Shares } from './shares.js'

/** The descriptors of a daemon, as one operator may use them. One called `shop/spool` is the service shop's. */
export class GuardedDescriptors implements DescriptorHolder {
  readonly #descriptors: DescriptorHolder
  readonly #gate: Gate
  readonly #visitor: Visitor
  readonly #shares: Shares

  /** Owns the visitor's pidfd until it has left. */
  constructor(descriptors: DescriptorHolder, gate: Gate, visitor: Visitor, shares: Shares) {
    this.#shares = shares
    this.#descriptors = descriptors
    this.#gate = gate
    this.#visitor = visitor
  }

  list(): HeldDescriptor[] {
    const lists = this.#gate.lists(this.#visitor)
    return this.#descriptors.list().filter(({ name }) => lists(serviceIn(name)))
  }

  heldBy(uid: number): number {
    return this.#descriptors.heldBy(uid)
  }

  put(order: DescriptorOrder): void {
    let most: number
    try {
      const { limits } = this.#demand('put', order.name)
      this.#demandShare()
      most = limits.descriptors
    } catch (error) {
      order.fd.close()
      order.lifetime?.close()
      throw error
    }
    this.#descriptors.put({ ...order, most })
  }

  claim(order: ClaimOrder): Claimed {
    try {
      this.#demandClaim(order)
      if (order.claimant !== null) {
        demandProcess(this.#visitor, order.claimant)
        this.#demandShare()
      }
    } catch (error) {
      order.claimant?.close()
      throw error
    }
    return this.#descriptors.claim(order)
  }

  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void {
    // Its answer says whether the descriptor is held, and which process has claimed it.
    this.#demand('claim', name)
    if (claimant !== null) demandProcess(this.#visitor, claimant)
    this.#descriptors.release(name, by, claimant)
  }

  remove(name: string, by: DescriptorUser): void {
    this.#demand('remove', name)
    this.#descriptors.remove(name, by)
  }

  left(by: DescriptorUser): void {
    this.#descriptors.left(by)
    this.#visitor.pidfd?.close()
  }

  watch(changed: () => void): () => void {
    this.#gate.lists(this.#visitor)
    const back = this.#shares.watch(this.#visitor.uid)
    const end = this.#descriptors.watch(changed)
    return () => {
      end()
      back()
    }
  }

  #demandShare(): void {
    const { uid } = this.#visitor
    if (isForeign({ uid })) this.#shares.demandNames(uid, this.#descriptors.heldBy(uid) + 1)
  }

  #demandClaim({ name, shared }: ClaimOrder): void {
    const { claims } = this.#demand('claim', name)
    if (claims === 'any' || shared === (claims === 'shared')) return
    const [whom, how] =
      claims === 'shared'
        ? ['all who ask', 'beside others']
        : ['one process at a time', 'for that process alone']
    throw new FdbError(
      'ERR_FDB_DENIED',
      `the descriptor "${name}" is for ${whom}, as the daemon's configuration says: claim it ${how}`,
    )
  }

  #demand(action: Action, name: string): ServicePolicy {
    const service = serviceIn(name)
    const policy = service === null ? this.#gate.descriptors : this.#gate.of(service)
    this.#gate.demand(action, { service: service ?? '', descriptor: name }, policy, this.#visitor)
    return policy
  }
}

/** Reports whether the pidfd is of the visitor's own process, by the kernel's word. Borrows the pidfd. */
function isOwnProcess(visitor: Visitor, pidfd: OwnedFd): boolean {
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
function demandProcess(visitor: Visitor, pidfd: OwnedFd): void {
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
