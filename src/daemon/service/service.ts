import { createMoveChannel, moveChannelItems } from '../../connections/move-channel.js'
import type { FdbError } from '../../errors.js'
import { EventLog } from '../../events/event-log.js'
import { EffectQueue } from '../../handoff/effect-queue.js'
import { needs } from '../../handoff/embedded.js'
import {
  concernedIds,
  type HolderEffect,
  type HolderEvent,
  type HolderState,
  stepHolder,
} from '../../handoff/holder-machine.js'
import { NOBODY } from '../../handoff/messages.js'
import { type Caller, isForeign, turnAway, warnWithoutStateFile, welcome } from '../../holder/admission.js'
import { Holder } from '../../holder/holder.js'
import { Hooks } from '../../holder/hooks.js'
import type { Peer } from '../../holder/peer.js'
import type { Candidate } from '../../holder/peers.js'
import { SegmentSet } from '../../holder/segment-set.js'
import { killMissing } from '../../holder/stuck.js'
import { readTimes } from '../../holder/times.js'
import { closeAll, inspect, type OwnedFd } from '../../kernel/index.js'
import { listenerAddress } from '../../listeners/index.js'
import { isSame, type ProcessIdentity } from '../../os/process-identity.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import type { BundleItem } from '../../wire/bundle.js'
import {
  FORWARDS_WRITES,
  MERGES_SEGMENTS,
  remoteError,
  TAKES_CONNECTIONS,
  type WireEnvelope,
} from '../../wire/link.js'
import { type ServicePolicy, serviceLimitError } from '../policy/policy.js'
import { DescriptorTable } from './descriptor-table.js'
import { ForwardedWrites } from './forwarded-writes.js'
import { giveOwed, handBack } from './hand-back.js'
import { Merging } from './merging.js'
import { OlderVersions } from './older-versions.js'
import { Pause } from './pause.js'
import { keepOfLeft, LastSeals, type ReattachTarget, reattach } from './reattach.js'
import { Recovery, recoveringError, type ServiceRecord } from './recovery.js'
import { Registrations } from './registrations.js'
import { merged, newer } from './reported-parts.js'
import {
  awaitsMembers,
  heldFor,
  isEmpty,
  isUnserved,
  itemsOf,
  type ServiceItem,
  settles,
  takeItems,
  UNSERVED_HOLDER,
} from './restored-service.js'
import { processText, ServiceOperations } from './service-operations.js'
import type { ServiceSettings } from './settings.js'
import { keepState, type SoleCopy, soleCopyOf } from './sole-copy.js'

const CANCELLED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled' } as const

interface ServiceDeps {
  readonly settings: ServiceSettings
  readonly incarnation: string
  policy(): ServicePolicy
  /** Called when something that `status` shows or that {@link Service.record} has may have changed. */
  changed(): void
  /** Returns the member that takes the connections of a service without members. */
  receiver(service: string): Peer | undefined
  /** Called when the items of the service have changed, before they are used. */
  holds(service: string): void
}

