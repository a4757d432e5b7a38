import { LONGEST_MS } from '../../base/time.js'

/** What is said of one in the registry, beside its descriptor. */
export interface Noted {
  readonly pid: number
  /** Of the process that put it. Absent: an earlier release has noted it. */
  readonly uid?: number
  /** Milliseconds since 1970. */
  readonly putAt: number
  readonly until: number | null
}

/** Two parts: what a service has, beside this in the same registry, has three. */
export function keyOf(name: string): string {
  return `fd/${encodeURIComponent(name)}`
}

export function lifetimeOf(name: string): string {
  return `lifetime/${encodeURIComponent(name)}`
}

export function nameOf(key: string): string | null {
  const [kind, name, more] = key.split('/')
  return kind === 'fd' && name !== undefined && more === undefined ? decodeURIComponent(name) : null
}

/** Null: of a release that says it otherwise. */
export function notedIn(spec: string): Noted | null {
  try {
    const { pid, uid, putAt, until } = JSON.parse(spec) as Partial<Noted>
    if (typeof putAt !== 'number') return null
    return {
      pid: pid ?? 0,
      ...(uid !== undefined && { uid }),
      putAt,
      until: until ?? null,
    }
  } catch {
    return null
  }
}

/** Milliseconds. No lease is longer: where it seems so the clock was set back, and a timer of more ends at once. */
export function restOf(until: number): number {
  return Math.min(LONGEST_MS, Math.max(0, until - Date.now()))
}
