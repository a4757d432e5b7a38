import type { Failure } from '../../operator/status-report.js'

/** Failures of the successor's process, about which the member knows more than the daemon. */
const PROCESS_FAILURES: ReadonlySet<unknown> = new Set([
  'ERR_FDB_SUCCESSOR_EXITED',
  'ERR_FDB_SUCCESSOR_LOST',
  'ERR_FDB_SUCCESSOR_DIED',
])

/** Returns the last failure: the own one, or the reported one if the member knows better. */
export function newer(own: Failure | null, reported: unknown): unknown {
  const { at, code } = (reported ?? {}) as Partial<Failure>
  return PROCESS_FAILURES.has(code) && at !== undefined && at > (own?.at ?? 0) ? reported : own
}

/** Merges the listeners: the daemon knows which sockets exist, the member knows which processes accept on them. */
export function merged<T extends { name: string }>(
  own: readonly T[],
  answer: Record<string, unknown>,
): object[] {
  const listeners = Array.isArray(answer.listeners) ? (answer.listeners as (T | null)[]) : []
  const theirs = new Map(listeners.map(listener => [listener?.name, listener]))
  return own.map(listener => ({ ...theirs.get(listener.name), ...listener }))
}
