import type { Logger } from '../../base/logger.js'
import type { EventFile } from '../../events/event-file.js'
import type { HookGroup } from '../../holder/hook-group.js'
import type { HandoffTimes } from '../../holder/times.js'

/** Settings that all services of a daemon have in common. */
export interface CommonSettings {
  readonly times: HandoffTimes
  readonly logger: Logger
  /** The hooks of all services, which are workers. Absent if each service has its own. */
  readonly hooks?: HookGroup | undefined
}

export interface ServiceSettings extends CommonSettings {
  readonly events: EventFile
}
