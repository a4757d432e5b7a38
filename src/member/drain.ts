import type { Logger } from '../holder/options.js'
import { addedUp, type DrainCounts } from './forced-closes.js'
import type { Listener } from './listener.js'
import type { Moves } from './moves.js'

/**
 * Waits until the last connection has gone, to another process or by itself, at most `timeoutMs`; then closes what is
 * left, and tells `onCut` what that was. {@link Moves.leave} has told those that do not move.
 */
export async function drainListeners(
  listeners: readonly Listener[],
  timeoutMs: number,
  logger: Logger,
  moves: Moves,
  onCut: (counts: DrainCounts) => void,
): Promise<void> {
  for (const listener of listeners) listener.finish()
  const emptied = allGone(listeners, moves).then(() => true)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>(resolve => {
    timer = setTimeout(() => resolve(false), timeoutMs)
  })
  const inTime = await Promise.race([emptied, late])
  clearTimeout(timer)
  if (inTime) return
  const counts = addedUp(listeners.map(listener => listener.cut()))
  logger.warn({ ...counts, afterMs: timeoutMs }, 'connections did not end in time and were closed')
  onCut(counts)
  await emptied
}

/**
 * The service ends, and nobody takes over: connections between two requests have nothing to wait for. What has arrived on
 * them by now is read before.
 */
export function endIdle(listeners: readonly Listener[]): void {
  // The second one comes when the kernel was asked once more.
  setImmediate(() => setImmediate(() => listeners.forEach(listener => void listener.endIdle())))
}

/** What is between two processes may come back. */
async function allGone(listeners: readonly Listener[], moves: Moves): Promise<void> {
  do {
    await Promise.all(listeners.map(listener => listener.emptied()))
    await moves.settled()
  } while (listeners.some(listener => listener.connections > 0))
}
