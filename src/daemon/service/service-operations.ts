import { FdbError } from '../../errors.js'
import type { HolderState } from '../../handoff/holder-machine.js'
import { type HolderPhase, isUndecided, refusesJoiners } from '../../handoff/phases.js'
import type { Holder } from '../../holder/holder.js'
import type { Peer } from '../../holder/peer.js'
import type { Entry } from '../../holder/registry.js'
import { STUCK_MS } from '../../holder/stuck.js'
import type { HandoffTimes } from '../../holder/times.js'
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
import { noStandbyError, ROLLBACK } from '../../operator/service-commands.js'
import type { Failure } from '../../operator/status-report.js'
import type { fdbroker } from '../../proto/wire.js'
import { Calls } from '../../wire/calls.js'
import type { WireEnvelope } from '../../wire/link.js'
import { Pending } from '../../wire/pending.js'
import type { DescriptorTable } from './descriptor-table.js'
import { ForwardedUpgrades } from './forwarded-upgrades.js'
import { standbyOf } from './kept-state.js'
import { stillAwaited } from './recovery.js'

/** The status tells of a handoff that takes longer, too. */
const STATUS_MS = 1_000

/** A successor takes about so long to come: what is over by then is not in its way. */
const COMING_MS = 1_000

/** The operations of a service for its operators. */
export interface OperatedService {
  readonly name: string
  readonly times: HandoffTimes
  readonly holder: Holder
  readonly descriptorTable: DescriptorTable
  machine(): HolderState
  /** The receiver of connections when no member serves here. */
  receiver(): Peer | undefined
  /** After a restart: who is awaited. */
  missing(): readonly number[]
  /** The status, in the words of the member that serves, if there are any. */
  describe(answer: Record<string, unknown> | null): object
}

/** The phase of a service, for its orchestrator. */
export interface ServiceStanding {
  /** The member that has the right to write, and hears: null: none is known. */
  readonly owner: Peer | null
  readonly phase: HolderPhase
  readonly lastFailure: Failure | null
  /** Processes that were given descriptors, and have neither let go of them nor ended. */
  readonly bound: readonly number[]
  /** Lent. */
  readonly entries: readonly Entry[]
}

/** The requests of a daemon's operators to one service, which the member that serves it answers. */
export class ServiceOperations implements Operations {
  readonly #service: OperatedService
  readonly #statusRequests = new StatusRequests()
  readonly #commands = new ForwardedCommands()
  readonly #upgrades: ForwardedUpgrades
  readonly #decision: PhaseGate
  readonly #handoff: PhaseGate

  constructor(service: OperatedService) {
    this.#service = service
    this.#handoff = new PhaseGate(() => service.machine().phase, refusesJoiners)
    this.#decision = new PhaseGate(() => service.machine().phase)
    this.#upgrades = new ForwardedUpgrades(service.times)
  }

  /** Resolves when it is known who serves, after `ms` at most; null: it is, as far as it can be. */
  whenDecided(ms: number): Promise<void> | null {
    return this.#decision.open ? this.#decision.within(Math.min(ms, this.#service.times.commit)) : null
  }

  /** A probation that is under way ends as soon as that is safe. */
  endProbation(): void {
    this.#service.holder.endProbation()
  }

  get standing(): ServiceStanding {
    const { descriptorTable, holder, machine } = this.#service
    const { lastFailure } = holder.timeline
    const owner = this.#serving
    const { bound, phase } = machine()
    const pids = bound.map(id => holder.peer(id)?.pid ?? 0)
    return { owner: owner ?? null, phase, lastFailure, bound: pids, entries: descriptorTable.seenBy(owner) }
  }

  /** The receiver for connections of members that do not serve any more. */
  get receiver(): Peer | undefined {
    return this.#serving ?? this.#service.receiver()
  }

