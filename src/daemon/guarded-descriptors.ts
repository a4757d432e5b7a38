import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import type { OwnedFd } from '../kernel/index.js'
import {
  type Claimed,
  type ClaimOrder,
  type DescriptorHolder,
  type DescriptorOrder,
  type DescriptorUser,
  type HeldDescriptor,
  type ProgramOrder,
  type StoredDescriptors,
  serviceIn,
} from '../operator/held-descriptors.js'
import type { Gate, Visitor } from './policy/gate.js'
import type { Action, ServicePolicy } from './policy/policy.js'
import { demandProcess, isOwnProcess } from './process-proof.js'
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

  program(order: ProgramOrder): StoredDescriptors {
    const { service, pidfd } = order
    let own: boolean
    try {
      // It gets what others have given away, and gives away itself.
      for (const action of ['claim', 'put'] as const) this.#demand(action, service && `${service}/`)
      demandProcess(this.#visitor, pidfd)
      own = isOwnProcess(this.#visitor, pidfd)
    } catch (error) {
      pidfd.close()
      throw error
    }
    return this.#descriptors.program({ ...order, own })
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
