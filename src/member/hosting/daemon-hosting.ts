import { FdbError } from '../../errors.js'
import { sendsBack } from '../../handoff/member-machine.js'
import type { Epoch } from '../../handoff/messages.js'
import { isCurrent } from '../../handoff/phases.js'
import { type Entry, entryItem } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { Operations } from '../../operator/requests.js'
import { RequestHandler } from '../../operator/server.js'
import { connectUnix } from '../../os/connect.js'
import type { fdbroker } from '../../proto/wire.js'
import type { Segment } from '../../state/segment.js'
import type { StateLog } from '../../state/state-log.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import type { BundleItem } from '../../wire/bundle.js'
import { type Link, peerLeft, remoteError, type WireEnvelope } from '../../wire/link.js'
import type { ChangeNotifier } from '../../wire/pending.js'
import { type Call, Calls, deadlineError, Pending } from '../../wire/pending.js'
import type { Moves } from '../drain/moves.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import { WriteReceiver } from '../state/write-receiver.js'
import { HolderLink } from './holder-link.js'
import type { JoinedHolder } from './joined-holder.js'

/** The interval at which the size of the present segment is checked. */
const SIZE_CHECK_MS = 1_000
/** The longest wait for a new segment from the daemon. */
const SEGMENT_MS = 1_000

export interface DaemonHostingDeps {
  readonly settings: Settings
  readonly generation: number
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly changes: ChangeNotifier
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  readonly moves: Moves
  readonly heartbeat: Heartbeat
  readonly joined: JoinedHolder
  readonly operations: Operations
  readonly state: StateLog
  /** Throws ERR_FDB_CLOSED if this process has left. */
  readonly throwIfLeft: () => void
  /** Called when the handoff to this process cannot be undone any more. */
  readonly onSettled: () => void
  /** Starts the once-only work if no other process can do it. */
  readonly startWork: () => void
  /** Handles EndDrain. */
  readonly endWithin: (timeoutMs: number) => void
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
  readonly #registrations = new Registrations()
  readonly #requests: OperatorRequests
  readonly #sizeTimer: NodeJS.Timeout
  readonly #appends: AppendNotice
  #returning: AbortController | null = null
  #standbyReleased = false

  constructor(deps: DaemonHostingDeps) {
    this.#deps = deps
    const { joined, operations, state } = deps
    this.#requests = new OperatorRequests(operations, state, () => joined.link)
    this.#sizeTimer = setInterval(() => this.#checkSize(), SIZE_CHECK_MS).unref()
    this.#appends = new AppendNotice(state.appendListeners, () => joined.post({ appended: {} }))
  }

  /** True until the daemon reports that no standby is left, which may be a moment late. */
  get standsBy(): boolean {
    const { phase, source } = this.#deps.machine.member
    return (phase === 'serving' || phase === 'leaving') && source !== 0 && !this.#standbyReleased
  }

  /**
   * The daemon does not tell the owner of a joiner, but shares the two segments of a handoff before it makes the Offer, and seals them if the
   * handoff fails. A single one may be left of the handoff to this process.
   */
  get isHandingOver(): boolean {
    const { machine, segmentSet } = this.#deps
    const { epoch, link, phase } = machine.member
    if (link !== 'up' || !isCurrent(phase)) return false
    return segmentSet.all.filter(other => other.epoch > epoch && !other.sealed).length > 1
  }

  /** A daemon that lives may have given the right to another process. A restarted one seals first. */
  get isHeard(): boolean {
    const { joined, machine } = this.#deps
    return machine.member.link === 'up' || joined.holder?.dead === true
  }

  get acceptsReports(): boolean {
    return this.acceptsWrites
  }

  /** Whether the daemon accepts forwarded changes. If the serving member does not, the daemon refuses them. */
  get acceptsWrites(): boolean {
    return this.#deps.joined.facts?.forwardsWrites ?? false
  }

  handle(envelope: WireEnvelope): boolean {
    const { endDrain, moveRequest, registered, tellAppended } = envelope
    if (endDrain) {
      this.#deps.endWithin(endDrain.timeoutMs ?? 0)
      return true
    }
    if (moveRequest) {
      this.#deps.moves.noReceiver()
      return true
    }
    if (tellAppended) {
      this.#appends.want(tellAppended.wanted ?? false)
      return true
    }
    if (!registered) return this.#requests.handle(envelope)
    this.#registrations.onAnswer(registered)
    return true
  }

