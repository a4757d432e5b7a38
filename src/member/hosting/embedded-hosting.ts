import type { FdbError } from '../../errors.js'
import { NOBODY } from '../../handoff/messages.js'
import { accepts, isBeforeCommit, isUndecided, isUnderWay } from '../../handoff/phases.js'
import type { Entry } from '../../holder/entry.js'
import type { Holder } from '../../holder/holder.js'
import type { HolderHost } from '../../holder/message-handler.js'
import type { Registry } from '../../holder/registry.js'
import { STUCK_MS, untilGone } from '../../holder/stuck.js'
import { FormerListeners, SuccessorPaths } from '../../holder/unix-paths.js'
import type { UnfitReport } from '../../operator/status-report.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import { FORWARDS_WRITES } from '../../wire/link.js'
import { GIVEN_UP_MS, type Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { RollbackEntries } from './rollback-entries.js'
import type { SealWatch } from './seal-watch.js'
import type { Standby } from './standby.js'

const NONE: ReadonlySet<string> = new Set()

export interface EmbeddedHostingDeps {
  readonly machine: Machine
  readonly registry: Registry
  readonly standby: Standby
  readonly sealWatch: Pick<SealWatch, 'isNeeded' | 'start' | 'stop'>
  readonly rollback: RollbackEntries
  /** Makes the holder of this process, which may hand over from now on. */
  readonly makeHolder: (events: Pick<HolderHost, 'bundle' | 'changed' | 'forgotten'>) => Holder
}

/** Embedded hosting: the incumbent decides which process serves, until it releases this process. Then this process decides. Owns its own holder. */
export class EmbeddedHosting implements Hosting {
  readonly acceptsReports = true
  readonly mergesAtOnce = true
  readonly #deps: EmbeddedHostingDeps
  readonly #former = new FormerListeners()
  readonly #successorPaths: SuccessorPaths
  #holder: Holder | null = null

  constructor(deps: EmbeddedHostingDeps) {
    this.#deps = deps
    this.#successorPaths = new SuccessorPaths(deps.registry)
  }

  get holder(): Holder | null {
    return this.#holder
  }

  get blockedBy(): readonly number[] {
    const { bound = [] } = this.#deps.machine.holder ?? {}
    const { stuck } = this.#deps.standby
    if (stuck !== null) return [stuck.facts.pid]
    return bound.map(id => this.#holder?.peer(id)?.pid ?? 0)
  }

  get stuckIncumbent(): number | null {
    return this.#deps.standby.stuck?.facts.pid ?? null
  }

  get standsBy(): boolean {
    return this.#deps.standby.isFit
  }

  get unfitStandby(): UnfitReport | null {
    return this.#deps.standby.unfit
  }

  /** True if no successor is known: then the Welcome of the serving process shows whether it accepts changes. */
  get acceptsWrites(): boolean {
    const { owner } = this.#deps.machine.holder ?? {}
    const peer = owner === undefined ? undefined : this.#holder?.peer(owner)
    return peer?.capabilities.has(FORWARDS_WRITES) ?? true
  }

  get isHandingOver(): boolean {
    return isUnderWay(this.#deps.machine.holder?.phase)
  }

  whenDecided(ms: number): Promise<void> | null {
    const { machine } = this.#deps
    const isDecided = () => machine.phase === 'gone' || !isUndecided(machine.holder?.phase ?? 'idle')
    return isDecided() ? null : machine.changes.until(isDecided, ms)
  }

  get isHeard(): boolean {
    return !this.#deps.sealWatch.isNeeded
  }

  get released(): boolean {
    return this.#deps.machine.holder?.phase === 'released'
  }

  get givenUp(): ReadonlySet<string> {
    return this.released ? this.#holder!.givenUp : NONE
  }

  /** The process that serves closes its channel to this one when it has been released, and the listeners with it. */
  async givenUpClosed(): Promise<void> {
    const { changes, holder } = this.#deps.machine
    const peer = this.#holder?.peer(holder?.owner ?? NOBODY)
    await changes.until(() => peer?.link.open !== true, GIVEN_UP_MS)
  }

  get probationLeftMs(): number | null {
    return this.#deps.standby.probationLeftMs
  }

  onLost(): void {
    this.#deps.sealWatch.start()
  }

  store(entry: Entry, bound: boolean): void | Promise<void> {
    return this.#deps.rollback.store(entry, bound)
  }

  onGranted(): void {
    this.#deps.rollback.sendEarly()
  }

  onServing(): void {
    this.#deps.rollback.takeBack()
  }

  beforeDrop(name: string): void {
    this.#former.remember(this.#deps.registry, name)
  }

  /** Removes the paths that no version uses any more. Does nothing while another version has the listeners: an incumbent, a successor, a joiner; `ends`: the service ends. */
  removeFormerPaths(ends = false): void {
    const isDecided = this.#deps.machine.holder?.phase === 'idle'
    if (ends || (isDecided && this.#isAlone)) this.#former.removeUnused(this.#deps.registry)
  }

  async renew(): Promise<void> {
    this.#deps.machine.stepHolder({ type: 'renew' })
  }

  async mayReplaceMerged(): Promise<boolean> {
    return this.#deps.machine.holder?.phase === 'idle'
  }

  cancelHandoff(reason: FdbError): CancelResult {
    return this.#holder?.cancel(reason) ?? 'idle'
  }

  refuseJoiner(reason: FdbError): void {
    const { joiner, phase } = this.#deps.machine.holder ?? {}
    if (joiner === undefined || !isBeforeCommit(phase)) return
    const { code, message } = reason
    this.#holder?.peer(joiner)?.link.post({ reject: { code, message } })
    this.#holder?.cancel(reason)
  }

  async killStuck(): Promise<void> {
    const { machine, standby } = this.#deps
    const { stuck } = standby
    if (stuck === null) {
      await this.#holder?.killStuck()
      return
    }
    stuck.kill()
    // When this process notices the death, it gets its own holder, unless it has left.
    const isOver = () => this.#holder !== null || machine.phase === 'gone'
    await untilGone(() => (isOver() ? [] : [stuck.facts.pid]), STUCK_MS)
  }

  async hearStandby(): Promise<void> {
    await this.#deps.standby.hear()
  }

  async releaseStandby(): Promise<void> {
    await this.#deps.standby.release()
  }

  dropped(): Promise<void> | undefined {
    const { machine } = this.#deps
    // In another phase it is the next version that serves, which has the listeners.
    const isOver = () => this.#isAlone || !(accepts(machine.phase) || machine.phase === 'frozen')
    return isOver() ? undefined : machine.changes.until(isOver, null)
  }

  async joinersEnded(): Promise<void> {
    const { machine } = this.#deps
    const isOver = () => machine.phase === 'gone' || (machine.holder?.bound ?? []).length === 0
    await machine.changes.until(isOver, null)
  }

  /** Whether no process stands by for this one, joins it, or still has what it was offered in a handoff that has failed. */
  get #isAlone(): boolean {
    const { holder, member } = this.#deps.machine
    return member.link === 'local' && !this.isHandingOver && (holder?.bound ?? []).length === 0
  }

  becomeHolder(): void {
    const { machine, makeHolder, rollback } = this.#deps
    this.#holder = makeHolder({
      bundle: (peer, items) => {
        const named = items.filter(({ role }) => role === 'named')
        rollback.keep(peer, named)
        this.#successorPaths.arrive(
          peer,
          items.filter(item => !named.includes(item)),
        )
      },
      forgotten: peer => this.#successorPaths.forgotten(peer),
      changed: () => {
        const phase = machine.holder?.phase
        this.removeFormerPaths()
        if (phase === 'released') this.#successorPaths.close()
        if (phase === 'released' || phase === 'offering') rollback.forget()
      },
    })
  }

  close(): void {
    const { rollback, sealWatch } = this.#deps
    sealWatch.stop()
    this.#successorPaths.close()
    rollback.forget()
    this.#holder?.close()
    this.#former.close()
  }
}
