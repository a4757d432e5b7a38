import { FdbError } from '../errors.js'
import { closeAll, inspect, type OwnedFd } from '../kernel/index.js'
import { formatAddress } from '../listeners/index.js'
import { GIVE, movePair, TAKE } from '../moving/pair.js'
import type {
  CommandContext,
  CommandOrder,
  Upgraded,
  UpgradeOrder,
  UpgradeProgress,
} from '../operator/requests.js'
import { isSame } from '../process/process-identity.js'
import type { BundleItem } from '../protocol/bundle.js'
import { EffectQueue } from '../protocol/effect-queue.js'
import { needs } from '../protocol/embedded.js'
import { epochIsSane } from '../protocol/envelope.js'
import {
  type HolderEffect,
  type HolderEvent,
  type HolderPhase,
  type HolderState,
  initialHolder,
  restartedHolder,
  stepHolder,
} from '../protocol/holder-machine.js'
import type { Link, WireEnvelope } from '../protocol/link.js'
import { NOBODY } from '../protocol/messages.js'
import { remoteError } from '../protocol/remote-error.js'
import { FORWARDS_WRITES, QUIESCES, TAKES_CONNECTIONS } from '../protocol/versions.js'
import { DEFAULT_LIMITS } from '../state/limits.js'
import { Segment } from '../state/segment.js'
import { type Caller, reject, welcome } from './admission.js'
import { cancelHandoff } from './cancel.js'
import { FormerListeners, removePaths } from './former-listeners.js'
import { ForwardedCommands } from './forwarded-commands.js'
import { ForwardedUpgrades } from './forwarded-upgrades.js'
import { ForwardedWrites } from './forwarded-writes.js'
import { type HeldAlone, heldAlone } from './held-alone.js'
import { Holder } from './holder.js'
import { keepState } from './kept-state.js'
import { STUCK_MS } from './kill-stuck.js'
import type { HandoffTimes, Logger } from './options.js'
import type { Peer } from './peer.js'
import type { Candidate } from './peers.js'
import { ProvisionalEntries } from './provisional-entries.js'
import { type Entry, MAX_ENTRIES, Registry } from './registry.js'
import type { RememberedService } from './rights-holders.js'
import { RollCall } from './roll-call.js'
import { SegmentShelf } from './segment-shelf.js'
import { readTimes } from './times.js'

const STATUS_MS = 1_000
const WAY_MS = 5_000
/** Descriptors that a member may send beside listeners: segments, pidfds. */
const OTHERS = 1_000

const UNWANTED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled' } as const

