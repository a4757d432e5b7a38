import type { DescriptorsOfProcess } from './held-descriptors.js'
import type { DrainReport, StatusReport } from './status-report.js'

/** One service, perhaps as another release tells it: any field may be missing. */
export type ServiceStatus = Omit<Partial<StatusReport>, 'pid' | 'hosting' | 'listeners' | 'draining'> & {
  readonly hosting?: StatusReport['hosting'] | 'supervisor'
  /** null: nobody serves (daemon). */
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
  readonly rssBytes?: number
  /** How many it holds for whoever asks (`fd-broker fd`). */
  readonly descriptors?: number
  /** Who has claimed some of them for as long as it lives (`fd-broker exec`). */
  readonly programs?: readonly DescriptorsOfProcess[]
  /** Of a main process: its workers, of which each has a service. */
  readonly workers?: {
    readonly count?: number
    readonly replace?: string
    readonly all?: readonly {
      readonly index?: number
      readonly service?: string
      readonly phase?: string
      readonly pid?: number | null
      readonly generation?: number
      readonly restarts?: number
      readonly lastFailure?: string | null
    }[]
  }
  readonly services: readonly ServiceStatus[]
}

/** What a control socket answers to a StatusRequest. */
export type StatusAnswer = ServiceStatus | DaemonStatus

export function isDaemon(answer: StatusAnswer): answer is DaemonStatus {
  return 'services' in answer && Array.isArray(answer.services)
}
