import type { DrainReport, UnfitReport } from '../../operator/status-report.js'
import type { OlderGenerations } from '../drain/older-generations.js'
import { settledOf } from '../lifecycle/end-order.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { HolderLink } from './holder-link.js'
import type { JoinedHolder } from './joined-holder.js'

/** A standby that has not reported within so many heartbeats is stopped or stuck. */
const REPORTS = 2

export interface StandbyDeps {
  readonly settings: Pick<Settings, 'times'>
  readonly machine: Machine
  readonly shutdown: Pick<Shutdown, 'over'>
  readonly heartbeat: Pick<Heartbeat, 'holderSilent'>
  readonly joined: Pick<JoinedHolder, 'facts' | 'holder' | 'post'>
  readonly older: Pick<OlderGenerations, 'reported' | 'reports'>
}

/** Embedded hosting: the previous version while it is the holder, and can take over again from this process. */
export class Standby {
  readonly #deps: StandbyDeps

  constructor(deps: StandbyDeps) {
    this.#deps = deps
  }

  get isFit(): boolean {
    return this.#deps.machine.member.link === 'up' && this.unfit === null
  }

  /** Why the standby cannot take over again. */
  get unfit(): UnfitReport | null {
    return this.#report?.unfit ?? null
  }

  /** As the standby reports it, which decides when the probation ends. */
  get probationLeftMs(): number | null {
    const seconds = this.#report?.standbySeconds
    return seconds === undefined ? null : seconds * 1_000
  }

  /** The link to the standby if it still decides but is silent, so that no process can join before the standby ends. Otherwise null. */
  get stuck(): HolderLink | null {
    const { heartbeat, joined, machine } = this.#deps
    const silent = machine.holder === null && heartbeat.holderSilent
    return silent && (joined.facts?.heartbeatMs ?? 0) > 0 ? joined.holder : null
  }

  /** Waits for the next report, which shows whether the standby could read all changes up to now. */
  async hear(): Promise<void> {
    const { machine, older, settings } = this.#deps
    if (!this.isFit) return
    const ms = REPORTS * settings.times.heartbeat
    const heard = settledOf(machine.changes, older.reported(ms))
    await machine.changes.until(() => heard() || !this.isFit, ms)
  }

  /** Waits until the standby has released this process, because only then this process may remove the paths. */
  async release(): Promise<void> {
    const { joined, machine, settings, shutdown } = this.#deps
    if (machine.member.link !== 'up') return
    joined.post({ endProbation: { closing: true } })
    await machine.changes.until(() => shutdown.over || machine.member.link !== 'up', settings.times.silence)
  }

  /** The last report; undefined if there is no standby, or if it has not reported yet. */
  get #report(): DrainReport | undefined {
    if (this.#deps.machine.member.link !== 'up') return undefined
    return this.#deps.older.reports.find(({ phase }) => phase === 'standby')
  }
}
