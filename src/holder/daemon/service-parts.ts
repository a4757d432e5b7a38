import type { Logger } from '../../logger.js'
import type { HandoffTimes } from '../times.js'

/** What a service needs of its daemon. */
export interface ServiceParts {
  readonly times: HandoffTimes
  readonly logger: Logger
  readonly incarnation: string
  /** Something that `status` shows, or is to be remembered, is another. */
  changed(): void
  /** What it has is another, and about to be used. */
  holds(service: string): void
}
