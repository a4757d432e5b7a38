import { DAEMON_ITSELF } from '../operator/asked-service.js'
import type {
  CommandContext,
  CommandOrder,
  Operations,
  Upgraded,
  UpgradeOrder,
  UpgradeProgress,
} from '../operator/requests.js'
import { STOP } from '../operator/service-commands.js'
import { GuardedDescriptors } from './guarded-descriptors.js'
import type { Gate, Visitor } from './policy/gate.js'
import type { Shares } from './shares.js'

/** What a daemon does for operators who may ask for it. */
export interface DaemonOperations extends Required<Omit<Operations, 'status'>> {
  /** Of the services that are to be shown; null: and of descriptors of none. */
  status(shows: (service: string | null) => boolean): Promise<object>
  /** As {@link Services.only}; or the daemon itself, where that is what is meant. */
  named(service: string, shows: (service: string) => boolean): string
}

/** A daemon's operations, as one operator may use them. */
export class GuardedOperations implements Operations {
  readonly descriptors: GuardedDescriptors
  readonly #operations: DaemonOperations
  readonly #gate: Gate
  readonly #visitor: Visitor

  /** Owns the visitor's pidfd until it has left. */
  constructor(operations: DaemonOperations, gate: Gate, visitor: Visitor, shares: Shares) {
    this.#operations = operations
    this.#gate = gate
    this.#visitor = visitor
    this.descriptors = new GuardedDescriptors(operations.descriptors, gate, visitor, shares)
  }

  async status(): Promise<object> {
    return await this.#operations.status(this.#gate.lists(this.#visitor))
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

  /** The name of the service that is meant, which the visitor may operate. A refusal names only services that it may see. */
  #demanded(given: string): string {
    const gate = this.#gate
    const visitor = this.#visitor
    const shows = (service: string) => gate.allows('list', gate.of(service), visitor)
    if (given === '') gate.lists(visitor)
    const meant = given === '' ? this.#operations.named('', shows) : given
    if (meant === DAEMON_ITSELF) {
      gate.demandDaemon(meant, visitor)
      return given
    }
    gate.demand('operate', { service: meant }, gate.of(meant), visitor)
    this.#operations.named(meant, shows)
    return meant
  }
}
