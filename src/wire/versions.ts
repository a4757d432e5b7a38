/** Versions of the conversation that this build speaks. The highest common one is used. */
export interface VersionRange {
  readonly min: number
  readonly max: number
}

export const VERSIONS: VersionRange = { min: 1, max: 1 }

/** The highest version in both ranges, or null when they do not meet. */
export function negotiate(ours: VersionRange, theirs: VersionRange): number | null {
  const highest = Math.min(ours.max, theirs.max)
  return highest >= Math.max(ours.min, theirs.min) ? highest : null
}

/** Capability of a member: connections may be moved to it. */
export const TAKES_CONNECTIONS = 'connections'

/** Capability of a draining generation, and of who receives it: changes are forwarded to the process that may write. */
export const FORWARDS_WRITES = 'writes'
