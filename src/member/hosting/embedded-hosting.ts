import type { FdbError } from '../../errors.js'
import { accepts, isBeforeCommit, isGranted, isUnderWay } from '../../handoff/phases.js'
import { DescriptorNames } from '../../holder/descriptor-names.js'
import { type Entry, entryItem, type NamedEntry, namedEntry } from '../../holder/entry.js'
import { Holder } from '../../holder/holder.js'
import type { Peer } from '../../holder/peer.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { STUCK_MS, untilGone } from '../../holder/stuck.js'
import { SuccessorNames } from '../../holder/successor-names.js'
import { FormerListeners, SuccessorPaths } from '../../holder/unix-paths.js'
import { closeAll } from '../../kernel/index.js'
import type { DrainReport, UnfitReport } from '../../operator/status-report.js'
import type { Segment } from '../../state/segment.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import type { BundleItem } from '../../wire/bundle.js'
import { FORWARDS_WRITES, peerLeft } from '../../wire/link.js'
import type { ChangeNotifier } from '../../wire/pending.js'
import type { Moves } from '../drain/moves.js'
import { entryFencedError } from '../lifecycle/cannot-serve.js'
import { settledOf } from '../lifecycle/end-order.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { TakeoverTiming } from '../lifecycle/takeover-timing.js'
import type { Settings } from '../options/options.js'
import type { OwnState } from '../state/own-state.js'
import type { ControlSocket } from './control-socket.js'
import type { HolderLink } from './holder-link.js'
import type { JoinedHolder } from './joined-holder.js'
import type { OfferReceiver } from './offer-receiver.js'

/** A standby that has not reported within so many heartbeats is stopped or stuck. */
const REPORTS = 2

/** The interval at which a successor without a channel to its incumbent checks whether its segment is sealed. */
const SEAL_CHECK_MS = 100

export interface EmbeddedHostingDeps {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly changes: ChangeNotifier
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  readonly timing: TakeoverTiming
  readonly leadership: Leadership
  readonly moves: Moves
  readonly heartbeat: Heartbeat
  readonly joined: JoinedHolder
  readonly offers: OfferReceiver
  readonly controlSocket: ControlSocket
  readonly state: OwnState
  readonly checkSeal: () => void
  /** Adds a descriptor that the successor has named; owns it. */
  readonly takeNamed: (entry: NamedEntry) => void
  /** Called when this process has its own holder and may hand over. */
  readonly onDecides: () => void
}

/** Embedded hosting: the incumbent decides which process serves, until it releases this process. Then this process decides. Owns its own holder. */
export class EmbeddedHosting implements Hosting {
  readonly acceptsReports = true
  readonly mergesAtOnce = true
  readonly #deps: EmbeddedHostingDeps
  readonly #former = new FormerListeners()
  /** The names of the descriptors, for `upgrade --kill-stuck` if this process hangs. */
  readonly #names: DescriptorNames | null = null
  readonly #successorPaths: SuccessorPaths
  /** The descriptors that the successor has named since its Commit. */
  readonly #successorNames = new SuccessorNames()
  /** The names that this process has given to descriptors while the incumbent can take over again. */
  readonly #named = new Set<string>()
  #holder: Holder | null = null
  #sealTimer: NodeJS.Timeout | undefined

  constructor(deps: EmbeddedHostingDeps) {
    this.#deps = deps
    const { generation, registry, serviceStartedAt, settings } = deps
    this.#successorPaths = new SuccessorPaths(registry)
    const { control, service } = settings
    // Not in a daemon, which holds segments of several services: the names would not show to which service a segment belongs.
    if (control === null || settings.reception !== null) return
    const names = new DescriptorNames({ service, generation, serviceStartedAt }, () => registry.entries)
    this.#names = names
    registry.changed = () => names.changed()
    registry.changed()
  }

  get holder(): Holder | null {
    return this.#holder
  }

