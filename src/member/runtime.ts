import type { FdbError } from '../errors.js'
import { EventFile, eventPath } from '../events/event-file.js'
import { EventLog } from '../events/event-log.js'
import { DescriptorNames } from '../holder/descriptor-names.js'
import type { NamedEntry } from '../holder/entry.js'
import { Holder } from '../holder/holder.js'
import { Hooks } from '../holder/hooks.js'
import type { HolderHost } from '../holder/message-handler.js'
import { Registry } from '../holder/registry.js'
import { SegmentSet } from '../holder/segment-set.js'
import { patience } from '../holder/times.js'
import { ListenerGuard } from '../listeners/index.js'
import type { Operations } from '../operator/requests.js'
import { GAUGES } from '../operator/service-commands.js'
import type { DrainReport, StatusReport } from '../operator/status-report.js'
import { ownStart } from '../os/command-line.js'
import type { FdStore } from '../os/service-manager/passed-sockets.js'
import { serveStateCommands } from '../state/commands.js'
import type { StateLog } from '../state/state-log.js'
import { ConnectionDrain } from './drain/connection-drain.js'
import { DrainOrders, drainLimits } from './drain/drain-orders.js'
import { LastRequests } from './drain/last-requests.js'
import { Moves } from './drain/moves.js'
import { OlderGenerations } from './drain/older-generations.js'
import { OwnDrain } from './drain/own-drain.js'
import { ReportLink } from './drain/report-link.js'
import { BackSender } from './hosting/back-sender.js'
import { ControlClients } from './hosting/control-clients.js'
import { ControlSocket } from './hosting/control-socket.js'
import { DaemonEntries } from './hosting/daemon-entries.js'
import { DaemonHosting } from './hosting/daemon-hosting.js'
import { DaemonReturn } from './hosting/daemon-return.js'
import { EmbeddedHosting } from './hosting/embedded-hosting.js'
import { HolderMessages } from './hosting/holder-messages.js'
import { JoinedHolder } from './hosting/joined-holder.js'
import { OfferReceiver } from './hosting/offer-receiver.js'
import { OperatorRequests } from './hosting/operator-requests.js'
import { Pauses } from './hosting/pauses.js'
import { RollbackEntries } from './hosting/rollback-entries.js'
import { SealWatch } from './hosting/seal-watch.js'
import { Standby } from './hosting/standby.js'
import { ToHolderSender } from './hosting/to-holder.js'
import { checkHealth, Heartbeat, ROLLS_BACK } from './lifecycle/heartbeat.js'
import type { Hosting } from './lifecycle/hosting.js'
import { Leadership } from './lifecycle/leadership.js'
import { Machine, type MachineDriver, type Origin } from './lifecycle/process-machine.js'
import { Readiness } from './lifecycle/readiness.js'
import { Shutdown } from './lifecycle/shutdown.js'
import { TakeoverTiming } from './lifecycle/takeover-timing.js'
import { Holdings } from './listeners/holdings.js'
import { OwnListeners } from './listeners/own-listeners.js'
import { serveMainProcess } from './listeners/worker-orders.js'
import { Announcer } from './operator/announcer.js'
import { Commands, serveServiceCommands } from './operator/commands.js'
import { FdStoreMirror } from './operator/fd-store-mirror.js'
import { MemberMetrics, type MemberMetricsDeps } from './operator/member-metrics.js'
import { Reloading } from './operator/reloading.js'
import { Rollback } from './operator/rollback.js'
import { StatusTexts } from './operator/status-texts.js'
import { Upgrades } from './operator/upgrades.js'
import type { CloseOptions, MemberEvents } from './options/member-options.js'
import type { Settings } from './options/options.js'
import { FencedWrites } from './state/fenced-writes.js'
import { FollowedState } from './state/followed-state.js'
import { LogSpace } from './state/log-space.js'
import { OwnState } from './state/own-state.js'

