import { isTooDeep, jsonObject } from '../../base/json.js'
import { FdbError } from '../../errors.js'
import type { EventLog } from '../../events/event-log.js'
import {
  EVENTS_COMMAND,
  type EventFacts,
  type EventType,
  failureFacts,
  readEventsBody,
} from '../../events/events.js'
import type { Requester } from '../../events/requester.js'
import { type HolderPhase, isBeforeCommit, isUndecided, refusesJoiners } from '../../handoff/phases.js'
import type { Entry } from '../../holder/entry.js'
import type { Holder } from '../../holder/holder.js'
import { isOrphan } from '../../holder/message-handler.js'
import type { Peer } from '../../holder/peer.js'
import type { HandoffTimes } from '../../holder/times.js'
import { OWN_LIMIT, orderToEnd } from '../../member/drain/drain-orders.js'
import {
  COMMAND_MS,
  type CommandContext,
  type CommandOrder,
  type Operations,
  readCommandReply,
  type Upgraded,
  type UpgradeOrder,
  type UpgradeProgress,
} from '../../operator/requests.js'
import {
  noStandbyError,
  ORDER_EVENTS,
  ROLLBACK,
  readStopOrder,
  STOP,
  stopBody,
} from '../../operator/service-commands.js'
import type { Failure, UnfitReport } from '../../operator/status-report.js'
import { isOfAnother, type Lineage } from '../../os/lineage.js'
import { isSame, type ProcessIdentity } from '../../os/process-identity.js'
import type { fdbroker } from '../../proto/wire.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import type { WireEnvelope } from '../../wire/link.js'
import { Calls, ChangeNotifier } from '../../wire/pending.js'
import type { DescriptorTable } from './descriptor-table.js'
import { ForwardedUpgrades, leaderOf } from './forwarded-upgrades.js'
import type { ForwardedWrites } from './forwarded-writes.js'
import { recoveringError } from './recovery.js'
import { standbyOf } from './sole-copy.js'
import { isOthers, StatusRequests } from './status-requests.js'

/** A status request waits this long for the end of a handoff, so that it rarely shows an intermediate state. */
const STATUS_MS = 1_000

/** A successor's process takes about this long to start: a handoff that ends within this time does not block it. */
const START_MS = 1_000

/** The member keeps the time limit of the first order. */
const LAST_STOP: CommandOrder = {
  name: STOP,
  service: '',
  body: Buffer.from(stopBody({ timeoutMs: null, drop: false })),
}

/** The reason of a standby that has reconnected, and does not say it again. */
const UNKNOWN: UnfitReport = { code: 'ERR_FDB_UNFIT', message: 'the process cannot serve' }

export interface ServiceOperationsDeps {
  readonly times: HandoffTimes
  readonly holder: Holder
  readonly descriptorTable: DescriptorTable
  /** The generations that drain and are no members any more. */
  readonly older: Pick<ForwardedWrites, 'draining' | 'endDraining'>
  /** The members for which a restarted daemon waits. */
  readonly missing: {
    all(): readonly ProcessIdentity[]
    /** Kills these members. Rejects with ERR_FDB_STUCK. */
    kill(): Promise<void>
  }
  readonly service: {
    readonly name: string
    /** See {@link ServiceOperations.stopped}: from the previous daemon. */
    readonly stopped?: ProcessIdentity | undefined
    readonly events: Pick<EventLog, 'note' | 'read'>
    /** Returns the member that takes connections while no member serves this service. */
    receiver(): Peer | undefined
    /** Returns the status, based on the serving member's report if there is one. */
    describe(answer: Record<string, unknown> | null): object
    /** Whether the daemon hands over to its next version, or is about to. */
    paused(): boolean
    /** An operator's upgrade has begun or ended. */
    changed(): void
  }
}

/** A process that is, or was, a member. */
export type MemberProcess = Pick<Peer, 'pid' | 'identity' | 'proven' | 'pidfd'>

