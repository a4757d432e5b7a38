import type { Logger } from '../../base/logger.js'
import type { Peer } from '../../holder/peer.js'
import type { HandoffTimes } from '../../holder/times.js'
import type { ServiceLimits } from './service-rules.js'

/** What a service needs of its daemon. */
export interface ServiceParts {
  readonly times: HandoffTimes
  readonly logger: Logger
  readonly incarnation: string
  limits(): ServiceLimits
  /** Something that `status` shows, or is to be remembered, is another. */
  changed(): void
  /** Who takes connections where nobody serves it; undefined: nobody. */
  taker(service: string): Peer | undefined
  /** What it has is another, and about to be used. */
  holds(service: string): void
}