  /** The member that has the right to write, or had it last. */
  get #serving(): Peer | undefined {
    const { holder, machine } = this.#service
    return holder.peer(machine().owner)
  }

  async status(): Promise<object> {
    // A restarted daemon may wait long, and its status names the missing members.
    if (this.#service.machine().phase !== 'rebuilding') await this.#decision.within(STATUS_MS)
    const asked = this.#serving
    const answer = asked === undefined ? null : await this.#statusRequests.ask(asked)
    // All else as it is in one moment.
    return this.#service.describe(this.#serving === asked ? answer : null)
  }

  /** Has the member that serves start its successor, which joins here. */
  async upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded> {
    const { name, holder } = this.#service
    const left = await this.#awaitDecision(order.timeoutMs, cancel)
    if (order.killStuck) {
      await holder.killStuck(STUCK_MS)
      const ended = await holder.killSilentOwner(STUCK_MS)
      if (ended !== null) {
        throw new FdbError(
          'ERR_FDB_BUSY',
          `${name}: process ${ended}, which served, was silent and is ended; its listeners and its state are kept here: start the next version`,
          { retryable: true },
        )
      }
    }
    await this.#refuseUnderWay(cancel)
    const owner = this.#owner
    if (!owner.link.open || this.#upgrades.has(owner))
      throw new FdbError('ERR_FDB_BUSY', `${name}: process ${owner.pid} cannot be asked now`, {
        retryable: true,
      })
    return await this.#upgrades.ask(owner, { ...order, timeoutMs: left }, progress, cancel)
  }

  /** Has the member that serves answer it. */
  async command(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    const { name, holder, machine } = this.#service
    await this.#awaitDecision(0, context.signal)
    // The member cannot know for certain: a standby must take what it hands back.
    if (order.name === ROLLBACK && standbyOf(machine(), id => holder.peer(id)) === undefined) {
      throw noStandbyError(`the member that serves "${name}"`)
    }
    return await this.#commands.ask(this.#owner, order, context)
  }

  /** A message of a member; whether it was an answer, or a part of one. */
  handleAnswer(peer: Peer, { status, progress, commandReply, result }: WireEnvelope): boolean {
    if (status) this.#statusRequests.handleAnswer(peer, status.json ?? '')
    else if (progress) this.#upgrades.handleProgress(peer, progress)
    else if (commandReply) this.#commands.handleReply(peer, commandReply)
    else if (result) this.#upgrades.handleResult(peer, result)
    else return false
    return true
  }

  /** The machine has made a step. */
  phaseChanged(): void {
    this.#decision.phaseChanged()
    this.#handoff.phaseChanged()
  }

  /** The service is held here no more. */
  close(): void {
    this.#decision.end()
    this.#handoff.end()
  }

  /** A handoff has failed. */
  handoffFailed(): void {
    const failure = this.#service.holder.timeline.lastFailure
    if (failure !== null) this.#upgrades.failed(failure)
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    this.#statusRequests.forget(peer)
    this.#commands.forget(peer)
    this.#upgrades.forget(peer)
  }

  /** Waits for the member that serves, as long as a commit may take. Returns the rest of `timeoutMs` (0: none); rejects as the signal does. */
  async #awaitDecision(timeoutMs: number, signal: AbortSignal): Promise<number> {
    const begun = performance.now()
    const { commit } = this.#service.times
    await this.#decision.within(timeoutMs > 0 ? Math.min(timeoutMs, commit) : commit, signal)
    return timeoutMs > 0 ? Math.max(1, Math.round(timeoutMs - (performance.now() - begun))) : 0
  }

  /** The successor would be refused when it comes. */
  async #refuseUnderWay(signal: AbortSignal): Promise<void> {
    await this.#handoff.within(COMING_MS, signal)
    if (!this.#handoff.open) return
    const { holder, machine, name } = this.#service
    const { joiner, owner, phase } = machine()
    const why =
      phase === 'probation'
        ? `process ${holder.peer(owner)?.pid ?? 0} is in probation: try again when that is over, or have the version before serve again (fd-broker rollback)`
        : `process ${holder.peer(joiner)?.pid ?? 0} is taking over (phase ${phase}): try again when that is over`
    throw new FdbError('ERR_FDB_BUSY', `${name}: ${why}`, { retryable: true, phase })
  }

  /** Throws when no member can be asked. */
  get #owner(): Peer {
    const owner = this.#serving
    if (owner !== undefined) return owner
    const { holder, machine, missing, name } = this.#service
    const { joiner, phase } = machine()
    if (phase === 'rebuilding') throw stillAwaited(missing())
    const why =
      phase === 'committing'
        ? `process ${holder.peer(joiner)?.pid ?? 0} is to serve, and has not said yet that it does: try again`
        : 'no member serves: start one'
    throw new FdbError('ERR_FDB_BUSY', `${name}: ${why}`, { retryable: true })
  }
}