/** The current situation of a service, for its orchestrator. */
export interface ServiceStanding {
  /** The member that has the right to write, or null. */
  readonly owner: Peer | null
  /** The owner accepts but cannot write. */
  readonly isUnfit: boolean
  /** The process that joins accepts clients, because it did not hear of the holder for a while. */
  readonly joinerAccepts: boolean
  /** All other processes of the service: they join, stand by, or drain. */
  readonly others: readonly MemberProcess[]
  readonly phase: HolderPhase
  /** The remaining milliseconds of probation, or null outside of probation. */
  readonly probationLeftMs: number | null
  readonly lastFailure: Failure | null
  /** The process of that failure; null if it is unknown. */
  readonly failed: Lineage | null
  /** Pids of processes that got descriptors, and have neither released them nor ended. */
  readonly bound: readonly number[]
  /** The processes for which a restarted daemon waits: they serve as before, but have not reconnected. */
  readonly missing: readonly ProcessIdentity[]
  /** Borrowed. */
  readonly entries: readonly Entry[]
}

/** The status of a service, of which a part comes from the serving member. */
export interface ServiceReport {
  /** Whether the member is another user's process, or its joining successor is. */
  readonly isOthers: boolean
  /** Length of the member's part. */
  readonly characters: number
  /** Returns the status, with the member's part if `whole`. */
  describe(whole: boolean): object
}

/** Operators' requests to one service of a daemon, which the serving member answers. */
export class ServiceOperations implements Operations {
  readonly #deps: ServiceOperationsDeps
  readonly #statusRequests = new StatusRequests()
  readonly #commands = new ForwardedCommands()
  readonly #upgrades: ForwardedUpgrades
  readonly #changes = new ChangeNotifier()
  #stopped: ProcessIdentity | undefined
  #closed = false

  constructor(deps: ServiceOperationsDeps) {
    this.#deps = deps
    this.#upgrades = new ForwardedUpgrades(deps.times)
    const { stopped } = deps.service
    if (stopped !== undefined) void this.#leaveBehindOlder(stopped, LAST_STOP)
  }

  /** The member that was told to stop, and changes the state for older generations until this daemon, or the next one, orders it again. */
  get stopped(): ProcessIdentity | undefined {
    return this.#stopped
  }

  /** Resolves when it is decided which member serves, after `ms` at the latest. Returns null if no decision is pending. */
  whenDecided(ms: number): Promise<void> | null {
    const { holder, times } = this.#deps
    return isUndecided(holder.state.phase) ? this.#whileIn(isUndecided, Math.min(ms, times.commit)) : null
  }

  get standing(): ServiceStanding {
    const { descriptorTable, holder, missing, older } = this.#deps
    const { timeline } = holder
    const { lastFailure } = timeline
    const owner = this.#serving
    const { bound, joiner, phase, unfit } = holder.state
    const pids = bound.map(id => holder.peer(id)?.pid ?? 0)
    return {
      owner: owner ?? null,
      isUnfit: unfit.includes(holder.state.owner),
      joinerAccepts: isOrphan(holder.peer(joiner)),
      others: [...holder.peers.filter(peer => peer !== owner), ...older.draining],
      phase,
      probationLeftMs: holder.probationLeftMs,
      lastFailure,
      failed: lastFailure && timeline.failedIn(lastFailure),
      bound: pids,
      missing: phase === 'rebuilding' ? missing.all() : [],
      entries: descriptorTable.entriesFor(owner),
    }
  }

  /** The member that takes the connections of members that no longer serve. */
  get receiver(): Peer | undefined {
    return this.#serving ?? this.#deps.service.receiver()
  }

