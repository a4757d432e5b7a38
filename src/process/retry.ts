import { setTimeout as delay } from 'node:timers/promises'
import type { FdbError } from '../errors.js'

const FIRST_MS = 2
const MOST_MS = 50

/**
 * What `attempt` comes to when it is not null any more: tried again, seldomer and seldomer, until this moment of the process's own
 * clock. Then rejects with what `late` says; when the signal aborts, with its reason.
 */
export async function retry<T>(
  attempt: () => T | null | Promise<T | null>,
  until: number,
  signal: AbortSignal | undefined,
  late: () => FdbError,
): Promise<T> {
  for (let wait = FIRST_MS; ; wait = Math.min(wait * 2, MOST_MS)) {
    signal?.throwIfAborted()
    const done = await attempt()
    if (done !== null) return done
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
