import type { MoveReport } from '../connections/counts.js'
import type { FdbErrorCode } from '../errors.js'
import type { StateFileStatus } from '../state/file/state-file.js'
import type { SectionDigest } from '../state/overview.js'
import type { DescriptorsOfProcess } from './held-descriptors.js'

/** Limit for the status of a process that should serve: one that is stopped or stuck sends none. */
export const STATUS_ANSWER_MS = 2_000

/** The output of `fd-broker status --json`. */
export interface StatusReport {
  readonly service: string
  /** The service whose state this process uses (as a follower); null if it has a state of its own. */
  readonly follows: string | null
  readonly control: string | null
  readonly hosting: 'embedded' | 'daemon' | 'none'
  readonly pid: number
  readonly generation: number
  readonly epoch: number
  /** The role of this process: `serving`, `standby` … */
  readonly role: string
  /** The phase of the handoff; `idle` if no handoff is under way. */
  readonly phase: string
  readonly serviceStartedAt: string
  readonly uptimeSeconds: number
  readonly processStartedAt: string
  readonly listeners: readonly {
    readonly name: string
    readonly address: string
    /** The protocol of the listener's clients: `http`, `https`, `tls`, `tcp`; null if unknown. */
    readonly scheme: string | null
    readonly inode: string
    readonly cookie: string | null
    /** Whether a server accepts and clients reach the listener. */
    readonly accepting: boolean
    /** Why clients cannot reach the listener; null if they can. */
    readonly fault?: string | null
    readonly connections: number
    /** Number of these connections by activity, as far as the server that accepts on the listener reports it. */
    readonly kinds: Readonly<Record<string, number>>
  }[]
  /** Names of descriptors that are not listeners. */
  readonly held: readonly string[]
  readonly connections: number
  /** Connections that moved to this process or away from it. */
  readonly moves: MoveReport
  /** Older generations that still have connections or stand by. */
  readonly draining: readonly DrainReport[]
  /** Connections that older generations closed at their `drain.timeout`, as they have reported to this process. */
  readonly closed: readonly ForcedClose[]
  readonly sections: readonly SectionDigest[]
  readonly state: {
    readonly sequence: number
    readonly digest: string
    readonly entries: number
    readonly bytes: number
    readonly segments: number
    /** The position of the log at the last Commit, which the previous process and this one agreed on; null for the first generation. */
    readonly takenOver: { readonly epoch: number; readonly sequence: number; readonly digest: string } | null
    /** Null without a `stateFile`. */
    readonly file: StateFileStatus | null
  }
  /** Why this process cannot write, or could not serve again; null if it can. */
  readonly unfit: UnfitReport | null
  readonly openFds: number | null
  /** Null without /proc. */
  readonly rssBytes: number | null
  readonly lastFailure: Failure | null
  /**
   * The upgrade that this process carries out, or the first start of a program under `fd-broker run`; null if there is none, or if another
   * process has started the next version.
   */
  readonly upgrade: UpgradeReport | null
  /** Pids of processes that got the listeners and may still have them: each blocks the next upgrade. */
  readonly blockedBy: readonly number[]
  /** Pid of the previous version while it can take over again; null after that, or if only a daemon knows the pid. */
  readonly incumbent: number | null
  /** The steps in which this process took over. */
  readonly takeover: readonly TakeoverStep[]
  /** The last handoffs in which this process was the incumbent. */
  readonly handoffs: readonly HandoffRecord[]
  /** Number of exceptions that the application's event listeners threw; each is logged. */
  readonly applicationErrors: number
  /** In phase `probation`, for how many seconds at least the previous version still stands by; null if unknown, and in other phases. */
  readonly probationSeconds: number | null
  /** Details that the application added with {@link Member.describe}. */
  readonly details: Readonly<Record<string, unknown>>
  /** Number of writes to stdout and stderr that were dropped because the terminal is closed or the pipe has no reader. */
  readonly droppedOutput: number
  /** Number of resources that keep this process alive although it has retired, by Node's names for them; null if it has not retired. */
  readonly keptBy: Readonly<Record<string, number>> | null
}

