import { FdbError } from '../../errors.js'
import { closeAll, type OwnedFd } from '../../kernel/index.js'
import type { Logger } from '../../logger.js'
import { openWay, wayItems } from '../../moving/pair.js'
import type { BundleItem } from '../../protocol/bundle.js'
import { EffectQueue } from '../../protocol/effect-queue.js'
import { needs } from '../../protocol/embedded.js'
import {
  concerned,
  type HolderEffect,
  type HolderEvent,
  type HolderPhase,
  type HolderState,
  initialHolder,
  restartedHolder,
  stepHolder,
} from '../../protocol/holder-machine.js'
import type { WireEnvelope } from '../../protocol/link.js'
import { NOBODY } from '../../protocol/messages.js'
import { remoteError } from '../../protocol/remote-error.js'
import { FORWARDS_WRITES } from '../../protocol/versions.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import { type Caller, turnAway, welcome } from '../admission.js'
import { cancelHandoff } from '../cancel.js'
import { Holder } from '../holder.js'
import type { Peer } from '../peer.js'
import type { Candidate } from '../peers.js'
import { SegmentShelf } from '../segment-shelf.js'
import type { HandoffTimes } from '../times.js'
import { readTimes } from '../times.js'
import { type Receiving, sealForTheDead, takeBack, takeRegistered } from './bringing.js'
import { Custody } from './custody.js'
import { ForwardedWrites } from './forwarded-writes.js'
import { type HeldAlone, heldAlone } from './held-alone.js'
import { keepState } from './kept-state.js'
import type { RememberedService } from './rights-holders.js'
import { RollCall } from './roll-call.js'
import { ServiceOperations } from './service-operations.js'
import { describeService } from './service-status.js'
import { takesFrom } from './way-taker.js'

const WAY_MS = 5_000
const UNWANTED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled' } as const

/** A handoff, or a way back, has come to its end when `idle` follows these. */
const SERVES_NOW: ReadonlySet<HolderPhase> = new Set(['committing', 'probation', 'returning'])

/** Nobody serves, and nothing is kept. */
const EMPTY = initialHolder('member', NOBODY, 0, 0)

function isEmpty({ phase, owner, epoch }: HolderState): boolean {
  return phase === 'idle' && owner === NOBODY && epoch === EMPTY.epoch
}

/** One service that a daemon holds: its registry, its segments and its holder's machine. */
export class Service {
  readonly name: string
  /** What operators ask of it. */
  readonly operations: ServiceOperations
  readonly #logger: Logger
  readonly #incarnation: string
  readonly #changed: () => void
  readonly #custody = new Custody()
  readonly #shelf = new SegmentShelf()
  readonly #queue: EffectQueue<HolderEffect>
  readonly #holder: Holder
  readonly #times: HandoffTimes
  readonly #writes: ForwardedWrites
  #machine: HolderState
  #generation: number
  #startedAt: number
  /** The state file of the member that serves, or served last; empty: none. */
  #stateFile = ''
  /** When a member was lost last, milliseconds since 1970. */
  #diedAt = 0
  readonly #rollCall: RollCall

