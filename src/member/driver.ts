import { afterHearing, type Limit } from '../channel/limit.js'
import { FdbError } from '../errors.js'
import { type Cancelled, cancelHandoff } from '../holder/cancel.js'
import { FormerListeners, removePaths } from '../holder/former-listeners.js'
import { Holder } from '../holder/holder.js'
import { insist } from '../holder/insist.js'
import { STUCK_MS } from '../holder/kill-stuck.js'
import { NamesNote } from '../holder/names-note.js'
import { type Entry, Registry } from '../holder/registry.js'
import { SegmentShelf } from '../holder/segment-shelf.js'
import type { Failure, HandoffRecord } from '../holder/timeline.js'
import { patience } from '../holder/times.js'
import type { OwnedFd } from '../kernel/index.js'
import type { Upgraded } from '../operator/requests.js'
import type { PathEntry } from '../process/control-path.js'
import { makeRoomForDescriptors } from '../process/limits.js'
import type { Successor } from '../process/spawn-successor.js'
import type { BundleItem } from '../protocol/bundle.js'
import { EffectQueue, type Outcome } from '../protocol/effect-queue.js'
import {
  type Embedded,
  type EmbeddedEffect,
  type EmbeddedEvent,
  needs,
  stepEmbedded,
} from '../protocol/embedded.js'
import { packToHolder, type StatePosition, unpackToMember } from '../protocol/envelope.js'
import type { HolderEvent, HolderState } from '../protocol/holder-machine.js'
import type { WireEnvelope } from '../protocol/link.js'
import {
  initialMember,
  type MemberEffect,
  type MemberEvent,
  type MemberPhase,
  type MemberState,
} from '../protocol/member-machine.js'
import type { Epoch, Scope, ToHolder } from '../protocol/messages.js'
import { remoteError } from '../protocol/remote-error.js'
import { serveStateCommands } from '../state/commands.js'
import { StateFile, type StateFileStatus } from '../state/file/state-file.js'
import { Segment } from '../state/segment.js'
import { StateLog } from '../state/state-log.js'
import { Checks } from './checks.js'
import { Commands } from './commands.js'
import { ControlSocket } from './control-socket.js'
import type { ForcedClose } from './drain/forced-closes.js'
import { type DrainReport, DrainReporter } from './drain/reporter.js'
import { type DrainTimes, drainListeners, endIdle } from './drain/wait.js'
import { Duty } from './duty.js'
import { Forgetting } from './forgetting.js'
import { Growth } from './growth.js'
import { Heartbeat } from './heartbeat.js'
import { type HolderLink, REFUSED } from './holder-link.js'
import type { Legacy } from './hung-incumbent.js'
import { type Listener, startListeners } from './listener.js'
import type { CloseOptions, ReadyOptions, RetiredReason, UpgradeOptions } from './member.js'
import { Moves } from './moves.js'
import { type Offered, OfferReceiver } from './offer-receiver.js'
import { OperatorRequests } from './operator-requests.js'
import type { Settings } from './options.js'
import { notReady, Readiness } from './readiness.js'
import { ReadyReminder } from './ready-reminder.js'
import { reconnectToDaemon } from './reconnect.js'
import { Registrations } from './registrations.js'
import { StateKeeper } from './state-keeper.js'
import { describe, type StatusReport } from './status.js'
import { endStuckIncumbent } from './stuck-incumbent.js'
import { TakeoverTiming } from './takeover-timing.js'
import { Unfitness } from './unfit.js'
import { endUpgrade, upgradeSelf } from './upgrade.js'
import { WriteForwarder } from './write-forwarder.js'

/** This process's id for its own holder. */
const SELF = 0
/** Epoch of the first segment of a service. */
const FIRST_EPOCH = 1
/** How often a successor without a channel looks at the seals. */
const SEAL_LOOK_MS = 100
/** For the last changes to reach the state file, when this process leaves and nobody takes over. */
const FILE_END_MS = 10_000

/** Nobody else does. */
const SERVES: ReadonlySet<MemberPhase> = new Set(['beginning', 'serving', 'unfit'])

/** What the public {@link Member} lends to the driver. */
export interface Front {
  listeners(): Iterable<Listener>
  /** What listeners of its events threw. */
  failures(): number
  serving(): void
  retiring(): void
  reinstated(): void
  unfit(error: FdbError): void
  resumed(): void
  /** What a hook of the application threw. */
  failed(error: unknown): void
  retired(why: RetiredReason): void
  stateFile(status: StateFileStatus): void
}

/**
 * The driver of one process's part: runs the machines (its own member, and its holder once it decides for itself),
 * turns what happens into their events and carries out their effects. Owns the registry, the segments, the state
 * log, the control socket and the link to the holder above.
 */
export class MemberDriver {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly state: StateLog
  readonly stateFile: StateFile | null
  readonly registry = new Registry()
  readonly shelf = new SegmentShelf()
  /** Names that this version has asked for. */
  readonly wanted = new Set<string>()
  readonly retired: Promise<RetiredReason>
  /** Successors that this process has started. */
  readonly started: Successor[] = []

  readonly #queue: EffectQueue<EmbeddedEffect>
  readonly #controlSocket: ControlSocket
  readonly #keeper: StateKeeper
  readonly #growth: Growth
  readonly #forgetting: Forgetting
  readonly #registrations = new Registrations()
  readonly #former = new FormerListeners()
  readonly #moves: Moves
  readonly #heartbeat: Heartbeat
  readonly #timing = new TakeoverTiming()
  readonly #offers: OfferReceiver
  readonly #operatorRequests = new OperatorRequests(this, () => this.#holderLink?.link)
  readonly #readiness = new Readiness(() => this.#deadline())
  readonly #reminder: ReadyReminder
  /** What the application may do in one process only. */
  readonly duty: Duty
  #checks: Checks | null = null
  /** Of the application, for operators. */
  readonly commands = new Commands()
  /** For who looks into this process when it hangs. */
  readonly #note: NamesNote | null = null
  #machine: Embedded
  #front: Front | null = null
  #holder: Holder | null = null
  #holderLink: HolderLink | null = null
  #offered: (() => void) | null = null
  #reason: FdbError | null = null
  #served = false
  /** The application was told to retire, and not yet that it serves again. */
  #retiring = false
  #position: StatePosition | null = null
  #takenOver: StatePosition | null = null
  readonly #unfitness = new Unfitness()
  #startFailure: Failure | null = null
  #sealLook: NodeJS.Timeout | undefined
  #freezeLimit: Limit | undefined
  #reporter: DrainReporter | null = null
  readonly #writes: WriteForwarder
  /** At the end of the drain. */
  #closedAtLast: readonly ForcedClose[] = []
  #retiredWhy: RetiredReason = 'lost'
  #resolveRetired!: (why: RetiredReason) => void
  #drainTimeout: number
  #closing = false
  #over = false
  #returning: AbortController | null = null
  #changes = new Set<() => void>()