  onReleased(): void {
    const { onSettled } = this.#deps
    this.#standbyReleased = true
    if (this.#deps.machine.phase === 'serving') onSettled()
    else this.#deps.shutdown.handleVerdict('released')
  }

  onSilent(): void {
    this.#deps.machine.step({ type: 'silent' })
  }

  onHeard(): void {
    this.#deps.machine.step({ type: 'heard' })
  }

  /** Gives the daemon a dup, so that the entry survives this process. */
  store(entry: Entry): void | Promise<void> {
    if (this.#deps.joined.holder !== null) return this.#keep(entry)
  }

  drop(name: string): void {
    this.#deps.joined.post({ register: { drop: true, item: { name } } })
  }

  async renew(): Promise<void> {
    const { joined } = this.#deps
    const epoch = this.#writingEpoch
    if (epoch === null) return
    joined.post({ renew: {} })
    await this.#deps.changes.until(() => this.#writingEpoch !== epoch, SEGMENT_MS)
  }

  async replaceMerged(snapshot: Segment): Promise<void> {
    const { machine, segmentSet } = this.#deps
    if (machine.phase !== 'serving') return
    await this.#give([{ role: 'segment', epoch: snapshot.epoch, writable: false, fd: snapshot.fd }])
    segmentSet.replaceUpTo(snapshot.dup())
  }

  askForMove(): boolean {
    const { link } = this.#deps.joined
    if (!link?.open) return false
    link.post({ moveRequest: {} })
    return true
  }

  cancelHandoff(reason: FdbError): Promise<CancelResult> {
    return this.#requests.cancelHandoff(reason)
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

  reconnect(): void {
    const { generation, heartbeat, joined, machine, settings, shutdown, startWork } = this.#deps
    this.#returning?.abort()
    const returning = new AbortController()
    this.#returning = returning
    const old = joined.holder
    if (old === null) return
    old.link.close()
    void reconnectToDaemon(settings, old, generation, returning.signal).then(link => {
      if (link === null || shutdown.over) {
        link?.close()
        return
      }
      const restarted = link.facts.incarnation !== old.facts.incarnation
      old.close()
      joined.attach(link)
      // Back must be sent first: it claims all descriptors that the daemon has received before it.
      if (sendsBack(machine.phase)) this.#registrations.hold(link.link)
      else this.#registrations.repeat(link.link, settings.timeout)
      machine.step({ type: 'reconnected', restarted, sealed: machine.sealed })
      // A restarted daemon first decides which member serves.
      if (!restarted) startWork()
      heartbeat.start()
    })
    void old.fate().then(fate => {
      if (fate === 'dead' && joined.holder === old)
        machine.step({ type: 'fate', fate, sealed: machine.sealed })
    })
  }

  onBackSent(link: Link): void {
    this.#registrations.repeat(link, this.#deps.settings.timeout)
  }

  fail(why: FdbError): void {
    this.#registrations.fail(why)
  }

  close(): void {
    this.#requests.close()
    clearInterval(this.#sizeTimer)
    this.#appends.close()
    this.#returning?.abort()
  }

  /** The epoch in which this process writes, or null if it does not write. */
  get #writingEpoch(): Epoch | null {
    const { member, phase } = this.#deps.machine
    return phase === 'serving' ? member.epoch : null
  }

  /**
   * Asks the daemon for a new segment when the present one is large, so that the present one can be compacted. The daemon does not know this
   * process's limit. Not during a bulk of changes, which would start again in the new segment.
   */
  #checkSize(): void {
    const { joined, segmentSet, settings, state } = this.#deps
    const epoch = this.#writingEpoch
    if (epoch === null || state.amidBulk || !segmentSet.hasGrown(epoch, settings.stateLimits.renewBytes))
      return
    joined.post({ renew: {} })
  }

  async #keep(entry: Entry): Promise<void> {
    try {
      await this.#give([entryItem(entry)])
      this.#deps.throwIfLeft()
    } catch (error) {
      entry.fd.close()
      this.#takeBackFrom(entry.name)
      throw error
    }
  }

  /** Undoes a registration that failed or timed out, because the daemon may still have accepted it. */
  #takeBackFrom(name: string): void {
    const { registry } = this.#deps
    const present = registry.get(name)
    if (present !== undefined && registry.wanted.has(name))
      this.#give([entryItem(present)]).catch(error =>
        this.#deps.settings.logger.warn(
          { err: error, name },
          'the daemon may still have a descriptor whose registration has failed',
        ),
      )
    else this.drop(name)
  }

  async #give(items: readonly BundleItem[]): Promise<void> {
    const { joined } = this.#deps
    const link = joined.link
    if (link !== undefined) await this.#registrations.send(link, items, this.#deps.settings.timeout)
  }
}