  constructor(
    parts: { times: HandoffTimes; logger: Logger; incarnation: string; changed: () => void },
    remembered: RememberedService,
  ) {
    this.name = remembered.service
    this.#times = parts.times
    this.#logger = parts.logger
    this.#incarnation = parts.incarnation
    this.#changed = parts.changed
    this.#generation = remembered.generation
    this.#startedAt = remembered.startedAt
    this.#writes = new ForwardedWrites({
      shelf: this.#shelf,
      writer: () => this.#holder.peer(this.#machine.owner),
      gaveUp: identity => this.#rollCall.excuse(identity),
    })
    this.#rollCall = new RollCall(remembered.members, () => {
      this.#tryRebuilt()
      this.#changed()
    })
    this.#machine = this.#rollCall.members.length > 0 ? restartedHolder() : EMPTY
    if (this.#machine === EMPTY) this.#startAnew()
    this.#queue = new EffectQueue<HolderEffect>({
      perform: effect => {
        const done = this.#holder.perform(effect)
        if (effect.type === 'make') this.#writes.share()
        return done
      },
      outcome: (effect, outcome) => this.#holder.outcome(effect, outcome),
      needs: (failed, later) => needs({ by: 'holder', effect: failed }, { by: 'holder', effect: later }),
    })
    this.#holder = new Holder({
      surroundings: {
        state: () => this.#machine,
        dispatch: event => this.#dispatch(event),
        extraItems: () => [],
        position: () => null,
        settled: peer => this.#settled(peer),
        changed: () => this.#changed(),
        other: (peer, envelope, fds) => this.#onOther(peer, envelope, fds),
        bundle: (peer, items) => this.#onBundle(peer, items),
        takeBack: peer => this.#takeBack(peer),
        forgotten: peer => this.#forgotten(peer),
      },
      registry: this.#custody.held,
      shelf: this.#shelf,
      times: parts.times,
      logger: parts.logger,
      renewBytes: DEFAULT_LIMITS.renewBytes,
      firstId: 1,
    })
    this.operations = new ServiceOperations({
      name: this.name,
      times: parts.times,
      holder: this.#holder,
      owner: () => this.#holder.peer(this.#machine.owner),
      describe: answer => this.#describe(answer),
    })
  }

  /** What a restarted daemon would have to know. */
  get remembered(): RememberedService {
    const present = concerned(this.#machine).map(id => this.#holder.peer(id)?.identity)
    return {
      service: this.name,
      generation: this.#generation,
      startedAt: this.#startedAt,
      members: this.#rollCall.membersAnd(present),
    }
  }

  /** Nobody has come to serve, and nobody tries. */
  get empty(): boolean {
    return isEmpty(this.#machine) && this.#holder.peers.length === 0
  }

  /** What would be lost with the daemon; null: nothing. */
  get heldAlone(): HeldAlone | null {
    return heldAlone({
      service: this.name,
      machine: this.#machine,
      peer: id => this.#holder.peer(id),
      registry: this.#custody.held,
      shelf: this.#shelf,
      stateFile: this.#stateFile,
    })
  }

  /** What would be lost of the state comes to the members' file, if they have told one. */
  async keepState(timeoutMs: number): Promise<void> {
    const { stateFile: path = null, stateBytes = 0 } = this.heldAlone ?? {}
    if (path === null || stateBytes === 0) return
    const [shelf, logger, diedAt] = [this.#shelf, this.#logger, this.#diedAt]
    await keepState({ service: this.name, path, diedAt, shelf, logger, timeoutMs })
  }

  join(caller: Caller): void {
    if (this.#machine.phase === 'rebuilding') {
      const missing = this.#missing.map(pid => `process ${pid}`).join(', ')
      const why = `the daemon was restarted and waits for ${missing}: try again`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
      return
    }
    const generation = this.#generation + 1
    this.#welcome(caller, generation)
    this.#holder.admit(candidate(caller, generation))
  }

  back(caller: Caller): void {
    const generation = caller.hello.generation ?? 0
    this.#welcome(caller, generation)
    this.#holder.readmit(candidate(caller, generation))
  }

  /** A generation that does not serve any more, and forwards its changes. */
  draining(caller: Caller): void {
    this.#writes.add(caller, this.#facts(caller, caller.hello.generation ?? 0))
  }

  #welcome(caller: Caller, generation: number): void {
    welcome(caller.link, { ...this.#facts(caller, generation), capabilities: [FORWARDS_WRITES] })
  }

  #facts({ version }: Caller, generation: number) {
    return {
      version,
      pid: process.pid,
      daemon: true,
      incarnation: this.#incarnation,
      generation,
      serviceStartedAt: this.#startedAt,
      heartbeatMs: this.#times.heartbeat,
    }
  }

  #describe(answer: Record<string, unknown> | null): object {
    return describeService({
      name: this.name,
      generation: this.#generation,
      startedAt: this.#startedAt,
      machine: this.#machine,
      entries: this.#custody.seenBy(this.#holder.peer(this.#machine.owner)),
      shelf: this.#shelf,
      timeline: this.#holder.timeline,
      peers: this.#holder.peers,
      peer: id => this.#holder.peer(id),
      missing: this.#missing,
      answer,
    })
  }

  close(): void {
    // Nobody else has them.
    if (this.heldAlone !== null) this.#custody.removePaths()
    this.#rollCall.close()
    this.#writes.close()
    this.#holder.close()
    this.#custody.close()
    this.#shelf.close()
  }

  #dispatch(event: HolderEvent): void {
    const before = this.#machine
    const lost = event.type === 'lost' ? this.#holder.peer(event.id) : undefined
    if (lost !== undefined) {
      this.#writes.forget(lost)
      this.#diedAt = Date.now()
    }
    const { state, effects } = stepHolder(before, event)
    this.#machine = state
    this.#stateFile = this.#holder.peer(state.owner)?.stateFile ?? this.#stateFile
    // Whoever is given something is written down before.
    this.#changed()
    this.#queue.push(effects)
    this.#holder.stepped()
    if (before.phase === 'committing' && state.phase === 'idle' && state.owner === NOBODY)
      this.#custody.inherit(this.#holder.peer(before.joiner))
    this.#custody.keepProvisional([this.#holder.peer(state.owner), this.#holder.peer(state.joiner)])
    if (state.phase === 'idle' && SERVES_NOW.has(before.phase)) this.#settle()
    this.#tryRebuilt()
    // What a first member wrote before, and did not come to serve, is nobody's state.
    if (before.epoch === EMPTY.epoch && state.epoch > before.epoch) this.#shelf.dropBelow(before.grant)
    this.#failUpgrades(effects)
  }

  // ---- what members bring

  #onBundle(peer: Peer, items: BundleItem[]): void {
    try {
      this.#custody.arrive(peer, items)
    } catch (error) {
      this.#logger.warn({ err: error, pid: peer.pid }, 'what a member sent is not kept')
    }
  }

  #onOther(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean {
    closeAll(fds)
    const { register, moveRequest, renew, cancelUpgrade, written } = envelope
    if (register?.drop) this.#custody.letGo(peer, register.item?.name ?? '', this.#servesForGood(peer))
    else if (register) this.#register(peer, register.request ?? 0)
    else if (moveRequest) this.#openWay(peer)
    else if (renew) this.#renew(peer)
    else if (written) this.#writes.answered(peer, written)
    else if (cancelUpgrade) this.#cancel(peer, remoteError(cancelUpgrade, UNWANTED))
    else return this.operations.answered(peer, envelope)
    return true
  }

  /** Who writes wants to go on in a new segment. */
  #renew(peer: Peer): void {
    const { phase, epoch } = this.#machine
    if (phase === 'idle' && this.#servesForGood(peer) && this.#shelf.holdsAnything(epoch))
      this.#dispatch({ type: 'renew' })
  }

  /** One that does not serve any more gives its connections to the one that does. */
  #openWay(from: Peer): void {
    const to = this.#holder.peer(this.#machine.owner)
    if (!takesFrom(to, from)) return
    openWay({
      take: end => to.link.sendBundle(wayItems(end, from), WAY_MS),
      give: end => from.link.sendBundle(wayItems(end, to), WAY_MS),
    }).catch(error => this.#logger.warn({ err: error }, 'no way for connections can be opened: they drain'))
  }

  #register(peer: Peer, request: number): void {
    const failure = takeRegistered(peer, this.#servesForGood(peer), this.#receiving)
    peer.link.tell({ registered: { request, code: failure?.code ?? '', message: failure?.message ?? '' } })
  }

  #takeBack(peer: Peer): void {
    const top = takeBack(peer, this.#servesForGood(peer), this.#receiving)
    this.#machine = { ...this.#machine, top }
  }

  get #receiving(): Receiving {
    return { machine: this.#machine, custody: this.#custody, shelf: this.#shelf, logger: this.#logger }
  }

  /** Whether nobody can come back in its place: in probation the standby may, to what it had. */
  #servesForGood(peer: Peer): boolean {
    return peer.id === this.#machine.owner && this.#machine.phase !== 'probation'
  }

  #settled(peer: Peer): void {
    if (peer.id !== this.#machine.owner) return
    this.#generation = Math.max(this.#generation, peer.generation)
    this.#changed()
  }

  /** Nobody can come back any more: what the version that serves did not ask for is closed, here and there. */
  #settle(): void {
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined) return
    this.#custody.settle(owner)
    owner.link.tell({ released: {} })
  }

  #forgotten(peer: Peer): void {
    this.#custody.forget(peer)
    this.operations.forget(peer)
    this.#writes.forget(peer)
    if (peer.died) this.#rollCall.excuse(peer.identity)
  }

  #failUpgrades(effects: readonly HolderEffect[]): void {
    if (!effects.some(effect => effect.type === 'failed')) return
    const failure = this.#holder.timeline.lastFailure
    if (failure !== null) this.operations.failed(failure)
  }

  /** The successor that this member has started is not wanted any more. */
  #cancel(peer: Peer, reason: FdbError): void {
    const state = this.#machine
    if (peer.id !== state.owner && peer.id !== state.standby) return
    const dispatch = (event: HolderEvent) => this.#dispatch(event)
    const outcome = cancelHandoff({ state, peer: this.#holder.peer(state.joiner), dispatch }, reason)
    peer.link.tell({ upgradeCancelled: { outcome } })
  }

  // ---- after a restart

  /** Rights-holders that are neither back nor dead. */
  get #missing(): number[] {
    const back = this.#machine.backs.map(({ id }) => this.#holder.peer(id)?.identity)
    return this.#rollCall.missing(back)
  }

  /** Once nobody is awaited any more. */
  #tryRebuilt(): void {
    if (this.#machine.phase === 'rebuilding' && this.#missing.length === 0) this.#rebuilt()
  }

  #rebuilt(): void {
    this.#rollCall.close()
    if (this.#machine.backs.length === 0) {
      this.#startAnew()
      this.#holder.stepped()
      this.#changed()
      return
    }
    sealForTheDead(this.#shelf)
    this.#dispatch({ type: 'rebuilt' })
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner !== undefined) this.#custody.adopt(owner)
  }

  /** All who had anything are dead: sockets and state are gone with them. */
  #startAnew(): void {
    this.#machine = EMPTY
    this.#generation = 0
    this.#startedAt = Date.now()
    this.#shelf.close()
    this.#custody.held.close()
  }
}

/** A caller as a candidate, with what it says of itself in its Hello. */
function candidate({ hello, link, pid, pidfd, proven, identity }: Caller, generation: number): Candidate {
  const { capabilities, stateFile } = hello
  const told = { times: readTimes(hello.times), capabilities: capabilities ?? [], stateFile: stateFile ?? '' }
  return { link, pid, pidfd, proven, identity, generation, ...told }
}