/** One service that a daemon holds: its descriptors, its segments and the state machine of its handoffs. */
export class Service {
  readonly name: string
  /** The uid of the process that started the service, if a daemon has seen it. */
  readonly startedBy: number | undefined
  readonly operations: ServiceOperations
  readonly #deps: ServiceDeps
  readonly #events: EventLog
  readonly #hooks: Hooks
  readonly #descriptorTable: DescriptorTable
  readonly #segmentSet = new SegmentSet()
  readonly #queue: EffectQueue<HolderEffect>
  readonly #holder: Holder
  readonly #merging: Merging
  readonly #writes: ForwardedWrites
  readonly #older: OlderVersions
  /** The previous daemon handed over items of the service: they stay valid even if no member lives any more. */
  readonly #handedOver: boolean
  readonly #pause = new Pause()
  readonly #registrations = new Registrations({
    pause: this.#pause,
    receiving: () => this.#receiving,
    servesForGood: peer => this.#servesForGood(peer),
  })
  #machine: HolderState
  #generation: number
  #startedAt: number
  /** The state file of the member that serves or served last, or ''. */
  #stateFile: string
  /** When a member last died, in milliseconds since 1970. */
  #diedAt: number
  readonly #recovery: Recovery
  readonly #lastSeals: LastSeals

  constructor(deps: ServiceDeps, record: ServiceRecord, items: readonly ServiceItem[]) {
    this.name = record.service
    this.startedBy = record.startedBy
    this.#deps = deps
    const { events: file, hooks: group, logger, times } = deps.settings
    this.#generation = record.generation
    this.#startedAt = record.startedAt
    this.#stateFile = record.stateFile ?? ''
    this.#diedAt = record.diedAt ?? 0
    this.#handedOver = items.length > 0
    this.#descriptorTable = new DescriptorTable(logger)
    this.#lastSeals = new LastSeals(this.#segmentSet, logger)
    this.#descriptorTable.foreign = record.foreign ?? false
    this.#writes = new ForwardedWrites({
      name: this.name,
      draining: record.draining ?? [],
      logger,
      state: {
        segmentSet: this.#segmentSet,
        most: () => deps.policy().limits.state,
        exists: () => this.#machine.phase !== 'rebuilding' && this.#machine.epoch !== UNSERVED_HOLDER.epoch,
      },
      writer: { peer: () => this.#owner, members: () => this.#holder },
      events: {
        onGivenUp: identity => this.#recovery.stopAwaiting(identity),
        moveConnections: drainer => this.#openMoveChannel(drainer),
        onReport: () => this.#older.endOldest(),
        changed: () => {
          this.operations.changed()
          deps.changed()
        },
      },
    })
    const [holder, machine] = [() => this.#holder, () => this.#machine]
    this.#older = new OlderVersions({ holder, machine, writes: this.#writes, logger })
    this.#recovery = new Recovery(record.members, () => {
      this.#tryRebuilt()
      deps.changed()
    })
    const { service } = record
    const [descriptorTable, segmentSet] = [this.#descriptorTable, this.#segmentSet]
    const events = (this.#events = new EventLog(logger, record, file))
    this.#hooks = new Hooks(events, { logger, settings: () => deps.policy().hooks, group })
    takeItems(items, { service, descriptorTable, segmentSet, events, logger })
    this.#machine = this.#recovery.members.length > 0 ? awaitsMembers(this.#segmentSet) : UNSERVED_HOLDER
    if (this.#machine === UNSERVED_HOLDER) this.#startUnserved()
    descriptorTable.held.changed = segmentSet.changed = events.created = () => deps.holds(this.name)
    this.#queue = new EffectQueue<HolderEffect>({
      perform: effect => {
        const done = this.#holder.perform(effect)
        if (effect.type === 'make') this.#writes.share()
        else if (effect.type === 'failed') this.operations.handoffFailed()
        return done
      },
      outcome: (effect, outcome) => this.#holder.outcome(effect, outcome),
      needs: (failed, later) => needs({ by: 'holder', effect: failed }, { by: 'holder', effect: later }),
    })
    this.#holder = new Holder({
      host: {
        state: () => this.#machine,
        dispatch: event => this.#dispatch(event),
        extraItems: () => events.offered(),
        note: (type, facts) => events.note(type, facts),
        position: () => null,
        onServing: peer => this.#settled(peer),
        changed: () => deps.changed(),
        onReport: () => this.#older.endOldest(),
        probationMayEnd: () => !this.#pause.isOn,
        otherMessage: (peer, envelope, fds) => this.#onOther(peer, envelope, fds),
        bundle: (peer, items) => this.#onBundle(peer, items),
        onReturned: peer => this.#takeBack(peer),
        refusal: peer => descriptorTable.refusal(peer, this.#receiving.limits),
        forgotten: peer => this.#forgotten(peer),
      },
      registry: descriptorTable.held,
      segmentSet,
      times,
      logger,
      renewBytes: () => (this.#memberMerges ? DEFAULT_LIMITS.renewBytes : RENEW_BYTES),
    })
    this.#merging = new Merging({
      service,
      segmentSet,
      logger,
      mayMerge: () => this.#machine.phase === 'idle' && !this.#memberMerges && !this.#pause.isOn,
      isForeign: () => this.#descriptorTable.foreign,
    })
    this.operations = new ServiceOperations({
      times,
      holder: this.#holder,
      descriptorTable,
      older: this.#writes,
      missing: { all: () => this.#missing, kill: () => killMissing(() => this.#missing, logger) },
      service: {
        name: service,
        stopped: record.stopped,
        events,
        receiver: () => deps.receiver(service),
        describe: answer => this.#describe(answer),
        paused: () => this.#pause.isOn,
        changed: () => deps.changed(),
      },
    })
  }

  /** The facts that a restarted daemon needs. */
  get record(): ServiceRecord {
    const present = concernedIds(this.#machine).map(id => this.#holder.peer(id)?.identity)
    return {
      service: this.name,
      generation: this.#generation,
      startedAt: this.#startedAt,
      ...(this.startedBy !== undefined && { startedBy: this.startedBy }),
      members: this.#recovery.mergeMembers(present),
      draining: this.#writes.draining.map(({ identity }) => identity),
      stopped: this.operations.stopped,
      stateFile: this.#stateFile,
      diedAt: this.#diedAt,
      foreign: this.#descriptorTable.foreign,
    }
  }

  /** The member that has the right to write, or had it last, if it is connected. */
  get #owner(): Peer | undefined {
    return this.#holder.peer(this.#machine.owner)
  }

  /** All descriptors and segments of the service. Borrowed. */
  get items(): ServiceItem[] {
    return itemsOf(this.#descriptorTable, this.#owner, this.#segmentSet, this.#events)
  }

  /** Whether no handoff is running. The next daemon continues a probation. */
  get idle(): boolean {
    return ['idle', 'rebuilding', 'probation'].includes(this.#machine.phase)
  }

  /** Names the service and its joining process, for an error while a handoff is running. */
  get handoffText(): string {
    const { joiner, phase } = this.#machine
    return `service "${this.name}" (${processText(this.#holder.peer(joiner))}, phase ${phase})`
  }

  /** Cancels a handoff before its Commit if another user takes part in it, or if it has lasted longer than the daemon's own limit. */
  cancelForDaemon(reason: FdbError): void {
    const begunAt = this.#holder.timeline.current?.phases[0]?.at ?? Number.POSITIVE_INFINITY
    if (this.operations.isOthers || Date.now() - begunAt > this.#deps.settings.times.ready)
      this.#holder.cancel(reason)
  }

  /** Keeps the items unchanged until {@link resume}: a probation does not end meanwhile. */
  pause(): void {
    this.#pause.start()
  }

  resume(): void {
    this.#pause.end()
  }

  /** Whether no member has ever served, none is connected, and none of an earlier service drains. */
  get empty(): boolean {
    return isEmpty(this.#machine) && [...this.#holder.peers, ...this.#writes.draining].length === 0
  }

  /** Whether a member has served, and now no member serves or is about to. */
  get unserved(): boolean {
    return isUnserved(this.#machine)
  }

  /** The items that would be lost with the daemon, or null. */
  get soleCopy(): SoleCopy | null {
    const registry = this.#descriptorTable.held
    const known = { service: this.name, machine: this.#machine, registry, segmentSet: this.#segmentSet }
    return soleCopyOf({ ...known, peer: id => this.#holder.peer(id), stateFile: this.#stateFile })
  }

  /** Writes the state that would be lost to the members' state file, if they have one. */
  async keepState(timeoutMs: number): Promise<void> {
    const { stateFile: path, stateBytes = 0 } = this.soleCopy ?? {}
    if (path == null || stateBytes === 0) return
    const { logger } = this.#deps.settings
    await keepState({
      service: this.name,
      path,
      diedAt: this.#diedAt,
      segmentSet: this.#segmentSet,
      logger,
      timeoutMs,
    })
  }

  /** A process whose attempt to join the previous daemon has failed joins again: stops waiting for it. Returns whether this daemon has waited for it. */
  joinsAnew({ identity }: Caller): boolean {
    return this.#missing.some(member => isSame(member, identity)) && this.#recovery.stopAwaiting(identity)
  }

  join(caller: Caller): void {
    if (this.#machine.phase === 'rebuilding') {
      turnAway(caller, recoveringError(this.#missing))
      return
    }
    const { members } = this.#deps.policy().limits
    const generation = this.#generation + 1
    if (this.#holder.peers.length >= members)
      turnAway(caller, serviceLimitError(this.name, 'members', members))
    else {
      this.#welcome(caller, generation)
      if (this.#stateFile !== '') warnWithoutStateFile(caller, this.#stateFile, this.#deps.settings.logger)
      this.#holder.admit(candidate(caller, generation))
    }
  }

  /** Takes a member back. `limits.members` does not count here: the member may have the right to write, and must hear if it has lost it. */
  back(caller: Caller): void {
    const generation = caller.hello.generation ?? 0
    this.#welcome(caller, generation)
    this.#holder.readmit(candidate(caller, generation))
  }

  /** Adds a generation that no longer serves, or a follower of another service. `writes`: it may forward changes. */
  addAuthor(caller: Caller, writes: boolean): void {
    this.#writes.add(caller, this.#facts(caller, caller.hello.generation ?? 0), writes)
  }

  #welcome(caller: Caller, generation: number): void {
    this.#writes.noteFound(caller.identity)
    if (isForeign(caller)) this.#descriptorTable.foreign = true
    welcome(caller.link, { ...this.#facts(caller, generation), capabilities: [FORWARDS_WRITES] })
  }

  /** Returns the fields that every Welcome of this service has, for a caller of that generation. */
  #facts({ version }: Caller, generation: number) {
    const { incarnation, settings } = this.#deps
    const times = { heartbeatMs: settings.times.heartbeat, serviceStartedAt: this.#startedAt }
    return { version, pid: process.pid, daemon: true, incarnation, generation, ...times }
  }

  /** Returns the status: the report of the serving member, if there is one, with the facts that the daemon knows better. */
  #describe(answer: Record<string, unknown> | null): object {
    const { timeline, probationLeftMs } = this.#holder
    const { bound, epoch, phase } = this.#machine
    const owner = this.#owner
    const entries = this.#descriptorTable.entriesFor(owner)
    const identities = inspect(entries.map(({ fd }) => fd))
    const listeners = entries.flatMap((entry, i) => {
      const { fd, name, role } = entry
      const { ino: inode, cookie = null } = identities[i]!
      const fault = this.#descriptorTable.held.guard?.faultOf(fd) ?? null
      const state = fault === null ? {} : { fault, accepting: false }
      if (entry.role !== 'listener') return []
      const address = listenerAddress(identities[i]!, entry.spec)
      return [{ name, role, address, inode, cookie, ...state }]
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
      draining: this.#older.reports,
      incumbent: this.#holder.peer(this.#machine.standby)?.pid ?? null,
      held: entries.filter(({ role }) => role === 'named').map(({ name }) => name),
      segments: segments.length,
      logBytes: segments.reduce((sum, segment) => sum + segment.size(), 0),
      probationSeconds: probationLeftMs === null ? null : probationLeftMs / 1000,
      lastFailure: newer(timeline.lastFailure, answer?.lastFailure),
      blockedBy: [
        ...bound.map(id => this.#holder.peer(id)?.pid ?? 0),
        ...this.#missing.map(({ pid }) => pid),
      ],
      handoffs: timeline.records,
    }
  }

  /** Closes everything. `kept`: another process has the items too. */
  close({ kept }: { readonly kept: boolean }): void {
    // Only this daemon has the items: their listeners end here, and so do the paths of Unix sockets.
    if (!kept && this.soleCopy !== null) this.#descriptorTable.removePaths()
    this.#descriptorTable.held.changed = this.#segmentSet.changed = () => {}
    const first = [this.#recovery, this.#lastSeals, this.#merging, this.#writes, this.#holder]
    for (const part of [...first, this.operations, this.#descriptorTable, this.#segmentSet, this.#hooks])
      part.close()
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
    // Writes the list of rights-holders before the effects give a member any descriptor.
    this.#deps.changed()
    // Before the effects, one of which tells the previous member to serve again.
    handBack(before, state, id => this.#holder.peer(id), this.#receiving)
    keepOfLeft(before, state, id => this.#holder.peer(id), this.#descriptorTable)
    this.#queue.push(effects)
    this.#holder.stepped()
    if (before.phase === 'committing' && state.phase === 'idle' && state.owner === NOBODY)
      this.#descriptorTable.inherit(this.#holder.peer(before.joiner))
    this.#descriptorTable.keepProvisional([this.#holder.peer(state.owner), this.#holder.peer(state.joiner)])
    if (settles(before, state, event)) this.#settle()
    if (state.phase === 'idle') this.#descriptorTable.releaseLate(this.#holder.peer(state.owner))
    this.#tryRebuilt()
    this.#registrations.look()
    this.#writes.writerChanged()
    // An earlier first member wrote, but never served: its segments are not the service's state.
    if (before.epoch === UNSERVED_HOLDER.epoch && state.epoch > before.epoch)
      this.#segmentSet.dropBelow(before.grant)
    this.operations.changed()
  }

  // ---- what members bring

  #onBundle(peer: Peer, items: BundleItem[]): void {
    try {
      this.#descriptorTable.arrive(peer, items)
    } catch (error) {
      this.#deps.settings.logger.warn(
        { err: error, pid: peer.pid },
        'the daemon closed the descriptors that a member sent',
      )
    }
  }

  /** Opens a channel over which a previous member moves its connections to the serving one; tells it if the serving one does not support that. */
  #openMoveChannel(from: PreviousMember): void {
    const to = this.operations.receiver
    if (to === undefined || !to.link.open || isSame(to.identity, from.identity)) return
    if (!to.capabilities.has(TAKES_CONNECTIONS)) {
      from.link.post({ moveRequest: { nobody: true } })
      return
    }
    createMoveChannel({
      take: end => to.link.sendBundle(moveChannelItems(end, from), SEND_CHANNEL_MS),
      give: end => from.link.sendBundle(moveChannelItems(end, to), SEND_CHANNEL_MS),
    }).catch(error =>
      this.#deps.settings.logger.warn(
        { err: error },
        'the channel for moving connections cannot be opened: the connections drain',
      ),
    )
  }

  #onOther(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean {
    closeAll(fds)
    const { appended, register, moveRequest, renew, cancelUpgrade, written } = envelope
    // During a handoff the successor may still ask for a listener that the owner drops.
    const alone = this.#machine.phase === 'idle' && this.#servesForGood(peer)
    if (register?.drop) this.#descriptorTable.release(peer, register.item?.name ?? '', alone)
    else if (register) this.#registrations.take(peer, register.request ?? 0)
    else if (moveRequest) this.#openMoveChannel(peer)
    else if (renew) this.#pause.do(peer, () => this.#renew(peer))
    else if (written || appended) this.#writes.handle(peer, envelope)
    else if (cancelUpgrade) this.#cancel(peer, remoteError(cancelUpgrade, CANCELLED))
    else return this.operations.handleAnswer(peer, envelope)
    return true
  }

  /** The writing member asks for a new segment. */
  #renew(peer: Peer): void {
    const { phase, epoch } = this.#machine
    if (phase === 'idle' && this.#servesForGood(peer) && this.#segmentSet.hasRecords(epoch))
      this.#dispatch({ type: 'renew' })
  }

  #takeBack(peer: Peer): void {
    this.#machine = { ...this.#machine, top: reattach(peer, this.#servesForGood(peer), this.#receiving) }
    giveOwed(peer, this.#receiving)
  }

  get #receiving(): ReattachTarget {
    const { policy, settings } = this.#deps
    return {
      machine: this.#machine,
      descriptorTable: this.#descriptorTable,
      segmentSet: this.#segmentSet,
      events: this.#events,
      logger: settings.logger,
      limits: { service: this.name, limits: policy().limits },
    }
  }

  /** Whether the peer serves and no standby can take over again. (In probation the standby can, and needs its previous items then.) */
  #servesForGood(peer: Peer): boolean {
    return peer.id === this.#machine.owner && this.#machine.phase !== 'probation'
  }

  /** Also true if no member serves: the next one reads the state as it is. */
  get #memberMerges(): boolean {
    return this.#owner?.capabilities.has(MERGES_SEGMENTS) ?? true
  }

  #settled(peer: Peer): void {
    if (peer.id !== this.#machine.owner) return
    this.#generation = Math.max(this.#generation, peer.generation)
    this.#deps.changed()
  }

  /** When no standby can take over again: closes the items that the serving version did not ask for, and tells the member to close them too. */
  #settle(): void {
    const owner = this.#owner
    if (owner === undefined) return
    this.#descriptorTable.settle(owner)
    owner.link.post({ released: {} })
  }

  #forgotten(peer: Peer): void {
    if (peer.served && !peer.died) this.#writes.noteLost(peer)
    for (const part of [this.#descriptorTable, this.operations, this.#writes]) part.forget(peer)
    if (peer.died) this.#recovery.stopAwaiting(peer.identity)
    this.#deps.changed()
  }

  /** Cancels the upgrade that this member has started. */
  #cancel(peer: Peer, reason: FdbError): void {
    const { owner, standby } = this.#machine
    if (peer.id === owner || peer.id === standby)
      peer.link.post({ upgradeCancelled: { outcome: this.#holder.cancel(reason) } })
  }

  // ---- after a restart

  /** Rights-holders that are neither back nor dead. */
  get #missing(): readonly ProcessIdentity[] {
    const back = this.#machine.returned.map(({ id }) => this.#holder.peer(id)?.identity)
    return this.#recovery.missing(back)
  }

  /** Ends recovery when no rights-holder is missing and no process can write the segments any more. */
  #tryRebuilt(): void {
    if (this.#machine.phase !== 'rebuilding' || this.#missing.length > 0) return
    if (this.#seal(this.#holder.hadForeign)) this.#rebuilt()
  }

  #seal(aside: boolean): boolean {
    return this.#lastSeals.seal(aside || this.#descriptorTable.foreign, () => this.#tryRebuilt())
  }

  #rebuilt(): void {
    this.#recovery.close()
    if (this.#machine.returned.length === 0) {
      this.#startAlone()
      this.#holder.stepped()
      this.operations.changed()
      this.#deps.changed()
      return
    }
    this.#dispatch({ type: 'rebuilt' })
  }

  /** Starts without members: at once, unless the segments must be sealed and cannot be at once. */
  #startUnserved(): void {
    if (!this.#handedOver || this.#seal(false)) this.#startAlone()
    else this.#machine = awaitsMembers(this.#segmentSet)
  }

  /** Continues without members, as all rights-holders are dead. Sockets and state are lost with them, unless the previous daemon handed them over, or one brought them before. */
  #startAlone(): void {
    if (this.#descriptorTable.adoptLeft() || this.#handedOver) {
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

function candidate(caller: Caller, generation: number): Candidate {
  const { capabilities, times } = caller.hello
  const stateFile = isForeign(caller) ? '' : (caller.hello.stateFile ?? '')
  return { ...caller, generation, times: readTimes(times), capabilities: capabilities ?? [], stateFile }
}

/** The daemon gives a member that does not merge segments a new one at this size, and merges the old one. */
const RENEW_BYTES = 128 * 1024
const SEND_CHANNEL_MS = 5_000
/** A previous member: a peer of this daemon, or a caller that was a peer of the daemon before this one. */
type PreviousMember = Pick<Caller, 'link' | 'pid' | 'pidfd' | 'identity'>
