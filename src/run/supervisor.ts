import { afterReading } from '../base/after-reading.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { EventFile, eventPath } from '../events/event-file.js'
import { EventLog } from '../events/event-log.js'
import { type EventFacts, type EventType, failureFacts } from '../events/events.js'
import { orderFacts, type Requester } from '../events/requester.js'
import { ListenerGuard } from '../listeners/index.js'
import type { Upgraded } from '../operator/requests.js'
import type { ProcessReply, ReloadReply } from '../operator/service-commands.js'
import type { FirstControl } from '../os/control-path.js'
import { checkMemoryRoom } from '../os/memory-room.js'
import { PidFile } from '../os/pid-file.js'
import { passedSockets, restorePassedSockets } from '../os/service-manager/passed-sockets.js'
import { ServiceManager } from '../os/service-manager/service-manager.js'
import type { ChildStarter } from '../probing/shell.js'
import { GRACE_MS, KILLED_MS } from '../versions/leftover-processes.js'
import { Timers } from '../versions/timers.js'
import {
  candidate,
  initial,
  type SupervisorEffect,
  type SupervisorEvent,
  type SupervisorState,
  serving,
  step,
  type TimerName,
  type Version,
  type VersionEndReason,
} from '../versions/version-machine.js'
import { probeFor, probeOfInherited } from '../versions/version-probe.js'
import { RunHooks } from './child-hook.js'
import { Control, openControl } from './control.js'
import { DeathGuard } from './death-guard.js'
import { type ExecState, ImageReplacement } from './exec-state.js'
import { exitCodeText, type SupervisorEnd, VersionFailures } from './failures.js'
import { KnownVersions, ReleaseLinks } from './known-versions.js'
import type { ListenerDaemon } from './listener-daemon.js'
import type { Predecessor } from './predecessor.js'
import { type MainEnd, type RunningVersion, RunningVersions } from './running-version.js'
import { NextSettings, type SettingsSource, type StopOptions } from './settings.js'
import { StoredListeners } from './shared-listeners.js'
import { ManagerReport, statusOf } from './status.js'
import { UnusedListeners } from './unused-listeners.js'
import {
  busyError,
  cancelledError,
  endingError,
  noPreviousVersionError,
  type RollbackOrder,
  type SupervisorUpgradeOptions,
  UpgradeRequests,
} from './upgrade-requests.js'

/** If a health check or a rollback is pending when the probation's time is over, the time to wait before looking again. */
const PENDING_MS = 50
/** Time after the start of a version that is not ready until the log says what the version has not done. */
const UNREADY_MS = 5_000

export interface SupervisorDeps extends SettingsSource {
  readonly logger: Logger
  /** The process whose listeners were taken over; serves until the first version does. Borrowed. */
  readonly predecessor?: Predecessor | null
  /** Holds the listeners too. Borrowed. */
  readonly daemon?: ListenerDaemon | null
}

