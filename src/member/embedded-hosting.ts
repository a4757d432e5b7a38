import type { FdbError } from '../errors.js'
import { DescriptorNames } from '../holder/descriptor-names.js'
import { Holder } from '../holder/holder.js'
import type { Entry } from '../holder/registry.js'
import { STUCK_MS, untilGone } from '../holder/stuck.js'
import { FormerListeners, SuccessorPaths } from '../holder/unix-paths.js'
import type { Segment } from '../state/segment.js'
import type { CancelResult } from '../versions/upgrade-attempt.js'
import { FORWARDS_WRITES } from '../wire/link.js'
import type { ControlSocket } from './control-socket.js'
import type { Heartbeat } from './heartbeat.js'
import type { HolderLink } from './holder-link.js'
import type { Hosting } from './hosting.js'
import type { JoinedHolder } from './joined-holder.js'
import { SELF } from './machine.js'
import type { MemberContext } from './member-context.js'
import type { OfferReceiver } from './offer-receiver.js'
import type { OwnState } from './own-state.js'

/** How often a successor without a channel looks at the seals. */
const SEAL_LOOK_MS = 100

export interface EmbeddedHostingDeps {
  readonly shared: MemberContext
  readonly joined: JoinedHolder
  readonly heartbeat: Heartbeat
  readonly offers: OfferReceiver
  readonly controlSocket: ControlSocket
  readonly state: OwnState
  /** Our own segment may be sealed: then the machine wants to know. */
  readonly checkSeal: () => void
  /** This process decides from now on, and has taken over. */
  readonly decides: () => void
  /** Asks the process that serves, over the connection by which this generation reports. */
  readonly askForMove: () => void
  readonly retryMoves: () => void
}

/** The incumbent decides until it has released; from then on this process does, by a holder of its own. Owns that holder. */
export class EmbeddedHosting implements Hosting {
  readonly hearsReports = true
  readonly mergesAtOnce = true
  readonly #deps: EmbeddedHostingDeps
  readonly #former = new FormerListeners()
  /** A note for a process that looks into this one when it hangs. */
  readonly #note: DescriptorNames | null = null
  /** Paths that successors made. */
  readonly #madePaths: SuccessorPaths
  #holder: Holder | null = null
  #sealLook: NodeJS.Timeout | undefined

  constructor(deps: EmbeddedHostingDeps) {
    this.#deps = deps
    const { generation, registry, serviceStartedAt, settings } = deps.shared
    this.#madePaths = new SuccessorPaths(registry)
    const { control, service } = settings
    // A hung daemon's descriptors hold the segments of all its services together.
    if (control === null || settings.reception !== null) return
    const note = new DescriptorNames({ service, generation, serviceStartedAt }, () => registry.entries)
    this.#note = note
    registry.changed = () => note.changed()
    registry.changed()
  }

  get holder(): Holder | null {
    return this.#holder
  }

