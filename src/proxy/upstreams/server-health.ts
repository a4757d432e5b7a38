/** When a server is taken out. Times in milliseconds. */
export interface HealthRules {
  /** Failures in a row that take a server out; null: a server is never taken out. */
  readonly failures: number | null
  /** How long a server stays out before one request tries it; also how long that request may take before another tries it. */
  readonly coolDown: number
}

/**
 * The health of one server. `up`: it gets its share of the requests. `down`: it gets none before `until`. `probing`: one
 * request is on its way to it as a trial; if that has no outcome by `until`, the next request becomes the trial.
 */
export type ServerHealth =
  | { readonly kind: 'up'; readonly failures: number }
  | { readonly kind: 'down'; readonly until: number }
  | { readonly kind: 'probing'; readonly until: number }

/** `undecided`: the trial ended and says nothing about the server, as when its client left. */
export type HealthEvent = 'picked' | 'succeeded' | 'failed' | 'undecided'

export const UP: ServerHealth = { kind: 'up', failures: 0 }

/** Reports whether the next request is due as the trial of a server that is out. */
export function trialDue(health: ServerHealth, now: number): boolean {
  return health.kind !== 'up' && health.until <= now
}

/** Returns the health after an event. Pure: `now` is the caller's, on any clock that does not go back. */
export function afterEvent(
  health: ServerHealth,
  event: HealthEvent,
  { failures, coolDown }: HealthRules,
  now: number,
): ServerHealth {
  switch (event) {
    case 'picked':
      // A server that is out may be picked before its time when every server is out: that is no trial.
      return trialDue(health, now) ? { kind: 'probing', until: now + coolDown } : health
    case 'succeeded':
      return health.kind === 'up' && health.failures === 0 ? health : UP
    case 'undecided':
      return health.kind === 'probing' ? { kind: 'down', until: now } : health
    case 'failed':
      if (failures === null) return UP
      // Requests that were on their way when the server went out prolong nothing.
      if (health.kind === 'down')
        return trialDue(health, now) ? { kind: 'down', until: now + coolDown } : health
      if (health.kind === 'up' && health.failures + 1 < failures)
        return { kind: 'up', failures: health.failures + 1 }
      return { kind: 'down', until: now + coolDown }
  }
}
