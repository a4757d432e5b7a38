import type { Peer } from '../holder/peer.js'
import type { OwnedFd } from '../kernel/index.js'
import type { Upgraded, UpgradeOrder, UpgradeProgress } from '../operator/requests.js'

/** Starts and replaces the processes of a daemon's services. The only implementation is the main process of workers. */
export interface Orchestrator {
  /** The common service name of all workers, which is also the target of requests that name no service. */
  readonly service: string
  /** Fields to add to the daemon's status. */
  status(): object
  /** Upgrades all workers, for a request for which {@link addressesAll} is true. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded>
  /** Runs a command, or returns null if the daemon itself must handle it. */
  command(name: string, body: Buffer): Promise<Uint8Array> | null
  /** Returns a duplicate of the workers' listener with this key, or null. */
  listener(key: string): OwnedFd | null
  /** Returns the member that takes the connections of a service without a serving member, or null. */
  receiver(service: string): Peer | null
  /** Called after any change of the services. */
  servicesChanged(): void
}

/** Whether a request addresses all workers: it names no service, or their common name. */
export function addressesAll(
  orchestrator: Orchestrator | null,
  service: string,
): orchestrator is Orchestrator {
  return orchestrator !== null && (service === '' || service === orchestrator.service)
}
