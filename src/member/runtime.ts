import type { FdbError } from '../errors.js'
import type { Scope } from '../handoff/messages.js'
import { Registry } from '../holder/registry.js'
import { SegmentSet } from '../holder/segment-set.js'
import { patience } from '../holder/times.js'
import { ListenerGuard } from '../listeners/index.js'
import type { Operations } from '../operator/requests.js'
import type { StatusReport } from '../operator/status-report.js'
import type { FdStore } from '../os/service-manager/passed-sockets.js'
import { serveStateCommands } from '../state/commands.js'
import type { StateLog } from '../state/state-log.js'
import { ChangeNotifier } from '../wire/pending.js'
import { Moves } from './drain/moves.js'
import { OlderGenerations } from './drain/older-generations.js'
import { OwnDrain } from './drain/own-drain.js'
import { ControlSocket } from './hosting/control-socket.js'
import { DaemonHosting } from './hosting/daemon-hosting.js'
import { EmbeddedHosting } from './hosting/embedded-hosting.js'
import { JoinedHolder } from './hosting/joined-holder.js'
import { OfferReceiver } from './hosting/offer-receiver.js'
import { Pauses } from './hosting/pauses.js'
import { ToHolderSender } from './hosting/to-holder.js'
import { CannotServe } from './lifecycle/cannot-serve.js'
import { Heartbeat } from './lifecycle/heartbeat.js'
import type { Hosting } from './lifecycle/hosting.js'
import { Leadership } from './lifecycle/leadership.js'
import { Machine, type MachineDriver } from './lifecycle/machine.js'
import { Readiness } from './lifecycle/readiness.js'
import { Shutdown } from './lifecycle/shutdown.js'
import { TakeoverTiming } from './lifecycle/takeover-timing.js'
import { Holdings } from './listeners/holdings.js'
import type { Listener } from './listeners/listener.js'
import { serveMainProcess } from './listeners/worker-orders.js'
import { Announcer } from './operator/announcer.js'
import { Commands, Reloading, serveServiceCommands } from './operator/commands.js'
import { FdStoreMirror } from './operator/fd-store-mirror.js'
import { Upgrades } from './operator/upgrades.js'
import type { CloseOptions, MemberEvents } from './options/member-options.js'
import type { Settings } from './options/options.js'
import { FencedWrites } from './state/fenced-writes.js'
import { FollowedState } from './state/followed-state.js'
import { OwnState } from './state/own-state.js'

export interface Origin {
  readonly generation: number
  readonly serviceStartedAt: number
  readonly scope: Scope
}

export interface RuntimeDriver extends MachineDriver {
  /** This process does not serve within its limit. */
  onDeadline(): void
  refuse(error: FdbError): void
  throwIfLeft(): void
  status(): StatusReport
  close(options: CloseOptions): Promise<void>
  /** Ends the service, also for a next version that joins. */
  stop(timeout: number | null): Promise<void>
  rollBack(): Promise<void>
  /** Leaves the service to other workers, which get the connections. */
  yield(): Promise<void>
  /** The handoff to this process cannot be undone any more. */
  onSettled(): void
  /** This process has taken over, and has its own holder. */
  onDecides(): void
  /** Starts the once-only work if no other process can do it. */
  startWork(): void
}

/** Makes and connects the parts of one member. Owns registry and segment set. */
export class MemberRuntime {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly registry: Registry
  readonly segmentSet = new SegmentSet()
  readonly changes = new ChangeNotifier()
  readonly timing = new TakeoverTiming()
  readonly cannotServe = new CannotServe()
  readonly commands = new Commands()
  readonly shutdown: Shutdown
  readonly machine: Machine
  readonly readiness: Readiness
  readonly state: OwnState
  /** Null if this member has its own state. */
  readonly followed: FollowedState | null
  readonly leadership: Leadership
  readonly moves: Moves
  readonly drain: OwnDrain
  readonly writes: FencedWrites
  readonly controlSocket: ControlSocket
  readonly offers: OfferReceiver
  readonly joined: JoinedHolder
  readonly heartbeat: Heartbeat
  readonly hosting: Hosting
  readonly holdings: Holdings
  readonly toHolder: ToHolderSender
  readonly upgrades: Upgrades
  readonly announcer: Announcer
  readonly reloading: Reloading
  readonly pauses: Pauses
  /** Null until {@link MemberDriver.bind}. */
  application: Application | null = null
  /** Pid of the killed process whose descriptors this one holds until a next version serves. Null in any other process. */
  replacedPid: number | null = null

