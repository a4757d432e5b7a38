import type { Logger } from '../base/logger.js'
import type { UpgradeProgress } from '../operator/requests.js'

/** The caller's function, of which nothing is heard but the log when it throws: what it is told of has happened already, and goes on. */
export function toldOf(
  progress: ((step: UpgradeProgress) => void) | undefined,
  logger: Logger,
): (step: UpgradeProgress) => void {
  return step => {
    try {
      progress?.(step)
    } catch (err) {
      logger.error({ err, phase: step.phase }, 'a function for the progress of an upgrade threw')
    }
  }
}
