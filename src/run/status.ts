import { readFileSync } from 'node:fs'
import { formatListenerSpec } from '../listeners/index.js'
import type { Failure, ServiceStatus } from '../operator/status-report.js'
import { fdLimits, residentBytes } from '../os/limits.js'
import { processes, statOf } from '../os/main-process.js'
import type { ServiceManager } from '../os/service-manager/service-manager.js'
import { Watchdog } from '../os/service-manager/watchdog.js'
import { candidate, type SupervisorState, serving, type Timer, type Version } from '../versions/machine.js'
import { type ExitReport, isCrashLoop } from './failures.js'
import type { Predecessor } from './predecessor.js'
import type { RunningVersions } from './running-version.js'
import type { SupervisorSettings } from './settings.js'

/** Milliseconds that are left of a timer; null: it does not run. */
interface TimesLeft {
  leftOf(timer: Timer, version: number): number | null
}

export interface StatusDeps {
  readonly settings: SupervisorSettings
  readonly state: SupervisorState
  readonly versions: RunningVersions
  readonly startedAt: number
  readonly lastFailure: Failure | null
  readonly replaced: number
  /** The process that served before the first version. */
  readonly predecessor: Pick<Predecessor, 'pid' | 'phase'> | null
  readonly timers: TimesLeft
}

/** The status of a supervisor: the version that serves, the candidate and those that end. */
export interface SupervisorStatus extends ServiceStatus {
  readonly supervisor: {
    readonly pid: number
    readonly startedAt: string
    /** Its own, without its versions. */
    readonly rssBytes: number
    readonly openFds: number | null
    /** Versions that ended, or failed, since one has proved itself. */
    readonly failures: number
    /** Versions end, or fail, one after the other. */
    readonly loops: boolean
    /** Ends of versions that served and were not told to end; with `--restart` each was started again. */
    readonly exits: ExitReport
    /** It takes the link of a release with an upgrade, and leads it (`fd-broker upgrade --binary`). */
    readonly leadsLinks: true
    /** The earlier version that the version that serves is started as; null: it is no earlier one. */
    readonly again: number | null
    /** The version that `fd-broker rollback` starts again; null: there is none. */
    readonly before: number | null
    /** Whether the version that serves answers its health check; null: it is not asked. */
    readonly healthy: boolean | null
    /** The last question to the version that serves and its answer, if that was bad. */
    readonly complaint: string | null
    /** How often it has gone on as another program (`fd-broker upgrade --self`). */
    readonly replaced: number
  }
  /** The status text of the version that serves. */
  readonly says: string | null
}

export function statusOf(parts: StatusDeps): SupervisorStatus {
  const { settings, state, versions, startedAt, lastFailure, replaced, predecessor } = parts
  const { addresses } = versions.listeners
  const now = serving(state)
  const next = candidate(state)
  const shown = now ?? next
  const running = shown && versions.get(shown.id)
  return {
    service: settings.name,
    control: settings.control,
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
      return { name, address: addresses.get(wanted) ?? wanted, accepting: now !== undefined }
    }),
    draining: [
      ...(predecessor === null || predecessor.phase === 'ended'
        ? []
        : [{ generation: 0, pid: predecessor.pid, phase: predecessor.phase }]),
      ...state.versions.flatMap(({ id, phase }) => {
        const older = phase === 'stopping' || phase === 'killed' ? versions.get(id) : undefined
        return older === undefined ? [] : [{ generation: id, pid: older.pid, phase }]
      }),
      ...versions.strays.map(({ version, pid }) => ({ generation: version, pid, phase: 'left behind' })),
    ],
    lastFailure,
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
      healthy: now !== undefined && running?.isJudged ? !now.sick : null,
      complaint: now === undefined ? null : (running?.complaint ?? null),
      replaced,
    },
    says: running?.says || null,
  }
}

/** Null: no version is in probation. 0: its time is over, and its health check must pass. */
function probationSeconds(now: Version | undefined, timers: TimesLeft): number | null {
  if (now === undefined || now.proved) return null
  return (timers.leftOf('proved', now.id) ?? 0) / 1000
}

/** Tells a service manager about a supervisor, which stays its main process. */
export class ManagerReport {
  readonly #manager: ServiceManager | null
  readonly #watchdog: Watchdog
  /** The last message. */
  #said = ''
  #wasUp = false

  /** `manager` null: there is none. */
  constructor(manager: ServiceManager | null) {
    this.#manager = manager
    this.#watchdog = new Watchdog(manager, () => true)
    this.#watchdog.start()
  }

  /** A step was taken. `failure`: why the last version that was tried does not serve. */
  update(state: SupervisorState, failure: string | null): void {
    const manager = this.#manager
    if (manager === null) return
    const [now, next] = [serving(state), candidate(state)]
    if (state.mode !== 'running') {
      if (this.#isNew('ends')) manager.ends('the program is told to end')
    } else if (now === undefined) {
      const status =
        next === undefined ? 'no version is left; one will be started anew' : `version ${next.id} starts`
      if (this.#isNew(`none ${next?.id}`)) manager.says(status)
    } else if (next !== undefined && this.#wasUp) {
      if (this.#isNew(`upgrade ${next.id}`))
        manager.changes(`version ${next.id} starts; version ${now.id} serves`)
    } else {
      this.#wasUp = true
      const status = `version ${now.id} serves`
      if (this.#isNew(`serves ${now.id} ${state.started}`))
        manager.serves(now.id === state.started || failure === null ? status : `${status}: ${failure}`)
    }
    // Readiness and stopping have limits of their own.
    if (now !== undefined && next === undefined && state.mode === 'running') this.#watchdog.endExtension()
    else this.#watchdog.extendTimeout()
  }

  /** The settings are read anew; what comes of it the next {@link update} tells. */
  rereads(): void {
    if (!this.#wasUp) return
    this.#manager?.changes('the settings are read anew')
    this.#said = ''
  }

  close(): void {
    this.#watchdog.close()
  }

  #isNew(what: string): boolean {
    if (this.#said === what) return false
    this.#said = what
    return true
  }
}

/** Resident memory of the processes in the group of this leader, in bytes; null: it cannot be read. Shared memory counts for each. */
function memoryOfGroup(leader: number): number | null {
  let sum: number | null = null
  for (const pid of processes()) {
    if (pid !== leader && statOf(pid)?.group !== leader) continue
    const own = memoryOf(pid)
    if (own !== null) sum = (sum ?? 0) + own
  }
  return sum
}

function memoryOf(pid: number): number | null {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return kilobytes === undefined ? null : Number(kilobytes) * 1024
  } catch {
    return null
  }
}
