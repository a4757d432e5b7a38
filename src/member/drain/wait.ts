import type { Logger } from '../../base/logger.js'
import { addedUp, type DrainCounts } from './forced-closes.js'

/** It is looked again so soon whether all have gone. */
const AGAIN_MS = 10

/** A listener whose connections are to end. */
export interface Draining {
  readonly connections: number
  /** The listener does not come back. */
  finish(): void
  /** Nobody takes over: what waits for a next request is closed. */
  endIdle(): void
  emptied(): Promise<void>
  /** Closes what is left. */
  cut(tls: boolean): DrainCounts
}

/** What takes connections to another process, and may bring them back. */
export interface Moving {
  /** Resolves when no connection is between two processes. */
  settled(): Promise<void>
}

/** Milliseconds until connections are closed that have neither moved nor ended. */
export interface DrainTimes {
  readonly plain: number
  /** Over TLS, where none can move. */
  readonly tls: number
}

/**
 * Waits until the last connection has gone, to another process or by itself; closes what is left when its time is over,
 * and tells `onCut` what that was. `Moves.leave()` has told those that do not move.
 */
export async function drainListeners(
  listeners: readonly Draining[],
  times: DrainTimes,
  logger: Logger,
  moves: Moving,
  onCut: (counts: DrainCounts) => void,
): Promise<void> {
  for (const listener of listeners) listener.finish()
  const emptied = allGone(listeners, moves)
  const cut = (tls: boolean, afterMs: number) => {
    const counts = addedUp(listeners.map(listener => listener.cut(tls)))
    if (counts.idle + counts.busy === 0) return
    logger.warn({ ...counts, afterMs }, 'connections did not end in time and were closed')
    onCut(counts)
  }
  const plain = setTimeout(() => cut(false, times.plain), times.plain)
  const tls = setTimeout(() => cut(true, times.tls), times.tls)
  await emptied
  clearTimeout(plain)
  clearTimeout(tls)
}

/**
 * The service ends, and nobody takes over: connections between two requests have nothing to wait for. What has arrived on
 * them by now is read before.
 */
export function endIdle(listeners: readonly Draining[]): void {
  // The second one comes when the kernel was asked once more.
  setImmediate(() => setImmediate(() => listeners.forEach(listener => void listener.endIdle())))
}

/** What is between two processes may come back. A keeper of the application may say that it is empty while it is not. */
async function allGone(listeners: readonly Draining[], moves: Moving): Promise<void> {
  for (;;) {
    await Promise.all(listeners.map(listener => listener.emptied()))
    await moves.settled()
    if (listeners.every(listener => listener.connections === 0)) return
    await new Promise(resolve => setTimeout(resolve, AGAIN_MS))
  }
}
