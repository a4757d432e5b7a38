import { formatListenerSpec } from '../listeners/index.js'
import type { ServiceStatus } from '../operator/answer.js'
import type { Failure } from '../operator/status-report.js'
import { fdLimits } from '../os/limits.js'
import { memoryOfGroup } from '../os/process-memory.js'
import { type ExitReport, loops } from './exits.js'
import { coming, type SupervisorState, serving, type Version } from './machine.js'
import type { Predecessor } from './predecessor.js'
import type { RunningVersions } from './running-versions.js'
import type { SupervisorSettings } from './settings.js'
import type { Timers } from './timers.js'

export interface StatusParts {
  readonly settings: SupervisorSettings
  readonly state: SupervisorState
  readonly versions: RunningVersions
  readonly startedAt: number
  readonly lastFailure: Failure | null
  readonly replaced: number
  /** Who served before the first version. */
  readonly predecessor: Pick<Predecessor, 'pid' | 'phase'> | null
  readonly timers: Pick<Timers, 'leftOf'>
}

/** What `fd-broker status` shows of a supervisor: the version that serves, those that come and those that go. */
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
    /** What was asked of the version that serves and what it answered last, if that was bad. */
    readonly complaint: string | null
    /** How often it has gone on as another program (`fd-broker upgrade --self`). */
    readonly replaced: number
  }
  /** What the version that serves says of itself. */
  readonly says: string | null
}

export function statusOf(parts: StatusParts): SupervisorStatus {
  const { settings, state, versions, startedAt, lastFailure, replaced, predecessor } = parts
  const { addresses } = versions.listeners
  const now = serving(state)
  const next = coming(state)
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
      ...versions.strays.list.map(({ version, pid }) => ({ generation: version, pid, phase: 'left behind' })),
    ],
    lastFailure,
    probationSeconds: probationSeconds(now, parts.timers),
    ...(running && { rssBytes: memoryOfGroup(running.pid) ?? 0 }),
    supervisor: {
      pid: process.pid,
      startedAt: new Date(startedAt).toISOString(),
      rssBytes: process.memoryUsage.rss(),
      openFds: fdLimits().open,
      failures: state.failures,
      loops: loops(state.failures),
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
function probationSeconds(now: Version | undefined, timers: Pick<Timers, 'leftOf'>): number | null {
  if (now === undefined || now.proved) return null
  return (timers.leftOf('proved', now.id) ?? 0) / 1000
}