/** The report of a generation that no longer serves. */
export interface DrainReport {
  readonly pid: number
  readonly generation: number
  readonly phase: string
  readonly connections: number
  /** The connections of a process that drains, by their activity or the reason why they have not left. Absent while there are more than 1,000. */
  readonly kinds?: Readonly<Record<string, number>>
  readonly moves?: MoveReport
  /** How long it took to stop the work of `whileServing()`; null if there was none. */
  readonly quiescedMs?: number | null
  /** Connections that the process closed at the end of its drain. */
  readonly closed?: readonly ForcedClose[]
  /** Why the process could not serve again. */
  readonly unfit?: UnfitReport
  /** In phase `standby` the minimum of seconds for which the process still stands by. */
  readonly standbySeconds?: number
  /** The source of the request to end, such as a signal. */
  readonly leaves?: string
  /** From 2 s after the process has retired: what keeps it alive, counted by Node's names (`process.getActiveResourcesInfo()`). */
  readonly keptBy?: Readonly<Record<string, number>>
  /** In the report of the process that serves: how many older versions may drain, and how soon the oldest of too many closes its connections. */
  readonly drainLimit?: DrainLimits
}

export interface DrainLimits {
  readonly most: number
  readonly timeoutMs: number
}

/** Maximum number of kinds of resources or connections that are read from another process's report. */
const MOST_KINDS = 32

/** Reads `keptBy` or `kinds` of another process's report; returns an empty object if it is malformed. */
export function readCounts<Name extends 'keptBy' | 'kinds'>(
  name: Name,
  report: unknown,
): Pick<DrainReport, Name> | Record<string, never> {
  if (typeof report !== 'object' || report === null) return {}
  const known = Object.entries(report).filter(([, count]) => Number.isSafeInteger(count) && count > 0)
  return { [name]: Object.fromEntries(known.slice(0, MOST_KINDS)) } as Pick<DrainReport, Name>
}

/** Reads the parsed report of another process, which has this pid; returns null if it is malformed. */
export function readDrainReport(report: unknown, pid: number): DrainReport | null {
  if (typeof report !== 'object' || report === null) return null
  const { generation, phase, connections, kinds, moves, closed, unfit, quiescedMs, keptBy, standbySeconds } =
    report as Partial<DrainReport>
  if (typeof connections !== 'number' || typeof phase !== 'string') return null
  return {
    pid,
    generation: Number(generation),
    phase,
    connections,
    ...(moves && { moves }),
    ...(Array.isArray(closed) && {
      closed: closed.filter(each => typeof each === 'object' && each !== null),
    }),
    ...(typeof quiescedMs === 'number' && { quiescedMs }),
    ...unfitIn(unfit),
    ...readCounts('kinds', kinds),
    ...readCounts('keptBy', keptBy),
    ...(typeof standbySeconds === 'number' && { standbySeconds }),
  }
}

/** Returns the field `unfit` of a report, if it is valid. */
function unfitIn(unfit: DrainReport['unfit']): Pick<DrainReport, 'unfit'> {
  if (typeof unfit?.code !== 'string' || typeof unfit.message !== 'string') return {}
  const { code, message } = unfit
  return { unfit: { code, message } }
}

/** Formats `keptBy`: `2 Timeout, 1 TCPSocketWrap`. With a verb: `1 Timeout keeps`, `2 Timeout keep`. */
export function keptByText(kept: Readonly<Record<string, number>>, verb?: 'keep'): string {
  const parts = Object.entries(kept).map(([type, count]) => `${count} ${type}`)
  const text = parts.length === 0 ? 'something that Node does not name' : parts.join(', ')
  const isOne = Object.values(kept).reduce((sum, count) => sum + count, 0) <= 1
  return verb === undefined ? text : `${text} ${verb}${isOne ? 's' : ''}`
}

/** Connections of one kind that a process closed at the end of its drain, and that were still open for the same reason. */
export interface ForcedClose {
  /** `http`, `https`, `http2`, `tls`, `net`; in the proxy also `events`, `webSocket`, `tunnel`, `tcp`; or the name of an application's protocol. */
  readonly kind: string
  /**
   * Why they were still open: `idle` (no request came whose response could have announced the close), `answering`, `half-request` (a
   * request's head or body was incomplete), `refused` (the next process refused it), `upgraded` (the application handles it and has no
   * hooks to move it), `handshake`, `closing` (the client did not close after the last response), `open` (the protocol is unknown or has no
   * requests).
   */
  readonly reason: string
  readonly count: number
}

/** Why a process cannot write or could not serve again. */
export interface UnfitReport {
  readonly code: string
  readonly message: string
}

/** A step of this process's own takeover, in milliseconds after its Hello. */
export interface TakeoverStep {
  readonly step: 'offered' | 'read' | 'ready' | 'prepared' | 'serving' | 'released'
  readonly ms: number
}

/** A phase of a handoff, with the time at which it began. */
export interface PhaseEntry {
  readonly phase: string
  /** Milliseconds since 1970. */
  readonly at: number
}