export interface RuntimeDriver extends MachineDriver {
  /** This process does not serve within its limit. */
  onDeadline(): void
  refuse(error: FdbError): void
  throwIfLeft(): void
  status(): StatusReport
  report(): DrainReport
  close(options: CloseOptions): Promise<void>
  /** Refuses a next version that joins. */
  refuseNext(): void
  rollBack(): Promise<void>
  /** Leaves the service to other workers, which get the connections. */
  yield(): Promise<void>
  /** The handoff to this process cannot be undone any more. */
  onSettled(): void
  /** Starts the once-only work if no other process can do it. */
  startWork(): void
}

/** Makes and connects the parts of one member. Owns registry and segment set. */
export class MemberRuntime {
  readonly settings: Settings
  readonly origin: Origin
  readonly registry: Registry
  readonly segmentSet = new SegmentSet()
  readonly timing = new TakeoverTiming()
  readonly commands = new Commands()
  readonly events: EventLog
  readonly hooks: Hooks
  readonly shutdown = new Shutdown()
  readonly machine: Machine
  readonly readiness: Readiness
  readonly state: OwnState
  readonly logSpace: LogSpace
  /** Null if this member has its own state. */
  readonly followed: FollowedState | null
  readonly leadership: Leadership
  readonly moves: Moves
  readonly reportLink: ReportLink
  readonly connections: ConnectionDrain
  readonly drain: OwnDrain
  readonly lastRequests: LastRequests
  readonly older: OlderGenerations
  readonly writes: FencedWrites
  readonly clients: ControlClients
  readonly controlSocket: ControlSocket
  readonly offers: OfferReceiver
  readonly joined: JoinedHolder
  readonly sealWatch: SealWatch
  readonly heartbeat: Heartbeat
  readonly hosting: Hosting
  /** Null in embedded hosting. */
  readonly daemonReturn: DaemonReturn | null
  readonly holdings: Holdings
  readonly listeners: OwnListeners
  readonly toHolder: ToHolderSender
  readonly back: BackSender
  readonly upgrades: Upgrades
  readonly announcer: Announcer
  readonly reloading: Reloading
  readonly pauses: Pauses
  /** The names of the descriptors, for `upgrade --kill-stuck` if this process hangs. */
  readonly #names: DescriptorNames | null
  /** Null until {@link MemberDriver.bind}. */
  application: Application | null = null
  /** Null until {@link startMetrics}: then nothing is counted. */
  metrics: MemberMetrics | null = null
  /** Pid of the killed process whose descriptors this one holds until a next version serves. Null in any other process. */
  replacedPid: number | null = null

