import type { Logger } from '../base/logger.js'
import { Backoff } from '../base/time.js'

const BOUNDS = { firstMs: 10, longestMs: 1_000 }

/**
 * Does a necessary step (a seal, a segment to write in): at once, or again and again until it is done, while later steps wait. `over`: it
 * is not needed any more.
 */
export function insist(
  act: () => void,
  what: string,
  logger: Logger,
  over: () => boolean,
): void | Promise<void> {
  try {
    act()
  } catch (error) {
    logger.error(
      { err: error, effect: what },
      'a step of the handoff failed; it is tried again until it is done',
    )
    return again(act, over)
  }
}

async function again(act: () => void, over: () => boolean): Promise<void> {
  const backoff = new Backoff(BOUNDS)
  while (!over()) {
    await new Promise(resolve => setTimeout(resolve, backoff.next()))
    try {
      if (!over()) act()
      return
    } catch {
      // The first failure was logged.
    }
  }
}
