import type { Logger } from '../base/logger.js'
import { backoffMs, LONGEST_RESTART_MS } from '../base/time.js'
import { FdbError } from '../errors.js'
import type { Upgraded } from '../operator/requests.js'
import type { Reloaded, Told } from '../operator/service-commands.js'
import { PidFile } from '../os/pid-file.js'
import { keepPassed, passedSockets } from '../os/service-manager/passed-sockets.js'
import { ServiceManager } from '../os/service-manager/service-manager.js'
import type { Starts } from '../probing/shell.js'
import { GRACE_MS } from '../versions/process-members.js'
import { Control } from './control.js'
import { Failures, type SupervisorEnd } from './failures.js'
import { KnownVersions, ReleaseLinks } from './known-versions.js'
import { goOnAsInstalled, type LeftBehind } from './left-behind.js'
import {
  coming,
  type EndReason,
  initial,
  resumed,
  type SupervisorEffect,
  type SupervisorEvent,
  type SupervisorState,
  serving,
  step,
  type Timer,
} from './machine.js'
import type { Predecessor } from './predecessor.js'
import { probeFor, probeOfLeft } from './probe.js'
import { type MainEnd, RunningVersions } from './running-version.js'
import { NextSettings, type SettingsSource, type StopOptions } from './settings.js'
import { KeptListeners } from './shared-listeners.js'
import { ManagerReport, statusOf } from './status.js'
import {
  Askers,
  busy,
  type RollbackOrder,
  rollBack,
  type UpgradeOptions,
  whyNot,
} from './upgrade-requests.js'

/** When a probation ends, an answer that is awaited is looked for so often. */
const EVIDENCE_MS = 50

export interface SupervisorParts extends SettingsSource {
  readonly logger: Logger
  /** Who serves until the first version does. Borrowed. */
  readonly predecessor?: Predecessor | null
}