/** Commands that wait for a member's reply; more are refused. */
const MOST_COMMANDS = 64

/** A daemon's part in operators' commands: the member that serves is asked, and its reply passed on. */
export class ForwardedCommands {
  readonly #calls = new Calls<Peer, Buffer>()

  /** Rejects with what the member says, ERR_FDB_BUSY, ERR_FDB_DEADLINE, ERR_FDB_CHANNEL_CLOSED, the signal's reason. */
  async ask(peer: Peer, { name, body }: CommandOrder, { signal }: CommandContext): Promise<Buffer> {
    if (!peer.link.open || this.#calls.size >= MOST_COMMANDS) {
      const why = peer.link.open
        ? `${this.#calls.size} commands wait for their replies already`
        : `process ${peer.pid} cannot be asked now`
      throw new FdbError('ERR_FDB_BUSY', `${why}: try again`, { retryable: true })
    }
    const { number: request, pending } = this.#calls.open(peer, {}, { signal })
    if (pending.settled) return pending.answer
    peer.link.post({ command: { name, body, request } })
    const late = `process ${peer.pid} has not answered the command "${name}" within ${COMMAND_MS} ms`
    return pending.limit(COMMAND_MS, () => pending.reject(new FdbError('ERR_FDB_DEADLINE', late))).answer
  }

  handleReply(peer: Peer, reply: fdbroker.wire.CommandReply.$Properties): void {
    if (reply.request) this.#calls.answer(peer, reply.request, () => readCommandReply(reply))
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    const why = `process ${peer.pid} ended before it had answered: it may have done what it was asked for`
    this.#calls.fail(new FdbError('ERR_FDB_CHANNEL_CLOSED', why, { retryable: true }), peer)
  }
}

/** A member that does not say so soon is described without its own words. */
const ANSWER_MS = 1_000

/** Asks the member that serves for its status: one question at a time, for all who want to know. */
export class StatusRequests {
  readonly #calls = new Calls<Peer, string>()

  /** Resolves with null when it does not answer, or with what cannot be read. */
  async ask(peer: Peer): Promise<Record<string, unknown> | null> {
    if (!peer.link.open) return null
    const json = await (this.#calls.of(peer)[0]?.pending ?? this.#ask(peer)).answer
    try {
      return json === '' ? null : JSON.parse(json)
    } catch {
      return null
    }
  }

  handleAnswer(peer: Peer, json: string): void {
    this.#calls.answer(peer, 0, () => json)
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    this.handleAnswer(peer, '')
  }

  #ask(peer: Peer): Pending<string> {
    const { pending } = this.#calls.open(peer, {})
    peer.link.post({ statusRequest: {} })
    return pending.limit(ANSWER_MS, () => pending.resolve(''))
  }
}

/** The most that wait; further requests are answered at once. */
const MOST_WAITING = 64

/** Waits for the decision of which member serves, so that operators never get the former state; or for the end of other phases. */
export class PhaseGate {
  readonly #phase: () => HolderPhase
  readonly #isOpen: (phase: HolderPhase) => boolean
  readonly #waiting = new Set<Pending<void>>()

  constructor(phase: () => HolderPhase, isOpen: (phase: HolderPhase) => boolean = isUndecided) {
    this.#phase = phase
    this.#isOpen = isOpen
  }

  get open(): boolean {
    return this.#isOpen(this.#phase())
  }

  /** Resolves when it is decided, after `ms` at most. Rejects with the signal's reason. */
  async within(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    if (!this.open || this.#waiting.size >= MOST_WAITING) return
    const pending = new Pending<void>({ signal, onSettled: () => this.#waiting.delete(pending) })
    this.#waiting.add(pending)
    await pending.limit(ms, () => pending.resolve(), { unref: true }).answer
  }

  /** The phase may be another by now. */
  phaseChanged(): void {
    if (!this.open) this.end()
  }

  /** Nothing is decided here any more. */
  end(): void {
    for (const pending of [...this.#waiting]) pending.resolve()
  }
}