export interface Failure {
  readonly code: FdbErrorCode
  /** The phase in which the handoff failed. */
  readonly phase: string
  /** Milliseconds since 1970. */
  readonly at: number
  readonly message: string
  /** `fd-broker status` sets this if another version has started to serve after the failure. */
  readonly old?: boolean
}

/** Names the failure of a process that is an upgrade's successor only if a service manager has started it for the upgrade's command. */
export function anotherFailed({ message }: Failure): string {
  return `a process that another command or a service manager has started failed meanwhile: ${message}`
}

/** An upgrade under way. */
export interface UpgradeReport {
  /** Pid of the next version. */
  readonly pid: number
  readonly phase: string
  /** The step that the next version has not completed, such as `it has not called ready()`; null if unknown. */
  readonly missing: string | null
  /** Milliseconds until the upgrade fails unless the next version serves; undefined if an earlier release sent this, or if there is no limit. */
  readonly leftMs?: number
}

export interface HandoffRecord {
  readonly successor: number
  readonly phases: PhaseEntry[]
  /**
   * How long the incumbent took to stop the work that must run in one process only. `inTime`: whether this work had stopped when the
   * handoff continued. null if the incumbent's release does not support this.
   */
  quiesce: { readonly ms: number; readonly inTime: boolean } | null
  outcome: 'under way' | 'serving' | 'released' | 'failed' | 'reverted'
  failure: Failure | null
}

/** The status of one service. Any field may be missing, because another release may have sent it. */
export type ServiceStatus = Omit<Partial<StatusReport>, 'pid' | 'hosting' | 'listeners' | 'draining'> & {
  readonly hosting?: StatusReport['hosting'] | 'supervisor'
  /** null if no process serves; only a daemon can report this. */
  readonly pid?: number | null
  /** A daemon knows only the sockets; the serving member also knows whether a server accepts on them. */
  readonly listeners?: readonly Partial<StatusReport['listeners'][number]>[]
  readonly draining?: readonly Partial<DrainReport>[]
  /** From a daemon: number of segments of the state log. */
  readonly segments?: number
  readonly logBytes?: number
}

/** The status of a daemon and of all its services. */
export interface DaemonStatus {
  readonly hosting?: 'daemon'
  readonly control?: string
  readonly pid?: number
  /** Number of this daemon: the first has 1, the one that took over from it has 2, and so on. */
  readonly generation?: number
  readonly startedAt?: string
  readonly rssBytes?: number | null
  /** Number of descriptors that the daemon holds for other processes (`fd-broker fd`). */
  readonly descriptors?: number
  /** Processes that have claimed such descriptors until they end (`fd-broker exec`). */
  readonly programs?: readonly DescriptorsOfProcess[]
  /** The workers of a main process. Each worker is a service. */
  readonly workers?: Partial<Omit<WorkersReport, 'all'>> & { readonly all?: readonly Partial<WorkerReport>[] }
  readonly services: readonly ServiceStatus[]
}

export interface WorkerReport {
  readonly index: number
  readonly service: string
  /**
   * `hung`: the process runs but sends no heartbeats, so other workers accept on its listeners. `resting`: no process serves; one is
   * started after a delay. `leaving`: the number of workers was reduced, and the worker ends with its last connection.
   */
  readonly phase: 'starting' | 'serving' | 'hung' | 'resting' | 'leaving'
  /** null if no process of this worker serves. */
  readonly pid: number | null
  readonly generation: number
  /** How often the worker was restarted because it had ended or hung. */
  readonly restarts: number
  /** The last reason why the worker could not be started. */
  readonly lastFailure: string | null
}

export interface WorkersReport {
  /** The number of workers that must serve. */
  readonly count: number
  readonly replace: 'one-by-one' | 'at-once'
  readonly all: readonly WorkerReport[]
}

/** The answer of a control socket to a StatusRequest. */
export type StatusAnswer = ServiceStatus | DaemonStatus

/** Returns why no process can take over now. `seconds`: the rest of the probation, if that is known. */
export function probationText(pid: number | null | undefined, seconds: number | null | undefined): string {
  const rest = seconds == null ? '' : ` (for ${Math.round(seconds)} s more)`
  return `${pid == null ? 'the process that serves' : `process ${pid}`} is in probation${rest}, and no version can take over from it before`
}

export function isDaemon(answer: StatusAnswer): answer is DaemonStatus {
  return 'services' in answer && Array.isArray(answer.services)
}
