import type { Logger } from '../../base/logger.js'
import { createMigrationChannel, migrationItems } from '../../connections/migration-channel.js'
import type { FdbError } from '../../errors.js'
import { EffectQueue } from '../../handoff/effect-queue.js'
import { needs } from '../../handoff/embedded.js'
import {
  concerned,
  type HolderEffect,
  type HolderEvent,
  type HolderState,
  stepHolder,
} from '../../handoff/holder-machine.js'
import { NOBODY } from '../../handoff/messages.js'
import { isGranted } from '../../handoff/phases.js'
import { type Caller, isForeign, turnAway, welcome } from '../../holder/admission.js'
import { Holder } from '../../holder/holder.js'
import type { Peer } from '../../holder/peer.js'
import type { Candidate } from '../../holder/peers.js'
import { SegmentSet } from '../../holder/segment-set.js'
import { type HandoffTimes, readTimes } from '../../holder/times.js'
import { closeAll, inspect, type OwnedFd } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import type { Failure } from '../../operator/status-report.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import type { BundleItem } from '../../wire/bundle.js'
import { FORWARDS_WRITES, remoteError, TAKES_CONNECTIONS, type WireEnvelope } from '../../wire/link.js'
import { overLimit, type ServiceLimits } from '../policy/policy.js'
import { DescriptorTable } from './descriptor-table.js'
import { ForwardedWrites } from './forwarded-writes.js'
import { type HeldAlone, heldAlone, keepState } from './kept-state.js'
import { type ReattachTarget, reattach, sealForTheDead, takeRegistered } from './reattach.js'
import { Recovery, type RememberedService, stillAwaited } from './recovery.js'
import {
  awaitsMembers,
  heldFor,
  isEmpty,
  isUnserved,
  itemsOf,
  takeItems,
  UNSERVED_HOLDER,
} from './restored-service.js'
import { ServiceOperations } from './service-operations.js'

const UNWANTED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled' } as const

interface ServiceDeps {
  readonly times: HandoffTimes
  readonly logger: Logger
  readonly incarnation: string
  limits(): ServiceLimits
  /** Something that `status` shows, or is to be remembered, is another. */
  changed(): void
  /** The receiver for connections of a service without members; undefined: none. */
  receiver(service: string): Peer | undefined
  /** Its items have changed, and are about to be used. */
  holds(service: string): void
}

/** One service that a daemon holds: its registry, its segments and its holder's machine. */
export class Service {
  readonly name: string
  /** The requests of its operators. */
  readonly operations: ServiceOperations
  readonly #deps: ServiceDeps
  readonly #descriptorTable: DescriptorTable
  readonly #segmentSet = new SegmentSet()
  readonly #queue: EffectQueue<HolderEffect>
  readonly #holder: Holder
  readonly #writes: ForwardedWrites
  /** A daemon before this one had it too: what is left when no member is counts. */
  readonly #handedOver: boolean
  readonly #pause = new Pause()
  #machine: HolderState
  #generation: number
  #startedAt: number
  /** The state file of the member that serves, or served last; empty: none. */
  #stateFile: string
  /** When a member was lost last, milliseconds since 1970. */
  #diedAt: number
  readonly #recovery: Recovery

