import { checkKeys, checkMs, type Keys, wrongOption } from '../check-option.js'
import { LONGEST_MS } from '../duration.js'
import type { fdbroker } from '../proto/wire.js'
import type { HolderPhase } from '../protocol/holder-machine.js'
import { HANDOFF_TIMES, type HandoffTimes } from './options.js'

/** A limit may be as long as a timer can wait. */
/** Silence is judged when so many heartbeats could have come. */
const BEATS_OF_SILENCE = 3

const NAMES = Object.fromEntries(Object.keys(HANDOFF_TIMES).map(name => [name, true])) as Keys<HandoffTimes>

/** The limits that were given, each looked at, and the defaults of the others. Throws ERR_FDB_OPTION. */
export function settleTimes(given: Partial<HandoffTimes> = {}): HandoffTimes {
  checkKeys('upgrade', given, NAMES)
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

/** What a member asked for in its Hello; what cannot be is left out. */
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

/** How long a phase may take; undefined: it ends by something else than time. */
export function limitOf(phase: HolderPhase, times: HandoffTimes): number | undefined {
  const { ready, quiesce, freeze, prepare, commit } = times
  switch (phase) {
    case 'offering':
      return ready
    case 'quiescing':
      return quiesce
    case 'freezing':
      return freeze
    case 'preparing':
      return prepare
    case 'committing':
    case 'returning':
      return commit
    default:
      return undefined
  }
}
