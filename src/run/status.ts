import { processes, procText } from '../kernel/index.js'
import { formatListenerSpec } from '../listeners/index.js'
import type { Failure, ServiceStatus } from '../operator/status-report.js'
import { fdLimits, residentBytes } from '../os/limits.js'
import { processStat } from '../os/main-process.js'
import { type ServiceManager, Watchdog } from '../os/service-manager/service-manager.js'
import {
  candidate,
  type SupervisorState,
  serving,
  type TimerName,
  type Version,
} from '../versions/version-machine.js'
import { type ExitReport, isCrashLoop } from './failures.js'
import type { Predecessor } from './predecessor.js'
import type { RunningVersions } from './running-version.js'
import type { SupervisorSettings } from './settings.js'

interface RemainingTimes {
  /** Returns the timer's remaining milliseconds; null if it does not run. */
  remainingOf(timer: TimerName, version: number): number | null
}

export interface StatusDeps {
  readonly settings: SupervisorSettings
  /** Path of the control socket. */
  readonly control: string | null
  readonly state: SupervisorState
  readonly versions: RunningVersions
  readonly startedAt: number
  readonly lastFailure: Failure | null
  readonly replaced: number
  /** The process that was taken over before the first version started. */
  readonly predecessor: Pick<Predecessor, 'pid' | 'phase'> | null
  readonly timers: RemainingTimes
}

export interface SupervisorStatus extends ServiceStatus {
  readonly supervisor: {
    readonly pid: number
    readonly startedAt: string
    /** Resident memory of the supervisor itself. */
    readonly rssBytes: number
    readonly openFds: number | null
    /** Number of failed versions since the last version that completed its probation. */
    readonly failures: number
    /** Whether the program is in a crash loop: at least two failures. */
    readonly loops: boolean
    /** Ends of serving versions that no operator requested. */
    readonly exits: ExitReport
    /** Tells operators that this release switches a release link if an upgrade names one (`fd-broker upgrade --binary`). */
    readonly leadsLinks: true
    /** The id of the earlier version that the serving version repeats; null if it repeats none. */
    readonly again: number | null
    /** The version that `fd-broker rollback` would start again; null if there is none. */
    readonly before: number | null
    /** Whether the serving version passes its health check; null if it has none. */
    readonly healthy: boolean | null
    /** Why the serving version's last health check failed; null if it passed. */
    readonly complaint: string | null
    /** How often another release has replaced the supervisor (`fd-broker upgrade --self`). */
    readonly replaced: number
  }
  /** The serving version's own status text. */
  readonly says: string | null
}

export function statusOf(parts: StatusDeps): SupervisorStatus {
  const { settings, state, versions, startedAt, lastFailure, replaced, predecessor } = parts
  const { addresses } = versions.listeners
  const now = serving(state)
  const next = candidate(state)
  const shown = now ?? next
  const running = shown && versions.get(shown.id)
  const starting = next && versions.get(next.id)
  return {
    service: settings.name,
    control: parts.control,
    hosting: 'supervisor',
    pid: running?.pid ?? null,
    generation: shown?.id ?? state.started,
    role: now !== undefined ? 'serving' : next !== undefined ? next.phase : 'waiting',
    phase: state.mode === 'running' ? (next?.phase ?? 'idle') : state.mode,
    serviceStartedAt: new Date(startedAt).toISOString(),
    uptimeSeconds: (Date.now() - startedAt) / 1000,
    ...(running && { processStartedAt: new Date(running.startedAt).toISOString() }),
    listeners: (running?.settings.listen ?? []).map(({ name, spec }) => {
      const wanted = formatListenerSpec(spec)
      const fault = versions.listeners.faultOf(wanted)
      const accepting = now !== undefined && fault === null
      return { name, address: addresses.get(wanted) ?? wanted, accepting, fault }
    }),
    draining: [
      ...(predecessor === null || predecessor.phase === 'ended'
        ? []
        : [{ generation: 0, pid: predecessor.pid, phase: predecessor.phase }]),
      ...state.versions.flatMap(({ id, phase }) => {
        const older = phase === 'stopping' || phase === 'killed' ? versions.get(id) : undefined
        return older === undefined ? [] : [{ generation: id, pid: older.pid, phase }]
      }),
      ...versions.leftovers.map(({ version, pid }) => ({ generation: version, pid, phase: 'left behind' })),
    ],
    lastFailure,
    upgrade: starting
      ? {
          pid: starting.pid,
          phase: next.phase,
          missing: next.phase === 'starting' ? starting.missing : starting.complaint,
        }
      : null,
    probationSeconds: probationSeconds(now, parts.timers),
    ...(running && { rssBytes: memoryOfGroup(running.pid) ?? 0 }),
    supervisor: {
      pid: process.pid,
      startedAt: new Date(startedAt).toISOString(),
      rssBytes: residentBytes() ?? 0,
      openFds: fdLimits().open,
      failures: state.failures,
      loops: isCrashLoop(state.failures),
      exits: versions.exits.report,
      leadsLinks: true,
      again: now?.of ?? null,
      before: now === undefined ? null : state.before,
      healthy: now !== undefined && running?.isMonitored ? !now.sick : null,
      complaint: now === undefined ? null : (running?.complaint ?? null),
      replaced,
    },
    says: running?.statusText || null,
  }
}

