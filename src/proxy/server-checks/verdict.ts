/** The finding of a server's active checks. */
export interface Verdict {
  /** The server gets requests, as far as its checks decide. */
  readonly up: boolean
  /** The number of consecutive results that contradict `up`. */
  readonly count: number
  /** When `up` became what it is, in milliseconds since 1970; 0: before the first check. */
  readonly since: number
  /** Why the check failed that took the server out, or ''. */
  readonly reason: string
}

/** A server counts as up until its checks fail. */
export const UNCHECKED: Verdict = { up: true, count: 0, since: 0, reason: '' }

/**
 * Returns the verdict after a check; the same object if nothing changes. `why`: why the check failed, or null. `rise` passed checks in a row bring a
 * server back, `fall` failed ones take it out.
 */
export function afterCheck(
  verdict: Verdict,
  why: string | null,
  { rise, fall }: { readonly rise: number; readonly fall: number },
  now: number,
): Verdict {
  const passed = why === null
  if (passed === verdict.up) return verdict.count === 0 ? verdict : { ...verdict, count: 0 }
  const count = verdict.count + 1
  if (count < (passed ? rise : fall)) return { ...verdict, count }
  return { up: passed, count: 0, since: now, reason: why ?? '' }
}
