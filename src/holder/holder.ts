import { afterReading, type Limit } from '../base/after-reading.js'
import { Backoff } from '../base/backoff.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { EventFacts, EventType } from '../events/events.js'
import { eventOf } from '../events/phase-events.js'
import { orderFacts, type Requester } from '../events/requester.js'
import type { Outcome } from '../handoff/effect-queue.js'
import { concernedIds, type HolderEffect, type HolderState, type Refusal } from '../handoff/holder-machine.js'
import { type Id, NOBODY, type ToMember } from '../handoff/messages.js'
import { type HolderPhase, isBeforeCommit, isCommitted } from '../handoff/phases.js'
import type { Failure, HandoffRecord } from '../operator/status-report.js'
import { outOfDescriptors } from '../os/limits.js'
import type { Lineage } from '../os/lineage.js'
import { isSame, type ProcessIdentity } from '../os/process-identity.js'
import type { CancelResult } from '../versions/upgrade-attempt.js'
import { packToMember } from '../wire/envelope.js'
import { type HandoffFacts, joinRefusal, observedReason } from './failure-reasons.js'
import {
  type HandlerContext,
  type HolderHost,
  handleMessage,
  leftReason,
  requesterOf,
} from './message-handler.js'
import { OfferSender } from './offer-sender.js'
import type { Peer } from './peer.js'
import { type Candidate, Peers } from './peers.js'
import { Probation } from './probation.js'
import type { Registry } from './registry.js'
import { Renewal } from './renewal.js'
import type { SegmentSet } from './segment-set.js'
import { HeartbeatSilence, killPeer, STUCK_MS, SuccessorWatch, untilGone } from './stuck.js'
import { type HandoffTimes, patience, phaseLimit, waitingSilence } from './times.js'

/** The driver of the holder's state machine: carries out its effects, and turns peers' messages and expired deadlines into its events. */
export class Holder {
  readonly timeline = new Timeline()
  readonly segmentSet: SegmentSet
  readonly #host: HolderHost
  readonly #ownTimes: HandoffTimes
  readonly #logger: Logger
  readonly #peers: Peers
  readonly #offerSender: OfferSender
  readonly #probation: Probation
  readonly #successorWatch: SuccessorWatch
  readonly #renewal: Renewal
  readonly #beats: NodeJS.Timeout
  readonly #silence: HeartbeatSilence
  /** The phase at the last call of {@link stepped}. */
  #phase: HolderPhase
  #earlierPhase: HolderPhase
  #deadline: Limit | undefined
  #closed = false
  /** The owner at the last call of {@link stepped}. */
  #owner: Id
  /** The process that has joined last. */
  #joined: { readonly id: Id; readonly lineage: Lineage } | null = null

