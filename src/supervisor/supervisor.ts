import { FdbError } from '../errors.js'
import type { Logger } from '../logger.js'
import type { Operations, Upgraded } from '../operator/requests.js'
import { STOP, stopOrderOf, toldReply } from '../operator/service-commands.js'
import type { Failure } from '../operator/status-report.js'
import { PidFile } from '../process/pid-file.js'
import { ServiceManager } from '../supervised/service-manager.js'
import { Askers, type UpgradeOptions } from './askers.js'
import { Children } from './children.js'
import { type Control, openControl } from './control.js'
import {
  coming,
  type EndReason,
  initial,
  type SupervisorEffect,
  type SupervisorEvent,
  type SupervisorState,
  serving,
  step,
  type Timer,
} from './machine.js'
import { ManagerReport } from './manager-report.js'
import type { Predecessor } from './predecessor.js'
import { probeFor } from './probe-for.js'
import { RunningVersion } from './running-version.js'
import type { SupervisorSettings, VersionSettings } from './settings.js'
import { SharedListeners } from './shared-listeners.js'
import { statusOf } from './status.js'

/** After SIGKILL: what is there still waits in the kernel. */
const KILLED_MS = 5_000
const LONGEST_REST_MS = 30_000
/** A version that has served for so long was none of those that die at their start. */
const PROVED_MS = 10_000

export interface SupervisorParts {
  readonly settings: SupervisorSettings
  /** The settings for the next version. Rejects: it is not started. */
  readonly read: () => Promise<VersionSettings>
  readonly logger: Logger
  /** Who serves until the first version does. Borrowed. */
  readonly predecessor?: Predecessor | null
}

export interface StopOptions {
  /** In the place of the versions' own. */
  readonly signal?: NodeJS.Signals
  /** Until they are killed, milliseconds. Absent: as the settings say. */
  readonly timeoutMs?: number
  /** By SIGKILL, at once. */
  readonly now?: boolean
}

/** Starts a program, replaces it by its next version and ends with it: carries out what the machine decides. */
export class Supervisor {
  /** Resolves with the exit code when no version is left. */
  readonly ended: Promise<number>
  readonly #parts: SupervisorParts
  readonly #startedAt = Date.now()
  readonly #children = new Children()
  readonly #listeners = new SharedListeners()
  readonly #askers = new Askers()
  readonly #versions = new Map<number, RunningVersion>()
  readonly #timers = new Map<string, NodeJS.Timeout>()
  /** Why a version has failed, or will be said to have. */
  readonly #reasons = new Map<number, FdbError>()
  readonly #events: SupervisorEvent[] = []
  #state: SupervisorState
  #stepping = false
  #control: Control | null = null
  /** Versions whose command an operator has given. */
  readonly #given = new Set<number>()
  /** What an operator has put in the place of the command, since it has served. */
  #argv: readonly string[] | null = null
  #stopping: StopOptions = {}
  /** Versions that know themselves when they have served out what they have. */
  readonly #draining = new Set<number>()
  readonly #report: ManagerReport
  readonly #pidFile: PidFile | null
  #lastFailure: Failure | null = null
  #end!: (code: number) => void

  private constructor(parts: SupervisorParts) {
    this.#parts = parts
    this.#state = initial(parts.settings.restart)
    this.#report = new ManagerReport(ServiceManager.find(parts.logger))
    this.#pidFile = parts.settings.pidFile === null ? null : new PidFile(parts.settings.pidFile)
    this.ended = new Promise(resolve => {
      this.#end = resolve
    })
  }

  /** Takes its control path and starts the first version. Rejects as {@link openControl} does. */
  static async start(parts: SupervisorParts): Promise<Supervisor> {
    const supervisor = new Supervisor(parts)
    const { control } = parts.settings
    if (control !== null)
      supervisor.#control = await openControl(control, supervisor.#operations, parts.logger)
    supervisor.#pidFile?.write()
    supervisor.#dispatch({ type: 'start' })
    return supervisor
  }

  /**
   * Starts the next version, and resolves when it serves; whoever asks while one is being brought to serve waits for the one after
   * that. Rejects with ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_DEADLINE, ERR_FDB_UNHEALTHY, ERR_FDB_ABORTED, and with what
   * reading the settings and binding their listeners throws: the version that serves stays then.
   */
  upgrade(options: UpgradeOptions = {}, cancel?: AbortSignal): Promise<Upgraded> {
    const { id, answer } = this.#askers.add(options)
    this.#dispatch({ type: 'upgrade', asker: id })
    const cancelled = () => this.#dispatch({ type: 'cancel', asker: id })
    if (cancel?.aborted) cancelled()
    else cancel?.addEventListener('abort', cancelled, { once: true })
    return answer.finally(() => cancel?.removeEventListener('abort', cancelled))
  }