  get blockedBy(): readonly number[] {
    const { bound = [] } = this.#deps.machine.holder ?? {}
    const stuck = this.#stuck
    if (stuck !== null) return [stuck.facts.pid]
    return bound.map(id => this.#holder?.peer(id)?.pid ?? 0)
  }

  get stuckIncumbent(): number | null {
    return this.#stuck?.facts.pid ?? null
  }

  get standsBy(): boolean {
    return this.#deps.machine.member.link === 'up' && this.unfitStandby === null
  }

  get unfitStandby(): UnfitReport | null {
    return this.#standby?.unfit ?? null
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

  /** Without a channel the incumbent may serve again at any moment, unless segments cannot be sealed: then a commit is final. */
  get isHeard(): boolean {
    const { machine, segmentSet } = this.#deps
    return machine.member.link !== 'down' || !segmentSet.rules.arbiter
  }

  get released(): boolean {
    return this.#deps.machine.holder?.phase === 'released'
  }

  /** As the previous version reports it: that one is the holder. */
  get probationLeftMs(): number | null {
    const seconds = this.#standby?.standbySeconds
    return seconds === undefined ? null : seconds * 1_000
  }

  /** While there is no channel, checks regularly whether this process was released or its segment was sealed. */
  onLost(): void {
    const { checkSeal, leadership, machine, segmentSet, shutdown } = this.#deps
    clearInterval(this.#sealTimer)
    if (shutdown.over || machine.member.link !== 'down') return
    // The incumbent may live, and serve again. The work starts again when it is known to have ended, or to have released this process.
    if (!this.isHeard) void leadership.quiesce()
    this.#sealTimer = setInterval(() => {
      if (machine.member.link !== 'down') clearInterval(this.#sealTimer)
      else if (segmentSet.isReleased(machine.member.epoch))
        machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
      else checkSeal()
    }, SEAL_CHECK_MS)
  }

  onReportsReceived(): void {
    this.#deps.moves.retry()
  }

  /** A named descriptor must outlive a rollback, as a change of the state does: the incumbent gets it, after the Commit before the call ends. */
  store(entry: Entry, bound: boolean): void | Promise<void> {
    if (this.#holder !== null) return
    if (bound) this.#reportPath(entry)
    if (entry.role !== 'named') return
    this.#named.add(entry.name)
    if (accepts(this.#deps.machine.phase)) return this.#giveToIncumbent(entry)
  }

  /** Sends the descriptors that this version has named before its Commit: they arrive before Serving. */
  onGranted(): void {
    const { registry, settings } = this.#deps
    const { link } = this.#deps.joined
    if (link === undefined || this.#holder !== null) return
    const items = registry.items().flatMap(item => {
      return this.#named.has(item.name ?? '') ? { ...item, fd: item.fd.share() } : []
    })
    if (items.length === 0) return
    link
      .sendBundle(items, settings.timeout)
      .catch(error =>
        settings.logger.warn(
          { err: error },
          'the previous version did not get the descriptors that this one has named: after a rollback it lacks them',
        ),
      )
      .finally(() => closeAll(items.map(({ fd }) => fd)))
  }

  /** This process serves again: it has what its successor has named. */
  onServing(): void {
    for (const entry of this.#successorNames.take()) this.#deps.takeNamed(entry)
  }

  /** Closes the descriptor if it rejects: then another process serves, or the incumbent is stuck. */
  async #giveToIncumbent(entry: Entry): Promise<void> {
    const { changes, machine, settings, shutdown } = this.#deps
    const { name, fd } = entry
    const over = () => shutdown.over || machine.member.link === 'local' || !accepts(machine.phase)
    try {
      await this.#deps.joined.link?.sendBundle([entryItem(entry)], settings.timeout)
    } catch (error) {
      // If the incumbent is dead, this process serves for good.
      if (peerLeft(error)) await changes.until(over, settings.timeout)
      if (machine.member.link !== 'local') {
        fd.close()
        throw peerLeft(error) ? entryFencedError(name) : error
      }
    }
    // The incumbent may have taken over before it got the descriptor.
    if (machine.member.link === 'local' || (accepts(machine.phase) && !machine.sealed)) return
    fd.close()
    throw entryFencedError(name)
  }

  /** Keeps what a successor has named since its Commit, until it is released or rolled back. */
  #keepNamed({ id }: Peer, items: readonly BundleItem[]): void {
    const { phase, owner, joiner } = this.#deps.machine.holder!
    const kept = isGranted(phase) && (id === owner || id === joiner)
    for (const { name = '', fd } of items) {
      if (kept && name !== '') this.#successorNames.put(namedEntry(name, fd))
      else fd.close()
    }
  }

  /** Sends a new Unix listener to the incumbent, which removes its path if this process dies. */
  #reportPath(entry: Entry): void {
    const { joined } = this.#deps
    const { settings } = this.#deps
    if (entry.role !== 'listener' || entry.spec?.kind !== 'unix') return
    const { link } = joined
    if (link === undefined) return
    const shared = entry.fd.share()
    link
      .sendBundle([{ ...entryItem(entry), fd: shared }], settings.timeout)
      .catch(error =>
        settings.logger.debug(
          { err: error, listener: entry.name },
          'the previous version did not hear of this path: it does not remove it if this process dies',
        ),
      )
      .finally(() => shared.close())
  }

  beforeDrop(name: string): void {
    this.#former.remember(this.#deps.registry, name)
  }

  /** Removes the paths that no version uses any more. Does nothing while an incumbent that needs them may take over again. */
  removeFormerPaths(): void {
    if (this.#holder !== null) this.#former.removeUnused(this.#deps.registry)
  }

  async renew(): Promise<void> {
    this.#deps.machine.stepHolder({ type: 'renew' })
  }

  async replaceMerged(snapshot: Segment): Promise<void> {
    const { machine, segmentSet } = this.#deps
    if (machine.holder?.phase === 'idle') segmentSet.replaceUpTo(snapshot.dup())
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
    const stuck = this.#stuck
    if (stuck === null) {
      await this.#holder?.killStuck()
      return
    }
    stuck.kill()
    // When this process notices the death, it gets its own holder.
    await untilGone(() => (this.#holder === null ? [stuck.facts.pid] : []), STUCK_MS)
  }

  async hearStandby(): Promise<void> {
    const { changes, controlSocket, settings } = this.#deps
    if (!this.standsBy) return
    const ms = REPORTS * settings.times.heartbeat
    const heard = settledOf(changes, controlSocket.older.reported(ms))
    await changes.until(() => heard() || !this.standsBy, ms)
  }

  /** Waits until the standby has released this process, because only then this process may remove the paths. */
  async releaseStandby(): Promise<void> {
    const { changes, machine, settings, shutdown } = this.#deps
    if (machine.member.link !== 'up') return
    this.#deps.joined.post({ endProbation: { closing: true } })
    await changes.until(() => shutdown.over || machine.member.link !== 'up', settings.times.silence)
  }

  becomeHolder(): void {
    const {
      changes,
      controlSocket,
      heartbeat,
      joined,
      machine,
      offers,
      onDecides,
      registry,
      segmentSet,
      settings,
      state,
      timing,
    } = this.#deps
    timing.record('released')
    joined.detach()
    heartbeat.stop()
    clearInterval(this.#sealTimer)
    offers.close()
    segmentSet.prune(machine.member.epoch)
    this.#holder = new Holder({
      host: {
        state: () => machine.holder!,
        dispatch: event => machine.stepHolder(event),
        extraItems: () => controlSocket.items(),
        position: () => state.frozenAt,
        amidBulk: () => state.log.amidBulk,
        bundle: (peer, items) => {
          const named = items.filter(({ role }) => role === 'named')
          this.#keepNamed(peer, named)
          this.#successorPaths.arrive(
            peer,
            items.filter(item => !named.includes(item)),
          )
        },
        forgotten: peer => this.#successorPaths.forgotten(peer),
        changed: () => {
          const phase = machine.holder?.phase
          controlSocket.leaveToSuccessor(phase === 'committing')
          if (phase === 'released') this.#successorPaths.close()
          if (phase === 'released' || phase === 'offering') this.#successorNames.close()
          changes.notify()
        },
      },
      registry,
      segmentSet,
      times: settings.times,
      logger: settings.logger,
      renewBytes: () => settings.stateLimits.renewBytes,
    })
    // In `beginning` this process must read the changes of earlier processes before it may hand over.
    if (machine.phase !== 'beginning') onDecides()
  }

  close(): void {
    clearInterval(this.#sealTimer)
    this.#deps.registry.changed = () => {}
    this.#names?.close()
    this.#successorPaths.close()
    this.#successorNames.close()
    this.#holder?.close()
    this.#former.close()
  }

  /** The last report of the standby; undefined if there is none, or if it has not reported yet. */
  get #standby(): DrainReport | undefined {
    if (this.#deps.machine.member.link !== 'up') return undefined
    return this.#deps.controlSocket.older.reports.find(({ phase }) => phase === 'standby')
  }

  /** The link to the standby if it still decides but is silent, so that no process can join before the standby ends. Otherwise null. */
  get #stuck(): HolderLink | null {
    const { joined } = this.#deps
    const silent = this.#holder === null && this.#deps.heartbeat.holderSilent
    return silent && (joined.facts?.heartbeatMs ?? 0) > 0 ? joined.holder : null
  }
}
