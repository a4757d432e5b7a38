import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import type {
  Claimed,
  ClaimOrder,
  DescriptorHolder,
  DescriptorOrder,
  DescriptorUser,
  HeldDescriptor,
} from '../operator/held-descriptors.js'
import { pidOf } from '../os/liveness.js'
import type { DescriptorStore, Over } from './service/descriptor-store.js'

/** Descriptors of a daemon, of which each change, and each refusal, is a line of the log: who, and what. */
export class AuditedDescriptors implements DescriptorHolder {
  readonly #store: DescriptorStore
  readonly #logger: Logger

  constructor(store: DescriptorStore, logger: Logger) {
    this.#store = store
    this.#logger = logger
  }

  list(): HeldDescriptor[] {
    return this.#store.list()
  }

  heldBy(uid: number): number {
    return this.#store.heldBy(uid)
  }

  put(order: DescriptorOrder): void {
    const { name, by, ms, replace, lifetime } = order
    const lease = lifetime !== null ? { whilePid: pidOf(lifetime) } : ms !== null ? { leaseMs: ms } : {}
    this.#audited(
      'a descriptor was put',
      { descriptor: name, ...by, ...lease, ...(replace && { replace }) },
      () => this.#store.put(order),
    )
  }

  claim(order: ClaimOrder): Claimed {
    const { name, by, shared, claimant } = order
    const process = claimant === null ? {} : { claimant: pidOf(claimant) }
    return this.#audited('a descriptor was claimed', { descriptor: name, ...by, shared, ...process }, () =>
      this.#store.claim(order),
    )
  }

  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void {
    const process = claimant === null ? {} : { claimant: pidOf(claimant) }
    this.#audited('a descriptor was released', { descriptor: name, ...by, ...process }, () =>
      this.#store.release(name, by, claimant),
    )
  }

  remove(name: string, by: DescriptorUser): void {
    this.#audited('a descriptor was removed', { descriptor: name, ...by }, () => this.#store.remove(name))
  }

  left(by: DescriptorUser): void {
    this.#store.left(by)
  }

  watch(changed: () => void): () => void {
    return this.#store.watch(changed)
  }

  /** What nobody has asked for. */
  over(what: Over, name: string, pid: number | null): void {
    this.#logger.info({ audit: 'descriptor', descriptor: name, ...(pid !== null && { pid }) }, what)
  }

  #audited<T>(what: string, facts: object, work: () => T): T {
    const audit = { audit: 'descriptor', ...facts }
    try {
      const done = work()
      this.#logger.info(audit, what)
      return done
    } catch (error) {
      const { code } = FdbError.from(error)
      const line = { ...audit, code }
      // Whoever binds what is not held yet asks first.
      if (code === 'ERR_FDB_FD_UNKNOWN') this.#logger.debug(line, 'a descriptor is not held')
      else this.#logger.warn(line, 'what was asked of a descriptor was refused')
      throw error
    }
  }
}
