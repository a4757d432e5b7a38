import type { MoveReport } from '../connections/counts.js'
import type { FdbErrorCode } from '../errors.js'
import type { StateFileStatus } from '../state/file/state-file.js'
import type { SectionDigest } from '../state/overview.js'
import type { DescriptorsOfProcess } from './held-descriptors.js'

/** The output of `fd-broker status --json`. */
export interface StatusReport {
  readonly service: string
  /** The service whose state it has; null: its own. */
  readonly follows: string | null
  readonly control: string | null
  readonly hosting: 'embedded' | 'daemon' | 'none'
  readonly pid: number
  readonly generation: number
  readonly epoch: number
  /** The role of this process: `serving`, `standby` … */
  readonly role: string
  /** The phase of the handoff: `idle` when none is under way. */
  readonly phase: string
  readonly serviceStartedAt: string
  readonly uptimeSeconds: number
  readonly processStartedAt: string
  readonly listeners: readonly {
    readonly name: string
    readonly address: string
    /** The protocol of its clients: `http`, `https`, `tls`, `tcp`; null if it is not known. */
    readonly scheme: string | null
    readonly inode: string
    readonly cookie: string | null
    readonly accepting: boolean
    readonly connections: number
    /** The same connections by what they are doing, as far as the listener's keepers say it. */
    readonly kinds: Readonly<Record<string, number>>
  }[]
  /** Named descriptors that are no listeners. */
  readonly held: readonly string[]
  readonly connections: number
  /** Connections that came to this process from others, or went from it to others. */
  readonly moves: MoveReport
  /** Older generations that still have connections, or stand by. */
  readonly draining: readonly DrainReport[]
  /** Connections that older generations closed because `drain.timeout` was over, as far as this process was told. */
  readonly closed: readonly ForcedClose[]
  readonly sections: readonly SectionDigest[]
  readonly state: {
    readonly sequence: number
    readonly digest: string
    readonly entries: number
    readonly bytes: number
    readonly segments: number
    /** Where both sides stood at the last commit, as this process read it; null for the first generation. */
    readonly takenOver: { readonly epoch: number; readonly sequence: number; readonly digest: string } | null
    /** Null: there is no `stateFile`. */
    readonly file: StateFileStatus | null
  }
  /** Why this process cannot write, or could not come back to serve; null: it can. */
  readonly unfit: UnfitReport | null
  readonly openFds: number | null
  /** Null without /proc. */
  readonly rssBytes: number | null
  readonly lastFailure: Failure | null
  /** Processes that were given the listeners once and are neither gone nor proved dead: each blocks the next upgrade. */
  readonly blockedBy: readonly number[]
  /** Pid of the previous version while it can still take over again; null: it cannot any more, or only a daemon knows. */
  readonly incumbent: number | null
  /** How this process took over, in milliseconds after its Hello. */
  readonly takeover: readonly TakeoverStep[]
  /** The last handoffs in which this process was the incumbent. */
  readonly handoffs: readonly HandoffRecord[]
  /** Exceptions of the application's event listeners; the log has each. */
  readonly applicationErrors: number
  /** Phase `probation`: seconds until the version before stands by no more, at the earliest; null where that is not known, or there is none. */
  readonly probationSeconds: number | null
  /** The application's own part: {@link Member.describe}. */
  readonly details: Readonly<Record<string, unknown>>
  /** Writes to stdout and stderr of a version that an upgrade has started, which failed (its terminal is closed, its pipe has no reader), and were dropped. */
  readonly droppedOutput: number
  /** Resources that keep this process alive after it has retired, counted by Node's names; null: it has not retired. */
  readonly keptBy: Readonly<Record<string, number>> | null
}

/** The report of a generation that does not serve any more. */
export interface DrainReport {
  readonly pid: number
  readonly generation: number
  readonly phase: string
  readonly connections: number
  readonly moves?: MoveReport
  /** How long the stops of its `whileServing()` work took; null: there was none. */
  readonly quiescedMs?: number | null
  /** Connections that it closed at the end of its drain. */
  readonly closed?: readonly ForcedClose[]
  /** Why it could not come back. */
  readonly unfit?: UnfitReport
  /** Phase `standby`: until it may end its probation of the version that serves. */
  readonly standbySeconds?: number
  /** It is being told to end: who asked for that. */
  readonly leaves?: string
  /** Phase `retired`, more than 2 s ago: what keeps the process from its end, counted by Node's names (`process.getActiveResourcesInfo()`). */
  readonly keptBy?: Readonly<Record<string, number>>
}

/** More kinds than this do not keep a process. */
const MOST_KINDS = 32

/** Reads another process's `keptBy`; empty if it is malformed. */
export function readKeptBy(told: unknown): Pick<DrainReport, 'keptBy'> {
  if (typeof told !== 'object' || told === null) return {}
  const known = Object.entries(told).filter(([, count]) => Number.isSafeInteger(count) && count > 0)
  return { keptBy: Object.fromEntries(known.slice(0, MOST_KINDS)) }
}

