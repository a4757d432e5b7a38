import { readFileSync } from 'node:fs'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Requester } from '../events/requester.js'
import { isForeign } from '../holder/admission.js'
import { closeOnThrow, hasEnded, type OwnedFd } from '../kernel/index.js'
import {
  type ClaimOrder,
  type ClaimResult,
  type DescriptorHolder,
  type DescriptorOrder,
  type DescriptorUser,
  type HeldDescriptor,
  serviceOfName,
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
import { DAEMON_ITSELF } from '../operator/service-name.js'
import { pidOf, processKey, refuseNoPidfd } from '../os/liveness.js'
import type { ForeignUser } from '../wire/foreign-user.js'
import type { AccessCheck, ClientIdentity } from './policy/access-check.js'
import type { Action, ServicePolicy } from './policy/policy.js'
import type { DescriptorStore, EndReason } from './service/descriptor-store.js'
import type { UserQuotas } from './user-quotas.js'

/** The operations that a daemon runs for authorized operators. */
export interface DaemonOperations extends Required<Omit<Operations, 'status' | 'descriptors'>> {
  /**
   * Returns the status of the services for which `shows` is true. `shows(null)` stands for the descriptors without a service. Charges `user` for the
   * time that it takes after the members' reports.
   */
  status(shows: (service: string | null) => boolean, user?: ForeignUser): Promise<object>
  /** Returns the name of the addressed service, see {@link Services.find}, or {@link DAEMON_ITSELF}. */
  resolveService(service: string, shows: (service: string) => boolean): string
  /** The service that a stop without a service addresses: all workers (''), or the daemon itself. */
  readonly stopped: '' | typeof DAEMON_ITSELF
}

/** Dependencies for checking and executing operators' requests. */
export interface AccessChecks {
  readonly operations: DaemonOperations
  readonly store: DescriptorStore
  readonly accessCheck: AccessCheck
  readonly quotas: UserQuotas
  readonly logger: Logger
  /** Returns a duplicate of the workers' listener with this key, or null. Itself null if the daemon has no workers. */
  readonly workerListener: ((key: string) => OwnedFd | null) | null
}

/** A daemon's operations, restricted to the rights of one operator. policy/access-check.ts has the rules. */
export class OperatorAccess implements Operations {
  readonly descriptors: DescriptorHolder
  readonly #operations: DaemonOperations
  readonly #accessCheck: AccessCheck
  readonly #quotas: UserQuotas
  readonly #peer: ClientIdentity

  /** Owns the client's pidfd until the client has left. */
  constructor(checks: AccessChecks, peer: ClientIdentity) {
    this.#operations = checks.operations
    this.#accessCheck = checks.accessCheck
    this.#quotas = checks.quotas
    this.#peer = peer
    this.descriptors = new DescriptorAccess(checks, peer)
  }

  async status(): Promise<object> {
    const shows = this.#accessCheck.statusFilter(this.#peer)
    return await this.#operations.status(shows, this.#quotas.foreignUserOf(this.#peer.uid))
  }

  async upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
    by?: Requester,
  ): Promise<Upgraded> {
    const service = this.#authorize(order.service)
    return await this.#operations.upgrade({ ...order, service }, progress, cancel, by)
  }

  async command(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    const isStop = order.name === STOP && order.service === ''
    const service = this.#authorize(isStop ? this.#operations.stopped : order.service)
    return await this.#operations.command({ ...order, service }, context)
  }

  /** Throws unless the client may operate the requested service; returns its name. An error names only services that the client may see. */
  #authorize(requested: string): string {
    const check = this.#accessCheck
    const peer = this.#peer
    const shows = check.statusFilter(peer)
    const service = requested === '' ? this.#operations.resolveService('', shows) : requested
    if (service === DAEMON_ITSELF) {
      check.demandDaemon(service, peer)
      return requested
    }
    check.demand('operate', { service }, check.policyOf(service), peer)
    this.#operations.resolveService(service, shows)
    return service
  }
}

/** A daemon's descriptors, restricted to the rights of one operator. A descriptor named `shop/spool` belongs to the service shop. Logs each change and each refusal. */
export class DescriptorAccess implements DescriptorHolder {
  readonly #checks: Omit<AccessChecks, 'operations'>
  readonly #peer: ClientIdentity

  /** Owns the client's pidfd until the client has left. */
  constructor(checks: Omit<AccessChecks, 'operations'>, peer: ClientIdentity) {
    this.#checks = checks
    this.#peer = peer
  }

  list(): HeldDescriptor[] {
    const lists = this.#checks.accessCheck.listFilter(this.#peer)
    return this.#checks.store.list().filter(({ name }) => lists(serviceOfName(name)))
  }

  put(order: DescriptorOrder): void {
    const most = closeOnThrow([order.fd, order.lifetime], () => {
      const { limits } = this.#demand('put', order.name)
      this.#demandQuota(order.name)
      return limits.descriptors
    })
    const { name, by, ms, replace, lifetime } = order
    const lease = lifetime !== null ? { whilePid: pidOf(lifetime) } : ms !== null ? { leaseMs: ms } : {}
    const facts = { descriptor: name, ...by, ...lease, ...(replace && { replace }) }
    this.#audited('a descriptor was put', facts, () => this.#checks.store.put({ ...order, most }))
  }

