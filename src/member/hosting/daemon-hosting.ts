import { FdbError } from '../../errors.js'
import { isCurrent } from '../../handoff/phases.js'
import type { Entry } from '../../holder/entry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { Segment } from '../../state/segment.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import type { Link, WireEnvelope } from '../../wire/link.js'
import { settledOf } from '../lifecycle/end-order.js'
import { GIVEN_UP_MS, type Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { DaemonEntries } from './daemon-entries.js'
import type { JoinedHolder } from './joined-holder.js'
import type { OperatorRequests } from './operator-requests.js'

/** The longest wait for a new segment from the daemon. */
const SEGMENT_MS = 1_000

export interface DaemonHostingDeps {
  readonly machine: Machine
  readonly segmentSet: Pick<SegmentSet, 'all'>
  readonly joined: JoinedHolder
  readonly entries: DaemonEntries
  readonly requests: OperatorRequests
  readonly released: () => void
}

/** Daemon hosting: the daemon always decides which process serves. If the channel to the daemon is lost, this process connects again. */
export class DaemonHosting implements Hosting {
  readonly holder = null
  readonly blockedBy = []
  readonly stuckIncumbent = null
  readonly probationLeftMs = null
  readonly unfitStandby = null
  readonly released = false
  readonly mergesAtOnce = false
  readonly #deps: DaemonHostingDeps
  #standbyReleased = false
  #isServed = false
  #givenUp: ReadonlySet<string> = new Set()

  constructor(deps: DaemonHostingDeps) {
    this.#deps = deps
  }

  /** True until the daemon reports that no standby is left, which may be a moment late. */
  get standsBy(): boolean {
    const { phase, source } = this.#deps.machine.member
    return (phase === 'serving' || phase === 'leaving') && source !== 0 && !this.#standbyReleased
  }

  get isPreceded(): boolean {
    const { phase } = this.#deps.machine
    return this.#isServed && (phase === 'joining' || phase === 'ready')
  }

  /**
   * The daemon does not tell the owner of a joiner, but shares the two segments of a handoff before it makes the Offer, and seals them if the
   * handoff fails. A single one may be left of the handoff to this process.
   */
  get isHandingOver(): boolean {
    return this.#deps.machine.member.link === 'up' && this.#hasJoiner
  }

  get #hasJoiner(): boolean {
    const { machine, segmentSet } = this.#deps
    const { epoch, phase } = machine.member
    if (!isCurrent(phase)) return false
    return segmentSet.all.filter(other => other.epoch > epoch && !other.sealed).length > 1
  }

  /** A daemon that lives may have given the right to another process. A restarted one seals first. */
  get isHeard(): boolean {
    const { joined, machine } = this.#deps
    return machine.member.link === 'up' || joined.holder?.dead === true
  }

  /** While the owner has no channel the daemon accepts no new joiner. */
  get mayLoseUnheard(): boolean {
    return !this.isHeard && (this.standsBy || this.#hasJoiner)
  }

  get givenUp(): ReadonlySet<string> {
    return this.#givenUp
  }

  /** The daemon tells the process that serves after this one. */
  async givenUpClosed(): Promise<void> {
    await this.#deps.machine.changes.until(() => false, GIVEN_UP_MS)
  }

  get acceptsReports(): boolean {
    return this.acceptsWrites
  }

  /** Whether the daemon accepts forwarded changes. If the serving member does not, the daemon refuses them. */
  get acceptsWrites(): boolean {
    return this.#deps.joined.facts?.forwardsWrites ?? false
  }

  onOffer(served: boolean): void {
    this.#isServed = served
  }

  handle(envelope: WireEnvelope): boolean {
    if (envelope.unserved) this.#isServed = false
    return this.#deps.entries.handle(envelope) || this.#deps.requests.handle(envelope)
  }

  /** A daemon that was started in the probation does not know what was given up before. */
  onGivenUp(names: readonly string[]): void {
    this.#givenUp = new Set([...this.#givenUp, ...names])
  }

  onServing(): void {
    this.#givenUp = new Set()
  }

  onReleased(): void {
    this.#standbyReleased = true
    this.#deps.released()
  }

  onSilent(): void {
    this.#deps.machine.step({ type: 'silent' })
  }

  onHeard(): void {
    this.#deps.machine.step({ type: 'heard' })
  }

  /** Gives the daemon a dup, so that the entry survives this process. */
  store(entry: Entry): void | Promise<void> {
    if (this.#deps.joined.holder !== null) return this.#deps.entries.store(entry)
  }

  adoptLate(entry: Entry): Promise<void> {
    return this.#deps.entries.adopt(entry)
  }

  drop(name: string): void {
    this.#deps.entries.drop(name)
  }

  dropped(told: boolean): Promise<void> | undefined {
    return told || this.standsBy ? this.#dropped() : undefined
  }

  /** A process that does not accept any more leaves the listeners to the one that does. */
  async #dropped(): Promise<void> {
    const { machine } = this.#deps
    const { changes } = machine
    const isReplaced = () => !machine.member.accepting
    await changes.until(() => isReplaced() || !this.standsBy, null)
    const isAnswered = settledOf(changes, this.#untilAlone())
    await changes.until(() => isReplaced() || isAnswered(), null)
  }

  /**
   * The daemon answers in the order of the messages, and when no other member has the listeners: a next version may take longer than `timeout` until it
   * is ready.
   */
  async #untilAlone(): Promise<void> {
    const { entries, machine } = this.#deps
    for (;;)
      try {
        return await entries.give([])
      } catch (error) {
        const { accepting, link } = machine.member
        const isLate = FdbError.is(error) && error.code === 'ERR_FDB_DEADLINE'
        if (!isLate || !accepting || link !== 'up') throw error
      }
  }

  async dropListeners(): Promise<void> {
    this.#deps.entries.dropListeners()
    await this.#deps.entries.give([])
  }

  async renew(): Promise<void> {
    const { joined } = this.#deps
    const epoch = this.#writingEpoch
    if (epoch === null) return
    joined.post({ renew: {} })
    await this.#deps.machine.changes.until(() => this.#writingEpoch !== epoch, SEGMENT_MS)
  }

  async mayReplaceMerged(snapshot: Segment): Promise<boolean> {
    const { entries, machine } = this.#deps
    if (machine.phase !== 'serving') return false
    await entries.give([{ role: 'segment', epoch: snapshot.epoch, writable: false, fd: snapshot.fd }])
    return true
  }

  askForMove(): boolean {
    const { link } = this.#deps.joined
    if (!link?.open) return false
    link.post({ moveRequest: {} })
    return true
  }

  /** A daemon that does not answer may have sent Commit if it has sealed this process's segment. */
  async cancelHandoff(reason: FdbError): Promise<CancelResult> {
    const { machine, requests } = this.#deps
    return (await requests.cancelHandoff(reason)) ?? (machine.sealed ? 'late' : 'cancelled')
  }

  /** Does not wait for the answer, because this process ends. */
  refuseJoiner({ code, message }: FdbError): void {
    this.#deps.joined.post({ cancelUpgrade: { code, message } })
  }

  /** Does not wait, because the daemon reads the message before it learns that this process has ended. */
  async releaseStandby(): Promise<void> {
    const { joined } = this.#deps
    this.#standbyReleased = true
    if (this.#deps.machine.member.link === 'up') joined.post({ endProbation: { closing: true } })
  }

  onBackSent(link: Link): void {
    this.#deps.entries.repeat(link)
  }

  fail(why: FdbError): void {
    this.#deps.entries.fail(why)
  }

  close(): void {
    this.#deps.requests.close()
  }

  /** The epoch in which this process writes, or null if it does not write. */
  get #writingEpoch(): number | null {
    const { member, phase } = this.#deps.machine
    return phase === 'serving' ? member.epoch : null
  }
}
