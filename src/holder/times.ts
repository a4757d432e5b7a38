import { checkKeys, checkMs, wrongOption } from '../base/check-option.js'
import { LONGEST_MS } from '../base/duration.js'
import type { HolderPhase } from '../handoff/phases.js'
import type { fdbroker } from '../proto/wire.js'

/** Every wait of a handoff has a deadline. Milliseconds. */
export interface HandoffTimes {
  /** From the Offer to Ready: the successor's own start-up lies in it. */
  ready: number
  /** For stopping the incumbent's `whileServing()` work, before Freeze; after it the handoff goes on. */
  quiesce: number
  /** From Freeze to Frozen; the holder seals whether it came or not. */
  freeze: number
  /** From the seal to Prepared: the successor reads the tail. */
  prepare: number
  /** From Commit to Serving. */
  commit: number
  /** How long the successor is watched before the old one gives up its way back; 0: until its first sign of health. */
  probation: number
  /** Between two heartbeats. */
  heartbeat: number
  /** Silence in probation that counts as failure. */
  silence: number
}

export const HANDOFF_TIMES: HandoffTimes = {
  ready: 60_000,
  quiesce: 10_000,
  freeze: 1_000,
  prepare: 10_000,
  commit: 10_000,
  probation: 10_000,
  heartbeat: 250,
  silence: 3_000,
}

/** A successor may be silent for so long while changes wait for it: with the way back they wait for less than 2 s. */
const WAITING_SILENCE_MS = 1_500
/** Silence is judged when so many heartbeats could have come. */
const BEATS_OF_SILENCE = 3

/** The limits that were given, each looked at, and the defaults of the others. Throws ERR_FDB_OPTION. */
export function settleTimes(given: Partial<HandoffTimes> = {}): HandoffTimes {
  checkKeys('upgrade', given, HANDOFF_TIMES)
  const times = { ...HANDOFF_TIMES, ...onlyGiven(given) }
  for (const [name, value] of Object.entries(times))
    checkMs(`upgrade.${name}`, value, name === 'probation' ? 0 : 1)
  const { heartbeat, silence } = times
  if (silence <= 2 * heartbeat) {
    throw wrongOption(
      'upgrade.silence',
      silence,
      `more than twice upgrade.heartbeat (${heartbeat} ms): one that is late would count as failed`,
    )
  }
  return times
}

export function onlyGiven<T extends object>(values: T): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T
}

/** The times of a member's Hello; invalid ones are left out. */
export function readTimes(
  told: fdbroker.wire.HandoffTimes.$Properties | null | undefined,
): Partial<HandoffTimes> {
  const times: Partial<HandoffTimes> = {}
  for (const name of Object.keys(HANDOFF_TIMES) as (keyof HandoffTimes)[]) {
    const value = told?.[name]
    if (typeof value === 'number' && value <= LONGEST_MS && (value > 0 || name === 'probation'))
      times[name] = value
  }
  return times
}

/** How long one that is to beat every `heartbeatMs` may be silent: as long as it was said, but never shorter than some beats. */
export function patience(silenceMs: number, heartbeatMs: number): number {
  return Math.max(silenceMs, BEATS_OF_SILENCE * heartbeatMs)
}

/** Silence of a successor that ends the handoff while changes wait for it. */
export function waitingSilence({ heartbeat }: HandoffTimes): number {
  return patience(WAITING_SILENCE_MS, heartbeat)
}

/** How long a phase may take; undefined: it ends by something else than time. `silentMs`: of the incumbent. */
export function limitOf(phase: HolderPhase, times: HandoffTimes, silentMs = 0): number | undefined {
  const { ready, quiesce, freeze, prepare, commit, heartbeat } = times
  // A process that hangs already runs no hooks, and does not answer the freeze: changes wait for it meanwhile.
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