  /** The member that has the right to write, or had it last. */
  get #serving(): Peer | undefined {
    const { holder } = this.#deps
    return holder.peer(holder.state.owner)
  }

  /** Records an event of the service. */
  note(type: EventType, facts?: EventFacts): void {
    this.#deps.service.events.note(type, facts)
  }

  /** Whether the service waits for members of the previous daemon. */
  get isRecovering(): boolean {
    return this.#deps.holder.state.phase === 'rebuilding'
  }

  /** Whether a process of another user takes part in the service, which may be silent for as long as that user likes. */
  get isOthers(): boolean {
    const { holder } = this.#deps
    const { joiner, owner } = holder.state
    return [joiner, owner].some(id => holder.peer(id)?.link.channel.foreignUser !== undefined)
  }

  async status(): Promise<object> {
    return (await this.report()).describe(true)
  }

  /** Asks the serving member for its part of the status. */
  async report(): Promise<ServiceReport> {
    // During recovery the status does not wait for the decision, which may take long: it must name the missing members. Nor does it for other users.
    const { isOthers } = this
    if (!isOthers && this.#deps.holder.state.phase !== 'rebuilding')
      await this.#whileIn(isUndecided, STATUS_MS)
    const peer = this.#serving
    const json = peer === undefined ? '' : await this.#statusRequests.ask(peer)
    return {
      isOthers,
      characters: json.length,
      // Ignores the report if another member serves now, so that the status is consistent.
      describe: whole =>
        this.#deps.service.describe(whole && this.#serving === peer ? readReport(json) : null),
    }
  }

  /** Orders the serving member to start its successor, which joins at this daemon. */
  async upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
    by?: Requester,
  ): Promise<Upgraded> {
    const { holder, service } = this.#deps
    const { name } = service
    const left = await this.#awaitDecision(order.timeoutMs, cancel)
    if (order.killStuck) {
      await this.#killMissing(cancel)
      this.#refuseDuringPause()
      await holder.killStuck()
      this.#refuseDuringPause()
      const ended = await holder.killSilentOwner()
      if (ended !== null) {
        throw new FdbError(
          'ERR_FDB_BUSY',
          `${name}: the serving process ${ended} did not respond and was killed; the daemon keeps its listeners and its state: start the next version`,
          { retryable: true },
        )
      }
    }
    await this.#refuseDuringHandoff(cancel)
    this.#refuseDuringPause()
    const owner = this.#owner
    if (!owner.link.open || this.#upgrades.has(owner)) {
      const why = owner.link.open
        ? 'already carries out an upgrade'
        : 'is not connected to the daemon at the moment'
      throw new FdbError('ERR_FDB_BUSY', `${name}: process ${owner.pid}, which serves, ${why}: try again`, {
        retryable: true,
      })
    }
    holder.noteOrder('upgrade.ordered', by)
    try {
      const upgraded = await this.#upgrades.ask(owner, { ...order, timeoutMs: left }, progress, cancel)
      return this.#served(owner, upgraded, progress)
    } catch (error) {
      service.events.note('upgrade.failed', failureFacts(error))
      throw error
    } finally {
      service.changed()
    }
  }

  /** Throws ERR_FDB_BUSY if the next version of the daemon takes over: members that are silent here are about to reconnect to that one. */
  #refuseDuringPause(): void {
    const { name, paused } = this.#deps.service
    if (!paused()) return
    const why = `${name}: the daemon is being replaced by its next version: try again`
    throw new FdbError('ERR_FDB_BUSY', why, { retryable: true })
  }

  /** The member does not know which process serves: its command may be a wrapper, or another command may have been faster. */
  #served(before: Peer, started: Upgraded, progress: (step: UpgradeProgress) => void): Upgraded {
    const now = this.#serving
    if (now === undefined || now === before) return started
    const { generation, lineage, pid } = now
    if (isOfAnother(lineage, leaderOf(before, started.pid)))
      progress({ phase: 'unserved', at: Date.now(), pid: started.pid })
    return { pid, generation }
  }

  /** Whether an operator waits for an upgrade: its successor may not have joined yet. False for a member of another user. */
  get upgrading(): boolean {
    const owner = this.#serving
    return owner !== undefined && !isOthers(owner) && this.#upgrades.has(owner)
  }

  /**
   * Forwards a command to the serving member. Older generations change the state through that member, so an order to stop lets it leave when they have
   * ended, or when it must, to end in time.
   */
  async command(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    if (order.name !== STOP || this.#deps.older.draining.length === 0) return await this.order(order, context)
    const body = stopBody({ ...readStopOrder(Buffer.from(order.body)), isFollowed: true })
    const reply = await this.order({ ...order, body: Buffer.from(body) }, context)
    const stopped = this.#serving?.identity
    if (stopped !== undefined) void this.#leaveBehindOlder(stopped, order)
    return reply
  }

  /** Forwards a command to the serving member, as it is. */
  async order(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    const { holder, service } = this.#deps
    // Answered here, because the question may be why no member serves.
    if (order.name === EVENTS_COMMAND && holder.state.phase !== 'rebuilding')
      return Buffer.from(JSON.stringify(service.events.read(readEventsBody(order.body))))
    const type = ORDER_EVENTS.get(order.name)
    if (type !== undefined) holder.noteOrder(type, context.by)
    if (order.name === STOP) this.#refuseNext()
    await this.#awaitDecision(0, context.signal)
    // Checked here, because only the daemon knows for certain whether a standby can take over again.
    if (order.name === ROLLBACK && standbyOf(holder.state, id => holder.peer(id)) === undefined)
      throw noStandbyError(
        `the member that serves "${service.name}"`,
        this.#unfitStandby,
        holder.timeline.releasedMs(this.#serving?.pid ?? 0),
      )
    const reply = await this.#commands.ask(this.#owner, order, context)
    if (order.name === STOP) this.endDraining(readStopOrder(Buffer.from(order.body)).timeoutMs)
    return reply
  }

  /** Gives the order to stop when no older generation is left, unless the member has left by then. */
  async #leaveBehindOlder(member: ProcessIdentity, order: CommandOrder): Promise<void> {
    const { holder, older, service } = this.#deps
    this.#stopped = member
    service.changed()
    const owner = () => {
      const serving = this.#serving
      return serving !== undefined && isSame(serving.identity, member) ? serving : undefined
    }
    const hasLeft = () => this.#closed || (!this.isRecovering && owner() === undefined)
    // A member whose right is not decided refuses commands.
    const isHeard = () => owner()?.link.open === true && !isUndecided(holder.state.phase)
    await this.#changes.until(() => hasLeft() || (isHeard() && older.draining.length === 0), null)
    if (this.#closed) return
    const { signal } = new AbortController()
    const peer = owner()
    // A member that does not get the order leaves by itself, a little later.
    if (peer !== undefined) await this.#commands.ask(peer, order, { signal }).catch(() => {})
    this.#stopped = undefined
    service.changed()
  }

  /**
   * Refuses a next version that would serve on after an order to end: the commit may be sent before the serving member can refuse it. Does nothing if that
   * member cannot get the order.
   */
  #refuseNext(): void {
    const { holder } = this.#deps
    if (isBeforeCommit(holder.state.phase) && this.#serving?.link.open)
      holder.cancel(new FdbError('ERR_FDB_ABORTED', 'an operator has stopped the service'))
  }

  /** As {@link Holder.cancel}. */
  cancelHandoff(reason: FdbError): CancelResult {
    return this.#deps.holder.cancel(reason)
  }

  /** Makes the processes that have left close their connections within this time (null: as configured), and end. */
  endDraining(timeoutMs: number | null): void {
    const { holder, older } = this.#deps
    const { joiner, owner, standby } = holder.state
    older.endDraining(timeoutMs)
    const left = holder.peers.filter(({ id }) => ![joiner, owner, standby].includes(id))
    for (const { link } of left) orderToEnd(link, timeoutMs ?? OWN_LIMIT)
  }

  /** Closes the listeners of a service that ends, if no member serves: no process will accept the clients that wait there. */
  closeListeners(): void {
    const { descriptorTable, holder } = this.#deps
    if (holder.state.phase === 'idle' && this.#serving === undefined) descriptorTable.closeListeners()
  }

  /** Handles a message of a member. Returns whether it was an answer, or a part of one. */
  handleAnswer(peer: Peer, { status, progress, commandReply, result }: WireEnvelope): boolean {
    if (status) this.#statusRequests.handleAnswer(peer, status.json ?? '')
    else if (progress) this.#upgrades.handleProgress(peer, progress)
    else if (commandReply) this.#commands.handleReply(peer, commandReply)
    else if (result) this.#upgrades.handleResult(peer, result)
    else return false
    return true
  }

  /** Ends the waits for a phase that the state machine has now reached, or for older generations that have ended. */
  changed(): void {
    this.#commands.changed()
    this.#upgrades.changed()
    this.#changes.notify()
  }

  /** Ends all waits, because the daemon no longer holds the service. */
  close(): void {
    this.#closed = true
    this.#changes.notify()
  }

  /** Rejects the waiting upgrade requests with the reason of the last failed handoff. */
  handoffFailed(): void {
    const { timeline } = this.#deps.holder
    const failure = timeline.lastFailure
    if (failure !== null) this.#upgrades.failed(failure, timeline.failedIn(failure))
  }

  /** Settles the requests to a member that has left. */
  forget(peer: Peer): void {
    this.#statusRequests.forget(peer)
    this.#commands.forget(peer)
    this.#upgrades.forget(peer)
  }

  /** Waits while the handoff is in one of these phases, at most for `ms`. Rejects with the signal's reason. */
  #whileIn(phases: (phase: HolderPhase) => boolean, ms: number, signal?: AbortSignal): Promise<void> {
    return this.#changes.until(() => this.#closed || !phases(this.#deps.holder.state.phase), ms, signal)
  }

  /** Kills the members for which a restarted daemon waits. A member that lives has reconnected within the limit of a member's silence. */
  async #killMissing(cancel: AbortSignal): Promise<void> {
    const isRebuilding = (phase: HolderPhase) => phase === 'rebuilding'
    const { holder, missing, times } = this.#deps
    await this.#whileIn(isRebuilding, times.silence, cancel)
    this.#refuseDuringPause()
    // A daemon that no longer holds the service does not know which members are missing.
    if (!this.#closed && isRebuilding(holder.state.phase)) await missing.kill()
  }

  /** Waits until it is decided which member serves, at most for a commit. Returns the remaining `timeoutMs` (0: no limit). Rejects with the signal's reason. */
  async #awaitDecision(timeoutMs: number, signal: AbortSignal): Promise<number> {
    const startedAt = performance.now()
    const { commit } = this.#deps.times
    await this.#whileIn(isUndecided, timeoutMs > 0 ? Math.min(timeoutMs, commit) : commit, signal)
    return timeoutMs > 0 ? Math.max(1, Math.round(timeoutMs - (performance.now() - startedAt))) : 0
  }

  /** Throws ERR_FDB_BUSY if a running handoff would refuse the successor. */
  async #refuseDuringHandoff(signal: AbortSignal): Promise<void> {
    await this.#whileIn(refusesJoiners, START_MS, signal)
    const { holder, service } = this.#deps
    const { joiner, owner, phase } = holder.state
    if (!refusesJoiners(phase)) return
    const reason =
      phase === 'probation'
        ? `${processText(holder.peer(owner), 'the version that serves')} is in probation: try again when that is over, or return to the previous version (fd-broker rollback)`
        : `${processText(holder.peer(joiner))} is taking over (phase ${phase}): try again when that is over`
    throw new FdbError('ERR_FDB_BUSY', `${service.name}: ${reason}`, { retryable: true, phase })
  }

  /** Why the standby cannot take over again; null if it can, or if there is none. */
  get #unfitStandby(): UnfitReport | null {
    const { holder } = this.#deps
    const { phase, standby, unfit } = holder.state
    if (phase !== 'probation' || !unfit.includes(standby)) return null
    const { code, message } = holder.peer(standby)?.reason ?? UNKNOWN
    return { code, message }
  }

  /** The serving member. Throws if there is none. */
  get #owner(): Peer {
    const owner = this.#serving
    if (owner !== undefined) return owner
    const { holder, missing, service } = this.#deps
    const { joiner, phase } = holder.state
    if (phase === 'rebuilding') throw recoveringError(missing.all())
    const reason =
      phase === 'committing'
        ? `${processText(holder.peer(joiner))} must serve now and has not confirmed it yet: try again`
        : 'no member serves: start one'
    throw new FdbError('ERR_FDB_BUSY', `${service.name}: ${reason}`, { retryable: true })
  }
}