  constructor(settings: Settings, { generation, scope, serviceStartedAt }: Origin, driver: RuntimeDriver) {
    const checkSeal = () => this.writes.checkSeal()
    this.settings = settings
    // A daemon's registry has no limit, because it holds the entries of all services; the table of each service guards its listeners.
    this.registry =
      settings.reception === null
        ? new Registry(new ListenerGuard(settings.logger))
        : new Registry(null, Number.POSITIVE_INFINITY)
    this.generation = generation
    this.serviceStartedAt = serviceStartedAt
    this.shutdown = new Shutdown()
    this.machine = new Machine(scope, this.segmentSet, driver)
    this.readiness = new Readiness(() => driver.onDeadline(), settings.logger)
    const { cannotServe, changes, commands, machine, readiness, registry, segmentSet, shutdown, timing } =
      this
    // None of these needs a part that is made later.
    const made = {
      settings,
      generation,
      serviceStartedAt,
      machine,
      shutdown,
      changes,
      readiness,
      timing,
      cannotServe,
      registry,
      segmentSet,
    }
    // These parts need each other: the later one is a function.
    const hosting = () => this.hosting
    const listeners = () => this.listeners
    this.state = new OwnState({
      ...made,
      hosting,
      fenced: checkSeal,
      fileChanged: status => this.application?.emit('stateFile', status),
    })
    const { state } = this
    const { log } = state
    this.followed = settings.follow === null ? null : new FollowedState(settings.follow, made)
    serveStateCommands((name, handler) => commands.set(name, handler), this.view)
    const leadership = new Leadership(
      event => this.application?.emit(event),
      error => this.application?.failed(error),
      settings.logger,
    )
    this.leadership = leadership
    // A draining process does not rejoin a new daemon: it asks over the connection on which it reports, like every embedded process.
    const ask = () => void (this.hosting.askForMove?.() || this.drain.askForMove())
    const moves = new Moves({ settings, listeners, ask })
    this.moves = moves
    this.drain = new OwnDrain({
      ...made,
      listeners,
      leadership,
      moves,
      hosting,
      state,
      changesSettled: () => this.view.settled(),
      writes: () => this.writes,
      onEnd: timeout => void driver.close({ handBack: false, ...(timeout !== undefined && { timeout }) }),
    })
    this.writes = new FencedWrites({ ...made, leadership, state, connection: this.drain })
    const operations = this.#operations(driver)
    const older = new OlderGenerations({ ...made, moves, state: log })
    const controlSocket = new ControlSocket({ ...made, hosting, operations, older })
    this.controlSocket = controlSocket
    const offers = new OfferReceiver({ ...made, controlSocket, late: entry => this.holdings.takeLate(entry) })
    this.offers = offers
    const refuse = (error: FdbError) => driver.refuse(error)
    const followOn = () => this.writes.followOn()
    const joined = new JoinedHolder({ ...made, leadership, moves, hosting, offers, refuse, followOn })
    this.joined = joined
    const heartbeat = this.#beats()
    this.heartbeat = heartbeat
    this.pauses = new Pauses({ ...made, leadership, joined, state: log, checkSeal })
    this.hosting =
      scope === 'member'
        ? new DaemonHosting({
            ...made,
            moves,
            heartbeat,
            joined,
            operations,
            state: log,
            throwIfLeft: () => driver.throwIfLeft(),
            onSettled: () => driver.onSettled(),
            startWork: () => driver.startWork(),
            endWithin: timeoutMs => this.drain.endWithin(timeoutMs),
          })
        : new EmbeddedHosting({
            ...made,
            leadership,
            moves,
            heartbeat,
            joined,
            offers,
            controlSocket,
            state,
            checkSeal,
            takeNamed: entry => this.holdings.takeNamed(entry),
            onDecides: () => driver.onDecides(),
          })
    const hosted = { ...made, hosting: this.hosting, heartbeat, joined }
    this.holdings = new Holdings({ ...hosted, listeners, refuse })
    this.toHolder = new ToHolderSender({ ...hosted, offers, state })
    this.upgrades = new Upgrades(hosted)
    const control = () => controlSocket.items()
    const mirrorTo = (store: FdStore | null) => new FdStoreMirror({ ...made, control, store })
    this.announcer = new Announcer({ ...hosted, upgrades: this.upgrades, mirrorTo })
    this.reloading = new Reloading(this.announcer)
    const { worker } = settings
    if (worker !== null) serveMainProcess({ commands, worker, listeners, close: () => driver.yield() })
    serveServiceCommands({
      ...hosted,
      commands,
      reloading: this.reloading,
      timing: this.timing,
      stop: timeout => driver.stop(timeout),
      rollBack: () => driver.rollBack(),
    })
  }

