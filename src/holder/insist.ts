import type { Logger } from '../logger.js'

const FIRST_MS = 10
const MOST_MS = 1_000

/**
 * Does what nobody can go on without (a seal, a segment to write in): at once, or again and again until it is done, while
 * what comes after it waits. `over`: it is of no use any more.
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
  for (let wait = FIRST_MS; !over(); wait = Math.min(wait * 2, MOST_MS)) {
    await new Promise(resolve => setTimeout(resolve, wait))
    try {
      if (!over()) act()
      return
    } catch {
      // The first failure was logged.
    }
  }
}
