import type { Logger } from '../holder/options.js'
import type { Listener } from './listener.js'

/**
 * Waits until the last connection has ended by itself, at most `timeoutMs`; then closes what is left. The end has been
 * announced on every answer since.
 */
export async function drainListeners(
  listeners: readonly Listener[],
  timeoutMs: number,
  logger: Logger,
): Promise<void> {
  for (const listener of listeners) listener.announce()
  const emptied = Promise.all(listeners.map(listener => listener.emptied())).then(() => true)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>(resolve => {
    timer = setTimeout(() => resolve(false), timeoutMs)
  })
  const inTime = await Promise.race([emptied, late])
  clearTimeout(timer)
  if (inTime) return
  const cut = listeners.map(listener => listener.cut())
  const idle = cut.reduce((sum, one) => sum + one.idle, 0)
  const busy = cut.reduce((sum, one) => sum + one.busy, 0)
  logger.warn({ idle, busy, afterMs: timeoutMs }, 'connections did not end in time and were closed')
  await emptied
}