/** `2 Timeout, 1 TCPSocketWrap` */
export function keptByText(kept: Readonly<Record<string, number>>): string {
  const parts = Object.entries(kept).map(([type, count]) => `${count} ${type}`)
  return parts.length === 0 ? 'something that Node does not name' : parts.join(', ')
}

/** Connections of one kind that were closed for one reason. */
export interface ForcedClose {
  /** `http`, `https`, `http2`, `tls`, `net`; of the proxy also `events`, `webSocket`, `tunnel`, `tcp`; or the name of an application's protocol. */
  readonly kind: string
  /**
   * Why they had not gone before: `idle` (no request came whose answer could have announced the end), `answering`,
   * `half-request` (its head or body did not end), `refused` (by the next process), `upgraded` (taken over by the
   * application, which has no hooks to move it), `handshake`, `closing` (it had its last answer, and did not go), `open` (of a protocol that is not known here, or has no requests).
   */
  readonly reason: string
  readonly count: number
}

/** Why a process cannot write, or could not come back. */
export interface UnfitReport {
  readonly code: string
  readonly message: string
}

/** A step of this process's own takeover, in milliseconds after its Hello. */
export interface TakeoverStep {
  readonly step: 'offered' | 'read' | 'ready' | 'prepared' | 'serving' | 'released'
  readonly ms: number
}

/** One phase that was entered. */
export interface PhaseEntry {
  readonly phase: string
  /** Milliseconds since 1970. */
  readonly at: number
}

export interface Failure {
  /** Stable code of the reason. */
  readonly code: FdbErrorCode
  /** The phase of the handoff in which it failed. */
  readonly phase: string
  /** Milliseconds since 1970. */
  readonly at: number
  readonly message: string
  /** Added by `fd-broker status`: a version has come to serve since. */
  readonly old?: boolean
}

/** One handoff as it went. */
export interface HandoffRecord {
  readonly successor: number
  readonly phases: PhaseEntry[]
  /**
   * How long the incumbent took to end what must run in one process only; `inTime`: it had ended when the handoff went on.
   * null: it was not asked, as it is of a release that does not know of it.
   */
  quiesce: { readonly ms: number; readonly inTime: boolean } | null
  outcome: 'under way' | 'serving' | 'released' | 'failed' | 'reverted'
  failure: Failure | null
}

/** One service, perhaps as another release tells it: any field may be missing. */
export type ServiceStatus = Omit<Partial<StatusReport>, 'pid' | 'hosting' | 'listeners' | 'draining'> & {
  readonly hosting?: StatusReport['hosting'] | 'supervisor'
  /** null: no process serves (daemon). */
  readonly pid?: number | null
  /** Only the member that serves knows who accepts, a daemon knows the sockets. */
  readonly listeners?: readonly Partial<StatusReport['listeners'][number]>[]
  readonly draining?: readonly Partial<DrainReport>[]
  /** Daemon: of the state log. */
  readonly segments?: number
  readonly logBytes?: number
}

/** A daemon tells of all its services, and of itself. */
export interface DaemonStatus {
  readonly hosting?: 'daemon'
  readonly control?: string
  readonly pid?: number
  /** Counts the daemons that have taken over one from the other: 1 for the first. */
  readonly generation?: number
  readonly startedAt?: string
  readonly rssBytes?: number | null
  /** The number of descriptors that it holds for other processes (`fd-broker fd`). */
  readonly descriptors?: number
  /** Processes that have claimed some of them for their lifetime (`fd-broker exec`). */
  readonly programs?: readonly DescriptorsOfProcess[]
  /** The workers of a main process, each of which has a service. */
  readonly workers?: Partial<Omit<WorkersReport, 'all'>> & { readonly all?: readonly Partial<WorkerReport>[] }
  readonly services: readonly ServiceStatus[]
}

/** A worker for `status`. */
export interface WorkerReport {
  readonly index: number
  readonly service: string
  /** `hung`: its process lives and is silent; others accept in its place. `leaving`: it is one too many, and ends with its connections. */
  readonly phase: 'starting' | 'serving' | 'hung' | 'resting' | 'leaving'
  /** null: no process serves in its place now. */
  readonly pid: number | null
  readonly generation: number
  /** How often it was started again because it had ended, or hung. */
  readonly restarts: number
  /** Why it was not brought to serve, last. */
  readonly lastFailure: string | null
}

/** The workers in `status`. */
export interface WorkersReport {
  /** The number of workers that must serve. */
  readonly count: number
  readonly replace: 'one-by-one' | 'at-once'
  readonly all: readonly WorkerReport[]
}

/** The answer of a control socket to a StatusRequest. */
export type StatusAnswer = ServiceStatus | DaemonStatus

export function isDaemon(answer: StatusAnswer): answer is DaemonStatus {
  return 'services' in answer && Array.isArray(answer.services)
}
