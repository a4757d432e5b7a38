import { DEFAULT_TIMES } from '../base/default-times.js'
import { LONGEST_MS } from '../base/duration.js'
import { checkOptions, type Given } from '../checks/options.js'
import { map, optional, type ShapeOf } from '../checks/shape.js'
import { milliseconds, refine } from '../checks/values.js'
import type { HolderPhase } from '../handoff/phases.js'
import type { fdbroker } from '../proto/wire.js'

/** Longest wait of a joining process until it is decided which process serves; usually less than its own timeout. */
export const DECIDED_MS = 5_000

/** The limits of a handoff, in milliseconds. */
export interface HandoffTimes {
  /** From the Offer to Ready, including the successor's start-up. */
  ready: number
  /** For ending the incumbent's `whileServing()` work. After this time the handoff continues even if the work has not ended. */
  quiesce: number
  /** From Freeze to Frozen. After this time the holder seals the incumbent's segment without Frozen. */
  freeze: number
  /** From the seal to Prepared, while the successor reads the end of the state log. */
  prepare: number
  /** From Commit to Serving. */
  commit: number
  /** How long the previous version can take over again. 0: until the successor's first report of health. */
  probation: number
  /** The interval between two heartbeats. */
  heartbeat: number
  /** Probation fails if the successor sends no healthy heartbeat for this time. */
  silence: number
}

const SHAPE = {
  ready: optional(milliseconds(1), DEFAULT_TIMES.ready.ms),
  quiesce: optional(milliseconds(1), DEFAULT_TIMES.quiesce.ms),
  freeze: optional(milliseconds(1), DEFAULT_TIMES.freeze.ms),
  prepare: optional(milliseconds(1), DEFAULT_TIMES.prepare.ms),
  commit: optional(milliseconds(1), DEFAULT_TIMES.commit.ms),
  probation: optional(milliseconds(0), DEFAULT_TIMES.probation.ms),
  heartbeat: optional(milliseconds(1), DEFAULT_TIMES.heartbeat.ms),
  silence: optional(milliseconds(1), DEFAULT_TIMES.silence.ms),
} satisfies ShapeOf<HandoffTimes>

/** Checks `upgrade` of `join()` and of a daemon. */
export const handoffTimes = refine(map(SHAPE), (times, place): HandoffTimes | undefined => {
  const { heartbeat, silence } = times
  if (silence <= 2 * heartbeat) {
    const wanted = `more than twice upgrade.heartbeat (${heartbeat} ms): a single late heartbeat would count as a failure`
    return place.at('silence').refuse(silence, wanted)
  }
  return times
})

export const HANDOFF_TIMES = resolveTimes()

/** While changes wait for a successor, the handoff fails if it is silent for longer. Including the rollback, changes wait for less than 2 s. */
const WAITING_SILENCE_MS = 1_500
/** The fewest missed heartbeats that count as silence. */
const BEATS_OF_SILENCE = 3

/** Checks the given limits, and adds the defaults of the others. Throws ERR_FDB_OPTION. */
export function resolveTimes(given: Given<HandoffTimes> = {}): HandoffTimes {
  return checkOptions('upgrade', given, handoffTimes, 'upgrade')
}

/** Reads the limits in a member's Hello, and ignores invalid ones. */
export function readTimes(
  received: fdbroker.wire.HandoffTimes.$Properties | null | undefined,
): Partial<HandoffTimes> {
  const times: Partial<HandoffTimes> = {}
  for (const name of Object.keys(HANDOFF_TIMES) as (keyof HandoffTimes)[]) {
    const value = received?.[name]
    if (typeof value === 'number' && value <= LONGEST_MS && (value > 0 || name === 'probation'))
      times[name] = value
  }
  return times
}

/** Returns how long a process with heartbeats every `heartbeatMs` may be silent: `silenceMs`, but at least three heartbeats. */
export function patience(silenceMs: number, heartbeatMs: number): number {
  return Math.max(silenceMs, BEATS_OF_SILENCE * heartbeatMs)
}

/** Returns how long a process may be silent while changes wait for it. */
export function waitingSilence({ heartbeat }: HandoffTimes): number {
  return patience(WAITING_SILENCE_MS, heartbeat)
}

/** Returns the limit of a phase, or undefined if it has none. `silentMs`: how long the incumbent has been silent. */
export function phaseLimit(phase: HolderPhase, times: HandoffTimes, silentMs = 0): number | undefined {
  const { ready, quiesce, freeze, prepare, commit, heartbeat } = times
  // An incumbent that already hangs will not answer: wait for it only as long as one heartbeat.
  const ofIncumbent = (limit: number) =>
    silentMs > waitingSilence(times) ? Math.min(limit, heartbeat) : limit
  switch (phase) {
    case 'offering':
      return ready
    case 'quiescing':
      return ofIncumbent(quiesce)
    case 'freezing':
      return ofIncumbent(freeze)
    case 'preparing':
      return prepare
    case 'committing':
    case 'returning':
      return commit
    default:
      return undefined
  }
}
