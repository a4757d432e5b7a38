import { readFileSync } from 'node:fs'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import { hasEnded, type OwnedFd } from '../kernel/index.js'
import { DAEMON_ITSELF } from '../operator/asked-service.js'
import {
  type Claimed,
  type ClaimOrder,
  type DescriptorHolder,
  type DescriptorOrder,
  type DescriptorUser,
  type HeldDescriptor,
  serviceIn,
} from '../operator/held-descriptors.js'
import type {
  CommandContext,
  CommandOrder,
  Operations,
  Upgraded,
  UpgradeOrder,
  UpgradeProgress,
} from '../operator/requests.js'
import { GROUP_LISTENER, STOP } from '../operator/service-commands.js'
import { keyOf, pidOf, refuseNoPidfd } from '../os/liveness.js'
import type { AccessCheck, PeerCredentials } from './policy/access-check.js'
import type { Action, ServicePolicy } from './policy/policy.js'
import type { DescriptorStore, Over } from './service/descriptor-store.js'
import type { UserQuotas } from './user-quotas.js'

/** Requests that a daemon carries out for authorized operators. */
export interface DaemonOperations extends Required<Omit<Operations, 'status' | 'descriptors'>> {
  /** Shows these services; null: and descriptors without a service. */
  status(shows: (service: string | null) => boolean): Promise<object>
  /** As {@link Services.only}; or the daemon itself, where that is what is meant. */
  named(service: string, shows: (service: string) => boolean): string
}

/** The checks of every operator's requests, and their target. */
export interface AccessChecks {
  readonly operations: DaemonOperations
  readonly store: DescriptorStore
  readonly gate: AccessCheck
  readonly shares: UserQuotas
  readonly logger: Logger
  /** Returns a duplicate of the workers' listener of this key, or null. Null: there are no workers. */
  readonly workerListener: ((key: string) => OwnedFd | null) | null
}

/** A daemon's operations, as one operator may use them. */
export class OperatorAccess implements Operations {
  readonly descriptors: DescriptorHolder
  readonly #operations: DaemonOperations
  readonly #gate: AccessCheck
  readonly #peer: PeerCredentials

  /** Owns the client's pidfd until it has left. */
  constructor(checks: AccessChecks, peer: PeerCredentials) {
    this.#operations = checks.operations
    this.#gate = checks.gate
    this.#peer = peer
    this.descriptors = new DescriptorAccess(checks, peer)
  }

  async status(): Promise<object> {
    return await this.#operations.status(this.#gate.lists(this.#peer))
  }

  async upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded> {
    const service = this.#demanded(order.service)
    return await this.#operations.upgrade({ ...order, service }, progress, cancel)
  }

  async command(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    const service = this.#demanded(
      order.name === STOP && order.service === '' ? DAEMON_ITSELF : order.service,
    )
    return await this.#operations.command({ ...order, service }, context)
  }

  /** The name of the service that is meant, which the client may operate. A refusal names only services that it may see. */
  #demanded(given: string): string {
    const gate = this.#gate
    const peer = this.#peer
    const shows = (service: string) => gate.allows('list', gate.of(service), peer)
    if (given === '') gate.lists(peer)
    const meant = given === '' ? this.#operations.named('', shows) : given
    if (meant === DAEMON_ITSELF) {
      gate.demandDaemon(meant, peer)
      return given
    }
    gate.demand('operate', { service: meant }, gate.of(meant), peer)
    this.#operations.named(meant, shows)
    return meant
  }
}

/** The descriptors of a daemon, as one operator may use them. One called `shop/spool` is the service shop's. Each change, and each refusal, is a line of the log. */
export class DescriptorAccess implements DescriptorHolder {
  readonly #checks: Omit<AccessChecks, 'operations'>
  readonly #peer: PeerCredentials

  /** Owns the client's pidfd until it has left. */
  constructor(checks: Omit<AccessChecks, 'operations'>, peer: PeerCredentials) {
    this.#checks = checks
    this.#peer = peer
  }

  list(): HeldDescriptor[] {
    const lists = this.#checks.gate.lists(this.#peer)
    return this.#checks.store.list().filter(({ name }) => lists(serviceIn(name)))
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
    const { name, by, ms, replace, lifetime } = order
    const lease = lifetime !== null ? { whilePid: pidOf(lifetime) } : ms !== null ? { leaseMs: ms } : {}
    const facts = { descriptor: name, ...by, ...lease, ...(replace && { replace }) }
    this.#audited('a descriptor was put', facts, () => this.#checks.store.put({ ...order, most }))
  }

