import { isDeepStrictEqual } from 'node:util'
import { FdbError } from '../errors.js'
import type { ListenerSpec } from '../listeners/index.js'
import type { Reloaded } from '../operator/service-commands.js'
import type { Restart } from '../versions/machine.js'
import type { Asking, Readiness } from '../versions/probe.js'

export interface NamedListener {
  readonly name: string
  readonly spec: ListenerSpec
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

/** Settings that stay as long as the supervisor lives. */
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

/** How versions that run already are told to end. */
export type Ending = Pick<VersionSettings, 'stopSignal' | 'stopTimeout'>

const AT_ONCE: ReadonlySet<string> = new Set(['stopSignal', 'stopTimeout'] satisfies (keyof Ending)[])

export interface SettingsSource {
  readonly settings: SupervisorSettings
  /** The settings for the next version. Rejects: it is not started. */
  readonly read: () => Promise<VersionSettings>
  /** Those of the supervisor, as they are now; null: neither can have changed. */
  readonly readLasting: (() => Promise<SupervisorSettings>) | null
}

/** Options that have changed, by when that counts. */
type Changes = Pick<Reloaded, 'now' | 'next' | 'restart'>

/** The settings of the next version: read again for each, with an operator's command instead of their own if there is one. */
export class NextSettings {
  readonly #source: SettingsSource
  /** Versions whose command an operator has given. */
  readonly #given = new Set<number>()
  #argv: readonly string[] | null
  #served = false

  constructor(source: SettingsSource, argv: readonly string[] | null) {
    this.#source = source
    this.#argv = argv
  }

  /** An operator's replacement of the command, once it has served. */
  get argv(): readonly string[] | null {
    return this.#argv
  }

  /** A version has served. */
  get served(): boolean {
    return this.#served
  }

  /** The settings of this version; `given`: by an operator. */
  async of(id: number, given: readonly string[] | null): Promise<VersionSettings> {
    const own = await this.#source.read()
    if (given !== null) this.#given.add(id)
    return { ...own, command: given ?? this.#argv ?? own.command }
  }

  /** Its settings have led to a version that serves. */
  serves(id: number, { command }: VersionSettings): void {
    this.#served = true
    if (this.#given.delete(id)) this.#argv = command
  }

  /** An earlier version serves again, and what an operator had given then counts. */
  servesAgain(argv: readonly string[] | null): void {
    this.#argv = argv
  }

  /** The changes since `now` was read. Rejects with ERR_FDB_COMMAND_UNKNOWN if there can be none, and with the errors of reading. */
  async reread(now: VersionSettings): Promise<{ readonly ending: Ending; readonly changes: Changes }> {
    const { read, readLasting, settings } = this.#source
    if (readLasting === null) throw nothingToRead()
    const own = await read()
    const changed = differing(named(now), named({ ...own, command: this.#argv ?? own.command }))
    const changes = {
      now: changed.filter(name => AT_ONCE.has(name)),
      next: changed.filter(name => !AT_ONCE.has(name)),
      restart: differing(settings, await readLasting()),
    }
    return { ending: own, changes }
  }
}

/** By the names of the options. */
function named({ asking, ...settings }: VersionSettings): object {
  const { interval, timeout, passes } = asking
  return { ...settings, healthInterval: interval, healthTimeout: timeout, healthPasses: passes }
}

function differing<T extends object>(before: T, after: T): string[] {
  const [was, is] = [plain(before), plain(after)]
  const names = new Set([...Object.keys(was), ...Object.keys(is)])
  return [...names].filter(name => !isDeepStrictEqual(was[name], is[name]))
}

/** As it is where a supervisor has gone on as another program: without what is undefined. */
function plain(value: object): Record<string, unknown> {
  return JSON.parse(JSON.stringify(value))
}

function nothingToRead(): FdbError {
  const why = `process ${process.pid} was started without --config: there is nothing to be read anew; fd-broker upgrade starts the next version`
  return new FdbError('ERR_FDB_COMMAND_UNKNOWN', why)
}