/** Starts a program, replaces it by its next version, and ends with it. Carries out the effects of the state machine. */
export class Supervisor {
  readonly ended: Promise<SupervisorEnd>
  readonly eventLog: EventLog
  /** An operator was told that {@link stop} follows: no next image takes over, which would not know of the order. */
  isStopAnnounced = false
  readonly #deps: SupervisorDeps
  readonly #startedAt: number
  readonly #replacements: number
  readonly #requests = new UpgradeRequests()
  readonly #versions: RunningVersions
  readonly #deathGuard: DeathGuard
  readonly #timers = new Timers({
    elapsed: (timer, version, ms) => this.#onElapsed(timer, version, ms),
    backedOff: () => this.#dispatch({ type: 'backed-off' }),
  })
  readonly #failures: VersionFailures
  readonly #known: KnownVersions
  readonly #links: ReleaseLinks
  readonly #events: SupervisorEvent[] = []
  #state: SupervisorState
  #stepping = false
  readonly #control: Control | null = null
  readonly #settings: NextSettings
  #stopOptions: StopOptions = {}
  readonly #report: ManagerReport
  readonly #unused: UnusedListeners
  readonly #pidFile: PidFile | null
  readonly #hooks: RunHooks
  readonly #replacement: ImageReplacement
  /** The first of the versions with the settings of the one that serves, or has served last. */
  #release: number
  /** The rollback that an operator has ordered, until the previous version serves. */
  #rollback: Readonly<{ leaves: RunningVersion; returns: number; reason: string }> | null = null
  #resolveEnded!: (end: SupervisorEnd) => void

  /** Owns `control`. If null, there is no control socket, and operators can only send signals. */
  private constructor(deps: SupervisorDeps, control: FirstControl | null, inherited: ExecState | null) {
    const manager = ServiceManager.find(deps.logger)
    const { name, storedAs = name } = deps.settings
    this.#deps = deps
    this.#deathGuard = new DeathGuard(deps.logger)
    this.#state = inherited?.state ?? initial(deps.settings.restart)
    this.#release = inherited?.release ?? serving(this.#state)?.id ?? 0
    this.#startedAt = inherited?.startedAt ?? Date.now()
    this.#replacements = inherited?.replaced ?? 0
    this.#settings = new NextSettings(deps, inherited?.argv ?? null)
    const path = control === null ? null : eventPath(control.path)
    const file = new EventFile({ path, logger: deps.logger })
    this.eventLog = new EventLog(deps.logger, { service: name, generation: 0 }, file)
    if (inherited?.events != null) this.eventLog.adopt(inherited.events)
    this.#failures = new VersionFailures(deps.logger, this.eventLog, inherited?.lastFailure ?? null)
    this.#known = new KnownVersions(inherited?.known ?? [])
    this.#links = new ReleaseLinks(this.#known, deps.logger, serving(this.#state)?.id ?? null)
    this.#versions = new RunningVersions(
      {
        ready: id => this.#onReady(id),
        failed: (id, why) => this.#onFailed(id, why),
        recovered: id => this.#onRecovered(id),
        mainEnded: (id, code, inherited) => this.#onMainEnded(id, code, inherited),
        exited: (id, code) => this.#onExited(id, code),
      },
      new StoredListeners(manager?.storeFor(storedAs) ?? null, storedAs),
      inherited,
      deps.predecessor ?? null,
      control?.path ?? null,
      new ListenerGuard(deps.logger),
      this.#deathGuard,
    )
    const { children } = this.#versions
    this.#hooks = new RunHooks(this.eventLog, deps.logger, children)
    const parts = { hooks: this.#hooks, children, deathGuard: this.#deathGuard, logger: deps.logger }
    this.#replacement = new ImageReplacement(() => this.#snapshot, parts)
    this.#report = new ManagerReport(manager)
    this.#unused = new UnusedListeners(this.#versions, deps.logger)
    this.#pidFile = PidFile.at(deps.settings.pidFile, deps.logger)
    this.ended = new Promise(resolve => {
      this.#resolveEnded = resolve
    })
    if (control !== null) this.#control = new Control(control, this, deps.settings, deps.logger)
    deps.daemon?.keep(() => this.#versions.listeners.held, inherited?.removed ?? [])
  }

  /** Opens the control socket and starts the first version. Rejects as {@link openControl} does. */
  static async start(deps: SupervisorDeps): Promise<Supervisor> {
    const control = await openControl(deps.settings, deps.logger)
    const supervisor = new Supervisor(deps, control, null)
    supervisor.#pidFile?.write()
    supervisor.#versions.children.reapAll()
    supervisor.#dispatch({ type: 'start' })
    return supervisor
  }

  /** Continues from the state `left` of the previous image. Owns the descriptors in it. */
  static async resume(deps: SupervisorDeps, left: ExecState): Promise<Supervisor> {
    const children: ChildStarter = {
      start: (start, ended) => supervisor.#versions.children.start(start, ended),
      kill: pid => supervisor.#versions.children.kill(pid),
    }
    const now = serving(left.state)
    const health = now?.sick ? 'sick' : 'well'
    const probes = await Promise.all(
      left.versions.map(each => probeOfInherited(each, each.id === now?.id ? health : null, children)),
    )
    restorePassedSockets(left.unclaimed)
    const supervisor: Supervisor = new Supervisor(deps, left.control, left)
    supervisor.#versions.resume(left.versions, probes)
    supervisor.#hooks.server = supervisor.#versions.get(supervisor.generation)
    for (const { id, proved } of supervisor.#state.versions)
      if (proved) supervisor.#versions.get(id)?.markProven()
    supervisor.#pidFile?.write()
    supervisor.#timers.resume(left.timers)
    deps.logger.info({ replaced: left.replaced }, 'the supervisor runs the installed release')
    supervisor.#updateReport()
    supervisor.#versions.children.reapAll()
    return supervisor
  }

  /** The id of the serving version; 0 if none serves. */
  get generation(): number {
    return serving(this.#state)?.id ?? 0
  }

  /**
   * Starts the next version and resolves when it serves. During an upgrade, waits for it to end and then starts another version. Rejects,
   * and keeps the serving version, with ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_DEADLINE, ERR_FDB_UNHEALTHY, ERR_FDB_ABORTED, and
   * with errors of reading settings and binding listeners.
   */
  async upgrade(
    options: SupervisorUpgradeOptions = {},
    cancel?: AbortSignal,
    by?: Requester,
  ): Promise<Upgraded> {
    this.eventLog.note('upgrade.ordered', orderFacts(by))
    try {
      return await this.#requests.ask(options, cancel, event => this.#dispatch(event))
    } catch (error) {
      this.eventLog.note('upgrade.failed', failureFacts(error))
      throw error
    }
  }

  /**
   * Executes the installed release in this process; versions, listeners and control socket stay. Never resolves. Rejects, with nothing
   * changed, with ERR_FDB_BUSY during an upgrade, ERR_FDB_ABORTED while stopping, and as {@link ImageReplacement.start} does.
   */
  upgradeSelf(): Promise<never> {
    return this.#replacement.start()
  }

  /**
   * Reads the settings again; stop signal and stop timeout take effect at once. Rejects, with nothing changed, with ERR_FDB_COMMAND_UNKNOWN
   * if there is no --config, ERR_FDB_BUSY while no version serves, and with read errors.
   */
  async reload(): Promise<ReloadReply> {
    const version = this.#versions.get(this.generation)
    if (version === undefined) throw busyError()
    this.#report.reportReload()
    try {
      const { own, changes } = await this.#settings.reread(version.settings)
      this.#versions.applyReload(own)
      this.#deps.logger.info(changes, 'the settings were read again')
      return { pid: version.pid, generation: version.id, ...changes }
    } finally {
      this.#updateReport()
    }
  }

  /**
   * Cancels the candidate (a version that starts). If there is none, starts the previous version, which replaces the serving one when it
   * is ready. Resolves with the cancelled or replaced version. Rejects, and keeps the serving version, with ERR_FDB_NO_STANDBY,
   * ERR_FDB_BUSY (no operator started the candidate) and the errors of {@link upgrade}.
   */
  async rollback({ reason, at }: RollbackOrder, cancel: AbortSignal): Promise<ProcessReply> {
    const dispatch = (event: SupervisorEvent) => this.#dispatch(event)
    const state = this.#state
    const now = serving(state)
    const next = candidate(state)
    if (now !== undefined && next !== undefined && next.of === null) {
      const running = this.#versions.get(next.id)
      if (running?.handsOver) throw noPreviousVersionError()
      const askers = [...state.next, ...next.askers]
      // No operator has started it: it replaces a serving version that fails its health checks.
      if (askers.length === 0) throw busyError()
      for (const asker of askers) dispatch({ type: 'cancel', asker })
      return { pid: running?.pid ?? 0, generation: next.id }
    }
    const leaves = now && this.#versions.get(now.id)
    const returns = next?.of ?? (leaves?.handsOver ? null : state.before)
    if (returns === null || (now === undefined && next === undefined)) throw noPreviousVersionError()
    if (at !== null && !this.#known.canSwitchBack(at, returns, now?.id)) throw noPreviousVersionError()
    if (leaves !== undefined && next === undefined) this.#rollback = { leaves, returns, reason }
    try {
      await this.#requests.ask({}, cancel, dispatch, 'rollback')
    } finally {
      // Another order may wait for the same version.
      if ((candidate(this.#state)?.of ?? null) === null) this.#rollback = null
    }
    return { pid: leaves?.pid ?? 0, generation: now?.id ?? 0 }
  }

  /** Ends all versions; {@link ended} resolves when they have ended. A later call can shorten the time. */
  stop(options: StopOptions = {}): void {
    if (this.#state.mode === 'running') this.#stopOptions = options
    if (options.now) this.#hooks.giveUp()
    void this.#versions.endListeners()
    this.#dispatch({ type: 'stop', now: options.now ?? false })
    // Replaced versions that still drain are killed after the stop timeout too.
    for (const id of [...this.#versions.draining]) {
      this.#versions.draining.delete(id)
      const version = this.#versions.get(id)
      version?.signal(options.signal ?? version.settings.stopSignal)
      this.#startTimer('stop', id)
    }
    // Other versions were told to end before, and have the time that was given then.
    if (options.timeoutMs !== undefined) this.#shortenStop(options.timeoutMs)
  }

  #shortenStop(ms: number): void {
    const { timeoutMs = ms } = this.#stopOptions
    this.#stopOptions = { ...this.#stopOptions, timeoutMs: Math.min(ms, timeoutMs) }
    for (const { id, phase } of this.#state.versions) {
      const leftMs = this.#timers.remainingOf('stop', id)
      if (phase === 'stopping' && leftMs !== null && leftMs > ms) this.#timers.start('stop', id, ms)
    }
  }

  /** Forwards a signal to each version that was not told to end. */
  forward(signal: NodeJS.Signals): void {
    this.eventLog.note('signal.forwarded', { reason: signal })
    for (const { id, phase } of this.#state.versions)
      if (phase !== 'stopping' && phase !== 'killed') this.#versions.get(id)?.signal(signal)
  }

  status(): object {
    return statusOf({
      settings: this.#deps.settings,
      control: this.#control?.firstControl.path ?? null,
      state: this.#state,
      versions: this.#versions,
      startedAt: this.#startedAt,
      lastFailure: this.#failures.last,
      replaced: this.#replacements,
      predecessor: this.#deps.predecessor ?? null,
      timers: this.#timers,
    })
  }

  /** The state for the next image. Throws ERR_FDB_BUSY, ERR_FDB_ABORTED. */
  get #snapshot(): ExecState {
    const state = this.#state
    if (state.mode !== 'running' || this.isStopAnnounced) throw endingError()
    const ending = this.#deps.predecessor?.isDone === false || this.#versions.leftovers.length > 0
    if (candidate(state) !== undefined || ending || this.#hooks.isRunning) throw busyError()
    return {
      replaced: this.#replacements + 1,
      settings: this.#deps.settings,
      startedAt: this.#startedAt,
      state,
      argv: this.#settings.argv,
      lastFailure: this.#failures.last,
      events: this.eventLog.items()[0]?.fd ?? null,
      known: this.#known.snapshot,
      timers: this.#timers.remaining,
      control: this.#control?.firstControl ?? null,
      unclaimed: passedSockets().unclaimed,
      release: this.#release,
      removed: this.#deps.daemon?.removed ?? [],
      ...this.#versions.snapshot,
    }
  }

  /** Passes an event to the state machine and performs the effects. Events that arise meanwhile wait in a queue. */
  #dispatch(event: SupervisorEvent): void {
    this.#events.push(event)
    if (this.#stepping) return
    this.#stepping = true
    for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
      const { state, effects } = step(this.#state, next)
      this.#state = state
      this.#links.follow(state)
      for (const effect of effects) this.#perform(effect)
      this.#updateReport()
    }
    this.#stepping = false
  }

  #updateReport(): void {
    this.#report.update(this.#state, this.#failures.newerThan(this.generation))
  }

  #perform(effect: SupervisorEffect): void {
    switch (effect.type) {
      case 'spawn':
        void this.#spawn(effect.version, effect.of ?? null)
        return
      case 'watch':
        this.#versions.get(effect.version)?.startProbe()
        return
      case 'wait':
        this.#startTimer(effect.timer, effect.version)
        return
      case 'back-off': {
        const { failures } = effect
        const ms = this.#timers.backOff(this.#deps.settings.restartDelay, failures)
        this.eventLog.note('version.delayed', { reason: `${failures} failures: ${ms} ms` })
        this.#deps.logger.warn(
          { failures, ms },
          'no version runs any more; the next one starts after a delay',
        )
        return
      }
      case 'promote':
        this.#promote(effect.version)
        return
      case 'end':
        this.#endVersion(effect.version, effect.why)
        return
      case 'kill':
        this.#deps.logger.warn({ version: effect.version }, 'a version did not end in time and is killed')
        this.#versions.kill(effect.version)
        return
      case 'answer':
        this.#answer(effect)
        return
      case 'exit':
        this.#close(effect.code)
    }
  }

  /** Starts a version, unless it is not wanted any more after the last wait; `of`: the earlier version that it repeats. */
  async #spawn(id: number, of: number | null): Promise<void> {
    const [requests, known, versions] = [this.#requests, this.#known, this.#versions]
    const ids = candidate(this.#state)?.askers ?? []
    try {
      const given = requests.argvOf(ids)
      const release = of === null ? requests.releaseOf(ids) : null
      const now = serving(this.#state)?.id ?? this.#state.good[0] ?? null
      if (release !== null) this.#links.install(id, release, now)
      const before = of === null ? null : known.settingsOf(of)
      const settings = before ?? (await this.#settings.read(id, given))
      await this.#deps.daemon?.take(settings, versions.listeners.held)
      const makeProbe = await probeFor(settings, versions.children)
      if (this.#find(id)?.doomed) throw cancelledError()
      // A version that starts in place of one that has ended endangers none.
      if (serving(this.#state) !== undefined) checkMemoryRoom(settings.command[0] ?? '')
      const { pid } = versions.run(id, settings, makeProbe())
      known.record(id, settings, given ?? this.#settings.argv, of)
      const facts = { version: id, child: pid, command: settings.command, ...(of !== null && { of }) }
      const what = of === null ? 'a version was started' : 'the previous version was started again'
      this.#deps.logger.info(facts, what)
      this.#note('version.started', id)
      requests.report(ids, 'started', pid)
      this.#dispatch({ type: 'spawned', version: id })
      if (settings.ready.kind !== 'delay')
        afterReading(UNREADY_MS, () => this.#noteUnready(id), { unref: true })
    } catch (error) {
      this.#failures.recordUnstarted(id, error)
      this.#dispatch({ type: 'spawn-failed', version: id })
      // If a step is running, the event is still queued: the reason must be there until its answer is sent.
      await Promise.resolve()
      this.#failures.forget(id)
      this.#closeUnusedListeners()
    }
  }

  #note(type: EventType, id: number, facts: EventFacts = {}): void {
    this.eventLog.note(type, { generation: id, process: this.#versions.get(id)?.pid ?? 0, ...facts })
  }

  #find(id: number): Version | undefined {
    return this.#state.versions.find(version => version.id === id)
  }

  #onReady(id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined) return
    this.#requests.report(this.#find(id)?.askers ?? [], 'ready', version.pid)
    this.#dispatch({ type: 'ready', version: id })
  }

  /** Logs what a version has not done yet: its failure comes only at the time limit. */
  #noteUnready(id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined || this.#find(id)?.phase !== 'starting') return
    const { pid, missing: why } = version
    this.#deps.logger.warn({ version: id, child: pid, why }, 'a version is not ready yet')
  }

  #onFailed(id: number, why: string): void {
    const served = this.#find(id)?.phase === 'serving'
    const text = served ? `version ${id} serves and is not healthy: ${why}` : `version ${id}: ${why}`
    const phase = served ? 'serving' : 'starting'
    this.#failures.record(id, new FdbError('ERR_FDB_UNHEALTHY', text, { phase }))
    this.#dispatch({ type: 'unhealthy', version: id })
  }

  #onRecovered(id: number): void {
    this.#deps.logger.info({ version: id }, 'the version that serves is healthy again')
    this.#dispatch({ type: 'healthy', version: id })
  }

  #onMainEnded(id: number, code: number, left: readonly number[]): MainEnd {
    const version = this.#versions.get(id)!
    this.#deps.logger.info({ version: id, child: version.pid, code, left }, 'a version has ended')
    this.#note('version.ended', id, { reason: exitCodeText(code) })
    const { phase, proved, of } = this.#find(id) ?? {}
    const { good } = this.#state
    const served = phase === 'serving'
    if (phase === 'starting' || phase === 'trial') {
      this.#failures.recordEnd(version, phase, code, left)
      if (left.length > 0) this.#dispatch({ type: 'unhealthy', version: id })
    } else if (served && !proved && good.length > 0)
      this.#failures.recordCrash(version, code, { left, isReplaced: good.some(known => known !== of) })
    if (served) this.#deps.predecessor?.cancelRetirement()
    return { served, graceMs: phase === 'stopping' ? version.settings.stopTimeout : GRACE_MS }
  }

  #onExited(id: number, code: number): void {
    this.#forget(id)
    this.#dispatch({ type: 'exited', version: id, code })
    this.#failures.forget(id)
    this.#closeUnusedListeners()
  }

  #startTimer(timer: TimerName, id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined || (timer === 'stop' && this.#versions.draining.has(id))) return
    const { settings } = version
    const { healthyFor: healthy, probation: proved } = settings
    const { askers = [] } = candidate(this.#state) ?? {}
    const ready = Math.min(
      settings.readyTimeout,
      this.#requests.timeoutOf(askers) || Number.POSITIVE_INFINITY,
    )
    const stop = this.#stopOptions.timeoutMs ?? settings.stopTimeout
    this.#timers.start(timer, id, { ready, healthy, proved, stop, kill: KILLED_MS }[timer])
  }

  #onElapsed(timer: TimerName, id: number, ms: number): void {
    const version = this.#versions.get(id)
    // A pending health check must pass, and a rollback must fail, before the probation ends.
    const isLeaving = (candidate(this.#state)?.of ?? null) !== null
    if (timer === 'proved' && (version?.isCheckPending || isLeaving)) {
      this.#timers.start(timer, id, PENDING_MS)
      return
    }
    const { phase, proved } = this.#find(id) ?? {}
    if (timer === 'ready' && phase === 'starting' && version !== undefined)
      this.#failures.recordTimeout(version, ms)
    this.#dispatch({ type: 'elapsed', timer, version: id })
    if (!proved && this.#find(id)?.proved === true && version !== undefined) this.#keep(version)
    if (timer === 'kill' && this.#find(id) === undefined) this.#forget(id)
  }

  #keep(version: RunningVersion): void {
    version.markProven()
    if (this.#find(version.id)?.wanted === true) this.#note('version.kept', version.id)
  }

  #promote(id: number): void {
    const version = this.#versions.get(id)!
    const { command } = version.settings
    this.#hooks.server = version
    version.markServing()
    const { before, good, versions } = this.#state
    this.#known.keepOnly([...good, ...(before === null ? [] : [before]), ...versions.map(each => each.id)])
    this.#deps.logger.info({ version: id, child: version.pid, command }, 'a version serves')
    this.#note('version.serving', id)
    this.#settings.noteServing(id, version.settings)
    const of = this.#find(id)?.of ?? null
    if (of !== null) {
      this.#settings.restoreCommand(this.#known.argvOf(id))
      if (this.#rollback?.returns === of)
        this.#failures.recordRollback(this.#rollback.leaves, of, this.#rollback.reason)
      // A version that has returned before, and is started again, is no rollback.
      if (of !== this.#release) this.#note('rollback.serving', id)
    }
    this.#release = of ?? id
    if (!version.handsOver) this.#unused.watch(id)
    this.#deps.predecessor?.retire(version.settings)
    this.#closeUnusedListeners()
  }

  #endVersion(id: number, why: VersionEndReason): void {
    const version = this.#versions.get(id)!
    this.#unused.forget(id)
    version.stopProbe(why === 'failed')
    if (why === 'failed' || why === 'cancelled') this.#closeUnusedListeners()
    if (why === 'replaced') version.markReplaced()
    if (why === 'replaced' && version.handsOver) {
      this.#versions.draining.add(id)
      return
    }
    const signal = (why === 'ending' && this.#stopOptions.signal) || version.settings.stopSignal
    this.#deps.logger.info({ version: id, child: version.pid, why, signal }, 'a version is told to end')
    version.requestEnd(signal, why === 'ending')
  }

  #answer({ askers, version, outcome }: Extract<SupervisorEffect, { type: 'answer' }>): void {
    const failure = this.#failures.of(version)
    if (outcome === 'serving') this.#requests.succeeded(askers, this.#versions.get(version!)!)
    else if (failure !== undefined && failure.code !== 'ERR_FDB_ABORTED')
      this.#requests.failed(askers, failure)
    else if (outcome === 'ending') this.#requests.failed(askers, endingError())
    else this.#requests.cancelled(askers, candidate(this.#state)?.id === version ? version : null, failure)
  }

  /** Closes listeners that no version uses. If none serves, the last version's listeners stay open for the next one. */
  #closeUnusedListeners(): void {
    const [now, next] = [serving(this.#state), candidate(this.#state)]
    if (now !== undefined) this.#versions.keepListenersOf(next === undefined ? [now.id] : [now.id, next.id])
  }

  #forget(id: number): void {
    for (const part of [this.#versions, this.#timers, this.#unused]) part.forget(id)
  }

  #close(code: number): void {
    this.#timers.close()
    this.#control?.close()
    this.#pidFile?.remove()
    this.#report.close()
    this.#unused.close()
    this.#versions.endAll()
    const failure = this.#settings.hasServed || this.#replacements > 0 ? null : this.#failures.last
    void this.#hooks.ended().then(() => {
      this.#versions.close()
      this.eventLog.close()
      this.#resolveEnded({ code, failure })
    })
  }
}