  constructor(settings: Settings, origin: Origin, driver: RuntimeDriver) {
    const { segmentSet, shutdown, timing } = this
    this.settings = settings
    this.origin = origin
    // A daemon's registry has no limit, because it holds the entries of all services; the table of each service guards its listeners.
    const registry =
      settings.reception === null
        ? new Registry(new ListenerGuard(settings.logger))
        : new Registry(null, Number.POSITIVE_INFINITY)
    this.registry = registry
    const { scope, generation } = origin
    const { logger, service } = settings
    const path = settings.control === null ? null : eventPath(settings.control)
    const file = new EventFile({ creates: scope === 'holder', path, logger })
    const events = new EventLog(logger, { service, generation }, file)
    this.events = events
    this.hooks = new Hooks(events, { logger, settings: () => settings.hooks })
    const machine = new Machine(origin.scope, segmentSet, driver)
    this.machine = machine
    const readiness = new Readiness(() => driver.onDeadline(), settings.logger)
    this.readiness = readiness
    // None of these needs a part that is made later.
    const made = { settings, origin, machine, shutdown, readiness, registry, segmentSet }
    // Parts that need each other: the later one is a function.
    const hosting = () => this.hosting
    const listeners = () => this.listeners.all
    const writes = () => this.writes
    const stateEvents = {
      fenced: () => this.sealWatch.check(),
      fileChanged: (status: MemberEvents['stateFile'][0]) => this.application?.emit('stateFile', status),
    }
    const state = new OwnState({ ...made, events: stateEvents })
    this.state = state
    this.logSpace = new LogSpace({ ...made, hosting, state })
    this.followed = settings.follow === null ? null : new FollowedState(settings.follow, made)
    serveStateCommands((name, handler) => this.commands.set(name, handler), this.view)
    const leadership = new Leadership(
      event => this.application?.emit(event),
      error => this.application?.failed(error),
      settings.logger,
    )
    this.leadership = leadership
    // A draining process does not rejoin a new daemon: it asks over the connection on which it reports, like every embedded process.
    const ask = () => void (this.hosting.askForMove?.() || this.reportLink.askForMove())
    const began = () => this.metrics?.beginDrain([...listeners()].map(listener => listener.remaining()))
    const moves = new Moves({ settings, listeners, ask, began })
    this.moves = moves
    const orders = new DrainOrders(moves, {
      end: timeout => void driver.close({ handBack: false, ...(timeout !== undefined && { timeout }) }),
      serviceEnds: () => {
        shutdown.serviceEnds = true
        this.connections.endService()
      },
    })
    const reportLink = new ReportLink({
      settings,
      hosting,
      writes,
      facts: () => ({ generation, top: segmentSet.top }),
      report: () => driver.report(),
      events: {
        message: envelope => void orders.handle(envelope),
        channel: items => orders.openChannel(items),
        connected: () => (scope === 'holder' ? moves.retry() : undefined),
      },
    })
    this.reportLink = reportLink
    this.connections = new ConnectionDrain({
      ...made,
      listeners,
      moves,
      onCut: counts => {
        reportLink.noteClosed(counts)
        this.metrics?.countClosed(counts)
      },
      onEnded: () => this.metrics?.endDrain(),
    })
    const settled = () => this.view.settled()
    this.writes = new FencedWrites({
      ...made,
      state,
      connection: reportLink,
      changes: { settled, followed: this.followed },
    })
    this.drain = new OwnDrain({
      ...made,
      hosting,
      writes: this.writes,
      reportLink,
      connections: this.connections,
    })
    this.lastRequests = new LastRequests({
      ...made,
      hosting,
      listeners: () => this.listeners,
      connections: this.connections,
      settled,
    })
    const operations = this.#operations(driver)
    this.older = new OlderGenerations({ ...made, changes: machine.changes, moves, state: state.log })
    this.clients = new ControlClients({ ...made, hosting, operations, older: this.older })
    const controlSocket = new ControlSocket({ ...made, hosting, clients: this.clients })
    this.controlSocket = controlSocket
    this.offers = this.#makeOffers(driver)
    const messages = new HolderMessages({ ...made, leadership, hosting, offers: this.offers, orders })
    const refuse = (error: FdbError) => driver.refuse(error)
    const joined = new JoinedHolder({ ...made, hosting, messages, refuse })
    this.joined = joined
    const heartbeat = this.#beats()
    this.heartbeat = heartbeat
    this.sealWatch = new SealWatch({ ...made, leadership, writes: this.writes })
    const checkSeal = () => this.sealWatch.check()
    this.pauses = new Pauses({ ...made, leadership, joined, state: state.log, checkSeal })
    if (scope === 'member') {
      const entries = new DaemonEntries({ ...made, joined, throwIfLeft: () => driver.throwIfLeft() })
      const requests = new OperatorRequests(operations, state.log, () => joined.link)
      const released = () => {
        if (machine.phase === 'serving') driver.onSettled()
        else shutdown.handleVerdict('released')
      }
      const returned = (restarted: boolean) => {
        // A restarted daemon first decides which member serves. In a handoff the daemon tells whether the work goes on.
        if (!restarted && !this.hosting.isHandingOver) driver.startWork()
        heartbeat.start()
      }
      this.hosting = new DaemonHosting({ ...made, joined, entries, requests, released })
      this.daemonReturn = new DaemonReturn({ ...made, joined, entries, returned })
    } else {
      const takeNamed = (entry: NamedEntry) => this.listeners.takeNamed(entry)
      this.hosting = new EmbeddedHosting({
        ...made,
        standby: new Standby({ ...made, heartbeat, joined, older: this.older }),
        sealWatch: this.sealWatch,
        rollback: new RollbackEntries({ ...made, joined, takeNamed }),
        makeHolder: events => this.#makeHolder(events),
      })
      this.daemonReturn = null
    }
    this.#names = this.#nameDescriptors()
    const hosted = { ...made, hosting: this.hosting, heartbeat, joined }
    this.holdings = new Holdings(hosted)
    this.listeners = new OwnListeners({
      ...made,
      hosting: this.hosting,
      holdings: this.holdings,
      throwIfLeft: () => driver.throwIfLeft(),
      events: {
        changed: (name, changes) => this.application?.emit('listenerChanged', name, changes),
        failed: error => this.application?.emit('listenerError', error),
        refused: refuse,
      },
    })
    this.toHolder = new ToHolderSender({ ...hosted, state, listeners: () => this.listeners })
    this.back = new BackSender({ ...hosted, offers: this.offers })
    this.upgrades = new Upgrades({ ...hosted, events })
    this.upgrades.waitingPid = () => this.clients.waitingPid
    const control = () => controlSocket.items()
    const mirrorTo = (store: FdStore | null) => new FdStoreMirror({ ...made, control, store })
    const texts = new StatusTexts({ ...hosted, upgrades: this.upgrades })
    this.announcer = new Announcer({ ...made, upgrades: this.upgrades, texts, mirrorTo })
    this.reloading = new Reloading({ settings, machine, announcer: this.announcer })
    const { commands } = this
    const { worker } = settings
    if (worker !== null)
      serveMainProcess({ commands, worker, listeners: this.listeners, close: () => driver.yield() })
    const rollback = new Rollback({ ...hosted, timing })
    serveServiceCommands({
      origin,
      commands,
      reload: gone => this.reloading.run(gone),
      events,
      rollBack: context => rollback.run(context, () => driver.rollBack()),
      stop: ({ timeoutMs, drop, isFollowed = false }) => {
        driver.refuseNext()
        return () => {
          this.shutdown.endsListeners ||= drop && worker !== null
          this.shutdown.isFollowed = isFollowed
          machine.changes.notify()
          // A next version may have come meanwhile.
          driver.refuseNext()
          this.shutdown.order.handBack = false
          return driver.close({ handBack: false, ...(timeoutMs !== null && { timeout: timeoutMs }) })
        }
      },
    })
  }

