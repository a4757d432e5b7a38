import type { ListenerSpec } from '../listeners/index.js'
import type { Restart } from './machine.js'
import type { Readiness } from './readiness.js'

/** A listener that every version is given. */
export interface NamedListener {
  readonly name: string
  readonly spec: ListenerSpec
}

/** How a version is asked whether it is ready, where it does not say so itself. Milliseconds. */
export interface Asking {
  /** Between two questions; null: often until it is ready, seldomer then. */
  readonly interval: number | null
  /** An answer that takes longer is none. */
  readonly timeout: number
  /** So many in a row make it ready. */
  readonly passes: number
}

/** How a version is started, judged and stopped: read anew for each. Times in milliseconds. */
export interface VersionSettings {
  /** With argv[0]; it is looked up anew for each version. */
  readonly command: readonly string[]
  /** Absent: the folder that the supervisor was started in, by the name it had. */
  readonly cwd?: string | undefined
  /** Laid over the supervisor's environment; undefined removes a variable. */
  readonly env: Readonly<NodeJS.ProcessEnv>
  /** In the order of their numbers: the first is descriptor 3. */
  readonly listen: readonly NamedListener[]
  /** The listeners do not block (O_NONBLOCK); else they do, as those of systemd. */
  readonly nonBlocking: boolean
  readonly ready: Readiness
  readonly asking: Asking
  readonly readyTimeout: number
  /** A ready version runs beside the one that serves for so long before that one is stopped. */
  readonly healthyFor: number
  /** So long after it serves the version before is started again in its place, if it fails. */
  readonly probation: number
  readonly stopSignal: NodeJS.Signals
  readonly stopTimeout: number
  /** It outlives a supervisor that is killed. */
  readonly survive: boolean
}

/** What holds as long as the supervisor lives. */
export interface SupervisorSettings {
  /** In `status` and logs. */
  readonly name: string
  /** null: operators reach it by signals only. */
  readonly control: string | null
  /** A file that names the supervisor. */
  readonly pidFile: string | null
  readonly restart: Restart
  /** Before the second start; each time twice as long. */
  readonly restartDelay: number
  /** Starts the next version. */
  readonly upgradeSignal: NodeJS.Signals
}

export interface StopOptions {
  /** In the place of the versions' own. */
  readonly signal?: NodeJS.Signals
  /** Until they are killed, milliseconds. Absent: as the settings say. */
  readonly timeoutMs?: number
  /** By SIGKILL, at once. */
  readonly now?: boolean
}