  constructor(parts: {
    host: HolderHost
    registry: Registry
    segmentSet: SegmentSet
    times: HandoffTimes
    logger: Logger
    renewBytes(): number
  }) {
    const { host, registry, segmentSet, times, logger } = parts
    this.segmentSet = segmentSet
    this.#host = host
    this.#ownTimes = times
    this.#logger = logger
    this.#phase = host.state().phase
    this.#earlierPhase = this.#phase
    this.#owner = host.state().owner
    const peer = (id: Id) => this.#peers.get(id)
    const context: HandlerContext = {
      host,
      logger,
      peer,
      catchUp: back => this.#offerSender.catchUp(back),
      rollBack: () => this.#probation.judgeSoon(),
    }
    this.#peers = new Peers({
      handler: {
        message: (from, envelope, fds) => handleMessage(context, from, envelope, fds),
        bundle: (from, items) => host.bundle(from, items),
        lost: lost => this.#onLost(lost),
        replaced: lost => host.dispatch({ type: 'lost', id: lost.id }),
        died: dead => this.#onDied(dead),
        forgotten: gone => host.forgotten(gone),
      },
      logger,
    })
    this.#offerSender = new OfferSender({
      registry,
      segmentSet,
      peers: this.#peers,
      host,
      logger,
      driver: {
        times: () => this.#times,
        repeatUntilDone: (what, act) => this.#repeat(what, act),
        undelivered: (joiner, taken) => this.#onUndelivered(joiner, taken),
      },
    })
    this.#probation = new Probation(
      {
        state: () => host.state(),
        dispatch: event => host.dispatch(event),
        peer,
        times: () => this.#times,
        mayEnd: () => host.probationMayEnd?.() ?? true,
        onKept: successor => this.#noteKept(successor),
      },
      times.heartbeat,
    )
    this.#successorWatch = new SuccessorWatch({
      joiner: () => {
        const { joiner, owner } = host.state()
        return owner === NOBODY ? undefined : peer(joiner)
      },
      limitMs: () => waitingSilence(this.#times),
      stuck: () => host.dispatch({ type: 'deadline' }),
    })
    this.#silence = new HeartbeatSilence(times.heartbeat)
    this.#beats = setInterval(() => this.#beat(), times.heartbeat).unref()
    this.#renewal = new Renewal(host, segmentSet, () => parts.renewBytes())
  }

  /** The remaining milliseconds of probation, or null outside of probation. */
  get probationLeftMs(): number | null {
    return this.#probation.leftMs
  }

  /** The names of the listeners that the process which serves does not use, unless it has adopted them since. */
  get givenUp(): ReadonlySet<string> {
    return this.#peers.get(this.#host.state().owner)?.refused ?? new Set()
  }

  get state(): HolderState {
    return this.#host.state()
  }

  get peers(): Peer[] {
    return this.#peers.all
  }

  /** Whether the process is connected as a member. */
  has(identity: ProcessIdentity): boolean {
    return this.#peers.all.some(peer => isSame(peer.identity, identity))
  }

  peer(id: Id): Peer | undefined {
    return this.#peers.get(id)
  }

  /** Whether the peer seems to hang, so that changes need not wait for it. */
  isSilent(peer: Peer): boolean {
    return this.#silence.of(peer) > waitingSilence(this.#times)
  }

  /** Handles a process that wants to take over: sends an Offer or a Reject. Owns the link and the pidfd. */
  admit(candidate: Candidate): void {
    this.#peers.reportDeaths()
    const peer = this.#peers.add(candidate)
    if (peer !== null) this.#host.dispatch({ type: 'join', id: peer.id })
    // A daemon may have made the service only for this candidate.
    else this.#host.changed()
  }

  /** Handles a member that has reconnected. Owns the link and the pidfd. */
  readmit(candidate: Candidate): void {
    this.#peers.readmit(candidate)
  }

  /**
   * Kills the processes that still hold descriptors of an earlier handoff and so block every upgrade. Resolves when all have ended, or
   * this holder is closed. Rejects with ERR_FDB_STUCK if one is still alive after {@link STUCK_MS}.
   */
  async killStuck(): Promise<void> {
    // A holder that is closed hears of no death.
    const bound = () => (this.#closed ? [] : this.#host.state().bound)
    for (const id of bound()) {
      const peer = this.#peers.get(id)
      if (peer !== undefined) killPeer(peer, 'a process that blocks the upgrade', this.#logger)
    }
    await untilGone(() => bound().map(id => this.#peers.get(id)?.pid ?? 0), STUCK_MS)
  }

  /**
   * Kills the owner if it has sent no heartbeat for longer than the limit `silence`. Resolves with its pid, or with null if it is not silent.
   * Rejects with ERR_FDB_STUCK if the owner is still alive after {@link STUCK_MS}.
   */
  async killSilentOwner(): Promise<number | null> {
    const owner = this.#peers.get(this.#host.state().owner)
    if (owner === undefined) return null
    if (this.#silence.of(owner) <= patience(this.#times.silence, this.#ownTimes.heartbeat)) return null
    killPeer(owner, 'the member that serves and is silent', this.#logger)
    await untilGone(() => (owner.died || this.#closed ? [] : [owner.pid]), STUCK_MS)
    return owner.pid
  }

  /** Ends the handoff for `reason`, unless Commit was sent. */
  cancel(reason: FdbError): CancelResult {
    const { joiner, phase } = this.#host.state()
    if (isCommitted(phase) || phase === 'released') return 'late'
    if (!isBeforeCommit(phase)) return 'idle'
    const peer = this.#peers.get(joiner)
    if (peer !== undefined) peer.reason = reason
    this.#host.dispatch({ type: 'cancel' })
    return 'cancelled'
  }

  /** The host calls this after each step of the state machine. */
  stepped(): void {
    const { phase, joiner, owner } = this.#host.state()
    if (owner === NOBODY && this.#owner !== NOBODY && isBeforeCommit(phase))
      this.#peers.get(joiner)?.link.post({ unserved: {} })
    this.#noteOwner(owner, phase)
    if (phase === this.#phase) return
    const event = eventOf(this.#phase, phase, this.#earlierPhase)
    this.#earlierPhase = this.#phase
    this.#phase = phase
    if (event !== null) this.#noteEvent(event, joiner === NOBODY ? owner : joiner)
    if (phase === 'offering') {
      const peer = this.#peers.get(joiner)
      if (peer !== undefined) this.#joined = { id: joiner, lineage: peer.lineage }
      this.timeline.startHandoff(peer?.pid ?? 0)
    }
    this.timeline.enter(phase)
    this.#logger.debug({ phase }, 'handoff phase')
    this.#setDeadline(phase)
    this.#successorWatch.enter(phase)
    if (phase === 'probation') this.#probation.start()
    else this.#probation.end()
    this.#prune()
    this.#host.changed()
  }

  /** Records an order of an operator. */
  noteOrder(type: EventType, by: Requester | undefined): void {
    this.#host.note?.(type, orderFacts(by))
  }

  /** Whether a process of another user has ever been a peer. */
  get hadForeign(): boolean {
    return this.#peers.hadForeign
  }

  /** Carries out an effect. The next effect waits for the promise. */
  perform(effect: HolderEffect): void | Promise<void> {
    switch (effect.type) {
      case 'tell':
        return this.#sendTo(effect.to, effect.message)
      case 'seal':
        return this.#repeat('seal', () => {
          const { from, below } = effect
          return this.#peers.hadForeign
            ? this.segmentSet.sealAside(from, below)
            : this.segmentSet.seal(from, below)
        })
      case 'make':
        return this.#offerSender.make(effect.epochs, effect.offer ?? false)
      case 'mark':
        return this.#repeat('mark', () => this.segmentSet.mark(effect.epoch))
      case 'refuse':
        return this.#refuse(effect.id, effect.because)
      case 'failed':
        return this.#noteFailure(effect.id, effect.phase)
    }
  }

  outcome(effect: HolderEffect, outcome: Outcome): void {
    if (outcome.done) {
      if (effect.type === 'seal') this.#prune()
      return
    }
    this.#logger.error(
      { err: outcome.error, effect: effect.type },
      'a step of the handoff failed; the steps that depend on it are skipped',
    )
    if (effect.type !== 'make') return
    const joiner = this.#peers.get(this.#host.state().joiner)
    if (joiner !== undefined)
      joiner.reason ??= outOfDescriptors('the segments for the successor cannot be made', outcome.error)
    this.#host.dispatch({ type: 'unmade' })
  }

  close(): void {
    this.#closed = true
    this.#deadline?.clear()
    this.#probation.end()
    this.#successorWatch.end()
    clearInterval(this.#beats)
    this.#renewal.close()
    this.#peers.close()
  }

  // ---- peers

  #onLost(peer: Peer): void {
    this.#host.dispatch({ type: 'lost', id: peer.id })
    this.#forgetIfIdle(peer)
    this.#host.changed()
  }

  #onDied(peer: Peer): void {
    this.#host.dispatch({ type: 'dead', id: peer.id })
    this.#peers.forget(peer)
    this.#host.changed()
  }

  #onUndelivered(peer: Peer, taken: boolean): void {
    peer.holds = taken
    this.#host.dispatch({ type: 'undelivered', id: peer.id, taken })
    if (!peer.link.open) this.#forgetIfIdle(peer)
    this.#host.changed()
  }

  /** Forgets a peer that has lost its link, unless the state machine needs it. The process may be alive, and may join again. */
  #forgetIfIdle(peer: Peer): void {
    if (!concernedIds(this.#host.state()).includes(peer.id)) this.#peers.forget(peer)
  }

  // ---- effects

  #repeat(what: string, act: () => void | Promise<void>): void | Promise<void> {
    return repeatUntilDone(act, what, this.#logger, () => this.#closed)
  }

  #sendTo(to: Id, message: ToMember): void {
    const peer = this.#peers.get(to)
    // The joiner is compared with the position that Frozen reports, never with an earlier one, also if the owner cannot be told.
    if (peer !== undefined && message.kind === 'freeze') peer.position = null
    if (peer === undefined || !peer.link.open || peer.returning) return
    switch (message.kind) {
      case 'offer':
        this.#offerSender.offer(peer, message)
        return
      case 'abort': {
        const { code, message: why } = this.#reason(peer)
        peer.link.post({ abort: { code, message: why, phase: this.#phase } })
        return
      }
      case 'retire':
      case 'released':
        peer.link.post({ [message.kind]: { givenUp: [...this.givenUp] } })
        return
      case 'sealed': {
        const owner = this.#peers.get(this.#host.state().owner)
        peer.link.post(packToMember(message, this.#host.position() ?? owner?.position ?? undefined))
        return
      }
    }
    peer.link.post(packToMember(message))
  }

  #refuse(id: Id, because: Refusal): void {
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    const message = joinRefusal(because, other => this.#peers.get(other)?.pid)
    this.#peers.refuse(peer, new FdbError('ERR_FDB_BUSY', message, { retryable: true }))
  }

  /** Records that the process that served has ended, and no other one can serve. */
  #noteOwner(owner: Id, phase: HolderPhase): void {
    const before = this.#owner
    if (owner === before) return
    this.#owner = owner
    if (owner === NOBODY && phase === 'idle') this.#noteEvent('service.unserved', before)
  }

  #noteEvent(type: EventType, id: Id, facts: EventFacts = {}): void {
    const { epoch } = this.#host.state()
    const pid = this.#peers.get(id)?.pid
    this.#host.note?.(type, { ...(pid !== undefined && { process: pid }), epoch, ...facts })
  }

  #noteFailure(id: Id, phase: HolderPhase): void {
    const peer = this.#peers.get(id)
    const reason = this.#reason(peer)
    // A peer that has died may be forgotten.
    const lineage = peer?.lineage ?? (this.#joined?.id === id ? this.#joined.lineage : null)
    this.timeline.fail({ code: reason.code, phase, at: Date.now(), message: reason.message }, lineage)
    const type = isCommitted(phase) ? 'rollback.started' : 'handoff.failed'
    this.#noteEvent(type, id, { phase, code: reason.code, reason: reason.message })
    const { code } = reason
    const requester = code === 'ERR_FDB_SUCCESSOR_LEFT' && peer !== undefined ? requesterOf(peer) : null
    const { owner } = this.#host.state()
    if (requester === null) {
      const now = owner === NOBODY ? 'no process serves' : 'the incumbent continues to serve'
      this.#logger.warn({ code, phase, pid: peer?.pid, err: reason }, `the handoff failed; ${now}`)
    } else {
      const pid = this.#peers.get(owner)?.pid ?? process.pid
      this.#logger.info({ code, phase, pid: peer?.pid }, `process ${pid} serves again: ${requester}`)
    }
    this.#host.changed()
  }

  #prune(): void {
    const { phase, epoch } = this.#host.state()
    if (phase === 'idle') this.segmentSet.prune(epoch)
  }

  /** Returns the reason that a failed peer gave, otherwise a reason from what this process observed. */
  #reason(peer: Peer | undefined): FdbError {
    if (peer?.rollsBack) return peer.reason ?? leftReason(peer)
    return peer?.reason ?? observedReason(peer, this.#facts)
  }

  get #facts(): HandoffFacts {
    return { phase: this.#phase, times: this.#times, servedMs: this.#probation.sinceMs }
  }

  // ---- time

  /** The limits of the present handoff: those that the incumbent reported, otherwise this holder's. */
  get #times(): HandoffTimes {
    const { phase, owner, standby } = this.#host.state()
    const incumbent = this.#peers.get(phase === 'probation' ? standby : owner)
    return incumbent === undefined ? this.#ownTimes : { ...this.#ownTimes, ...incumbent.times }
  }

  /** Sends heartbeats, by which members notice a stopped holder: if a daemon falls silent, its members start to accept. */
  #beat(): void {
    this.#silence.tick()
    for (const peer of this.#peers.reachable) peer.link.beat({ healthy: true })
  }

  /** `mostMs` bounds the time until the next look. */
  #setDeadline(phase: HolderPhase, mostMs = Number.POSITIVE_INFINITY): void {
    this.#deadline?.clear()
    const owner = this.#peers.get(this.#host.state().owner)
    const limit = phaseLimit(phase, this.#times, this.#silence.of(owner))
    if (limit === undefined) return
    this.#deadline = afterReading(Math.min(limit, mostMs), () => {
      if (phase === 'quiescing') this.timeline.quiesceIsLate()
      const joiner = this.#peers.get(this.#host.state().joiner)
      // Both are stopped: each turn of the right would leave two segments. The joiner gets it soon after it is heard again.
      const isInVain = phase === 'returning' && joiner !== undefined && this.isSilent(joiner)
      if (!isInVain) this.#host.dispatch({ type: 'deadline' })
      // The phase is the same, for example because the only process that could serve has no channel: wait again.
      if (!this.#closed && this.#host.state().phase === phase)
        this.#setDeadline(phase, isInVain ? this.#times.heartbeat : undefined)
    })
  }

  #noteKept(peer: Peer): void {
    this.#logger.error(
      { pid: peer.pid, err: observedReason(peer, this.#facts) },
      'the successor is not healthy but is kept, because the standby cannot take over again',
    )
  }
}

const REPEAT_BACKOFF = { firstMs: 10, longestMs: 1_000 }

/** Repeats `act` until it succeeds, or until `over` returns true because `act` is not needed any more. */
export function repeatUntilDone(
  act: () => void | Promise<void>,
  what: string,
  logger: Logger,
  over: () => boolean,
): void | Promise<void> {
  const failed = (error: unknown) => {
    logger.error(
      { err: error, effect: what },
      'a step of the handoff failed; it is repeated until it succeeds',
    )
    let last = String(error)
    return repeatAfterFailure(act, over, later => {
      // A repeated failure is logged once.
      if (String(later) !== last) logger.error({ err: later, effect: what }, 'the step still fails')
      last = String(later)
    })
  }
  try {
    return act()?.catch(failed)
  } catch (error) {
    return failed(error)
  }
}

/** Calls `failed` with each further failure. */
async function repeatAfterFailure(
  act: () => void | Promise<void>,
  over: () => boolean,
  failed: (error: unknown) => void,
): Promise<void> {
  const backoff = new Backoff(REPEAT_BACKOFF)
  while (!over()) {
    await new Promise(resolve => setTimeout(resolve, backoff.next()))
    try {
      if (!over()) await act()
      return
    } catch (error) {
      failed(error)
    }
  }
}

const KEPT = 16

/** The last handoffs of this holder, newest last, and the last failure. */
export class Timeline {
  readonly records: HandoffRecord[] = []
  lastFailure: Failure | null = null
  #failed: Lineage | null = null
  #quiescing: { since: number; inTime: boolean } | null = null

  startHandoff(successor: number): void {
    this.records.push({ successor, phases: [], quiesce: null, outcome: 'under way', failure: null })
    if (this.records.length > KEPT) this.records.shift()
  }

  /** Returns the process whose handoff has failed; null if it is unknown, or if another handoff has failed since. */
  failedIn(failure: Failure): Lineage | null {
    return failure === this.lastFailure ? this.#failed : null
  }

  get current(): HandoffRecord | undefined {
    return this.records.at(-1)
  }

  /** Returns how long ago the probation of this process ended; null if that is not recorded. */
  releasedMs(pid: number): number | null {
    const record = this.records.findLast(
      ({ successor, outcome }) => successor === pid && outcome === 'released',
    )
    const at = record?.phases.at(-1)?.at
    return at === undefined ? null : Date.now() - at
  }

  enter(phase: HolderPhase): void {
    const { current } = this
    if (current === undefined) return
    // After its end the process that serves goes on in new segments again and again, which is no part of the handoff.
    const last = current.phases.at(-1)?.phase
    if (last === 'idle' || last === 'released') return
    current.phases.push({ phase, at: Date.now() })
    this.#noteQuiesce(current, phase)
    if (phase === 'probation') current.outcome = 'serving'
    else if (phase === 'released') current.outcome = 'released'
    else if (phase === 'idle' && current.outcome === 'serving') current.outcome = 'released'
    else if (phase === 'idle' && current.outcome === 'under way') current.outcome = 'serving'
  }

  quiesceIsLate(): void {
    if (this.#quiescing !== null) this.#quiescing.inTime = false
  }

  #noteQuiesce(current: HandoffRecord, phase: HolderPhase): void {
    const quiescing = this.#quiescing
    this.#quiescing = phase === 'quiescing' ? { since: performance.now(), inTime: true } : null
    if (quiescing === null) return
    const ms = Math.round((performance.now() - quiescing.since) * 10) / 10
    current.quiesce = { ms, inTime: quiescing.inTime && phase !== 'idle' }
  }

  /** `failed`: the process whose handoff has failed; null if it is unknown. */
  fail(failure: Failure, failed: Lineage | null): void {
    this.lastFailure = failure
    this.#failed = failed
    const { current } = this
    if (current === undefined) return
    current.failure = failure
    current.outcome = isCommitted(failure.phase) ? 'reverted' : 'failed'
  }
}
