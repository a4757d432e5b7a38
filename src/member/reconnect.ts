import { connectUnix } from '../os/connect.js'
import { HolderLink } from './holder-link.js'
import type { Settings } from './options.js'

const RETRY_MS = 100

/**
 * Daemon hosting: connects again to the daemon (or to the one that was started in its place) and says Hello as one
 * that comes back. Tries until it has an answer; null when `signal` ends it.
 */
export async function reconnectToDaemon(
  settings: Settings,
  old: HolderLink,
  generation: number,
  signal: AbortSignal,
): Promise<HolderLink | null> {
  const { control, service, versions, timeout, logger, wantedTimes: times } = settings
  const incarnation = old.facts.incarnation
  const stateFile = settings.stateFile?.path ?? ''
  while (!signal.aborted && control !== null) {
    try {
      const fd = await connectUnix(control, { timeoutMs: timeout, signal, as: 'member' })
      return await HolderLink.greet(
        fd,
        { service, intent: 'back', versions, generation, incarnation, times, stateFile },
        { timeoutMs: timeout, signal },
      )
    } catch (error) {
      if (signal.aborted) return null
      logger.debug({ err: error }, 'the holder cannot be reached yet')
      await new Promise(resolve => setTimeout(resolve, RETRY_MS))
    }
  }
  return null
}