/** Names a process; `role` stands for one that has not reconnected since the daemon was replaced. */
export function processText(peer: Pick<Peer, 'pid'> | undefined, role = 'the next version'): string {
  return peer === undefined ? role : `process ${peer.pid}`
}

/** Maximum number of commands that wait for a reply. */
const MOST_COMMANDS = 64

/** Forwards operators' commands to the serving member, and its replies back. */
export class ForwardedCommands {
  readonly #calls = new Calls<Peer, Buffer, Pick<Peer, 'link'>>()

  /**
   * Resolves with the member's reply. Rejects with the member's error, ERR_FDB_BUSY, ERR_FDB_CHANNEL_CLOSED, and with ERR_FDB_DEADLINE or the
   * signal's reason: then a member that has not begun the command drops it.
   */
  async ask(peer: Peer, { name, body }: CommandOrder, { signal }: CommandContext): Promise<Buffer> {
    if (!peer.link.open || this.#calls.size >= MOST_COMMANDS) {
      const reason = peer.link.open
        ? `${this.#calls.size} commands already wait for their replies`
        : `process ${peer.pid} is not connected to the daemon at the moment`
      throw new FdbError('ERR_FDB_BUSY', `${reason}: try again`, { retryable: true })
    }
    signal.throwIfAborted()
    const onSettled = () => signal.removeEventListener('abort', gone)
    const { number: request, pending } = this.#calls.open(peer, { link: peer.link }, { onSettled })
    const giveUp = (reason: unknown) => {
      // A member that is stopped reads the command when it goes on.
      peer.link.post({ cancelCommand: { request } })
      pending.reject(reason)
    }
    const gone = () => giveUp(signal.reason)
    signal.addEventListener('abort', gone, { once: true })
    peer.link.post({ command: { name, body, request } })
    const late = `process ${peer.pid} has not answered the command "${name}" within ${COMMAND_MS} ms`
    return pending.limit(COMMAND_MS, () => giveUp(new FdbError('ERR_FDB_DEADLINE', late))).answer
  }

  handleReply(peer: Peer, reply: fdbroker.wire.CommandReply.$Properties): void {
    if (reply.request) this.#calls.answer(peer, reply.request, () => readCommandReply(reply))
  }

  /** Rejects the commands to a member that has reconnected, which answers over the connection of the command. */
  changed(): void {
    for (const { link, peer, pending } of this.#calls.callsTo())
      if (link !== peer.link) pending.reject(unanswered(`the connection to process ${peer.pid} broke`))
  }

  /** Rejects the commands to a member that has left. */
  forget(peer: Peer): void {
    this.#calls.fail(unanswered(`process ${peer.pid} ended`), peer)
  }
}

function unanswered(because: string): FdbError {
  const reason = `${because} before it answered: it may have executed the command`
  return new FdbError('ERR_FDB_CHANNEL_CLOSED', reason, { retryable: true })
}

function readReport(json: string): Record<string, unknown> | null {
  return isTooDeep(json) ? null : (jsonObject(json) ?? null)
}