  private constructor(
    settings: Settings,
    facts: { generation: number; serviceStartedAt: number; scope: Scope },
  ) {
    this.settings = settings
    this.generation = facts.generation
    this.serviceStartedAt = facts.serviceStartedAt
    this.#drainTimeout = settings.drainTimeout
    const { stateFile, stateLimits, logger } = settings
    this.state = new StateLog({ logger, limits: stateLimits })
    this.#reminder = new ReadyReminder(logger)
    this.#writes = new WriteForwarder(this.state, settings.timeout, () => this.#reporter?.reconnect())
    this.duty = new Duty(
      {
        serving: () => this.#front?.serving(),
        retiring: () => this.#front?.retiring(),
        reinstated: () => this.#front?.reinstated(),
        resumed: () => this.#front?.resumed(),
      },
      error => this.#front?.failed(error),
      logger,
    )
    this.state.onFenced = () => this.#look()
    this.state.onFull = () => this.#makeRoom()
    this.#forgetting = new Forgetting({
      stale: () => this.state.hasStaleSecrets,
      possible: () => this.phase === 'serving' && (this.#machine.holder?.phase ?? 'idle') === 'idle',
      rewrite: () => this.#makeRoom(),
    })
    this.state.onStaleSecret = this.#forgetting.notice
    this.state.premature = () => (this.phase === 'joining' ? notReady() : null)
    this.state.onUnreadable = error => this.#unreadable(error)
    this.stateFile =
      stateFile === null ? null : new StateFile(stateFile, this.state, logger, () => !this.#ownSealed())
    this.state.disk = this.stateFile
    if (this.stateFile !== null) this.stateFile.onChange = status => this.#front?.stateFile(status)
    this.#keeper = new StateKeeper(this.state, this.shelf, settings.logger)
    this.#growth = new Growth({
      shelf: this.shelf,
      renewBytes: stateLimits.renewBytes,
      written: () => {
        const { scope, phase, epoch } = this.#machine.member
        return scope === 'member' && phase === 'serving' ? epoch : null
      },
      ask: () => this.#holderLink?.link.tell({ renew: {} }),
      onChange: listener => this.watch(listener),
    })
    serveStateCommands((name, handler) => this.commands.set(name, handler), this.state)
    this.#heartbeat = new Heartbeat({
      everyMs: () => this.#holderLink?.beatEvery(settings.times.heartbeat) ?? settings.times.heartbeat,
      silenceMs: () => patience(settings.times.silence, this.#holderLink?.facts.heartbeatMs ?? 0),
      link: () => this.#holderLink?.link,
      healthy: () => settings.health() && this.#accepts,
      report: () => this.#drainReport(),
      // An embedded incumbent that is silent is no reason to do anything: it decides.
      silent: () => {
        if (this.#machine.member.scope === 'member') this.#step({ type: 'silent' })
      },
    })
    this.#moves = new Moves({
      settings,
      listeners: () => this.#listeners,
      ask: () => this.#askForMove(),
    })
    this.#controlSocket = new ControlSocket({
      settings,
      moves: this.#moves,
      state: this.state,
      generation: this.generation,
      serviceStartedAt: this.serviceStartedAt,
      shelf: this.shelf,
      operations: {
        status: () => this.status(),
        upgrade: async ({ argv, timeoutMs, killStuck }, progress, signal) => {
          if (killStuck) await this.#killStuck()
          return this.upgrade({ argv, progress, signal, ...(timeoutMs > 0 ? { timeout: timeoutMs } : {}) })
        },
        command: ({ name, body }, context) => this.commands.run(name, body, context, this.phase),
      },
      holder: () => this.#holder,
      closing: () => this.#closing,
      stuckIncumbent: () => this.#stuckIncumbent?.facts.pid ?? null,
      hurry: () => this.#holderLink?.link.tell({ endProbation: {} }),
    })
    const { registry, shelf } = this
    this.#offers = new OfferReceiver({ registry, shelf, controlSocket: this.#controlSocket }, top =>
      this.#step({ type: 'shared', top }),
    )
    this.retired = new Promise(resolve => {
      this.#resolveRetired = resolve
    })
    if (facts.scope === 'holder' && settings.control !== null) {
      const { generation, serviceStartedAt } = facts
      this.#note = new NamesNote(
        { service: settings.service, generation, serviceStartedAt },
        () => this.registry.entries,
      )
      registry.changed = () => this.#note?.changed()
      registry.changed()
    }
    this.#machine = { self: SELF, member: initialMember(facts.scope), holder: null }
    this.#queue = new EffectQueue<EmbeddedEffect>({
      perform: effect => this.#perform(effect),
      outcome: (effect, outcome) => this.#outcome(effect, outcome),
      needs,
    })
  }

  /** The first process of a service, with nobody to take over from; `control` null: it has no holder at all. */
  static async first(
    settings: Settings,
    control: { listener: OwnedFd; lock: OwnedFd; entry: PathEntry } | null,
  ): Promise<MemberDriver> {
    const driver = new MemberDriver(settings, {
      generation: 1,
      serviceStartedAt: Date.now(),
      scope: 'holder',
    })
    driver.#machine = {
      ...driver.#machine,
      member: {
        ...driver.#machine.member,
        holds: true,
        link: 'none',
        epoch: FIRST_EPOCH,
        source: 0,
        wayBack: FIRST_EPOCH,
      },
    }
    driver.shelf.make([FIRST_EPOCH])
    try {
      // Nobody else can write: the application may fill its state before it is ready.
      await driver.#keeper.begin(FIRST_EPOCH, settings.stateFile)
    } catch (error) {
      driver.state.close()
      driver.shelf.close()
      throw error
    }
    driver.stateFile?.prepare()
    if (control !== null) {
      const { listener, lock, entry } = control
      driver.#controlSocket.take({ listener, lock, entry })
      driver.#controlSocket.open()
    }
    return driver
  }

  /**
   * One that has what a dead process held, and nobody's word: as a successor that was ready when its incumbent died. Its
   * ready() makes it the one that decides. Takes all of it, also when it rejects.
   */
  static async heir(settings: Settings, legacy: Legacy): Promise<MemberDriver> {
    const { generation, serviceStartedAt, entries, segments, listener, lock } = legacy
    const driver = new MemberDriver(settings, { generation, serviceStartedAt, scope: 'holder' })
    for (const segment of segments.filter(({ kind }) => kind === 'epoch')) driver.shelf.put(segment, true)
    for (const segment of segments.filter(({ kind }) => kind === 'snapshot'))
      driver.shelf.replaceUpTo(segment)
    for (const entry of entries) {
      driver.registry.put(entry)
      driver.wanted.add(entry.name)
    }
    const top = driver.#topEpoch()
    const known = { holds: true, link: 'none', epoch: top, source: top, wayBack: top, top } as const
    driver.#machine = { ...driver.#machine, member: { ...driver.#machine.member, ...known } }
    driver.#controlSocket.take({ listener, lock })
    try {
      await driver.#keeper.read(top)
      return driver
    } catch (error) {
      driver.#end(FdbError.from(error))
      throw error
    }
  }

  /**
   * A process that takes over from the holder at `holderLink`, or joins a daemon, which has so long until its Offer. Resolves when descriptors
   * and state are here.
   */
  static async next(settings: Settings, holderLink: HolderLink, timeoutMs: number): Promise<MemberDriver> {
    const { generation, serviceStartedAt, daemon } = holderLink.facts
    const driver = new MemberDriver(settings, {
      generation,
      serviceStartedAt,
      scope: daemon ? 'member' : 'holder',
    })
    const offered = new Promise<void>((resolve, reject) => {
      driver.#offered = resolve
      driver.#readiness.wait().catch(reject)
    })
    offered.catch(() => {})
    const { signal } = settings
    const aborted = () =>
      driver.refuse(new FdbError('ERR_FDB_ABORTED', 'the application does not want to take over any more'))
    signal?.addEventListener('abort', aborted, { once: true })
    driver.#readiness.limit(timeoutMs)
    try {
      driver.#attach(holderLink)
      makeRoomForDescriptors()
      if (signal?.aborted) aborted()
      await offered
      await driver.#keeper.read(driver.#machine.member.source)
      // Nobody else can write: the application may fill its state before it is ready.
      if (driver.first) await driver.#keeper.begin(driver.#machine.member.epoch, settings.stateFile)
      driver.stateFile?.prepare()
      driver.#timing.note('read')
      if (driver.#machine.member.phase === 'gone') throw driver.#whyNot()
    } catch (error) {
      // Read wrongly, or not at all: tell the incumbent, leave nothing behind.
      driver.refuse(FdbError.from(error))
      await driver.#queue.settled()
      throw signal?.aborted ? signal.reason : error
    } finally {
      signal?.removeEventListener('abort', aborted)
    }
    return driver
  }

  /** There was nobody to take over from, and no state. */
  get first(): boolean {
    return this.#machine.member.source === 0
  }

  get phase(): MemberPhase {
    return this.#machine.member.phase
  }

  get accepting(): boolean {
    return this.#machine.member.accepting
  }

  get handoffs(): readonly HandoffRecord[] {
    return this.#holder?.timeline.records ?? []
  }

  /** This process's own holder: null before it decides for itself. */
  get holder(): Holder | null {
    return this.#holder
  }

  get holderState(): HolderState | null {
    return this.#machine.holder
  }

  get lastFailure(): Failure | null {
    const own = this.#startFailure
    const handoff = this.#holder?.timeline.lastFailure ?? null
    return own !== null && (handoff === null || own.at >= handoff.at) ? own : handoff
  }

  /** A successor that this process started never came as far as a handoff. */
  noteFailure(failure: Failure): void {
    this.#startFailure = failure
    for (const tell of [...this.#changes]) tell()
  }

  /** The successor is not wanted any more: it is given up, unless its Commit has left. */
  cancelHandoff(reason: FdbError): Cancelled | Promise<Cancelled> {
    const { member, holder: state } = this.#machine
    if (member.scope === 'member') return this.#operatorRequests.cancelHandoff(reason)
    if (state === null) return 'idle'
    const dispatch = (event: HolderEvent) => this.dispatch({ to: 'holder', event })
    return cancelHandoff({ state, peer: this.#holder?.peer(state.joiner), dispatch }, reason)
  }

  /** Who serves in our place, as our own holder knows it; null when we do, or a daemon decides. */
  get successor(): Upgraded | null {
    const owner = this.#machine.holder?.owner ?? SELF
    const peer = owner === SELF ? undefined : this.#holder?.peer(owner)
    return peer === undefined ? null : { pid: peer.pid, generation: peer.generation }
  }

  /** Who is being brought to serve, as our own holder knows it. */
  get joinerPid(): number | null {
    return this.#holder?.peer(this.#machine.holder?.joiner ?? SELF)?.pid ?? null
  }

  /** Called whenever something that `status` shows has changed. Returns how to stop that. */
  watch(listener: () => void): () => void {
    this.#changes.add(listener)
    return () => this.#changes.delete(listener)
  }

  bind(front: Front): void {
    this.#front = front
    this.#reminder.start(() => ({
      check: this.#checks?.current ?? null,
      incumbent: this.#holderLink?.facts.pid ?? null,
    }))
  }

  // ---- what the application asks for

  async ready(options: ReadyOptions): Promise<void> {
    if (this.#over) throw this.#whyNot()
    if (this.phase !== 'joining') {
      throw new FdbError('ERR_FDB_READY_TWICE', `ready() was called before: this process is ${this.phase}`)
    }
    const serving = this.#readiness.wait()
    const checks = new Checks(options)
    const until = performance.now() + (options.timeout ?? 0)
    this.#checks = checks
    try {
      await checks.run(serving)
      for (const listener of this.#listeners) listener.check()
    } catch (error) {
      this.refuse(error as FdbError)
      throw error
    }
    this.#reminder.stop()
    if (options.timeout !== undefined) this.#readiness.limit(Math.max(1, until - performance.now()))
    this.#step({ type: 'adopted' })
    await serving
  }

  /** This version cannot take over; the incumbent serves on and learns why. */
  refuse(error: FdbError): void {
    if (this.phase !== 'joining' && this.phase !== 'ready') return
    this.#reason ??= error
    if (this.#machine.member.link === 'none') this.#end(error)
    else this.#step({ type: 'refused' })
  }

  async close({ timeout, handBack = false }: CloseOptions): Promise<void> {
    if (timeout !== undefined) this.#drainTimeout = timeout
    if (this.#over) return
    if (!this.#closing) {
      this.#closing = true
      // A successor that this process starts itself is to end with it.
      await endUpgrade(this, timeout ?? this.settings.drainTimeout)
      // A handoff under way is brought to its end first: its successor would be the one to serve.
      await this.#handoffOver(timeout ?? this.settings.drainTimeout)
      if (!this.#over && this.phase === 'serving') {
        if (!handBack) await this.#releaseStandby()
        await this.#endDuty()
      }
      if (this.#over) return
      if (this.phase !== 'leaving') this.#retiredWhy = this.phase === 'standby' ? 'replaced' : 'closed'
      if (this.phase === 'joining' || this.phase === 'ready') {
        if (this.#machine.member.link === 'none') this.#removePaths()
        this.refuse(new FdbError('ERR_FDB_CLOSED', 'the application closed this member before it served'))
      } else {
        if (SERVES.has(this.phase) && this.#machine.member.link === 'local') this.#removePaths()
        // Who leaves in probation does not come back: the successor need not wait for the end of this process.
        if (this.#machine.holder?.phase === 'probation')
          this.dispatch({ to: 'holder', event: { type: 'healthy' } })
        this.#step({ type: 'leave' })
      }
    }
    if (!this.#over) await this.retired
  }

  upgrade(options: UpgradeOptions): Promise<Upgraded> {
    return upgradeSelf(this, options)
  }

  /**
   * Takes a listener or descriptor into the registry, in place of the one of that name. Daemon hosting: the daemon keeps
   * it too, so that it outlives this process; when it does not, nothing has changed here, and the descriptor is closed.
   */
  async register(entry: Entry): Promise<void> {
    if (this.#machine.member.scope === 'member' && this.#holderLink !== null) {
      try {
        await this.#give([entry])
        this.refuseLeft()
      } catch (error) {
        entry.fd.close()
        this.#takeBackFrom(entry.name)
        throw error
      }
    }
    this.#giveUp(entry.name)
    this.registry.put(entry)
    this.wanted.add(entry.name)
    this.#settleFormer()
  }

  /** The daemon may have taken it, only too late for us. */
  #takeBackFrom(name: string): void {
    const present = this.registry.get(name)
    if (present !== undefined && this.wanted.has(name)) this.#give([present]).catch(() => {})
    else this.#holderLink?.link.tell({ register: { drop: true, item: { name } } })
  }

  /** Asks for it no more; daemon hosting: the daemon lets go of it too. */
  unregister(name: string): void {
    this.wanted.delete(name)
    this.#giveUp(name)
    this.registry.drop(name)
    this.#settleFormer()
    if (this.#machine.member.scope === 'member') {
      this.#holderLink?.link.tell({ register: { drop: true, item: { name } } })
    }
  }

  async #give(items: readonly BundleItem[]): Promise<void> {
    const link = this.#holderLink?.link
    if (link !== undefined) await this.#registrations.send(link, items, this.settings.timeout)
  }

  status(): StatusReport {
    const { member, holder } = this.#machine
    return describe({
      settings: this.settings,
      generation: this.generation,
      serviceStartedAt: this.serviceStartedAt,
      member,
      phase: holder?.phase ?? (this.#holderLink === null ? 'idle' : 'probation'),
      entries: this.registry.entries,
      listeners: this.#listeners,
      draining: this.#controlSocket.older,
      closed: this.#controlSocket.closedByOlder,
      state: this.state,
      stateFile: this.stateFile,
      takenOver: this.#takenOver,
      takeover: this.#timing.steps,
      moves: this.#moves.counts.report,
      lastFailure: this.lastFailure,
      blockedBy: this.#blockedBy,
      handoffs: this.handoffs,
      applicationErrors: this.#front?.failures() ?? 0,
      unfit: this.#unfitness.report,
    })
  }

  get #blockedBy(): number[] {
    const { bound = [] } = this.#machine.holder ?? {}
    const stuck = this.#stuckIncumbent
    if (stuck !== null) return [stuck.facts.pid]
    return bound.map(id => this.#holder?.peer(id)?.pid ?? 0)
  }

  /** Embedded: who stands by and decides, and says nothing: nobody can join before it has ended. */
  get #stuckIncumbent(): HolderLink | null {
    const { scope } = this.#machine.member
    const silent = scope === 'holder' && this.#holder === null && this.#heartbeat.holderSilent
    return silent && (this.#holderLink?.facts.heartbeatMs ?? 0) > 0 ? this.#holderLink : null
  }

  async #killStuck(): Promise<void> {
    const stuck = this.#stuckIncumbent
    if (stuck === null) await this.#holder?.killStuck(STUCK_MS)
    else await endStuckIncumbent(stuck, STUCK_MS, () => this.#holder !== null)
  }

  get connections(): number {
    let sum = 0
    for (const listener of this.#listeners) sum += listener.connections
    return sum
  }

  /** Healthy means serving: nobody waits at a listener where nobody accepts. */
  get #accepts(): boolean {
    return !this.#machine.member.accepting || this.#listeners.every(listener => listener.attended)
  }

  get #listeners(): Listener[] {
    return [...(this.#front?.listeners() ?? [])]
  }

  // ---- the machine

  #step(event: MemberEvent): void {
    this.dispatch({ to: 'member', event })
  }

  dispatch(event: EmbeddedEvent): void {
    const before = this.#machine.member
    const { state, effects } = stepEmbedded(this.#machine, event, epoch => this.shelf.isSealed(epoch))
    this.#machine = state
    this.#queue.push(effects)
    if (before.phase !== state.member.phase) this.#phaseChanged(before.phase, state.member)
    this.#holder?.stepped()
    for (const tell of [...this.#changes]) tell()
    if (event.to === 'holder' && event.event.type === 'renew' && state.member.epoch !== before.epoch)
      void this.#queue.settled().then(() => this.#compact())
  }

  #makingRoom = false

  /** The log is full: it goes on in a new segment, and what does not count any more is merged away. */
  #makeRoom(): void {
    if (this.#makingRoom) return
    this.#makingRoom = true
    setImmediate(async () => {
      const { holder, member } = this.#machine
      if (!this.#over && this.shelf.holdsAnything(member.epoch)) {
        if (holder !== null) this.dispatch({ to: 'holder', event: { type: 'renew' } })
        else await this.#growth.renewed()
        await this.#queue.settled()
      }
      // A daemon takes a merged segment when it has no handoff under way any more, and says so: see #settled().
      if (this.#machine.member.scope === 'holder') await this.#compact({ needed: true })
      this.#makingRoom = false
    })
  }

  async #compact(options: { needed?: boolean } = {}): Promise<void> {
    if (!this.#over) await this.#keeper.compact(snapshot => this.#shelve(snapshot), options)
  }

  #phaseChanged(before: MemberPhase, member: MemberState): void {
    this.settings.logger.info(
      { phase: member.phase, before, epoch: member.epoch, generation: this.generation },
      'member phase',
    )
    this.#freezeLimit?.clear()
    if (before === 'beginning' && member.phase === 'serving') this.#begun()
    if (member.phase === 'unfit') this.#cannotWrite()
    if (before === 'beginning' && member.link === 'local') this.#decides()
    if (member.phase === 'leaving' && !this.#served) this.#readiness.fail(this.#whyNot())
    if (member.phase === 'frozen' && member.link !== 'local') {
      // The holder's deadline decides; this one only keeps the service from waiting for a holder that is stuck.
      this.#freezeLimit = afterHearing(this.settings.times.freeze * 3, () => this.#step({ type: 'deadline' }))
    }
  }

  #deadline(): void {
    const { holds } = this.#machine.member
    const pid = this.#holderLink?.facts.pid ?? 'that was to hand over'
    const what = holds
      ? `process ${pid} did not complete the handoff in time (phase ${this.phase}): it is stuck or stopped`
      : `process ${pid} did not begin to hand over within ${this.settings.timeout} ms: it is not ready itself (it has not called ready(), or its own incumbent still stands by), or stuck; try again when it serves`
    this.#reason ??= new FdbError('ERR_FDB_DEADLINE', what, { retryable: true })
    this.#step({ type: 'deadline' })
  }

  /** What has come of an effect is an event of the machine. */
  #outcome({ by, effect }: EmbeddedEffect, outcome: Outcome): void {
    if (by === 'holder') {
      this.#holder?.outcome(effect, outcome)
      return
    }
    if (outcome.done) {
      if (effect.type === 'write') this.#step({ type: 'begun', epoch: effect.epoch })
      return
    }
    const { error } = outcome
    if (effect.type === 'endWriting') {
      this.#unreadable(error)
      return
    }
    this.settings.logger.error({ err: error, effect: effect.type }, 'a step of the handoff failed')
    if (effect.type !== 'accept' && effect.type !== 'carry' && effect.type !== 'write') return
    this.#reason ??= this.#unfitness.note(error)
    const epoch =
      effect.type === 'accept' ? {} : { epoch: effect.type === 'carry' ? effect.below : effect.epoch }
    this.#step({ type: 'failed', effect: effect.type, ...epoch })
  }

  /** While another serves. */
  #unreadable(error: unknown): void {
    if (this.#over || this.phase !== 'standby') return
    const why = this.#unfitness.note(error)
    this.settings.logger.warn(
      { err: why },
      'this process cannot come back: what is written now cannot be read here',
    )
    this.#step({ type: 'failed', effect: 'follow' })
  }

  #perform(effect: EmbeddedEffect): void | Promise<void> {
    if (effect.by === 'holder') {
      const done = this.#holder?.perform(effect.effect)
      if (effect.effect.type === 'make') this.#controlSocket.supplyOlder()
      return done
    }
    return this.#performOwn(effect.effect)
  }

  #performOwn(effect: MemberEffect): void | Promise<void> {
    switch (effect.type) {
      case 'send':
        return this.#send(effect.message)
      case 'accept':
        this.#controlSocket.open()
        return startListeners(this.#listeners)
      case 'stopAccepting':
        return this.#stopAccepting()
      case 'closeListeners':
        return this.#closeListeners()
      case 'quiesce':
        this.#quiesce(effect.epoch)
        return
      case 'unquiesce':
        this.duty.resume()
        return
      case 'freeze':
        this.duty.hurry()
        this.#position = this.state.pauseWriting()
        return
      case 'thaw':
        this.state.resumeWriting()
        return
      case 'carry':
        return this.#keeper.carry(effect.below, this.#machine.member.link === 'local')
      case 'seal':
        return this.#insist('seal', () => this.shelf.seal(effect.from, effect.below))
      case 'make':
        return this.#insist('make', () => this.shelf.make(effect.epochs))
      case 'write':
        this.#keeper.write(effect.epoch)
        return
      case 'endWriting':
        return this.#endWriting()
      case 'becomeHolder':
        return this.#becomeHolder()
      case 'judge':
        this.#judge()
        return
      case 'reconnect':
        this.#reconnect()
        return
      case 'drain':
        this.#drain()
        return
      case 'exit':
        this.#end(this.#reason)
        return
    }
  }

  // ---- effects of the member

  #insist(what: string, act: () => void): void | Promise<void> {
    return insist(act, what, this.settings.logger, () => this.#over)
  }

  /** Without hooks in the same turn. */
  #quiesce(epoch: Epoch): void {
    const done = () => {
      if (!this.#over) this.#step({ type: 'quiesced', epoch })
    }
    const quiesced = this.duty.quiesce()
    if (quiesced === undefined) done()
    else void quiesced.then(done)
  }

  #send(message: ToHolder): void | Promise<void> {
    const link = this.#holderLink?.link
    if (link === undefined) return
    if (message.kind === 'unfit') {
      link.tell({ unfit: { epoch: message.epoch, ...this.#unfitness.report } })
      return
    }
    if (message.kind === 'abort') {
      const { code, message: text } = this.#reason ?? new FdbError('ERR_FDB_ABORTED', 'the successor gave up')
      // The reason must be out before the link is closed.
      return link.send({ abort: { code, message: text, phase: this.phase } }).catch(() => {})
    }
    if (message.kind === 'back') {
      const items = [
        ...this.registry.items().filter(({ name }) => this.wanted.has(name ?? '')),
        ...this.#ownSegments(),
        ...this.#offers.pidfds.map(fd => ({ role: 'pidfd', fd }) as const),
      ]
      // What is held goes first: the holder decides when it hears Back.
      const { role, epoch, sealed, unfit = false } = message
      link
        .sendBundle(items, this.settings.timeout)
        .then(() => link.send({ back: { role, epoch, sealed, top: this.#topEpoch(), unfit } }))
        .catch(error => {
          if (this.#over || this.#holderLink?.link !== link) return
          this.settings.logger.warn(
            { err: error },
            'the holder did not take back what is held: it is told again',
          )
          this.#step({ type: 'failed', effect: 'back' })
        })
      return
    }
    if (message.kind === 'ready') {
      this.#timing.note('ready')
      if (this.#machine.member.scope === 'member') this.#heartbeat.start()
      const adopted = [...this.wanted]
      link.tell({
        ready: {
          adopted,
          refused: this.registry.names.filter(name => !this.wanted.has(name)),
          position: this.state.position,
        },
      })
      return
    }
    const position = this.#position ?? this.state.position
    link.tell(packToHolder(message, message.kind === 'prepared' ? this.state.position : position))
    if (message.kind === 'prepared') this.#timing.note('prepared')
    if (message.kind === 'prepared') this.#takenOver = { ...this.state.position }
    if (message.kind === 'serving') this.#heartbeat.start()
  }

  #ownSegments(): BundleItem[] {
    return this.shelf.all.map(segment => ({
      role: 'segment',
      epoch: segment.epoch,
      writable: this.shelf.isWritable(segment.epoch),
      fd: segment.fd,
    }))
  }

  #topEpoch(): number {
    return Math.max(0, ...this.shelf.all.map(segment => segment.epoch))
  }

  #stopAccepting(): void {
    for (const listener of this.#listeners) listener.stop()
    this.#controlSocket.close()
    if (!this.#closing) {
      this.#retiring = true
      this.#moves.leave(true)
      this.#report()
    }
    this.duty.retire()
  }

  /** Tell whoever serves now how many connections are left here. */
  #report(): void {
    const { control, service, versions, times } = this.settings
    const { scope } = this.#machine.member
    if (control === null || (scope === 'member' && !this.#holderLink?.facts.forwardsWrites)) return
    this.#reporter ??= new DrainReporter({
      control,
      service,
      versions,
      generation: this.generation,
      everyMs: times.heartbeat,
      report: () => this.#drainReport(),
      top: () => this.#topEpoch(),
      take: items => {
        if (items.some(({ role }) => role === 'moveChannel')) this.#moves.open(items)
        else this.#takeNewer(items)
      },
      connected: () => scope === 'member' || this.#moves.retry(),
      writes: this.#writes,
    })
    this.#reporter.start()
  }

  /** Another was given the right to write, or it was taken from this process. */
  #endWriting(): void | Promise<void> {
    if (this.#writesToTheEnd) return
    // Who was told to stand by, or leaves, is in good order: its changes go to the one that writes.
    if (this.phase === 'standby' || this.#closing) this.#forwardWrites()
    else {
      this.#writes.end()
      this.state.endWriting(this.phase === 'unfit' ? this.#unfitness.refusal() : this.#fenced())
    }
    if (this.#ownSealed()) this.stateFile?.stop()
    return this.#keeper.follow()
  }

  #forwardWrites(): void {
    this.#writes.begin(this.#fenced())
    this.#report()
    if (this.#reporter === null) this.#writes.refuse()
  }

  /** An orderly end with nobody to take over: those who are still served may change what they came for. */
  get #writesToTheEnd(): boolean {
    const { member, holder } = this.#machine
    return this.#closing && member.link === 'local' && holder?.phase === 'idle' && !this.#ownSealed()
  }

  #drainReport(): DrainReport {
    const { generation, phase, connections } = this
    // Whether what is written now can be read here is found by reading it, and not only when it is too late.
    if (phase === 'standby') void this.state.position
    const closed = this.#closedAtLast
    const unfit = this.#unfitness.report
    const moves = this.#moves.counts.report
    const { quiescedMs } = this.duty
    return {
      pid: process.pid,
      generation,
      phase,
      connections,
      moves,
      closed,
      quiescedMs,
      ...(unfit && { unfit }),
    }
  }

  #askForMove(): void {
    if (this.#machine.member.scope === 'member') this.#holderLink?.link.tell({ moveRequest: {} })
    else this.#reporter?.askForMove()
  }

  #closeListeners(): void {
    this.#controlSocket.release()
    this.registry.close()
  }

  /** Everything that was acknowledged is here, and this process has the right to write. */
  #begun(): void {
    this.#unfitness.clear()
    this.#moves.serve()
    this.stateFile?.serve()
    this.#writes.end()
    this.#reporter?.stop()
    this.#timing.note('serving')
    this.#served = true
    this.#reason = null
    this.#readiness.serves()
    this.#retiring = false
    this.duty.begin()
  }

  /** It was to serve and cannot write. Who decides hears of it by the machine. */
  #cannotWrite(): void {
    const why = this.#unfitness.note(new FdbError('ERR_FDB_INTERNAL', 'it could not take over'))
    this.settings.logger.error({ err: why, epoch: this.#machine.member.epoch }, 'this process cannot write')
    this.#front?.unfit(this.#unfitness.refusal())
    if (this.#served) return
    if (this.first) {
      // Nobody had it before: there is nothing to answer from.
      if (this.#machine.member.link === 'local') this.#removePaths()
      this.#step({ type: 'leave' })
    } else if (this.#machine.member.link === 'local') this.#readiness.serves()
  }

  /** The service ends with this process. */
  #removePaths(): void {
    this.#controlSocket.removePath()
    removePaths(this.registry)
  }

  /** A daemon sees to it by itself. */
  #giveUp(name: string): void {
    if (this.#machine.member.scope === 'holder') this.#former.note(this.registry, name)
  }

  /** As long as an incumbent may come back it needs what it has. */
  #settleFormer(): void {
    if (this.#holder !== null) this.#former.settle(this.registry)
  }

  /** The handoff cannot be undone any more. */
  #settled(): void {
    // What this version did not ask for ends here: nobody else needs it any more.
    for (const name of this.registry.names) {
      if (this.wanted.has(name)) continue
      this.#giveUp(name)
      this.registry.drop(name)
    }
    this.#settleFormer()
    void this.#compact({ needed: this.#makingRoom })
  }

  #becomeHolder(): void {
    this.#timing.note('released')
    this.#holderLink?.close()
    this.#holderLink = null
    this.#heartbeat.stop()
    clearInterval(this.#sealLook)
    this.#offers.close()
    this.shelf.prune(this.#machine.member.epoch)
    this.#holder = new Holder({
      surroundings: {
        state: () => this.#machine.holder!,
        dispatch: event => this.dispatch({ to: 'holder', event }),
        extraItems: () => this.#controlSocket.items(),
        position: () => this.#position,
        changed: () => {
          for (const tell of [...this.#changes]) tell()
        },
      },
      registry: this.registry,
      shelf: this.shelf,
      times: this.settings.times,
      logger: this.settings.logger,
      renewBytes: this.settings.stateLimits.renewBytes,
      firstId: SELF + 1,
    })
    // Who has yet to read what others wrote hands nothing over before it has.
    if (this.phase !== 'beginning') this.#decides()
  }

  #decides(): void {
    this.#controlSocket.admitWaiting()
    this.#settled()
  }

  /** A compacted segment takes the place of what it merged, unless a handoff counts on that. */
  async #shelve(snapshot: Segment): Promise<void> {
    if (this.#over) return
    if (this.#machine.member.scope === 'holder') {
      if (this.#machine.holder?.phase === 'idle') this.shelf.replaceUpTo(snapshot.dup())
    } else if (this.phase === 'serving') {
      await this.#give([{ role: 'segment', epoch: snapshot.epoch, writable: false, fd: snapshot.fd }])
      this.shelf.replaceUpTo(snapshot.dup())
    }
  }

  #judge(): void {
    const holderLink = this.#holderLink
    if (holderLink === null) {
      // Nobody came before: as if it were dead.
      queueMicrotask(() => this.#step({ type: 'fate', fate: 'dead', sealed: this.#ownSealed() }))
      return
    }
    void holderLink.fate().then(fate => {
      if (this.#holderLink !== holderLink || this.#over) return
      // What it said last is in the channel and counts: it is read to its end, and then its death is told.
      if (fate === 'dead' && holderLink.link.open && holderLink.watched) return
      if (fate === 'alive' && this.shelf.isReleased(this.#machine.member.epoch)) {
        // Its message was lost with the channel; the mark in the segment was not.
        this.#step({ type: 'message', message: { kind: 'released' }, sealed: false })
        return
      }
      if (fate === 'alive' && !this.#served) {
        this.#reason ??= new FdbError(
          'ERR_FDB_CHANNEL_CLOSED',
          'the incumbent closed the channel before the commit; it serves on',
        )
      }
      this.#step({ type: 'fate', fate, sealed: this.#ownSealed() })
    })
  }

  #ownSealed(): boolean {
    return this.shelf.isSealed(this.#machine.member.epoch)
  }

  /** Is our segment sealed? Then the machine wants to know. */
  #look(): void {
    if (this.#over || !this.#ownSealed()) return
    if (this.#closing && this.phase === 'leaving') this.#forwardWrites()
    else this.#step({ type: 'sealed' })
  }

  #fenced(): FdbError {
    return new FdbError(
      'ERR_FDB_FENCED',
      `another process has the right to write now (this was epoch ${this.#machine.member.epoch}): repeat the change there`,
      { retryable: true },
    )
  }

  #drain(): void {
    // One that accepted without the right to write has changes that wait for it: connections wait for them.
    const toTheEnd = this.#writesToTheEnd
    if (!toTheEnd && !this.#writes.active) this.state.endWriting(this.#fenced())
    if (toTheEnd) this.stateFile?.leave(() => this.state.endWriting(this.#fenced()))
    if (!this.#closing) this.#retiredWhy = this.#whyLeft()
    if (!this.#closing || this.#machine.member.link !== 'local') this.#report()
    // Who closes while it serves has nobody to give its connections to, unless another stands by.
    const standsBy = this.#machine.member.scope === 'holder' && this.#machine.member.link === 'up'
    const taker = this.#retiring || !this.#closing || standsBy
    this.#moves.leave(taker)
    if (!taker) endIdle(this.#listeners)
    const drained = drainListeners(
      this.#listeners,
      this.#drainTimes,
      this.settings.logger,
      this.#moves,
      ({ closed = [] }) => {
        this.#closedAtLast = [...this.#closedAtLast, ...closed]
        this.#reporter?.now()
      },
    )
    // What those who have just left have changed.
    const settled = drained.then(() => this.state.settled())
    const file = async () => {
      if (toTheEnd) await settled
      await this.stateFile?.finish(FILE_END_MS)
    }
    void Promise.all([settled, file()]).then(() => this.#step({ type: 'drained' }))
  }

  /** Nobody waits for TLS where the service ends. */
  get #drainTimes(): DrainTimes {
    const plain = this.#drainTimeout
    return { plain, tls: this.#closing ? plain : Math.max(plain, this.settings.drainTlsTimeout) }
  }

  #whyLeft(): RetiredReason {
    return this.#sawRelease || this.#toldToRetire ? 'replaced' : 'lost'
  }

  get #sawRelease(): boolean {
    return this.#machine.holder?.phase === 'released' || this.#releasedByDaemon
  }

  #releasedByDaemon = false
  /** Daemon hosting: another serves, by the daemon's own word. Who is fenced while it serves was not told. */
  #toldToRetire = false

  /** Lets go of everything. */
  #end(error: FdbError | null): void {
    if (this.#over) return
    this.#over = true
    this.#reminder.stop()
    this.#operatorRequests.close()
    this.#growth.close()
    this.#forgetting.close()
    this.#freezeLimit?.clear()
    this.#heartbeat.stop()
    clearInterval(this.#sealLook)
    this.#returning?.abort()
    this.#reporter?.stop()
    this.registry.changed = () => {}
    this.#note?.close()
    this.#moves.close()
    this.#closeListeners()
    this.#holder?.close()
    this.#holderLink?.close()
    this.#holderLink = null
    this.#former.close()
    this.#offers.close()
    this.state.endWriting(
      new FdbError('ERR_FDB_CLOSED', 'this member has left: nothing can be written any more'),
    )
    this.stateFile?.stop()
    this.state.close()
    this.shelf.close()
    for (const listener of this.#listeners) listener.release()
    const why = error ?? new FdbError('ERR_FDB_CLOSED', 'this member was closed before it served')
    this.#reason ??= why
    this.#readiness.fail(why)
    this.#registrations.fail(why)
    this.#resolveRetired(this.#retiredWhy)
    this.#front?.retired(this.#retiredWhy)
  }

  /** Throws ERR_FDB_CLOSED once nothing can be taken in any more, as nobody would close it. */
  refuseLeft(): void {
    const { phase } = this
    if (!this.#over && phase !== 'leaving' && phase !== 'gone') return
    throw new FdbError('ERR_FDB_CLOSED', `this member has left (it is ${phase}): join() again`)
  }

  #whyNot(): FdbError {
    return this.#reason ?? new FdbError('ERR_FDB_CLOSED', 'this member has left')
  }

  // ---- the holder that this process has joined

  #attach(holderLink: HolderLink): void {
    this.#holderLink = holderLink
    let died = false
    const inherit = () => this.#step({ type: 'fate', fate: 'dead', sealed: this.#ownSealed() })
    holderLink.listen({
      message: envelope => this.#onHolder(envelope),
      bundle: items => this.#onBundle(items),
      broken: error => {
        this.#reason ??= error
        this.refuse(error)
      },
      lost: error => {
        if (error !== null) this.#reason ??= error
        else if (!this.#machine.member.holds) this.#reason ??= leftEarly(holderLink.facts.pid)
        this.#step({ type: 'lost' })
        if (died) inherit()
        this.#watchSeal()
      },
      died: () => {
        died = true
        // What it said last is in the channel and counts: its end comes when that has been read.
        if (!holderLink.link.open) inherit()
      },
    })
  }

  #onHolder(envelope: WireEnvelope): void {
    const { offer, abort, reject: rejected, registered } = envelope
    if (offer) {
      this.#offers.announce(offer)
      this.#readiness.limit(this.settings.times.ready + (offer.quiesceMs ?? 0) + this.settings.timeout)
      return
    }
    if (registered) {
      this.#registrations.answered(registered)
      return
    }
    if (this.#operatorRequests.take(envelope)) return
    if (rejected) {
      this.#reason ??= remoteError(rejected, REFUSED)
      this.#step({ type: 'refused' })
      return
    }
    if (abort) {
      this.#reason ??= remoteError(abort, {
        code: 'ERR_FDB_ABORTED',
        message: 'the incumbent ended the handoff',
      })
    }
    const message = unpackToMember(envelope)
    if (message === null) return
    // Turned away from because it could not begin: that is why.
    if (message.kind === 'fenced' && this.#unfitness.cause === null) this.#reason = this.#fenced()
    if (message.kind === 'retire') this.#toldToRetire = true
    else if (message.kind === 'resume' || message.kind === 'reinstate') this.#toldToRetire = false
    if (message.kind === 'released' && this.#machine.member.scope === 'member') {
      if (this.phase === 'serving') this.#settled()
      else this.#releasedByDaemon = true
    }
    const epoch = 'epoch' in message ? message.epoch : this.#machine.member.epoch
    this.#step({ type: 'message', message, sealed: this.shelf.isSealed(epoch) })
  }

  /** Segments for one that drains: what is written there is the state that it answers from. */
  #takeNewer(items: readonly BundleItem[]): void {
    for (const { role, epoch = 0, fd } of items) {
      try {
        if (this.#over || role !== 'segment' || epoch <= this.#topEpoch()) fd.close()
        else this.shelf.put(Segment.open(fd), false)
      } catch (error) {
        this.settings.logger.warn({ err: error }, 'newer state came in a segment that cannot be taken')
      }
    }
    this.#followOn()
  }

  #followOn(): void {
    if (this.#over || (this.phase !== 'standby' && this.phase !== 'leaving')) return
    if (this.#closing && !this.#writes.active) return
    this.#keeper.follow().catch(error => {
      if (!this.#over)
        this.settings.logger.warn(
          { err: error },
          'newer state cannot be read: answers here may be of an older one',
        )
    })
  }

  #onBundle(items: BundleItem[]): void {
    if (items.some(({ role }) => role === 'moveChannel')) {
      this.#moves.open(items)
      return
    }
    let offer: Offered | null
    try {
      offer = this.#offers.take(items)
    } catch (error) {
      this.settings.logger.warn({ err: error }, 'the holder sent what cannot be taken')
      this.refuse(FdbError.from(error))
      return
    }
    if (offer === null) {
      this.shelf.prune(this.#machine.member.epoch)
      this.#followOn()
      return
    }
    this.#step({ type: 'message', message: { kind: 'offer', ...offer }, sealed: false })
    this.#timing.note('offered')
    this.#offered?.()
    this.#offered = null
  }

  /** Without a channel the seals are looked at regularly. */
  #watchSeal(): void {
    clearInterval(this.#sealLook)
    if (this.#over || this.#machine.member.scope !== 'holder' || this.#machine.member.link !== 'down') return
    this.#sealLook = setInterval(() => {
      if (this.#machine.member.link !== 'down') clearInterval(this.#sealLook)
      else if (this.shelf.isReleased(this.#machine.member.epoch))
        this.#step({ type: 'message', message: { kind: 'released' }, sealed: false })
      else this.#look()
    }, SEAL_LOOK_MS)
  }

  /** Daemon hosting: the channel is lost, the daemon may live or have been restarted. */
  #reconnect(): void {
    this.#returning?.abort()
    const returning = new AbortController()
    this.#returning = returning
    const old = this.#holderLink
    if (old === null) return
    old.link.close()
    void reconnectToDaemon(this.settings, old, this.generation, returning.signal).then(holderLink => {
      if (holderLink === null || this.#over) {
        holderLink?.close()
        return
      }
      const restarted = holderLink.facts.incarnation !== old.facts.incarnation
      old.close()
      this.#attach(holderLink)
      this.#step({ type: 'reconnected', restarted, sealed: this.#ownSealed() })
      this.#heartbeat.start()
    })
    void old.fate().then(fate => {
      if (fate === 'dead' && this.#holderLink === old)
        this.#step({ type: 'fate', fate, sealed: this.#ownSealed() })
    })
  }

  /** The service ends with this process: whoever stands by for it does not come back, and leaves. */
  async #releaseStandby(): Promise<void> {
    const link = this.#holderLink?.link
    if (link === undefined || this.#machine.member.link !== 'up') return
    link.tell({ endProbation: { closing: true } })
    // A daemon reads this before it hears that we have gone. The path is ours to remove when the one that stands by has let go.
    if (this.#machine.member.scope === 'holder')
      await this.#while(() => this.#machine.member.link === 'up', this.settings.times.silence)
  }

  async #endDuty(): Promise<void> {
    const quiesced = this.duty.quiesce()
    if (quiesced === undefined) return
    let ended = false
    void quiesced.then(() => {
      ended = true
      for (const tell of [...this.#changes]) tell()
    })
    await this.#while(() => !ended, this.settings.times.quiesce)
    this.duty.hurry()
  }

  /** Resolves when no handoff is under way, or after `timeoutMs`. */
  #handoffOver(timeoutMs: number): Promise<void> {
    return this.#while(() => {
      const phase = this.#machine.holder?.phase
      return (
        phase === 'offering' ||
        phase === 'quiescing' ||
        phase === 'freezing' ||
        phase === 'preparing' ||
        phase === 'committing' ||
        phase === 'returning'
      )
    }, timeoutMs)
  }

  /** Resolves when `under` is false (asked whenever something has changed), or after `timeoutMs`. */
  async #while(under: () => boolean, timeoutMs: number): Promise<void> {
    if (!under() || this.#over) return
    await new Promise<void>(resolve => {
      const done = () => {
        clearTimeout(timer)
        stop()
        resolve()
      }
      const timer = setTimeout(done, timeoutMs)
      const stop = this.watch(() => {
        if (!under() || this.#over) done()
      })
    })
  }
}

function leftEarly(pid: number): FdbError {
  return new FdbError(
    'ERR_FDB_CHANNEL_CLOSED',
    `process ${pid} left before it had handed anything over: try again`,
    { retryable: true },
  )
}