  get blockedBy(): readonly number[] {
    const { bound = [] } = this.#deps.shared.machine.holder ?? {}
    const stuck = this.#stuck
    if (stuck !== null) return [stuck.facts.pid]
    return bound.map(id => this.#holder?.peer(id)?.pid ?? 0)
  }

  get stuckIncumbent(): number | null {
    return this.#stuck?.facts.pid ?? null
  }

  get standsBy(): boolean {
    return this.#deps.shared.machine.member.link === 'up'
  }

  /** A process to which this one did not hand over tells it in its Welcome. */
  get takesWrites(): boolean {
    const { owner } = this.#deps.shared.machine.holder ?? {}
    const peer = owner === undefined ? undefined : this.#holder?.peer(owner)
    return peer?.capabilities.has(FORWARDS_WRITES) ?? true
  }

  get released(): boolean {
    return this.#deps.shared.machine.holder?.phase === 'released'
  }

  /** Without a channel the seals are looked at regularly. */
  lost(): void {
    const { checkSeal, shared } = this.#deps
    const { shutdown, machine, segmentSet } = shared
    clearInterval(this.#sealLook)
    if (shutdown.over || machine.member.link !== 'down') return
    this.#sealLook = setInterval(() => {
      if (machine.member.link !== 'down') clearInterval(this.#sealLook)
      else if (segmentSet.isReleased(machine.member.epoch))
        machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
      else checkSeal()
    }, SEAL_LOOK_MS)
  }

  reported(): void {
    this.#deps.retryMoves()
  }

  keep(entry: Entry, made: boolean): void {
    if (made && this.#holder === null) this.#tellOfPath(entry)
  }

  /** The incumbent removes the path when this process dies. */
  #tellOfPath({ name, role, spec, fd }: Entry): void {
    const { joined } = this.#deps
    const { settings } = this.#deps.shared
    if (!spec.startsWith('unix:')) return
    const { link } = joined
    if (link === undefined) return
    const shared = fd.share()
    link
      .sendBundle([{ name, role, spec, fd: shared }], settings.timeout)
      .catch(() => {})
      .finally(() => shared.close())
  }

  giveUp(name: string): void {
    this.#former.remember(this.#deps.shared.registry, name)
  }

  /** As long as an incumbent may come back it needs what it has. */
  settleFormer(): void {
    if (this.#holder !== null) this.#former.removeUnused(this.#deps.shared.registry)
  }

  async renew(): Promise<void> {
    this.#deps.shared.machine.stepHolder({ type: 'renew' })
  }

  async shelve(snapshot: Segment): Promise<void> {
    const { machine, segmentSet } = this.#deps.shared
    if (machine.holder?.phase === 'idle') segmentSet.replaceUpTo(snapshot.dup())
  }

  askForMove(): void {
    this.#deps.askForMove()
  }

  cancelHandoff(reason: FdbError): CancelResult {
    return this.#holder?.cancel(reason) ?? 'idle'
  }

  async killStuck(): Promise<void> {
    const stuck = this.#stuck
    if (stuck === null) {
      await this.#holder?.killStuck(STUCK_MS)
      return
    }
    stuck.kill()
    // This process decides as soon as it has heard of the death.
    await untilGone(() => (this.#holder === null ? [stuck.facts.pid] : []), STUCK_MS)
  }

  /** The path is ours to remove when the one that stands by has let go. */
  async releaseStandby(): Promise<void> {
    const { changes, shutdown, machine, settings } = this.#deps.shared
    if (machine.member.link !== 'up') return
    this.#deps.joined.post({ endProbation: { closing: true } })
    await changes.until(() => shutdown.over || machine.member.link !== 'up', settings.times.silence)
  }

  becomeHolder(): void {
    const { controlSocket, decides, heartbeat, joined, offers, shared, state } = this.#deps
    const { changes, machine, registry, settings, segmentSet, timing } = shared
    timing.record('released')
    joined.detach()
    heartbeat.stop()
    clearInterval(this.#sealLook)
    offers.close()
    segmentSet.prune(machine.member.epoch)
    this.#holder = new Holder({
      host: {
        state: () => machine.holder!,
        dispatch: event => machine.stepHolder(event),
        extraItems: () => controlSocket.items(),
        position: () => state.frozenAt,
        amidBulk: () => state.log.amidBulk,
        bundle: (peer, items) => this.#madePaths.arrive(peer, items),
        forgotten: peer => this.#madePaths.forgotten(peer),
        changed: () => {
          controlSocket.leaveToSuccessor(machine.holder?.phase === 'committing')
          if (machine.holder?.phase === 'released') this.#madePaths.close()
          changes.notify()
        },
      },
      registry,
      segmentSet,
      times: settings.times,
      logger: settings.logger,
      renewBytes: settings.stateLimits.renewBytes,
      firstId: SELF + 1,
    })
    // A process that has not yet read what others wrote hands nothing over before it has.
    if (machine.phase !== 'beginning') decides()
  }

  close(): void {
    clearInterval(this.#sealLook)
    this.#deps.shared.registry.changed = () => {}
    this.#note?.close()
    this.#madePaths.close()
    this.#holder?.close()
    this.#former.close()
  }

  /** The standby that decides and is silent: no process can join before it has ended. */
  get #stuck(): HolderLink | null {
    const { heartbeat, joined } = this.#deps
    const silent = this.#holder === null && heartbeat.holderSilent
    return silent && (joined.facts?.heartbeatMs ?? 0) > 0 ? joined.holder : null
  }
}
