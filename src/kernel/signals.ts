import { native } from './native.js'

/**
 * Blocks signals in this thread, bit n - 1 for signal n; other threads hand theirs to it. What comes stays pending, over
 * {@link executeInstead} as well. Throws when some are held already.
 */
export function holdSignals(signals: number): void {
  native.holdSignals(signals)
}

/** Ends {@link holdSignals}, of this image or of the one before it: pending signals are delivered. Returns whether SIGTERM was blocked. */
export function releaseSignals(): boolean {
  return native.releaseSignals()
}