  /** Ends all versions; {@link ended} resolves when they have. */
  stop(options: StopOptions = {}): void {
    if (this.#state.mode === 'running') this.#stopping = options
    this.#dispatch({ type: 'stop', now: options.now ?? false })
    // There is an end to their patience too.
    for (const id of [...this.#draining]) {
      this.#draining.delete(id)
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
      addresses: this.#listeners.addresses,
      lastFailure: this.#lastFailure,
      predecessor: this.#parts.predecessor ?? null,
    })
  }

  get #operations(): Operations {
    return {
      status: () => this.status(),
      upgrade: ({ argv, timeoutMs }, progress, cancel) => this.upgrade({ argv, timeoutMs, progress }, cancel),
      command: async ({ name, body }) => {
        if (name !== STOP)
          throw new FdbError(
            'ERR_FDB_COMMAND_UNKNOWN',
            `process ${process.pid} supervises a program and knows no command "${name}": it knows upgrade, status and stop`,
          )
        const { timeoutMs } = stopOrderOf(body)
        // The answer leaves first.
        setImmediate(() => this.stop(timeoutMs === null ? {} : { timeoutMs }))
        return Buffer.from(toldReply({ pid: process.pid, generation: serving(this.#state)?.id ?? 0 }))
      },
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
      for (const effect of effects) this.#perform(effect)
      this.#report.look(state, this.#lastFailure?.message ?? null)
    }
    this.#stepping = false
  }

  #perform(effect: SupervisorEffect): void {
    switch (effect.type) {
      case 'spawn':
        void this.#spawn(effect.version)
        return
      case 'watch':
        this.#versions.get(effect.version)?.watch()
        return
      case 'wait':
        this.#wait(effect.timer, effect.version)
        return
      case 'rest':
        this.#rest(effect.failures)
        return
      case 'promote':
        this.#promote(effect.version)
        return
      case 'end':
        this.#endVersion(effect.version, effect.why)
        return
      case 'kill':
        this.#parts.logger.warn({ version: effect.version }, 'a version did not end in time and is killed')
        this.#versions.get(effect.version)?.kill()
        return
      case 'answer':
        this.#answer(effect)
        return
      case 'exit':
        this.#close(effect.code)
    }
  }

  async #spawn(id: number): Promise<void> {
    const { read, logger } = this.#parts
    const askers = coming(this.#state)?.askers ?? []
    try {
      const own = await read()
      const argv = this.#askers.argvOf(askers)
      if (this.#state.versions.some(version => version.id === id && version.doomed)) throw whyNot('cancelled')
      if (argv !== null) this.#given.add(id)
      const settings = { ...own, command: argv ?? this.#argv ?? own.command }
      const probe = await probeFor(settings, this.#children)
      const parts = { id, settings, probe, children: this.#children, listeners: this.#listeners }
      const version = new RunningVersion(parts, {
        ready: () => this.#ready(id),
        failed: why => this.#unhealthy(id, new FdbError('ERR_FDB_UNHEALTHY', `version ${id}: ${why}`)),
        exited: code => this.#exited(id, code),
        isOthers: pid => [...this.#versions.values()].some(other => other.id !== id && other.pid === pid),
      })
      this.#versions.set(id, version)
      logger.info({ version: id, child: version.pid, command: settings.command }, 'a version was started')
      this.#askers.tell(askers, 'started', version.pid)
      this.#dispatch({ type: 'spawned', version: id })
    } catch (error) {
      this.#fail(id, FdbError.from(error))
      this.#dispatch({ type: 'spawn-failed', version: id })
      this.#reasons.delete(id)
      this.#sweep()
    }
  }

  #ready(id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined) return
    const { askers = [] } = coming(this.#state) ?? {}
    this.#askers.tell(askers, 'ready', version.pid)
    this.#dispatch({ type: 'ready', version: id })
  }

  #unhealthy(id: number, reason: FdbError): void {
    this.#fail(id, reason)
    this.#dispatch({ type: 'unhealthy', version: id })
  }

  #exited(id: number, code: number): void {
    const version = this.#versions.get(id)
    if (version === undefined) return
    this.#parts.logger.info({ version: id, child: version.pid, code }, 'a version has ended')
    const phase = this.#state.versions.find(one => one.id === id)?.phase
    if (phase === 'starting' || phase === 'trial') {
      const how = code > 128 ? `by signal ${code - 128}` : `with code ${code}`
      const why = `version ${id} (${version.settings.command[0]} …, pid ${version.pid}) ended ${how} before it served: see its own output`
      this.#fail(id, new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { phase, details: { code } }))
    }
    if (phase === 'serving') this.#parts.predecessor?.spare()
    this.#forget(id)
    this.#dispatch({ type: 'exited', version: id, code })
    this.#reasons.delete(id)
    this.#sweep()
  }

  #wait(timer: Timer, id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined) return
    const { settings } = version
    const { askers = [] } = coming(this.#state) ?? {}
    const times: Record<Timer, number> = {
      ready: this.#askers.timeoutOf(askers) || settings.readyTimeout,
      healthy: settings.healthyFor,
      proved: Math.max(settings.healthyFor, PROVED_MS),
      stop: this.#stopping.timeoutMs ?? settings.stopTimeout,
      kill: KILLED_MS,
    }
    if (timer === 'stop' && this.#draining.has(id)) return
    const elapsed = () => {
      this.#timers.delete(`${timer} ${id}`)
      if (timer === 'ready' && this.#state.versions.some(one => one.id === id && one.phase === 'starting')) {
        const why = `version ${id} (pid ${version.pid}) was not ready within ${times.ready} ms`
        this.#fail(id, new FdbError('ERR_FDB_DEADLINE', why, { phase: 'starting' }))
      }
      this.#dispatch({ type: 'elapsed', timer, version: id })
      if (timer === 'kill' && !this.#state.versions.some(one => one.id === id)) this.#forget(id)
    }
    clearTimeout(this.#timers.get(`${timer} ${id}`))
    this.#timers.set(`${timer} ${id}`, setTimeout(elapsed, times[timer]))
  }

  #rest(failures: number): void {
    const ms = Math.min(this.#parts.settings.restartDelay * 2 ** (failures - 1), LONGEST_REST_MS)
    this.#parts.logger.warn({ failures, ms }, 'no version is left; one is started anew after a rest')
    clearTimeout(this.#timers.get('rest'))
    this.#timers.set(
      'rest',
      setTimeout(() => this.#dispatch({ type: 'rested' }), ms),
    )
  }

  #promote(id: number): void {
    const version = this.#versions.get(id)!
    const { command } = version.settings
    version.settle()
    this.#parts.logger.info({ version: id, child: version.pid, command }, 'a version serves')
    if (this.#given.delete(id)) this.#argv = command
    this.#parts.predecessor?.retire(version.settings)
    this.#sweep()
  }

  #endVersion(id: number, why: EndReason): void {
    const version = this.#versions.get(id)!
    version.settle()
    if (why === 'failed' || why === 'cancelled') this.#sweep()
    if (why === 'replaced') version.replaced()
    if (why === 'replaced' && version.handsOver) {
      this.#draining.add(id)
      return
    }
    const signal = (why === 'ending' && this.#stopping.signal) || version.settings.stopSignal
    this.#parts.logger.info({ version: id, child: version.pid, why, signal }, 'a version is told to end')
    if (why === 'ending') void version.signalAll(signal)
    else version.signal(signal)
  }

  #answer({ askers, version, outcome }: Extract<SupervisorEffect, { type: 'answer' }>): void {
    if (outcome === 'serving') {
      const { pid } = this.#versions.get(version!)!
      this.#askers.tell(askers, 'serving', pid)
      this.#askers.answer(askers, { pid, generation: version! })
      return
    }
    const reason = version === null ? undefined : this.#reasons.get(version)
    this.#askers.answer(askers, reason ?? whyNot(outcome))
  }

  /** Noted before the machine is told, which answers with it. */
  #fail(id: number, reason: FdbError): void {
    this.#reasons.set(id, reason)
    const { code, message, phase = 'starting' } = reason
    this.#lastFailure = { code, message, phase, at: Date.now() }
    this.#parts.logger.error({ version: id, err: reason }, 'a version was not brought to serve')
  }

  /** Listeners that no version wants any more; while none lives, those of the last are kept for the next. */
  #sweep(): void {
    const wanted = [serving(this.#state), coming(this.#state)].flatMap(version => {
      const running = version && this.#versions.get(version.id)
      return running === undefined ? [] : [running.settings.listen]
    })
    if (serving(this.#state) !== undefined) this.#listeners.keepOnly(wanted)
  }

  #forget(id: number): void {
    this.#versions.get(id)?.close()
    this.#versions.delete(id)
    this.#draining.delete(id)
    for (const timer of ['ready', 'healthy', 'proved', 'stop', 'kill'])
      clearTimeout(this.#timers.get(`${timer} ${id}`))
  }

  #close(code: number): void {
    for (const timer of this.#timers.values()) clearTimeout(timer)
    for (const id of [...this.#versions.keys()]) this.#forget(id)
    this.#control?.close()
    this.#pidFile?.remove()
    this.#report.close()
    this.#listeners[Symbol.dispose]()
    this.#children.close()
    this.#end(code)
  }
}

function whyNot(outcome: 'failed' | 'cancelled' | 'ending'): FdbError {
  return outcome === 'ending'
    ? new FdbError('ERR_FDB_ABORTED', `process ${process.pid}, which supervises it, was told to end`)
    : new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled; the version that serves stays')
}
