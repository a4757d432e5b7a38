import { setTimeout as delay } from 'node:timers/promises'
import { Backoff } from '../base/backoff.js'
import type { FdbError } from '../errors.js'

const BOUNDS = { firstMs: 2, longestMs: 50 }

/**
 * Calls `attempt` with a backoff until it returns something else than null, and returns that. At `until` (of the process's own clock)
 * rejects with what `late` returns; when the signal aborts, with its reason.
 */
export async function retry<T>(
  attempt: () => T | null | Promise<T | null>,
  until: number,
  signal: AbortSignal | undefined,
  late: () => FdbError,
): Promise<T> {
  const backoff = new Backoff(BOUNDS)
  for (;;) {
    signal?.throwIfAborted()
    const done = await attempt()
    if (done !== null) return done
    const wait = backoff.next()
    if (performance.now() + wait > until) throw late()
    await pause(wait, signal)
  }
}

/** Rejects with the signal's own reason. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal })
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  }
}