  claim(order: ClaimOrder): ClaimResult {
    closeOnThrow([order.claimant], () => {
      this.#demandClaim(order)
      if (order.claimant !== null) {
        demandProcess(this.#peer, order.claimant)
        this.#demandQuota()
      }
    })
    const { name, by, shared, claimant } = order
    if (this.#checks.workerListener !== null && name.startsWith(GROUP_LISTENER)) {
      // The listener belongs to the workers: a claim excludes no other worker.
      claimant?.close()
      const fd = this.#checks.workerListener(name)
      if (fd === null)
        throw new FdbError('ERR_FDB_FD_UNKNOWN', `no worker has a listener with the key ${name}`)
      return { fd, others: 0 }
    }
    const facts = { descriptor: name, ...by, shared, ...claimantOf(claimant) }
    return this.#audited('a descriptor was claimed', facts, () => this.#checks.store.claim(order))
  }

  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void {
    // Requires the right to claim, because an error would reveal whether the descriptor is held and which process has claimed it.
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

  hasClaim(by: DescriptorUser): boolean {
    return this.#checks.store.hasClaim(by)
  }

  operatorLeft(by: DescriptorUser): void {
    this.#checks.store.operatorLeft(by)
    this.#peer.pidfd?.close()
  }

  watch(changed: () => void): () => void {
    this.#checks.accessCheck.listFilter(this.#peer)
    const releaseQuota = this.#checks.quotas.watch(this.#peer.uid)
    const unwatch = this.#checks.store.watch(changed)
    return () => {
      unwatch()
      releaseQuota()
    }
  }

  #audited<T>(what: string, facts: object, work: () => T): T {
    const audit = { audit: 'descriptor', ...facts }
    try {
      const result = work()
      this.#checks.logger.info(audit, what)
      return result
    } catch (error) {
      const { code } = FdbError.from(error)
      const line = { ...audit, code }
      // Usual: a program that would bind a listener first tries to claim it.
      if (code === 'ERR_FDB_FD_UNKNOWN') this.#checks.logger.debug(line, 'a descriptor is not held')
      else this.#checks.logger.warn(line, 'a request for a descriptor was refused')
      throw error
    }
  }

  /** `replaced`: the name of the descriptor that the new one replaces, if it is held. */
  #demandQuota(replaced?: string): void {
    const { uid } = this.#peer
    if (isForeign({ uid }))
      this.#checks.quotas.demandNames(uid, this.#checks.store.countOf(uid, replaced) + 1)
  }

  #demandClaim({ name, shared }: ClaimOrder): void {
    const { claims } = this.#demand('claim', name)
    if (claims === 'any' || shared === (claims === 'shared')) return
    throw new FdbError(
      'ERR_FDB_DENIED',
      `the daemon's configuration allows only ${claims} claims of the descriptor "${name}": make ${claims === 'shared' ? 'a shared' : 'an exclusive'} claim`,
    )
  }

  #demand(action: Action, name: string): ServicePolicy {
    const service = serviceOfName(name)
    const { accessCheck } = this.#checks
    const policy = accessCheck.policyOf(service)
    accessCheck.demand(action, { service: service ?? '', descriptor: name }, policy, this.#peer)
    return policy
  }
}

/** Logs an event that no request caused. */
export function auditEnd(logger: Logger, what: EndReason, name: string, pid: number | null): void {
  logger.info({ audit: 'descriptor', descriptor: name, ...(pid !== null && { pid }) }, what)
}

function claimantOf(claimant: OwnedFd | null): { claimant?: number } {
  return claimant === null ? {} : { claimant: pidOf(claimant) }
}

/** Whether the pidfd, which is borrowed, refers to the client's own process, as the kernel reports it. */
function isOwnProcess(peer: ClientIdentity, pidfd: OwnedFd): boolean {
  if (peer.pidfd !== null) {
    const key = processKey(pidfd)
    return key !== null && key === processKey(peer.pidfd)
  }
  return peer.pid > 0 && pidOf(pidfd) === peer.pid && isOfUser(pidfd, peer.uid)
}

/**
 * Throws ERR_FDB_DENIED or ERR_FDB_NO_PIDFD unless the client may act for the process of a pidfd: for its own process or one of its user. The
 * daemon's user and root may act for every process. Any process can open a pidfd of any other, so that having one proves nothing. Borrows the pidfd.
 */
function demandProcess(peer: ClientIdentity, pidfd: OwnedFd): void {
  // Checks the type first, because a descriptor of another type may have the inode number of a pidfd.
  refuseNoPidfd(pidfd)
  if (!isForeign(peer) || isOwnProcess(peer, pidfd) || isOfUser(pidfd, peer.uid)) return
  const pid = pidOf(pidfd)
  throw new FdbError(
    'ERR_FDB_DENIED',
    `process ${peer.pid} (uid ${peer.uid}) may not act for ${pid > 0 ? `process ${pid}` : 'the process of this pidfd'}, which belongs to another user: name a process of uid ${peer.uid}`,
    { details: { pid, uid: peer.uid } },
  )
}

/** Whether the process is visible from this PID namespace and its real, effective and saved uid are all `uid`. */
function isOfUser(pidfd: OwnedFd, uid: number): boolean {
  const pid = pidOf(pidfd)
  if (pid === 0) return false
  try {
    const [, ids = ''] = /^Uid:\t(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? []
    // If the process still lives, the pid was not reused when /proc was read.
    return ids.split('\t').every(id => Number(id) === uid) && !hasEnded(pidfd)
  } catch {
    return false
  }
}