  constructor(deps: ServiceDeps, remembered: RememberedService, items: readonly BundleItem[]) {
    this.name = remembered.service
    this.#deps = deps
    this.#generation = remembered.generation
    this.#startedAt = remembered.startedAt
    this.#stateFile = remembered.stateFile ?? ''
    this.#diedAt = remembered.diedAt ?? 0
    this.#handedOver = items.length > 0
    this.#descriptorTable = new DescriptorTable(deps.logger)
    this.#descriptorTable.foreign = remembered.foreign ?? false
    this.#writes = new ForwardedWrites({
      name: this.name,
      logger: deps.logger,
      segmentSet: this.#segmentSet,
      hasState: () => this.#machine.phase !== 'rebuilding' && this.#machine.epoch !== UNSERVED_HOLDER.epoch,
      writer: () => this.#holder.peer(this.#machine.owner),
      isSilent: peer => this.#holder.isSilent(peer),
      onGivenUp: identity => this.#recovery.stopAwaiting(identity),
    })
    this.#recovery = new Recovery(remembered.members, () => {
      this.#tryRebuilt()
      deps.changed()
    })
    takeItems(items, {
      service: this.name,
      descriptorTable: this.#descriptorTable,
      segmentSet: this.#segmentSet,
      logger: deps.logger,
    })
    this.#machine = this.#recovery.members.length > 0 ? awaitsMembers(this.#segmentSet) : UNSERVED_HOLDER
    if (this.#machine === UNSERVED_HOLDER) this.#startAlone()
    this.#descriptorTable.held.changed = this.#segmentSet.changed = () => deps.holds(this.name)
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
      host: {
        state: () => this.#machine,
        dispatch: event => this.#dispatch(event),
        extraItems: () => [],
        position: () => null,
        settled: peer => this.#settled(peer),
        changed: () => deps.changed(),
        otherMessage: (peer, envelope, fds) => this.#onOther(peer, envelope, fds),
        bundle: (peer, items) => this.#onBundle(peer, items),
        takeBack: peer => this.#takeBack(peer),
        forgotten: peer => this.#forgotten(peer),
      },
      registry: this.#descriptorTable.held,
      segmentSet: this.#segmentSet,
      times: deps.times,
      logger: deps.logger,
      renewBytes: DEFAULT_LIMITS.renewBytes,
      firstId: 1,
    })
    this.operations = new ServiceOperations({
      name: this.name,
      times: deps.times,
      holder: this.#holder,
      machine: () => this.#machine,
      descriptorTable: this.#descriptorTable,
      receiver: () => deps.receiver(this.name),
      missing: () => this.#missing,
      describe: answer => this.#describe(answer),
    })
  }

  /** The facts that a restarted daemon would need. */
  get remembered(): RememberedService {
    const present = concerned(this.#machine).map(id => this.#holder.peer(id)?.identity)
    return {
      service: this.name,
      generation: this.#generation,
      startedAt: this.#startedAt,
      members: this.#recovery.mergeMembers(present),
      stateFile: this.#stateFile,
      diedAt: this.#diedAt,
      foreign: this.#descriptorTable.foreign,
    }
  }

  /** All that the daemon has of it. Borrowed. */
  get items(): BundleItem[] {
    return itemsOf(this.#descriptorTable, this.#segmentSet)
  }

  /** No handoff is under way. */
  get settled(): boolean {
    return this.#machine.phase === 'idle' || this.#machine.phase === 'rebuilding'
  }

  /** Its items change no more until {@link resume}; a probation ends as soon as that is safe. */
  pause(): void {
    this.#pause.start()
    this.#holder.endProbation()
  }

  resume(): void {
    this.#pause.end()
  }

  /** No member has come to serve, and none tries. */
  get empty(): boolean {
    return isEmpty(this.#machine) && this.#holder.peers.length === 0
  }

  /** It has been served, and no member serves it, or tries. */
  get unserved(): boolean {
    return isUnserved(this.#machine)
  }

  /** The part that would be lost with the daemon; null: none. */
  get heldAlone(): HeldAlone | null {
    const registry = this.#descriptorTable.held
    const known = { service: this.name, machine: this.#machine, registry, segmentSet: this.#segmentSet }
    return heldAlone({ ...known, peer: id => this.#holder.peer(id), stateFile: this.#stateFile })
  }

  /** Writes state that would be lost to the members' file, if they have one. */
  async keepState(timeoutMs: number): Promise<void> {
    const { stateFile: path, stateBytes = 0 } = this.heldAlone ?? {}
    if (path == null || stateBytes === 0) return
    const { logger } = this.#deps
    await keepState({
      service: this.name,
      path,
      diedAt: this.#diedAt,
      segmentSet: this.#segmentSet,
      logger,
      timeoutMs,
    })
  }

  join(caller: Caller): void {
    if (this.#machine.phase === 'rebuilding') {
      turnAway(caller, stillAwaited(this.#missing))
      return
    }
    const { members } = this.#deps.limits()
    const generation = this.#generation + 1
    if (this.#holder.peers.length >= members) turnAway(caller, overLimit(this.name, 'members', members))
    else {
      this.#welcome(caller, generation)
      this.#holder.admit(candidate(caller, generation))
    }
  }

  back(caller: Caller): void {
    const generation = caller.hello.generation ?? 0
    this.#welcome(caller, generation)
    this.#holder.readmit(candidate(caller, generation))
  }

  /** A generation that does not serve any more, or a member of another service that follows. `writes`: it may forward changes. */
  addAuthor(caller: Caller, writes: boolean): void {
    this.#writes.add(caller, this.#facts(caller, caller.hello.generation ?? 0), writes)
  }

  #welcome(caller: Caller, generation: number): void {
    if (isForeign(caller)) this.#descriptorTable.foreign = true
    welcome(caller.link, { ...this.#facts(caller, generation), capabilities: [FORWARDS_WRITES] })
  }

  /** The facts of a Welcome. */
  #facts({ version }: Caller, generation: number) {
    const { incarnation, times } = this.#deps
    const facts = { version, pid: process.pid, daemon: true, heartbeatMs: times.heartbeat, incarnation }
    return { ...facts, generation, serviceStartedAt: this.#startedAt }
  }

  /** For `status`: in the words of the member that serves, if there are any, and by what its daemon knows better. */
  #describe(answer: Record<string, unknown> | null): object {
    const { peers, timeline, probationLeftMs } = this.#holder
    const { bound, epoch, joiner, owner: ownerId, phase } = this.#machine
    const owner = this.#holder.peer(ownerId)
    const entries = this.#descriptorTable.seenBy(owner)
    const identities = inspect(entries.map(({ fd }) => fd))
    const listeners = entries.flatMap(({ name, role }, i) => {
      const { ino: inode, cookie = null } = identities[i]!
      return role === 'listener'
        ? [{ name, role, address: formatAddress(identities[i]!), inode, cookie }]
        : []
    })
    const segments = this.#segmentSet.all
    return {
      ...answer,
      service: this.name,
      hosting: 'daemon',
      generation: owner?.generation ?? this.#generation,
      pid: owner?.pid ?? null,
      epoch,
      phase,
      serviceStartedAt: new Date(this.#startedAt).toISOString(),
      uptimeSeconds: Math.max(0, (Date.now() - this.#startedAt) / 1000),
      listeners: answer === null ? listeners : merged(listeners, answer),
      draining: [
        ...peers
          .filter(({ id, report }) => id !== ownerId && id !== joiner && report !== null)
          .map(({ report }) => report),
        ...this.#writes.retired,
      ],
      held: entries.filter(({ role }) => role === 'named').map(({ name }) => name),
      segments: segments.length,
      logBytes: segments.reduce((sum, segment) => sum + segment.size(), 0),
      probationSeconds: probationLeftMs === null ? null : probationLeftMs / 1000,
      lastFailure: newer(timeline.lastFailure, answer?.lastFailure),
      blockedBy: [...bound.map(id => this.#holder.peer(id)?.pid ?? 0), ...this.#missing],
      handoffs: timeline.records,
    }
  }

  /** `kept`: another process has its items. */
  close({ kept }: { readonly kept: boolean }): void {
    // No other process has them.
    if (!kept && this.heldAlone !== null) this.#descriptorTable.removePaths()
    this.#descriptorTable.held.changed = this.#segmentSet.changed = () => {}
    const parts = [
      this.#recovery,
      this.#writes,
      this.#holder,
      this.operations,
      this.#descriptorTable,
      this.#segmentSet,
    ]
    for (const part of parts) part.close()
  }

  #dispatch(event: HolderEvent): void {
    const before = this.#machine
    const lost = event.type === 'lost' ? this.#holder.peer(event.id) : undefined
    if (lost !== undefined) {
      this.#writes.forget(lost)
      this.#diedAt = Date.now()
    }
    const { state, effects } = stepHolder(before, event, this.#segmentSet.rules)
    this.#machine = state
    this.#stateFile = this.#holder.peer(state.owner)?.stateFile ?? this.#stateFile
    // A member is written down before it is given anything.
    this.#deps.changed()
    this.#queue.push(effects)
    this.#holder.stepped()
    if (before.phase === 'committing' && state.phase === 'idle' && state.owner === NOBODY)
      this.#descriptorTable.inherit(this.#holder.peer(before.joiner))
    this.#descriptorTable.keepProvisional([this.#holder.peer(state.owner), this.#holder.peer(state.joiner)])
    if (settles(before, state, event)) this.#settle()
    if (state.phase === 'idle') this.#descriptorTable.releaseLate(this.#holder.peer(state.owner))
    this.#tryRebuilt()
    this.#writes.writerChanged()
    // A first member wrote before, and did not come to serve: that is not the service's state.
    if (before.epoch === UNSERVED_HOLDER.epoch && state.epoch > before.epoch)
      this.#segmentSet.dropBelow(before.grant)
    if (effects.some(effect => effect.type === 'failed')) this.operations.handoffFailed()
    this.operations.phaseChanged()
  }

  // ---- what members bring

  #onBundle(peer: Peer, items: BundleItem[]): void {
    try {
      this.#descriptorTable.arrive(peer, items)
    } catch (error) {
      this.#deps.logger.warn({ err: error, pid: peer.pid }, 'what a member sent is not kept')
    }
  }

  #onOther(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean {
    closeAll(fds)
    const { appended, register, moveRequest, renew, cancelUpgrade, written } = envelope
    // A successor that is under way may want it still.
    const alone = this.#machine.phase === 'idle' && this.#servesForGood(peer)
    if (register?.drop) this.#descriptorTable.release(peer, register.item?.name ?? '', alone)
    else if (register) {
      this.#descriptorTable.markRegistered(peer)
      this.#pause.do(peer, () => this.#register(peer, register.request ?? 0))
    } else if (moveRequest) openMigrationChannelBetween(peer, this.operations.receiver, this.#deps.logger)
    else if (renew) this.#pause.do(peer, () => this.#renew(peer))
    else if (written || appended) this.#writes.handle(peer, envelope)
    else if (cancelUpgrade) this.#cancel(peer, remoteError(cancelUpgrade, UNWANTED))
    else return this.operations.handleAnswer(peer, envelope)
    return true
  }

  /** The writer wants to go on in a new segment. */
  #renew(peer: Peer): void {
    const { phase, epoch } = this.#machine
    if (phase === 'idle' && this.#servesForGood(peer) && this.#segmentSet.hasRecords(epoch))
      this.#dispatch({ type: 'renew' })
  }

  #register(peer: Peer, request: number): void {
    const failure = takeRegistered(peer, this.#servesForGood(peer), this.#receiving)
    peer.link.post({ registered: { request, code: failure?.code ?? '', message: failure?.message ?? '' } })
  }

  #takeBack(peer: Peer): void {
    this.#machine = { ...this.#machine, top: reattach(peer, this.#servesForGood(peer), this.#receiving) }
  }

  get #receiving(): ReattachTarget {
    const { limits, logger } = this.#deps
    const limited = { service: this.name, limits: limits() }
    return {
      machine: this.#machine,
      descriptorTable: this.#descriptorTable,
      segmentSet: this.#segmentSet,
      logger,
      limits: limited,
    }
  }

  /** No standby can come back in its place: in probation it may, to its former items. */
  #servesForGood(peer: Peer): boolean {
    return peer.id === this.#machine.owner && this.#machine.phase !== 'probation'
  }

  #settled(peer: Peer): void {
    if (peer.id !== this.#machine.owner) return
    this.#generation = Math.max(this.#generation, peer.generation)
    this.#deps.changed()
  }

  /** No standby can come back: closes items that the serving version did not ask for, here and there. */
  #settle(): void {
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined) return
    this.#descriptorTable.settle(owner)
    owner.link.post({ released: {} })
  }

  #forgotten(peer: Peer): void {
    for (const part of [this.#descriptorTable, this.operations, this.#writes]) part.forget(peer)
    if (peer.died) this.#recovery.stopAwaiting(peer.identity)
    this.#deps.changed()
  }

  /** The successor that this member has started is not wanted any more. */
  #cancel(peer: Peer, reason: FdbError): void {
    const { owner, standby } = this.#machine
    if (peer.id === owner || peer.id === standby)
      peer.link.post({ upgradeCancelled: { outcome: this.#holder.cancel(reason) } })
  }

  // ---- after a restart

  /** Rights-holders that are neither back nor dead. */
  get #missing(): number[] {
    const back = this.#machine.returned.map(({ id }) => this.#holder.peer(id)?.identity)
    return this.#recovery.missing(back)
  }

  /** Once no lease holder is awaited any more. */
  #tryRebuilt(): void {
    if (this.#machine.phase === 'rebuilding' && this.#missing.length === 0) this.#rebuilt()
  }

  #rebuilt(): void {
    this.#recovery.close()
    if (this.#machine.returned.length === 0) {
      this.#startAlone()
      this.#holder.stepped()
      this.operations.phaseChanged()
      this.#deps.changed()
      return
    }
    sealForTheDead(this.#segmentSet)
    this.#dispatch({ type: 'rebuilt' })
    this.#descriptorTable.adopt(this.#holder.peer(this.#machine.owner))
  }

  /** All who had anything are dead: sockets and state are gone with them, unless they were handed over. */
  #startAlone(): void {
    if (this.#handedOver) {
      sealForTheDead(this.#segmentSet)
      this.#machine = heldFor(this.#segmentSet)
      return
    }
    this.#machine = UNSERVED_HOLDER
    this.#generation = 0
    this.#startedAt = Date.now()
    this.#segmentSet.close()
    this.#descriptorTable.held.close()
  }
}

/** A caller as a candidate, with what it says of itself in its Hello. */
function candidate(caller: Caller, generation: number): Candidate {
  const { hello, link, pid, pidfd, proven, identity } = caller
  const { capabilities } = hello
  const stateFile = isForeign(caller) ? '' : (hello.stateFile ?? '')
  const told = { times: readTimes(hello.times), capabilities: capabilities ?? [], stateFile }
  return { link, pid, pidfd, proven, identity, generation, ...told }
}

/** Delays requests of members that would change the items while these are handed over. */
class Pause {
  #waiting: (() => void)[] | null = null

  start(): void {
    this.#waiting ??= []
  }

  /** Does what waits, in the order in which it was asked for. */
  end(): void {
    const waiting = this.#waiting ?? []
    this.#waiting = null
    for (const work of waiting) work()
  }

  /** At once, or at the end; not for a peer that is gone by then. */
  do(peer: Peer, work: () => void): void {
    if (this.#waiting === null) work()
    else this.#waiting.push(() => peer.forgotten || work())
  }
}

/** The serving member serves for good from this step on: no standby can come back in its place. */
function settles(before: HolderState, { phase, owner, epoch }: HolderState, event: HolderEvent): boolean {
  if (phase !== 'idle') return false
  // The right is there for a stopped member to take, and it has not: it takes it late, or another member does.
  if (before.phase === 'returning' && event.type === 'deadline') return false
  if (before.phase !== 'idle') return isGranted(before.phase)
  const said = event.type === 'message' && event.from === owner ? event.message : null
  return said?.kind === 'serving' && said.epoch === epoch
}

const WAY_MS = 5_000

/** Whether a member can be given the connections of another: it is there, hears us, and is of a version that takes them. */
export function takesFrom(to: Peer | undefined, from: Peer): boolean {
  return to !== undefined && to !== from && to.link.open && to.capabilities.has(TAKES_CONNECTIONS)
}

/** Opens a way for the connections of a former member to the serving one; tells the former if that is of a version that takes none. */
function openMigrationChannelBetween(from: Peer, to: Peer | undefined, logger: Logger): void {
  if (to === undefined || to === from) return
  if (!to.capabilities.has(TAKES_CONNECTIONS)) from.link.post({ moveRequest: { nobody: true } })
  if (!takesFrom(to, from)) return
  createMigrationChannel({
    take: end => to.link.sendBundle(migrationItems(end, from), WAY_MS),
    give: end => from.link.sendBundle(migrationItems(end, to), WAY_MS),
  }).catch(error => logger.warn({ err: error }, 'no way for connections can be opened: they drain'))
}

/** The member knows how the process of a successor ended, the daemon knows the handoff. */
const OF_THE_PROCESS: ReadonlySet<unknown> = new Set([
  'ERR_FDB_SUCCESSOR_EXITED',
  'ERR_FDB_SUCCESSOR_LOST',
  'ERR_FDB_SUCCESSOR_DIED',
])

function newer(own: Failure | null, told: unknown): unknown {
  const { at, code } = (told ?? {}) as Partial<Failure>
  return OF_THE_PROCESS.has(code) && at !== undefined && at > (own?.at ?? 0) ? told : own
}

/** The daemon knows which sockets there are; the member knows who accepts on them. */
function merged<T extends { name: string }>(own: readonly T[], answer: Record<string, unknown>): object[] {
  const listeners = Array.isArray(answer.listeners) ? (answer.listeners as (T | null)[]) : []
  const theirs = new Map(listeners.map(listener => [listener?.name, listener]))
  return own.map(listener => ({ ...theirs.get(listener.name), ...listener }))
}
