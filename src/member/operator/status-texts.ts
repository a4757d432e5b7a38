import { isUnderWay } from '../../handoff/phases.js'
import type { JoinedHolder } from '../hosting/joined-holder.js'
import type { Machine, Origin } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { Upgrades } from './upgrades.js'

export interface StatusTextsDeps {
  readonly settings: Pick<Settings, 'reception'>
  readonly origin: Pick<Origin, 'generation'>
  readonly machine: Machine
  readonly shutdown: Pick<Shutdown, 'cannotServe'>
  readonly joined: Pick<JoinedHolder, 'facts'>
  readonly upgrades: Pick<Upgrades, 'lastFailure' | 'underWay'>
}

/** The sentences that a service manager shows about this process (`systemctl status`). */
export class StatusTexts {
  readonly #deps: StatusTextsDeps

  constructor(deps: StatusTextsDeps) {
    this.#deps = deps
  }

  get ends(): string {
    return `generation ${this.#deps.origin.generation} ends`
  }

  /** `pid`: the successor, which serves. */
  standsBy(pid: number): string {
    const { generation } = this.#deps.origin
    return `generation ${generation + 1} serves (process ${pid}); generation ${generation} stands by`
  }

  /** The process serves. `reloadFailed`: why the last reload has failed; null if it has not. */
  serves({ reloads, reloadFailed }: { reloads: boolean; reloadFailed: string | null }): string {
    const { joined, machine, origin, settings, shutdown, upgrades } = this.#deps
    const parts = [settings.reception?.describe() ?? `generation ${origin.generation} serves`]
    if (machine.member.scope === 'holder' && joined.facts !== null)
      parts.push('the previous version stands by')
    if (upgrades.underWay || isUnderWay(machine.holder?.phase)) parts.push('an upgrade is under way')
    else if (reloads) parts.push('the configuration is being reloaded')
    const { lastFailure } = upgrades
    if (lastFailure !== null) {
      const { code, message } = lastFailure
      const what = code === 'ERR_FDB_SUCCESSOR_LEFT' ? 'was rolled back' : `failed: ${code}`
      parts.push(`the last upgrade ${what}: ${message}`)
    }
    if (reloadFailed !== null) parts.push(`the last reload failed: ${reloadFailed}`)
    const { report } = shutdown.cannotServe
    if (report !== null) parts.push(`the process cannot write: ${report.message}`)
    return parts.join('; ')
  }
}
