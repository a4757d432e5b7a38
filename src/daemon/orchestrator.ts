import type { Peer } from '../holder/peer.js'
import type { OwnedFd } from '../kernel/index.js'
import type { Upgraded, UpgradeOrder, UpgradeProgress } from '../operator/requests.js'

/** Whoever sees to it that a daemon's services are served: a main process, of its workers. */
export interface Orchestrator {
  /** Who asks of no service asks of this one; it has the name of all. */
  readonly service: string
  /** Beside what the daemon says. */
  status(): object
  /** What is asked of no service, or of all: see {@link meansAll}. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded>
  /** Null: it is the daemon's own matter. */
  command(name: string, body: Buffer): Promise<Uint8Array> | null
  /** A duplicate of a listener by its key; null: there is none. */
  listener(key: string): OwnedFd | null
  /** Who takes the connections of a member of a service that nobody serves any more; null: nobody. */
  receiver(service: string): Peer | null
  /** Something of the services has changed. */
  look(): void
}

/** Whether all that it sees to is meant: by no name, or by theirs. */
export function meansAll(orchestrator: Orchestrator | null, service: string): orchestrator is Orchestrator {
  return orchestrator !== null && (service === '' || service === orchestrator.service)
}