  /** The state that the application sees. */
  get view(): StateLog {
    return this.followed?.log ?? this.state.log
  }

  get listeners(): Listener[] {
    return [...(this.application?.listeners() ?? [])]
  }

  #operations(driver: RuntimeDriver): Operations {
    const { changes, machine, settings } = this
    // A Commit that has been sent, or a seal, must first take effect, so that it is known which process serves.
    const isDecided = () => {
      const { phase, holder, sealed } = machine
      return phase !== 'beginning' && holder?.phase !== 'committing' && !(phase === 'serving' && sealed)
    }
    const decided = () => changes.until(isDecided, settings.times.commit)
    return {
      status: () => driver.status(),
      upgrade: async ({ argv, timeoutMs, killStuck, without }, progress, signal) => {
        await decided()
        signal.throwIfAborted()
        const env = this.upgrades.givingUp(without)
        if (killStuck) await this.hosting.killStuck?.()
        return this.upgrades.start({
          argv,
          progress,
          signal,
          ...(timeoutMs > 0 ? { timeout: timeoutMs } : {}),
          env,
        })
      },
      command: async ({ name, body }, context) => {
        await decided()
        return await this.commands.run(name, body, context, machine.phase)
      },
    }
  }

  #beats(): Heartbeat {
    const { health, times } = this.settings
    return new Heartbeat({
      before: () => this.pauses.hear(),
      everyMs: () => this.joined.holder?.heartbeatMs(times.heartbeat) ?? times.heartbeat,
      silenceMs: () => patience(times.silence, this.joined.facts?.heartbeatMs ?? 0),
      link: () => this.joined.link,
      healthy: () => this.#unattended ?? this.followed?.outdatedReason ?? health(),
      report: () => this.drain.report,
      onSilent: () => this.hosting.onSilent?.(),
      onHeard: () => this.hosting.onHeard?.(),
    })
  }

  /** If clients wait at a listener without a server, the sentence that reports this process as unhealthy; otherwise null. */
  get #unattended(): string | null {
    if (!this.machine.member.accepting) return null
    const alone = this.listeners.find(listener => !listener.hasAcceptor)
    return alone === undefined ? null : `no server accepts on its listener "${alone.name}"`
  }
}

/** The part of the public {@link Member} that its driver uses. */
export interface Application {
  listeners(): Iterable<Listener>
  /** Returns how many exceptions event listeners and hooks of the application have thrown. */
  failures(): number
  /** Returns the application's own part of the status. */
  details(): Record<string, unknown>
  emit<E extends keyof MemberEvents>(event: E, ...args: MemberEvents[E]): void
  /** Records an exception of the application's work. */
  failed(error: unknown): void
}