  claim(order: ClaimOrder): Claimed {
    try {
      this.#demandClaim(order)
      if (order.claimant !== null) {
        demandProcess(this.#peer, order.claimant)
        this.#demandShare()
      }
    } catch (error) {
      order.claimant?.close()
      throw error
    }
    const { name, by, shared, claimant } = order
    if (this.#checks.workerListener !== null && name.startsWith(GROUP_LISTENER)) {
      // It is the workers' own: a claim excludes no other worker.
      claimant?.close()
      const fd = this.#checks.workerListener(name)
      if (fd === null) throw new FdbError('ERR_FDB_FD_UNKNOWN', `no worker has a listener of the key ${name}`)
      return { fd, others: 0 }
    }
    const facts = { descriptor: name, ...by, shared, ...claimantOf(claimant) }
    return this.#audited('a descriptor was claimed', facts, () => this.#checks.store.claim(order))
  }

  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void {
    // Its answer says whether the descriptor is held, and which process has claimed it.
    this.#demand('claim', name)
    if (claimant !== null) demandProcess(this.#peer, claimant)
    const facts = { descriptor: name, ...by, ...claimantOf(claimant) }
    this.#audited('a descriptor was released', facts, () => this.#checks.store.release(name, by, claimant))
  }

  remove(name: string, by: DescriptorUser): void {
    this.#demand('remove', name)
    const facts = { descriptor: name, ...by }
    this.#audited('a descriptor was removed', facts, () => this.#checks.store.remove(name))
  }

  left(by: DescriptorUser): void {
    this.#checks.store.left(by)
    this.#peer.pidfd?.close()
  }

  watch(changed: () => void): () => void {
    this.#checks.gate.lists(this.#peer)
    const back = this.#checks.shares.watch(this.#peer.uid)
    const end = this.#checks.store.watch(changed)
    return () => {
      end()
      back()
    }
  }

  #audited<T>(what: string, facts: object, work: () => T): T {
    const audit = { audit: 'descriptor', ...facts }
    try {
      const done = work()
      this.#checks.logger.info(audit, what)
      return done
    } catch (error) {
      const { code } = FdbError.from(error)
      const line = { ...audit, code }
      // A program that binds a missing listener asks first.
      if (code === 'ERR_FDB_FD_UNKNOWN') this.#checks.logger.debug(line, 'a descriptor is not held')
      else this.#checks.logger.warn(line, 'what was asked of a descriptor was refused')
      throw error
    }
  }

  #demandShare(): void {
    const { uid } = this.#peer
    if (isForeign({ uid })) this.#checks.shares.demandNames(uid, this.#checks.store.heldBy(uid) + 1)
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
    const policy = service === null ? this.#checks.gate.descriptors : this.#checks.gate.of(service)
    this.#checks.gate.demand(action, { service: service ?? '', descriptor: name }, policy, this.#peer)
    return policy
  }
}

/** Logs an event that no request caused. */
export function auditOver(logger: Logger, what: Over, name: string, pid: number | null): void {
  logger.info({ audit: 'descriptor', descriptor: name, ...(pid !== null && { pid }) }, what)
}

function claimantOf(claimant: OwnedFd | null): { claimant?: number } {
  return claimant === null ? {} : { claimant: pidOf(claimant) }
}

/** Reports whether the pidfd is of the client's own process, by the kernel's word. Borrows the pidfd. */
function isOwnProcess(peer: PeerCredentials, pidfd: OwnedFd): boolean {
  if (peer.pidfd !== null) {
    const key = keyOf(pidfd)
    return key !== null && key === keyOf(peer.pidfd)
  }
  return peer.pid > 0 && pidOf(pidfd) === peer.pid && isOfUser(pidfd, peer.uid)
}

/**
 * Throws unless the client may act for the process of a pidfd: its own process, or one of its user; the daemon's user and root may act for every process.
 * Anybody can open a pidfd of any process, so that having one proves nothing. ERR_FDB_DENIED, ERR_FDB_NO_PIDFD. Borrows the pidfd.
 */
function demandProcess(peer: PeerCredentials, pidfd: OwnedFd): void {
  // Another descriptor may have the inode number of a pidfd.
  refuseNoPidfd(pidfd)
  if (!isForeign(peer) || isOwnProcess(peer, pidfd) || isOfUser(pidfd, peer.uid)) return
  const pid = pidOf(pidfd)
  throw new FdbError(
    'ERR_FDB_DENIED',
    `process ${peer.pid} (uid ${peer.uid}) may not act for ${pid > 0 ? `process ${pid}` : 'the process of this pidfd'}, which is another user's: name a process of uid ${peer.uid}`,
    { details: { pid, uid: peer.uid } },
  )
}

/** The process can be seen from here, and has only this uid: real, effective and saved. */
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