/** Starts a program, replaces it by its next version and ends with it: carries out what the machine decides. */
export class Supervisor {
  /** Resolves when no version is left. */
  readonly ended: Promise<SupervisorEnd>
  readonly #parts: SupervisorParts
  readonly #startedAt: number
  readonly #replaced: number
  readonly #askers = new Askers()
  readonly #versions: RunningVersions
  readonly #timers = new Timers({
    elapsed: (timer, version, ms) => this.#elapsed(timer, version, ms),
    rested: () => this.#dispatch({ type: 'rested' }),
  })
  readonly #failures: Failures
  readonly #known: KnownVersions
  readonly #judgement: Judgement
  readonly #events: SupervisorEvent[] = []
  #state: SupervisorState
  #stepping = false
  #control: Control | null = null
  readonly #settings: NextSettings
  #stopping: StopOptions = {}
  readonly #report: ManagerReport
  readonly #pidFile: PidFile | null
  #end!: (end: SupervisorEnd) => void

  private constructor(parts: SupervisorParts, left: LeftBehind | null) {
    const manager = ServiceManager.find(parts.logger)
    this.#parts = parts
    this.#state = left === null ? initial(parts.settings.restart) : resumed(left.state, left.timers)
    this.#startedAt = left?.startedAt ?? Date.now()
    this.#replaced = left?.replaced ?? 0
    this.#settings = new NextSettings(parts, left?.argv ?? null)
    this.#failures = new Failures(parts.logger, left?.lastFailure ?? null)
    this.#known = new KnownVersions(
      left?.known ?? left?.versions.map(each => ({ ...each, argv: left.argv, led: {} })) ?? [],
    )
    this.#judgement = new Judgement({
      ...this.#way,
      logger: parts.logger,
      settings: this.#settings,
      versions: () => this.#versions,
      state: () => this.#state,
    })
    this.#versions = new RunningVersions(
      {
        ready: id => this.#judgement.ready(id),
        failed: (id, why) => this.#judgement.failed(id, why),
        recovered: id => this.#judgement.recovered(id),
        mainEnded: (id, code, left) => this.#mainEnded(id, code, left),
        exited: (id, code) => this.#exited(id, code),
      },
      new KeptListeners(manager?.storeFor(parts.settings.name) ?? null, parts.settings.name),
      left,
      parts.predecessor ?? null,
      parts.settings.control,
    )
    this.#report = new ManagerReport(manager)
    this.#pidFile = PidFile.at(parts.settings.pidFile, parts.logger)
    this.ended = new Promise(resolve => {
      this.#end = resolve
    })
  }

  /** Takes its control path and starts the first version. Rejects as {@link Control.open} does. */
  static async start(parts: SupervisorParts): Promise<Supervisor> {
    const supervisor = new Supervisor(parts, null)
    const { settings, logger } = parts
    if (settings.control !== null)
      supervisor.#control = await Control.open(settings.control, supervisor, settings, logger)
    supervisor.#pidFile?.write()
    supervisor.#versions.children.begin()
    supervisor.#dispatch({ type: 'start' })
    return supervisor
  }

  /** Goes on in the place of another image of this process, with all that it has left. Owns that. */
  static async goOn(parts: SupervisorParts, left: LeftBehind): Promise<Supervisor> {
    const children: Starts = {
      start: (start, ended) => supervisor.#versions.children.start(start, ended),
      kill: pid => supervisor.#versions.children.kill(pid),
    }
    const now = serving(left.state)?.id
    const probes = await Promise.all(left.versions.map(each => probeOfLeft(each, each.id === now, children)))
    keepPassed(left.unclaimed)
    const supervisor: Supervisor = new Supervisor(parts, left)
    supervisor.#versions.goOn(left.versions, probes)
    for (const { id, proved } of supervisor.#state.versions)
      if (proved) supervisor.#versions.get(id)?.proved()
    if (left.control !== null)
      supervisor.#control = new Control(left.control, supervisor, parts.settings, parts.logger)
    supervisor.#pidFile?.write()
    supervisor.#timers.resume(left.timers)
    parts.logger.info({ replaced: left.replaced }, 'the supervisor goes on as another program')
    supervisor.#look()
    supervisor.#versions.children.begin()
    return supervisor
  }

  /** The number of the version that serves; 0: none does. */
  get generation(): number {
    return serving(this.#state)?.id ?? 0
  }

  /**
   * Starts the next version, and resolves when it serves; whoever asks while one is being brought to serve waits for the one after
   * that. Rejects with ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_DEADLINE, ERR_FDB_UNHEALTHY, ERR_FDB_ABORTED, and with what
   * reading the settings and binding their listeners throws: the version that serves stays then.
   */
  upgrade(options: UpgradeOptions = {}, cancel?: AbortSignal): Promise<Upgraded> {
    return this.#askers.ask(options, cancel, event => this.#dispatch(event))
  }

  /**
   * Goes on as what is installed now, with its versions, listeners and control socket. Never resolves. Rejects, and goes on as it is,
   * with ERR_FDB_BUSY while a version is being brought to serve, ERR_FDB_ABORTED where it ends, and as {@link goOnAsInstalled} does.
   */
  async upgradeSelf(): Promise<never> {
    return await goOnAsInstalled(() => this.#left, this.#versions.children, this.#parts.logger)
  }

  /**
   * Reads the settings anew: how versions are told to end counts at once. Rejects with ERR_FDB_COMMAND_UNKNOWN where there is nothing to
   * be read, with ERR_FDB_BUSY while no version serves, and with what reading throws: then all is as it was.
   */
  async reload(): Promise<Reloaded> {
    const version = this.#versions.get(this.generation)
    if (version === undefined) throw busy()
    this.#report.rereads()
    try {
      const { ending, changes } = await this.#settings.reread(version.settings)
      this.#versions.adjust(ending)
      this.#parts.logger.info(changes, 'the settings were read anew')
      return { pid: version.pid, generation: version.id, ...changes }
    } finally {
      this.#look()
    }
  }

  /** As {@link rollBack} does. */
  rollback(order: RollbackOrder, cancel: AbortSignal): Promise<Told> {
    return rollBack({ ...this.#way, versions: this.#versions, state: this.#state }, order, cancel)
  }

  /** Ends all versions; {@link ended} resolves when they have. */
  stop(options: StopOptions = {}): void {
    if (this.#state.mode === 'running') this.#stopping = options
    void this.#versions.endListeners()
    this.#dispatch({ type: 'stop', now: options.now ?? false })
    // There is an end to their patience too.
    for (const id of [...this.#versions.draining]) {
      this.#versions.draining.delete(id)
      this.#versions.get(id)?.signal(options.signal ?? 'SIGTERM')
      this.#wait('stop', id)
    }
  }

  /** Passes a signal on to every version that was not told to end. */
  forward(signal: NodeJS.Signals): void {
    for (const { id, phase } of this.#state.versions)
      if (phase !== 'stopping' && phase !== 'killed') this.#versions.get(id)?.signal(signal)
  }

  status(): object {
    return statusOf({
      settings: this.#parts.settings,
      state: this.#state,
      versions: this.#versions,
      startedAt: this.#startedAt,
      lastFailure: this.#failures.last,
      replaced: this.#replaced,
      predecessor: this.#parts.predecessor ?? null,
      timers: this.#timers,
    })
  }

  get #way() {
    const dispatch = (event: SupervisorEvent) => this.#dispatch(event)
    return { askers: this.#askers, failures: this.#failures, known: this.#known, dispatch }
  }

  /** Throws ERR_FDB_BUSY, ERR_FDB_ABORTED. */
  get #left(): LeftBehind {
    const state = this.#state
    if (state.mode !== 'running') throw whyNot('ending')
    const ending = this.#parts.predecessor?.over === false || this.#versions.strays.length > 0
    if (coming(state) !== undefined || ending) throw busy()
    return {
      replaced: this.#replaced + 1,
      settings: this.#parts.settings,
      startedAt: this.#startedAt,
      state,
      argv: this.#settings.argv,
      lastFailure: this.#failures.last,
      known: this.#known.left,
      timers: this.#timers.left,
      control: this.#control?.place ?? null,
      unclaimed: passedSockets().unclaimed,
      ...this.#versions.left,
    }
  }

  /** What an effect tells at once is taken when the step that asked for it has been carried out. */
  #dispatch(event: SupervisorEvent): void {
    this.#events.push(event)
    if (this.#stepping) return
    this.#stepping = true
    for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
      const { state, effects } = step(this.#state, next)
      this.#state = state
      this.#judgement.leadLinks(state)
      for (const effect of effects) this.#perform(effect)
      this.#look()
    }
    this.#stepping = false
  }

  #look(): void {
    this.#report.look(this.#state, this.#failures.last?.message ?? null)
  }

  #perform(effect: SupervisorEffect): void {
    switch (effect.type) {
      case 'spawn':
        void this.#judgement
          .spawn(effect.version, effect.of ?? null)
          .then(started => started || this.#sweep())
        return
      case 'watch':
        this.#versions.get(effect.version)?.watch()
        return
      case 'wait':
        this.#wait(effect.timer, effect.version)
        return
      case 'rest': {
        const { failures } = effect
        const ms = this.#timers.rest(this.#parts.settings.restartDelay, failures)
        this.#parts.logger.warn({ failures, ms }, 'no version is left; one is started anew after a rest')
        return
      }
      case 'promote':
        this.#promote(effect.version)
        return
      case 'end':
        this.#endVersion(effect.version, effect.why)
        return
      case 'kill':
        this.#parts.logger.warn({ version: effect.version }, 'a version did not end in time and is killed')
        this.#versions.kill(effect.version)
        return
      case 'answer':
        this.#answer(effect)
        return
      case 'exit':
        this.#close(effect.code)
    }
  }

  #mainEnded(id: number, code: number, left: readonly number[]): MainEnd {
    const end = this.#judgement.mainEnded(id, code, left)
    if (end.served) this.#parts.predecessor?.spare()
    return end
  }

  #exited(id: number, code: number): void {
    this.#forget(id)
    this.#dispatch({ type: 'exited', version: id, code })
    this.#failures.forget(id)
    this.#sweep()
  }

  #wait(timer: Timer, id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined || (timer === 'stop' && this.#versions.draining.has(id))) return
    const { settings } = version
    const { healthyFor: healthy, probation: proved } = settings
    const { askers = [] } = coming(this.#state) ?? {}
    const ready = Math.min(settings.readyTimeout, this.#askers.timeoutOf(askers) || Number.POSITIVE_INFINITY)
    const stop = this.#stopping.timeoutMs ?? settings.stopTimeout
    this.#timers.start(timer, id, timesOf({ ready, healthy, proved, stop })[timer])
  }

  #elapsed(timer: Timer, id: number, ms: number): void {
    const version = this.#versions.get(id)
    // Evidence ends a probation, not time alone.
    if (timer === 'proved' && version?.isAsked) {
      this.#timers.start(timer, id, EVIDENCE_MS)
      return
    }
    const starts = this.#state.versions.some(one => one.id === id && one.phase === 'starting')
    if (timer === 'ready' && starts && version !== undefined) this.#failures.late(version, ms)
    this.#dispatch({ type: 'elapsed', timer, version: id })
    if (timer === 'proved' && serving(this.#state)?.proved) version?.proved()
    if (timer === 'kill' && !this.#state.versions.some(one => one.id === id)) this.#forget(id)
  }

  #promote(id: number): void {
    const version = this.#versions.get(id)!
    const { command } = version.settings
    version.serves()
    const { before, good, versions } = this.#state
    this.#known.keepOnly([...good, ...(before === null ? [] : [before]), ...versions.map(each => each.id)])
    this.#parts.logger.info({ version: id, child: version.pid, command }, 'a version serves')
    this.#settings.serves(id, version.settings)
    if (versions.some(each => each.id === id && each.of !== null))
      this.#settings.servesAgain(this.#known.argvOf(id))
    this.#parts.predecessor?.retire(version.settings)
    this.#sweep()
  }

  #endVersion(id: number, why: EndReason): void {
    const version = this.#versions.get(id)!
    version.settle(why === 'failed')
    if (why === 'failed' || why === 'cancelled') this.#sweep()
    if (why === 'replaced') version.replaced()
    if (why === 'replaced' && version.handsOver) {
      this.#versions.draining.add(id)
      return
    }
    const signal = (why === 'ending' && this.#stopping.signal) || version.settings.stopSignal
    this.#parts.logger.info({ version: id, child: version.pid, why, signal }, 'a version is told to end')
    version.tellToEnd(signal, why === 'ending')
  }

  #answer({ askers, version, outcome }: Extract<SupervisorEffect, { type: 'answer' }>): void {
    if (outcome === 'serving') {
      const { pid } = this.#versions.get(version!)!
      this.#askers.tell(askers, 'serving', pid)
      this.#askers.answer(askers, { pid, generation: version! })
    } else this.#askers.answer(askers, this.#failures.of(version) ?? whyNot(outcome))
  }

  /** Listeners that no version wants any more; while none lives, those of the last are kept for the next. */
  #sweep(): void {
    const [now, next] = [serving(this.#state), coming(this.#state)]
    if (now !== undefined) this.#versions.keepListenersOf(next === undefined ? [now.id] : [now.id, next.id])
  }

  #forget(id: number): void {
    this.#versions.forget(id)
    this.#timers.forget(id)
  }

  #close(code: number): void {
    this.#timers.close()
    this.#control?.close()
    this.#pidFile?.remove()
    this.#report.close()
    this.#versions.close()
    this.#end({ code, failure: this.#settings.served || this.#replaced > 0 ? null : this.#failures.last })
  }
}

interface JudgementParts {
  readonly askers: Askers
  readonly failures: Failures
  readonly known: KnownVersions
  readonly logger: Logger
  readonly settings: NextSettings
  readonly versions: () => RunningVersions
  readonly state: () => SupervisorState
  readonly dispatch: (event: SupervisorEvent) => void
}

/** Starts versions, and tells the machine what becomes of each: with the reason, where it fails. */
class Judgement {
  readonly #parts: JudgementParts
  readonly #links: ReleaseLinks

  constructor(parts: JudgementParts) {
    this.#parts = parts
    this.#links = new ReleaseLinks(parts.known, parts.logger, serving(parts.state())?.id ?? null)
  }

  /** The links of releases follow each step of the machine, before its effects. */
  leadLinks(state: SupervisorState): void {
    this.#links.follow(state)
  }

  /** `of`: as this earlier version was started. False: it was not started. */
  async spawn(id: number, of: number | null): Promise<boolean> {
    const { askers, dispatch, failures, known, logger, settings: next, state } = this.#parts
    const asked = coming(state())?.askers ?? []
    const versions = this.#parts.versions()
    try {
      const given = askers.argvOf(asked)
      const release = of === null ? askers.releaseOf(asked) : null
      const now = serving(state())?.id ?? state().good[0] ?? null
      if (release !== null) this.#links.install(id, release, now)
      const before = of === null ? null : known.settingsOf(of)
      const settings = before ?? (await next.of(id, given))
      if (state().versions.some(version => version.id === id && version.doomed)) throw whyNot('cancelled')
      const probe = await probeFor(settings, versions.children)
      const version = versions.run(id, settings, probe)
      known.note(id, settings, given ?? next.argv, of)
      const { command } = settings
      const facts = { version: id, child: version.pid, command }
      if (of === null) logger.info(facts, 'a version was started')
      else logger.info({ ...facts, of }, 'the version before was started again')
      askers.tell(asked, 'started', version.pid)
      dispatch({ type: 'spawned', version: id })
      return true
    } catch (error) {
      failures.note(id, FdbError.from(error))
      dispatch({ type: 'spawn-failed', version: id })
      // In a step the machine takes it, and answers with the reason, when the step is over.
      await Promise.resolve()
      failures.forget(id)
      return false
    }
  }

  ready(id: number): void {
    const { askers, dispatch, state } = this.#parts
    const version = this.#parts.versions().get(id)
    if (version === undefined) return
    askers.tell(coming(state())?.askers ?? [], 'ready', version.pid)
    dispatch({ type: 'ready', version: id })
  }

  failed(id: number, why: string): void {
    const { dispatch, failures } = this.#parts
    const served = this.#phaseOf(id) === 'serving'
    const text = served ? `version ${id} serves and is not healthy: ${why}` : `version ${id}: ${why}`
    failures.note(id, new FdbError('ERR_FDB_UNHEALTHY', text, { phase: served ? 'serving' : 'starting' }))
    dispatch({ type: 'unhealthy', version: id })
  }

  recovered(id: number): void {
    this.#parts.logger.info({ version: id }, 'the version that serves is healthy again')
    this.#parts.dispatch({ type: 'healthy', version: id })
  }

  /** Its main process has ended, and left these processes behind. */
  mainEnded(id: number, code: number, left: readonly number[]): MainEnd {
    const { dispatch, failures, logger, state } = this.#parts
    const version = this.#parts.versions().get(id)!
    logger.info({ version: id, child: version.pid, code, left }, 'a version has ended')
    const was = state().versions.find(one => one.id === id)
    const phase = was?.phase
    const served = phase === 'serving'
    if (phase === 'starting' || phase === 'trial') {
      failures.ended(version, phase, code, left)
      if (left.length > 0) dispatch({ type: 'unhealthy', version: id })
    } else if (served && !was?.proved && state().good.length > 0) failures.fell(version, code, left)
    return { served, graceMs: phase === 'stopping' ? version.settings.stopTimeout : GRACE_MS }
  }

  #phaseOf(id: number): string | undefined {
    return this.#parts.state().versions.find(one => one.id === id)?.phase
  }
}

/** In the place of a timer and its version: the time between two starts. */
const REST = 'rest'

/** After SIGKILL: a process that is still there waits in the kernel. */
const KILLED_MS = 5_000
/** Of a version that an image of an earlier release has started. */
const PROBATION_MS = 10_000

/** How long each timer of a version runs, in milliseconds. */
function timesOf(
  given: Readonly<Record<'ready' | 'healthy' | 'stop', number> & { proved: number | undefined }>,
): Record<Timer, number> {
  return { ...given, proved: given.proved ?? PROBATION_MS, kill: KILLED_MS }
}

interface Waiting {
  readonly timer: NodeJS.Timeout
  /** By the clock of {@link performance}. */
  readonly until: number
}

interface TimerEvents {
  /** After so many milliseconds. */
  elapsed(timer: Timer, version: number, ms: number): void
  rested(): void
}

/** The machine's timers. */
export class Timers {
  readonly #waiting = new Map<string, Waiting>()
  readonly #events: TimerEvents

  constructor(events: TimerEvents) {
    this.#events = events
  }

  /** In the place of an earlier one. */
  start(timer: Timer, version: number, ms: number): void {
    this.#start(`${timer} ${version}`, ms)
  }

  /** Returns how long the rest is, milliseconds. */
  rest(delay: number, failures: number): number {
    const ms = backoffMs({ firstMs: delay, longestMs: LONGEST_RESTART_MS }, failures)
    this.#start(REST, ms)
    return ms
  }

  /** Milliseconds that are left of one; null: it does not run. */
  leftOf(timer: Timer, version: number): number | null {
    return this.left[`${timer} ${version}`] ?? null
  }

  forget(version: number): void {
    for (const name of this.#waiting.keys()) if (name.endsWith(` ${version}`)) this.#stop(name)
  }

  /** What is left of each, milliseconds: for {@link resume}. */
  get left(): Record<string, number> {
    const now = performance.now()
    return Object.fromEntries([...this.#waiting].map(([name, { until }]) => [name, Math.max(0, until - now)]))
  }

  resume(left: Readonly<Record<string, number>>): void {
    for (const [name, ms] of Object.entries(left)) this.#start(name, ms)
  }

  close(): void {
    for (const name of this.#waiting.keys()) this.#stop(name)
  }

  #start(name: string, ms: number): void {
    this.#stop(name)
    const timer = setTimeout(() => this.#elapsed(name, ms), ms)
    this.#waiting.set(name, { timer, until: performance.now() + ms })
  }

  #stop(name: string): void {
    clearTimeout(this.#waiting.get(name)?.timer)
    this.#waiting.delete(name)
  }

  #elapsed(name: string, ms: number): void {
    this.#waiting.delete(name)
    const [timer, version] = name.split(' ')
    if (name === REST) this.#events.rested()
    else this.#events.elapsed(timer as Timer, Number(version), ms)
  }
}
