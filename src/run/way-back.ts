import type { Told } from '../operator/service-commands.js'
import { ledAt } from '../os/release-link.js'
import type { Askers } from './askers.js'
import type { Failures } from './failures.js'
import type { KnownVersions } from './known-versions.js'
import { coming, type SupervisorEvent, type SupervisorState, serving } from './machine.js'
import { nobodyStandsBy } from './refusals.js'
import type { RunningVersions } from './running-versions.js'

export interface RollbackOrder {
  /** The request in words. */
  readonly asked: string
  /** The link of releases that must lead to the version before then; null: none must. */
  readonly at: string | null
}

export interface WayBackParts {
  readonly known: KnownVersions
  readonly askers: Askers
  readonly failures: Failures
  readonly versions: RunningVersions
  readonly state: SupervisorState
  readonly dispatch: (event: SupervisorEvent) => void
}

/**
 * Gives up the version that is being brought to serve; if there is none, starts the version before, which replaces the version that
 * serves when it is ready. Resolves with the version that leaves. Rejects with ERR_FDB_NO_STANDBY, and with what {@link Askers.ask}
 * rejects with: the version that serves stays then.
 */
export async function rollBack(
  parts: WayBackParts,
  { asked, at }: RollbackOrder,
  cancel: AbortSignal,
): Promise<Told> {
  const { askers, dispatch, failures, known, state, versions } = parts
  const now = serving(state)
  const next = coming(state)
  if (now !== undefined && next !== undefined && next.of === null) {
    const running = versions.get(next.id)
    if (running?.handsOver) throw nobodyStandsBy()
    for (const asker of [...state.next, ...next.askers]) dispatch({ type: 'cancel', asker })
    return { pid: running?.pid ?? 0, generation: next.id }
  }
  const leaves = now && versions.get(now.id)
  const returns = next?.of ?? (leaves?.handsOver ? null : state.before)
  if (returns === null || (now === undefined && next === undefined)) throw nobodyStandsBy()
  if (at !== null && !leadsBack(known, at, returns, now?.id)) throw nobodyStandsBy()
  if (leaves !== undefined && next === undefined) failures.left(leaves, returns, asked)
  await askers.ask({}, cancel, dispatch, 'rollback')
  return { pid: leaves?.pid ?? 0, generation: now?.id ?? 0 }
}

/** The supervisor has led the link to the release of version `from`, and no other program has led it elsewhere: it leads it back. */
function leadsBack(known: KnownVersions, at: string, to: number, from: number | undefined): boolean {
  const led = from === undefined ? undefined : known.linksOf(from)?.[at]
  return known.linksOf(to)?.[at] !== undefined && led !== undefined && ledAt(at)?.to === led.to
}