/** The time to wait for the reply to a cancellation. Older daemons send none. */
const CANCELLED_MS = 1_000

/** Daemon hosting: the requests of operators, which the daemon forwards to the member that serves. */
export class OperatorRequests {
  readonly #state: StateLog
  readonly #link: () => Link | undefined
  readonly #requests: RequestHandler
  #cancelled: Pending<CancelResult> | null = null
  #writes: { link: Link; receiver: WriteReceiver } | null = null

  constructor(operations: Operations, state: StateLog, link: () => Link | undefined) {
    this.#state = state
    this.#link = link
    const heard = () => heardAll(this.#link())
    this.#requests = new RequestHandler(operations, body => this.#link()?.post(body), { heard })
  }

  /** Returns whether the message was a request. */
  handle(envelope: WireEnvelope): boolean {
    const { cancelCommand, write, result, upgradeCancelled } = envelope
    const link = this.#link()
    const answer = this.#requests.answer(envelope)
    if (answer !== null) {
      void answer.then(body => {
        // Only the reply of an upgrade may go over a new link: a restarted daemon uses the numbers of the other requests again.
        if (envelope.upgradeRequest) this.#link()?.post(body)
        // If `status` failed, an empty one is sent, because the daemon would take a Result as the answer to an upgrade.
        else link?.post(envelope.statusRequest && body.result ? { status: { json: '' } } : body)
      })
    } else if (write) this.#writesOf(link)?.receive(write)
    else if (cancelCommand) this.#requests.cancelCommand(cancelCommand.request ?? 0, gone())
    else if (upgradeCancelled) this.#cancelled?.resolve(upgradeCancelled.outcome as CancelResult)
    else if (result) {
      // The handoff of an upgrade has failed, and the daemon has reported that to the operator.
      this.#requests.cancelUpgrades(
        remoteError(result, { code: 'ERR_FDB_ABORTED', message: 'the handoff failed' }),
      )
    } else return false
    return true
  }

  /** Asks the daemon to give up the successor that this member started. */
  async cancelHandoff({ code, message }: FdbError): Promise<CancelResult> {
    this.#link()?.post({ cancelUpgrade: { code, message } })
    const cancelled = new Pending<CancelResult>()
    this.#cancelled = cancelled.limit(CANCELLED_MS, () => cancelled.resolve('cancelled'))
    return await cancelled.answer
  }

  close(): void {
    this.#requests.close(`process ${process.pid} ends`)
  }

  /** Returns the receiver of changes that draining generations and followers forward through the daemon. */
  #writesOf(link: Link | undefined): WriteReceiver | null {
    if (link === undefined) return null
    if (this.#writes?.link !== link)
      this.#writes = { link, receiver: new WriteReceiver(this.#state, body => link.post(body)) }
    return this.#writes.receiver
  }
}

/**
 * Resolves when the messages that had arrived before are read: if this process was stopped, the cancellation of a request may be among them.
 * Rejects if the daemon has left.
 */
async function heardAll(link: Link | undefined): Promise<void> {
  // Not in this call, which handles one of these messages.
  await new Promise(resolve => setImmediate(resolve))
  link?.channel.readNow()
  if (link === undefined || link.channel.isHungUp) throw gone()
}

function gone(): FdbError {
  return new FdbError('ERR_FDB_ABORTED', 'the sender of the order has gone: the order was not begun')
}