/** Returns the rest of the probation; null if no version is in probation; 0 if the time is over and a pending health check or rollback decides. */
function probationSeconds(now: Version | undefined, timers: RemainingTimes): number | null {
  if (now === undefined || now.proved) return null
  return (timers.remainingOf('proved', now.id) ?? 0) / 1000
}

/** Reports the state of a supervisor to a service manager. The supervisor stays the unit's main process. */
export class ManagerReport {
  readonly #manager: ServiceManager | null
  readonly #watchdog: Watchdog
  /** Key of the last message: the same message is not sent again. */
  #lastMessage = ''
  #wasUp = false

  constructor(manager: ServiceManager | null) {
    this.#manager = manager
    this.#watchdog = new Watchdog(manager, () => true)
    this.#watchdog.start()
  }

  /** Called after each step of the state machine. `failure`: why a version newer than the serving one does not serve; null if none has failed. */
  update(state: SupervisorState, failure: string | null): void {
    const manager = this.#manager
    if (manager === null) return
    const [now, next] = [serving(state), candidate(state)]
    if (state.mode !== 'running') {
      if (this.#isNew('ends')) manager.ends('the program is told to end')
    } else if (now === undefined) {
      const status =
        next === undefined ? 'no version is left; one will be restarted' : `version ${next.id} starts`
      if (this.#isNew(`none ${next?.id}`)) manager.says(status)
    } else if (next !== undefined && this.#wasUp) {
      if (this.#isNew(`upgrade ${next.id}`))
        manager.changes(`version ${next.id} starts; version ${now.id} serves`)
    } else {
      this.#wasUp = true
      const status = `version ${now.id} serves`
      if (this.#isNew(`serves ${now.id} ${state.started}`))
        manager.serves(failure === null ? status : `${status}: ${failure}`)
    }
    // Starting or stopping a version may take longer than the manager's timeout.
    if (now !== undefined && next === undefined && state.mode === 'running') this.#watchdog.endExtension()
    else this.#watchdog.extendTimeout()
  }

  /** Reports that the settings are being read again; the next {@link update} reports the end of this. */
  reportReload(): void {
    if (!this.#wasUp) return
    this.#manager?.changes('the settings are read again')
    this.#lastMessage = ''
  }

  close(): void {
    this.#watchdog.close()
  }

  #isNew(what: string): boolean {
    if (this.#lastMessage === what) return false
    this.#lastMessage = what
    return true
  }
}

/** Returns the resident memory of a process group in bytes; null if unreadable. Counts shared memory once for each process. */
function memoryOfGroup(leader: number): number | null {
  let sum: number | null = null
  for (const pid of processes()) {
    if (pid !== leader && processStat(pid)?.group !== leader) continue
    const own = memoryOf(pid)
    if (own !== null) sum = (sum ?? 0) + own
  }
  return sum
}

function memoryOf(pid: number): number | null {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(procText(`${pid}/status`))?.[1]
  return kilobytes === undefined ? null : Number(kilobytes) * 1024
}