/** What a member said that it holds, when it came back to a restarted daemon. */
type Brought = BundleItem & { readonly role: 'listener' | 'named'; readonly name: string }

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
  readonly #logger: Logger
  readonly #incarnation: string
  readonly #changed: () => void
  readonly #registry = new Registry()
  readonly #shelf = new SegmentShelf()
  readonly #queue: EffectQueue<HolderEffect>
  readonly #holder: Holder
  /** Descriptors that a member has sent and not yet named by Register or Back. */
  readonly #arrived = new Map<Peer, BundleItem[]>()
  readonly #provisional = new ProvisionalEntries()
  readonly #former = new FormerListeners()
  /** Restarted: what each has brought, until it is settled who serves. */
  readonly #brought = new Map<Peer, Brought[]>()
  readonly #asked = new Map<Peer, { json: Promise<string>; answer(json: string): void }>()
  readonly #upgrades: ForwardedUpgrades
  readonly #times: HandoffTimes
  readonly #commands = new ForwardedCommands()
  /** Of members that said that they take connections, and changes of others. */
  readonly #takers = new WeakSet<Link>()
  readonly #writers = new WeakSet<Link>()
  readonly #writes: ForwardedWrites
  #machine: HolderState
  #generation: number
  #startedAt: number
  /** Of the member that serves, or served last; empty: none. */
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
    this.#upgrades = new ForwardedUpgrades(parts.times)
    this.#logger = parts.logger
    this.#incarnation = parts.incarnation
    this.#changed = parts.changed
    this.#generation = remembered.generation
    this.#startedAt = remembered.startedAt
    this.#writes = new ForwardedWrites({
      shelf: this.#shelf,
      writer: () => this.#holder.peer(this.#machine.owner),
      takes: peer => this.#writers.has(peer.link),
    })
    this.#rollCall = new RollCall(remembered.members, () => this.#tryRebuilt())
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
        changed: () => this.#noteChange(),
        other: (peer, envelope, fds) => this.#onOther(peer, envelope, fds),
        bundle: (peer, items) => this.#onBundle(peer, items),
        takeBack: peer => this.#takeBack(peer),
        forgotten: peer => this.#forgotten(peer),
      },
      registry: this.#registry,
      shelf: this.#shelf,
      times: parts.times,
      logger: parts.logger,
      renewBytes: DEFAULT_LIMITS.renewBytes,
      firstId: 1,
    })
  }

  /** What a restarted daemon would have to know. */
  get remembered(): RememberedService {
    const { owner, joiner, standby, bound, backs } = this.#machine
    const members = this.#rollCall.members
    for (const id of [owner, joiner, standby, ...bound, ...backs.map(back => back.id)]) {
      const peer = this.#holder.peer(id)
      if (peer === undefined) continue
      const { identity } = peer
      const known = members.findIndex(member => isSame(member, identity))
      members.splice(known < 0 ? members.length : known, 1, identity)
    }
    return {
      service: this.name,
      generation: this.#generation,
      startedAt: this.#startedAt,
      members,
    }
  }

  /** Nobody has come to serve, and nobody tries. */
  get empty(): boolean {
    return isEmpty(this.#machine) && this.#holder.peers.length === 0
  }

  /** What would be lost with the daemon; null: nothing. */
  get heldAlone(): HeldAlone | null {
    const [registry, shelf] = [this.#registry, this.#shelf]
    const peer = (id: number) => this.#holder.peer(id)
    return heldAlone({
      service: this.name,
      machine: this.#machine,
      peer,
      registry,
      shelf,
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
      caller.pidfd?.close()
      reject(
        caller.link,
        new FdbError(
          'ERR_FDB_BUSY',
          `the daemon was restarted and waits for ${this.#missing.map(pid => `process ${pid}`).join(', ')}: try again`,
          { retryable: true },
        ),
      )
      return
    }
    const generation = this.#generation + 1
    this.#welcome(caller, generation)
    const { link, pid, pidfd, proven, identity } = caller
    this.#holder.admit({
      link,
      pid,
      pidfd,
      proven,
      identity,
      generation,
      ...toldBy(caller),
    })
  }

  back(caller: Caller): void {
    const generation = caller.hello.generation ?? 0
    this.#welcome(caller, generation)
    const { link, pid, pidfd, proven, identity } = caller
    this.#holder.readmit({
      link,
      pid,
      pidfd,
      proven,
      identity,
      generation,
      ...toldBy(caller),
    })
  }

  /** A generation that does not serve any more, and forwards its changes. */
  draining(caller: Caller): void {
    this.#writes.add(caller, this.#facts(caller, caller.hello.generation ?? 0))
  }

  #welcome(caller: Caller, generation: number): void {
    const { capabilities } = caller.hello
    if (capabilities?.includes(TAKES_CONNECTIONS)) this.#takers.add(caller.link)
    if (capabilities?.includes(FORWARDS_WRITES)) this.#writers.add(caller.link)
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

  async status(): Promise<object> {
    const asked = this.#holder.peer(this.#machine.owner)
    const answer = asked === undefined ? null : await this.#askStatus(asked)
    // All else as it is in one moment.
    const owner = this.#holder.peer(this.#machine.owner)
    // In probation who serves has its own listener of a name, and the registry the standby's, for the way back.
    const provisional = this.#provisional.of(owner)
    const entries = [
      ...this.#registry.entries.filter(entry => !provisional.some(({ name }) => name === entry.name)),
      ...provisional,
    ]
    const identities = inspect(entries.map(entry => entry.fd))
    const facts = {
      service: this.name,
      hosting: 'daemon',
      generation: owner?.generation ?? this.#generation,
      pid: owner?.pid ?? null,
      epoch: this.#machine.epoch,
      phase: this.#machine.phase,
      serviceStartedAt: new Date(this.#startedAt).toISOString(),
      uptimeSeconds: Math.max(0, (Date.now() - this.#startedAt) / 1000),
      listeners: entries
        .map((entry, i) => ({
          name: entry.name,
          role: entry.role,
          address: formatAddress(identities[i]!),
          inode: identities[i]!.ino,
          cookie: identities[i]!.cookie ?? null,
        }))
        .filter(entry => entry.role === 'listener'),
      draining: this.#holder.peers
        .filter(
          peer => peer.id !== this.#machine.owner && peer.id !== this.#machine.joiner && peer.report !== null,
        )
        .map(peer => peer.report),
      held: entries.filter(entry => entry.role === 'named').map(entry => entry.name),
      segments: this.#shelf.all.length,
      logBytes: this.#shelf.all.reduce((sum, segment) => sum + segment.size(), 0),
      lastFailure: this.#holder.timeline.lastFailure,
      blockedBy: [...this.#machine.bound.map(id => this.#holder.peer(id)?.pid ?? 0), ...this.#missing],
      handoffs: this.#holder.timeline.records,
    }
    return answer === null || owner !== asked
      ? facts
      : { ...answer, ...facts, draining: facts.draining, listeners: merged(facts.listeners, answer) }
  }

  /** Has the member that serves start its successor, which joins here. */
  async upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded> {
    if (order.killStuck) {
      await this.#holder.killStuck(STUCK_MS)
      const ended = await this.#holder.killSilentOwner(STUCK_MS)
      if (ended !== null) {
        throw new FdbError(
          'ERR_FDB_BUSY',
          `${this.name}: process ${ended}, which served, was silent and is ended; its listeners and its state are kept here: start the next version`,
          { retryable: true },
        )
      }
    }
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined || !owner.link.open || this.#upgrades.has(owner)) {
      const why =
        owner === undefined ? 'no member serves: start one' : `process ${owner.pid} cannot be asked now`
      throw new FdbError('ERR_FDB_BUSY', `${this.name}: ${why}`, { retryable: true })
    }
    return await this.#upgrades.ask(owner, order, progress, cancel)
  }

  /** Has the member that serves answer it. */
  async command(order: CommandOrder, context: CommandContext): Promise<Uint8Array> {
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined) {
      throw new FdbError('ERR_FDB_BUSY', `${this.name}: no member serves: start one`, { retryable: true })
    }
    return this.#commands.ask(owner, order, context)
  }

  close(): void {
    // Nobody else has them.
    if (this.heldAlone !== null) removePaths(this.#registry)
    this.#rollCall.close()
    this.#writes.close()
    this.#holder.close()
    this.#provisional.close()
    this.#registry.close()
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
    this.#noteChange()
    this.#queue.push(effects)
    this.#holder.stepped()
    if (before.phase === 'committing' && state.phase === 'idle' && state.owner === NOBODY)
      this.#inherit(this.#holder.peer(before.joiner))
    this.#provisional.keepOnly([this.#holder.peer(state.owner), this.#holder.peer(state.joiner)])
    if (state.phase === 'idle' && SERVES_NOW.has(before.phase)) this.#settle()
    if (state.phase === 'rebuilding') this.#tryRebuilt()
    // What a first member wrote before, and did not come to serve, is nobody's state.
    if (before.epoch === EMPTY.epoch && state.epoch > before.epoch) this.#shelf.dropBelow(before.grant)
    this.#failUpgrades(effects)
  }

  #noteChange(): void {
    this.#changed()
  }

  // ---- what members bring

  #onBundle(peer: Peer, items: BundleItem[]): void {
    const arrived = this.#arrived.get(peer) ?? []
    this.#arrived.set(peer, arrived)
    for (const item of items) arrived.push(item)
    if (arrived.length <= MAX_ENTRIES + OTHERS) return
    this.#arrived.delete(peer)
    closeAll(arrived.map(item => item.fd))
    this.#logger.warn(
      { pid: peer.pid, got: arrived.length, limit: MAX_ENTRIES + OTHERS },
      'a member sent descriptors and did not say what for: they are closed',
    )
  }

  #onOther(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean {
    closeAll(fds)
    const { register, status, progress, commandReply, result, moveRequest, renew, cancelUpgrade, written } =
      envelope
    if (register?.drop) this.#letGo(peer, register.item?.name ?? '')
    else if (register) this.#register(peer, register.request ?? 0)
    else if (status) this.#asked.get(peer)?.answer(status.json ?? '')
    else if (progress) this.#upgrades.progressed(peer, progress)
    else if (commandReply) this.#commands.answered(peer, commandReply)
    else if (moveRequest) this.#openWay(peer)
    else if (renew) this.#renew(peer)
    else if (written) this.#writes.answered(peer, written)
    else if (result) this.#upgrades.answered(peer, result)
    else if (cancelUpgrade) this.#cancel(peer, remoteError(cancelUpgrade, UNWANTED))
    else return false
    return true
  }

  /** Who writes wants to go on in a new segment. */
  #renew(peer: Peer): void {
    const { phase, epoch } = this.#machine
    if (phase === 'idle' && this.#servesForGood(peer) && this.#shelf.holdsAnything(epoch))
      this.#dispatch({ type: 'renew' })
  }

  /** For the connections of one that does not serve any more, to the one that does. */
  #openWay(from: Peer): void {
    const to = this.#holder.peer(this.#machine.owner)
    if (to === undefined || to === from || !to.link.open || !this.#takers.has(to.link)) return
    try {
      const pair = movePair()
      const items = (spec: string, fd: OwnedFd, other: Peer): BundleItem[] => [
        { role: 'moveChannel', spec, name: String(other.pid), fd },
        { role: 'moveLog', fd: pair.log.fd },
        ...(other.pidfd === null ? [] : [{ role: 'pidfd', fd: other.pidfd } as const]),
      ]
      void Promise.allSettled([
        to.link.sendBundle(items(TAKE, pair.take, from), WAY_MS),
        from.link.sendBundle(items(GIVE, pair.give, to), WAY_MS),
      ]).then(() => pair[Symbol.dispose]())
    } catch (error) {
      this.#logger.warn({ err: error }, 'no way for connections can be opened: they drain')
    }
  }

  /** Takes what the member has just sent: at once from who serves for good, else when it does. */
  #register(peer: Peer, request: number): void {
    const items = this.#arrived.get(peer) ?? []
    this.#arrived.delete(peer)
    let failure: FdbError | null = null
    for (const { role, name = '', spec = '', epoch = 0, fd } of items) {
      try {
        if (role === 'segment') this.#takeCompacted(epoch, fd)
        else if (role !== 'listener' && role !== 'named') fd.close()
        else if (this.#servesForGood(peer)) this.#own(peer, { name, role, spec, fd })
        else this.#provisional.put(peer, { name, role, spec, fd })
      } catch (error) {
        failure = FdbError.from(error)
      }
    }
    peer.link.tell({ registered: { request, code: failure?.code ?? '', message: failure?.message ?? '' } })
  }

  /** The member does not listen there any more; in probation the standby still may. */
  #letGo(peer: Peer, name: string): void {
    peer.adopted.delete(name)
    this.#provisional.remove(peer, name)
    if (this.#servesForGood(peer)) this.#drop(name)
  }

  #drop(name: string): void {
    this.#former.note(this.#registry, name)
    this.#registry.drop(name)
    this.#former.settle(this.#registry)
  }

  #own(peer: Peer, entry: Entry): void {
    this.#former.note(this.#registry, entry.name)
    this.#registry.put(entry)
    this.#former.settle(this.#registry)
    peer.adopted.add(entry.name)
  }

  /** In probation the standby may come back, to what it had. */
  #servesForGood(peer: Peer): boolean {
    return peer.id === this.#machine.owner && this.#machine.phase !== 'probation'
  }

  /** The member that serves has merged what is sealed: one segment in place of many, unless a handoff counts on them. */
  #takeCompacted(epoch: number, fd: OwnedFd): void {
    const snapshot = Segment.open(fd)
    if (this.#machine.phase === 'idle' && snapshot.kind === 'snapshot' && epoch < this.#machine.epoch)
      this.#shelf.replaceUpTo(snapshot)
    else snapshot.close()
  }

  #settled(peer: Peer): void {
    if (peer.id !== this.#machine.owner) return
    this.#generation = Math.max(this.#generation, peer.generation)
    this.#noteChange()
  }

  /** It died between its Commit and its Serving, and nobody can come back: it may have accepted on what it brought. */
  #inherit(peer: Peer | undefined): void {
    for (const entry of this.#provisional.of(peer)) {
      if (this.#registry.get(entry.name) === undefined) this.#registry.put({ ...entry, fd: entry.fd.dup() })
    }
  }

  /** Nobody can come back any more: what the version that serves did not ask for is closed, here and there. */
  #settle(): void {
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner === undefined) return
    const brought = this.#brought.get(owner)
    if (brought !== undefined) this.#adoptBrought(owner, brought)
    this.#dropBrought()
    for (const entry of this.#provisional.take(owner)) this.#own(owner, entry)
    for (const name of this.#registry.names) if (!owner.adopted.has(name)) this.#drop(name)
    owner.link.tell({ released: {} })
  }

  #forgotten(peer: Peer): void {
    closeAll((this.#arrived.get(peer) ?? []).map(item => item.fd))
    this.#arrived.delete(peer)
    this.#provisional.drop(peer)
    closeAll((this.#brought.get(peer) ?? []).map(item => item.fd))
    this.#brought.delete(peer)
    this.#asked.get(peer)?.answer('')
    this.#commands.forget(peer)
    this.#writes.forget(peer)
    this.#upgrades.forget(peer)
    if (peer.died) this.#rollCall.provedDead(peer.identity)
  }

  #failUpgrades(effects: readonly HolderEffect[]): void {
    if (!effects.some(effect => effect.type === 'failed')) return
    const failure = this.#holder.timeline.lastFailure
    if (failure !== null) this.#upgrades.failed(failure)
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

  /** A member that came back has sent all it holds, then Back. Take it before the machine decides. */
  #takeBack(peer: Peer): void {
    const items = this.#arrived.get(peer) ?? []
    this.#arrived.delete(peer)
    const brought: Brought[] = []
    for (const item of items) {
      const { role, name = '', writable = false, fd } = item
      if (role === 'listener' || role === 'named') brought.push({ ...item, role, name })
      else if (role === 'segment') this.#takeSegment(fd, writable, peer)
      else fd.close()
    }
    if (this.#machine.phase === 'rebuilding') {
      closeAll((this.#brought.get(peer) ?? []).map(item => item.fd))
      this.#brought.set(peer, brought)
      peer.adopted = new Set(brought.map(item => item.name))
      return
    }
    const owns = this.#servesForGood(peer)
    for (const { role, name, spec = '', fd } of brought) {
      if (owns && this.#registry.get(name) === undefined && this.#registry.size < MAX_ENTRIES)
        this.#own(peer, { name, role, spec, fd })
      else fd.close()
    }
  }

  #takeSegment(fd: OwnedFd, writable: boolean, { id, pid }: Peer): void {
    const { phase, owner, joiner, standby } = this.#machine
    try {
      const segment = Segment.open(fd)
      if (!epochIsSane(segment.epoch)) {
        segment.close()
        throw new FdbError(
          'ERR_FDB_STATE_FORMAT',
          `a segment of epoch ${segment.epoch} cannot be: it is not taken`,
        )
      }
      if (phase === 'rebuilding') {
        // No number is given twice.
        this.#machine = { ...this.#machine, top: Math.max(this.#machine.top, segment.epoch) }
        this.#shelf.put(segment, writable)
        return
      }
      // All that counts is held. Somebody who was not known, and may still write somewhere, loses that right now.
      if (writable && ![owner, joiner, standby].includes(id)) segment.seal()
      segment.close()
    } catch (error) {
      this.#logger.warn({ err: error, pid }, 'a member brought back a segment that cannot be taken')
    }
  }

  /** Rights-holders that are neither back nor dead. */
  get #missing(): number[] {
    const back = this.#machine.backs.map(({ id }) => this.#holder.peer(id))
    const missing = this.#rollCall.members.filter(
      member => !back.some(peer => peer !== undefined && isSame(peer.identity, member)),
    )
    return missing.map(({ pid }) => pid)
  }

  #tryRebuilt(): void {
    if (this.#machine.phase === 'rebuilding' && this.#missing.length === 0) this.#rebuilt()
    else this.#noteChange()
  }

  #rebuilt(): void {
    this.#rollCall.close()
    if (this.#machine.backs.length === 0) {
      this.#startAnew()
      this.#holder.stepped()
      this.#noteChange()
      return
    }
    const snapshot = this.#shelf.all.findLast(segment => segment.kind === 'snapshot')
    if (snapshot !== undefined) this.#shelf.replaceUpTo(snapshot.dup())
    // Everybody who may write is here or dead: of the dead there may be read-only descriptors alone.
    for (const segment of this.#shelf.all) segment.sealForTheDead()
    this.#dispatch({ type: 'rebuilt' })
    const owner = this.#holder.peer(this.#machine.owner)
    if (owner !== undefined) this.#adoptBrought(owner, this.#brought.get(owner) ?? [])
  }

  /** All who had anything are dead: sockets and state are gone with them. */
  #startAnew(): void {
    this.#machine = EMPTY
    this.#generation = 0
    this.#startedAt = Date.now()
    this.#shelf.close()
    this.#registry.close()
  }

  /** What this member holds is what the service has. */
  #adoptBrought(peer: Peer, items: readonly Brought[]): void {
    this.#brought.delete(peer)
    this.#registry.close()
    for (const { role, name, spec = '', fd } of items) this.#registry.put({ name, role, spec, fd })
  }

  #dropBrought(): void {
    for (const items of this.#brought.values()) closeAll(items.map(item => item.fd))
    this.#brought.clear()
  }

  // ---- status

  async #askStatus(owner: Peer): Promise<Record<string, unknown> | null> {
    if (!owner.link.open) return null
    const json = await (this.#asked.get(owner)?.json ?? this.#ask(owner))
    try {
      return json === '' ? null : JSON.parse(json)
    } catch {
      return null
    }
  }

  /** One question at a time, for all who want to know. Resolves with '' when it does not answer. */
  #ask(owner: Peer): Promise<string> {
    let answer!: (json: string) => void
    const json = new Promise<string>(resolve => {
      const timer = setTimeout(() => answer(''), STATUS_MS)
      answer = text => {
        clearTimeout(timer)
        this.#asked.delete(owner)
        resolve(text)
      }
    })
    this.#asked.set(owner, { json, answer })
    owner.link.tell({ statusRequest: {} })
    return json
  }
}

/** The daemon knows which sockets there are; the member knows who accepts on them. */
function merged<T extends { name: string }>(own: readonly T[], answer: Record<string, unknown>): object[] {
  const listeners = Array.isArray(answer.listeners) ? (answer.listeners as (T | null)[]) : []
  const theirs = new Map(listeners.map(listener => [listener?.name, listener]))
  return own.map(listener => ({ ...theirs.get(listener.name), ...listener }))
}

/** What a member says of itself in its Hello. */
function toldBy({ hello }: Caller): Pick<Candidate, 'times' | 'quiesces' | 'stateFile'> {
  const quiesces = hello.capabilities?.includes(QUIESCES) ?? false
  return { times: readTimes(hello.times), quiesces, stateFile: hello.stateFile ?? '' }
}
