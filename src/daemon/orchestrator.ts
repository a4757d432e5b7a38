import type { Peer } from '../holder/peer.js'
import type { OwnedFd } from '../kernel/index.js'
import type { Upgraded, UpgradeOrder, UpgradeProgress } from '../operator/requests.js'

/** Keeps a daemon's services served: a main process, with its workers. */
export interface Orchestrator {
  /** The service of requests that name none; it has the name of all workers together. */
  readonly service: string
  /** Beside what the daemon says. */
  status(): object
  /** Handles an upgrade of no service, or of all: see {@link meansAll}. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded>
  /** Null: it is the daemon's own matter. */
  command(name: string, body: Buffer): Promise<Uint8Array> | null
  /** A duplicate of a listener by its key; null: there is none. */
  listener(key: string): OwnedFd | null
  /** The receiver for connections of a service without members that serve; null: there is none. */
  receiver(service: string): Peer | null
  /** Something of the services has changed. */
  servicesChanged(): void
}

/** Whether all that it sees to is meant: by no name, or by theirs. */
export function meansAll(orchestrator: Orchestrator | null, service: string): orchestrator is Orchestrator {
  return orchestrator !== null && (service === '' || service === orchestrator.service)
}
