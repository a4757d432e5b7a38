import { FdbError } from '../errors.js'
import type { HolderLink } from './holder-link.js'

const LOOK_MS = 10

/**
 * Ends the process that stands by and decides, as an operator asked: it is stopped or stuck. Resolves when this process
 * decides for itself. Rejects with ERR_FDB_STUCK.
 */
export async function endStuckIncumbent(
  holderLink: HolderLink,
  timeoutMs: number,
  decides: () => boolean,
): Promise<void> {
  holderLink.kill()
  const until = performance.now() + timeoutMs
  while (!decides()) {
    if (performance.now() >= until) {
      const { pid } = holderLink.facts
      throw new FdbError(
        'ERR_FDB_STUCK',
        `process ${pid}, which stands by, did not end within ${timeoutMs} ms after SIGKILL: it waits in the kernel; end it by hand`,
        { details: { pids: [pid] } },
      )
    }
    await new Promise(resolve => setTimeout(resolve, LOOK_MS))
  }
}