/** The refusal of a daemon that gives no reason. */
const REFUSED = { code: 'ERR_FDB_REJECTED', message: 'the daemon did not accept the registration' } as const

/** A registration that the daemon has not answered yet. */
interface Registration {
  /** Borrowed. */
  readonly items: readonly BundleItem[]
  /** The link over which the registration was sent last. */
  link: Link
}

/** Daemon hosting: the registrations of descriptors that the daemon must keep. */
export class Registrations {
  readonly #calls = new Calls<null, void, Registration>()
  #held: Link | null = null

  /** Resolves when the daemon has dups of `items`. Rejects with the daemon's error, ERR_FDB_DEADLINE or ERR_FDB_CHANNEL_CLOSED. */
  async send(link: Link, items: readonly BundleItem[], timeoutMs: number): Promise<void> {
    const call = this.#calls.open(null, { items, link })
    try {
      await this.#announce(call, timeoutMs)
    } catch (error) {
      call.pending.reject(error)
    }
    const late = () => call.pending.reject(deadlineError('the daemon’s reply to Register', timeoutMs))
    await call.pending.limit(timeoutMs, late).answer
  }

  /** Sends nothing over this new link until {@link repeat}. Limits of time run on. */
  hold(link: Link): void {
    this.#held = link
  }

  /** Repeats the unanswered registrations over a new link, and sends those that were held. */
  repeat(link: Link, timeoutMs: number): void {
    if (this.#held === link) this.#held = null
    for (const call of this.#calls.callsTo()) {
      call.link = link
      this.#announce(call, timeoutMs).catch(error => call.pending.reject(error))
    }
  }

  onAnswer(registered: fdbroker.wire.Registered.$Properties): void {
    this.#calls.answer(null, registered.request ?? 0, () => {
      if (registered.code) throw remoteError(registered, REFUSED)
    })
  }

  fail(error: Error): void {
    this.#calls.fail(error)
  }

  /** Sends a registration. Ignores the loss of the link, because {@link repeat} follows. */
  async #announce(call: Call<null, void> & Registration, timeoutMs: number): Promise<void> {
    const { items, link, number: request } = call
    if (link === this.#held) return
    try {
      await link.sendBundle(items, timeoutMs)
      await link.send({ register: { request } })
    } catch (error) {
      if (call.link === link && !peerLeft(error)) throw error
    }
  }
}

const DAEMON_RETRY_MS = 100

/** Connects to the daemon, or to a restarted one, as a returning member. Retries until `signal` aborts, then returns null. */
export async function reconnectToDaemon(
  settings: Settings,
  old: HolderLink,
  generation: number,
  signal: AbortSignal,
): Promise<HolderLink | null> {
  const { control, timeout: timeoutMs, logger } = settings
  const { incarnation } = old.facts
  while (!signal.aborted && control !== null) {
    try {
      const fd = await connectUnix(control, { timeoutMs, signal, as: 'member' })
      return await HolderLink.greet(fd, settings, { timeoutMs, signal }, { generation, incarnation })
    } catch (error) {
      if (signal.aborted) return null
      logger.debug({ err: error }, 'the daemon cannot be reached yet')
      await new Promise(resolve => setTimeout(resolve, DAEMON_RETRY_MS))
    }
  }
  return null
}

const EVERY_MS = 10

/** Notifies the daemon when this process's log has grown: at once, then at most every {@link EVERY_MS}. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #notify: () => void
  readonly #onAppend = () => this.#schedule()
  #notifiedAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: the set of functions that the log calls when it has grown. */
  constructor(appended: Set<() => void>, notify: () => void) {
    this.#appended = appended
    this.#notify = notify
  }

  /** Starts or stops the notices. The first one reports the present state. */
  want(wanted: boolean): void {
    this.close()
    if (!wanted) return
    this.#appended.add(this.#onAppend)
    this.#schedule()
  }

  close(): void {
    this.#appended.delete(this.#onAppend)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #schedule(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        this.#notifiedAt = performance.now()
        this.#notify()
      },
      Math.max(0, this.#notifiedAt + EVERY_MS - performance.now()),
    ).unref()
  }
}
