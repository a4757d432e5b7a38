import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Peer } from '../../holder/peer.js'
import type { HandoffTimes } from '../../holder/times.js'

/** How much a service may have of its daemon. */
export interface ServiceLimits {
  /** Listening sockets that members bring. */
  readonly listeners: number
  /** Listeners and other named descriptors. */
  readonly descriptors: number
  /** Processes that are connected as its members: the one that serves, its successor, and those that drain or stand by. */
  readonly members: number
  /** Bytes of its state: of more the log tells. */
  readonly state: number
}

export function overLimit(service: string, what: keyof ServiceLimits, most: number): FdbError {
  const whose = service === '' ? 'the daemon' : `the service "${service}"`
  return new FdbError(
    'ERR_FDB_SERVICE_LIMIT',
    `${whose} may have ${most} ${what} (limits.${what} of the daemon's configuration), and this would be one more`,
    { details: { service, limit: what, most } },
  )
}

/** The parts of its daemon that a service uses. */
export interface ServiceDeps {
  readonly times: HandoffTimes
  readonly logger: Logger
  readonly incarnation: string
  limits(): ServiceLimits
  /** Something that `status` shows, or is to be remembered, is another. */
  changed(): void
  /** The receiver for connections of a service without members; undefined: none. */
  receiver(service: string): Peer | undefined
  /** Its items have changed, and are about to be used. */
  holds(service: string): void
}
