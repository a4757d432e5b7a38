import type { Logger } from '../base/logger.js'
import { AccessLines } from './access-lines.js'
import { KEPT, MISSING } from './log.js'
import { LogFile } from './log-file.js'

/** Lines of the access log that nobody has taken: more are dropped. */
const MOST_BYTES = 8 * 1024 * 1024

interface AccessLog {
  readonly lines: AccessLines
  /** Opens its file, if any, anew. */
  reopen(): void
  /** Writes what there is. What nobody takes does not keep the process: the lines are lost. */
  end(): void
}

/** The access log of a proxy, in `path` or on stdout. What becomes of it is said in the other log. */
export async function openAccessLog(path: string | undefined, logger: Logger): Promise<AccessLog> {
  const file = await LogFile.open(
    { option: 'access-log-file', path, fd: 1, sync: false, most: MOST_BYTES },
    {
      failed: error =>
        logger.warn(
          { err: error, file: path },
          'the access log cannot be written: its lines are dropped until it can',
        ),
      missing: missing => lines.info({ missing }, MISSING),
      kept: error => logger.warn({ err: error, file: path }, KEPT),
    },
  )
  const lines = new AccessLines(file)
  return {
    lines,
    reopen: () => file.reopen(),
    end: () => {
      lines.flush()
      file.end()
    },
  }
}
