import type { Logger } from '../base/logger.js'
import { keptText } from '../operator/status-report.js'

/** A process that has retired and lives after so long has something that keeps it. */
export const RETIRED_MS = 2_000

export interface LingeringParts {
  readonly logger: Logger
  /** Milliseconds from the retirement to the end of the process; null: the application ends it. */
  readonly exitWhenRetired: number | null
  /** The process that serves learns what keeps this one. */
  readonly tell: () => void
}

/** Members of this process (or thread) that have not retired. */
const living = new Set<object>()

/** The member has not retired: its process is needed. */
export function lives(member: object): void {
  living.add(member)
}

/** The member did not come to serve, or its process stays for others. */
export function livesNoMore(member: object): void {
  living.delete(member)
}

/**
 * Watches the process of a member that has retired: reports what keeps it, or ends it (`exitWhenRetired`). Does nothing while another member
 * lives in the process. The timer does not keep the process.
 */
export function watchRetired(member: object, { logger, exitWhenRetired, tell }: LingeringParts): void {
  living.delete(member)
  const ms = exitWhenRetired ?? RETIRED_MS
  setTimeout(() => {
    if (living.size > 0) return
    const kept = whatKeeps()
    const facts = { keptBy: kept, afterMs: ms }
    if (exitWhenRetired !== null) {
      logger.warn(facts, `a retired process is ended: ${keptText(kept)} kept it (exitWhenRetired)`)
      process.exit()
    }
    logger.warn(
      facts,
      `process ${process.pid} has retired and does not end: ${keptText(kept)} keeps it; close that when member.retired resolves, or give join() exitWhenRetired`,
    )
    tell()
  }, ms).unref()
}

/** What keeps the event loop of this process alive, by Node's name for it. */
export function whatKeeps(): Record<string, number> {
  const kept: Record<string, number> = {}
  for (const type of process.getActiveResourcesInfo()) kept[type] = (kept[type] ?? 0) + 1
  return kept
}