  /** The state that the application sees. */
  get view(): StateLog {
    return this.followed?.log ?? this.state.log
  }

  /** This process serves. `first`: no process of the service has served before. */
  markServed(first: boolean): void {
    if (first && !this.readiness.served) this.events.note('service.started')
    this.readiness.markServed()
  }

  /** Returns the metrics of the service, which this process counts from the first call on. */
  startMetrics(gauges: MemberMetricsDeps['gauges']): MemberMetrics {
    const { worker } = this.settings
    const metrics = new MemberMetrics({
      state: this.view,
      logger: this.settings.logger,
      moves: this.moves,
      events: this.events,
      gauges,
      worker,
    })
    this.commands.set(GAUGES, () => JSON.stringify(metrics.gauges))
    this.metrics = metrics
    return metrics
  }

  /** Ends what this process tells others about its descriptors, and its events. */
  close(): void {
    if (this.shutdown.why === 'replaced') this.events.note('drain.ended', { counts: this.reportLink.counts })
    this.hooks.close()
    this.registry.changed = () => {}
    this.metrics?.stop()
    this.#names?.close()
    this.daemonReturn?.close()
    this.upgrades.close()
    this.clients.endOperators()
  }

  #makeOffers(driver: RuntimeDriver): OfferReceiver {
    const { controlSocket, machine, readiness, registry, segmentSet, settings, timing } = this
    return new OfferReceiver({
      settings,
      machine,
      registry,
      segmentSet,
      adopted: { control: controlSocket, events: this.events },
      events: {
        announced: limitMs => readiness.limit(limitMs),
        offered: () => {
          timing.record('offered')
          readiness.offer.resolve()
        },
        newerSegments: () => this.writes.followOn(),
        late: entry => this.listeners.takeLate(entry),
        refused: error => driver.refuse(error),
      },
    })
  }

  #makeHolder(hosted: Pick<HolderHost, 'bundle' | 'changed' | 'forgotten'>): Holder {
    const { controlSocket, events, machine, registry, segmentSet, settings, state } = this
    return new Holder({
      host: {
        ...hosted,
        state: () => machine.holder!,
        dispatch: event => machine.stepHolder(event),
        extraItems: () => [...controlSocket.items(), ...events.offered()],
        note: (type, facts) => events.note(type, facts),
        position: () => state.frozenAt,
        amidBulk: () => state.log.amidBulk,
        changed: () => {
          controlSocket.leaveToSuccessor(machine.holder?.phase === 'committing')
          hosted.changed()
          machine.changes.notify()
        },
      },
      registry,
      segmentSet,
      times: settings.times,
      logger: settings.logger,
      renewBytes: () => settings.stateLimits.renewBytes,
    })
  }

  /** Not in a daemon, which holds segments of several services: the names would not show to which service a segment belongs. */
  #nameDescriptors(): DescriptorNames | null {
    const { origin, registry, settings } = this
    const { control, reception, service } = settings
    if (origin.scope === 'member' || control === null || reception !== null) return null
    const names = new DescriptorNames({ service, ...origin, start: ownStart() }, () => registry.entries)
    registry.changed = () => names.changed()
    registry.changed()
    return names
  }

  #operations(driver: RuntimeDriver): Operations {
    const { machine, settings } = this
    // A Commit that has been sent, or a seal, must first take effect, so that it is known which process serves.
    const isDecided = () => {
      const { phase, holder, sealed } = machine
      return phase !== 'beginning' && holder?.phase !== 'committing' && !(phase === 'serving' && sealed)
    }
    const decided = () => machine.changes.until(isDecided, settings.times.commit)
    return {
      status: () => driver.status(),
      upgrade: async ({ argv, timeoutMs, killStuck, without }, progress, signal, by) => {
        await decided()
        signal.throwIfAborted()
        const env = this.upgrades.givingUp(without)
        if (killStuck) await this.hosting.killStuck?.()
        const options = { argv, progress, signal, ...(timeoutMs > 0 ? { timeout: timeoutMs } : {}), env }
        return this.upgrades.start(options, by === undefined ? { isForwarded: true } : { by })
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
      link: () => this.joined.link,
      everyMs: () => this.joined.holder?.heartbeatMs(times.heartbeat) ?? times.heartbeat,
      silenceMs: () => patience(times.silence, this.joined.facts?.heartbeatMs ?? 0),
      health: () => {
        if (this.shutdown.handsBack) return ROLLS_BACK
        return checkHealth(() => this.#unattended ?? this.followed?.outdatedReason ?? health())
      },
      report: () => ({
        ...this.reportLink.report,
        ...(this.machine.phase === 'serving' && { drainLimit: drainLimits(this.settings) }),
      }),
      events: {
        before: () => this.pauses.hear(),
        onSilent: () => this.hosting.onSilent?.(),
        onHeard: () => this.hosting.onHeard?.(),
      },
    })
  }

  /** If clients wait at a listener without a server, the sentence that reports this process as unhealthy; otherwise null. */
  get #unattended(): string | null {
    if (!this.machine.member.accepting) return null
    const alone = this.listeners.all.find(listener => !listener.hasAcceptor)
    return alone === undefined ? null : `no server accepts on its listener "${alone.name}"`
  }
}

/** The part of the public {@link Member} that its driver uses. */
export interface Application {
  /** Returns how many exceptions event listeners and hooks of the application have thrown. */
  failures(): number
  /** Returns the application's own part of the status. */
  details(): Record<string, unknown>
  emit<E extends keyof MemberEvents>(event: E, ...args: MemberEvents[E]): void
  /** Records an exception of the application's work. */
  failed(error: unknown): void
}
