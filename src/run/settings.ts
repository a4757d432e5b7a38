import { isDeepStrictEqual } from 'node:util'
import { FdbError } from '../errors.js'
import type { ReloadReply } from '../operator/service-commands.js'
import type { NamedListener } from '../os/foreign-listeners.js'
import type { Restart } from '../versions/machine.js'
import type { CheckTiming, ReadinessSpec } from '../versions/probe.js'

/** How a version is started, checked and stopped; read again for each version. Times are in milliseconds. */
export interface VersionSettings {
  /** Includes argv[0], which is looked up again for each version. */
  readonly command: readonly string[]
  /** Absent: the supervisor's working folder at its start, by the path it had then (a link stays a link). */
  readonly cwd?: string | undefined
  /** Overrides the supervisor's environment; undefined removes a variable. */
  readonly env: Readonly<NodeJS.ProcessEnv>
  /** In descriptor order: the first is descriptor 3. */
  readonly listen: readonly NamedListener[]
  /** Whether the listeners have O_NONBLOCK; systemd's have not. */
  readonly nonBlocking: boolean
  readonly ready: ReadinessSpec
  readonly asking: CheckTiming
  readonly readyTimeout: number
  /** How long a ready version must stay ready before the serving version is stopped. */
  readonly healthyFor: number
  /** How long after its promotion a failed version is replaced by the previous one. */
  readonly probation: number
  readonly stopSignal: NodeJS.Signals
  readonly stopTimeout: number
  /** Whether the version outlives a supervisor that is killed. */
  readonly survive: boolean
}

/** Settings that are fixed when the supervisor starts. */
export interface SupervisorSettings {
  /** The name in `status` and logs. */
  readonly name: string
  /** The name under which a service manager keeps the listeners, if it is another one. */
  readonly storedAs?: string | undefined
  /** Path of the control socket; null: the default one. */
  readonly control: string | null
  readonly pidFile: string | null
  readonly restart: Restart
  /** Back-off before the second start; doubled for each further one. */
  readonly restartDelay: number
  readonly upgradeSignal: NodeJS.Signals
}

export interface StopOptions {
  /** Default: each version's stop signal. */
  readonly signal?: NodeJS.Signals
  /** Time until the versions are killed. Default: each version's stop timeout. */
  readonly timeoutMs?: number
  /** Kill the versions at once. */
  readonly now?: boolean
}

/** Settings that a reload applies to running versions. */
export type StopSettings = Pick<VersionSettings, 'stopSignal' | 'stopTimeout'>

const RELOADABLE: ReadonlySet<string> = new Set([
  'stopSignal',
  'stopTimeout',
] satisfies (keyof StopSettings)[])

export interface SettingsSource {
  readonly settings: SupervisorSettings
  /** Reads the settings for the next version. If it rejects, that version is not started. */
  readonly read: () => Promise<VersionSettings>
  /** Reads the supervisor's settings again; null if nothing can have changed. */
  readonly readSupervisorSettings: (() => Promise<SupervisorSettings>) | null
}

/** Changed options, by when the change takes effect. */
type SettingsChanges = Pick<ReloadReply, 'now' | 'next' | 'restart'>

/** Reads the settings of each version. An operator's command replaces the configured one once a version serves with it. */
export class NextSettings {
  readonly #source: SettingsSource
  /** Ids of the versions whose command an operator gave. */
  readonly #withGivenCommand = new Set<number>()
  #argv: readonly string[] | null
  #hasServed = false

  constructor(source: SettingsSource, argv: readonly string[] | null) {
    this.#source = source
    this.#argv = argv
  }

  /** The operator's command, once a version has served with it; null: the configured command. */
  get argv(): readonly string[] | null {
    return this.#argv
  }

  get hasServed(): boolean {
    return this.#hasServed
  }

  /** Reads the settings of version `id`. `given` is an operator's command. */
  async read(id: number, given: readonly string[] | null): Promise<VersionSettings> {
    const own = await this.#source.read()
    if (given !== null) this.#withGivenCommand.add(id)
    return { ...own, command: given ?? this.#argv ?? own.command }
  }

  /** Notes that version `id` serves: its command becomes the default. */
  noteServing(id: number, { command }: VersionSettings): void {
    this.#hasServed = true
    if (this.#withGivenCommand.delete(id)) this.#argv = command
  }

  /** Restores the operator's command of an earlier version that serves again. */
  restoreCommand(argv: readonly string[] | null): void {
    this.#argv = argv
  }

  /** Compares the current settings with `now`. Rejects with ERR_FDB_COMMAND_UNKNOWN if nothing can have changed, and with read errors. */
  async reread(
    now: VersionSettings,
  ): Promise<{ readonly ending: StopSettings; readonly changes: SettingsChanges }> {
    const { read, readSupervisorSettings, settings } = this.#source
    if (readSupervisorSettings === null) throw nothingToReload()
    const own = await read()
    const changed = changedOptions(
      byOptionName(now),
      byOptionName({ ...own, command: this.#argv ?? own.command }),
    )
    const changes = {
      now: changed.filter(name => RELOADABLE.has(name)),
      next: changed.filter(name => !RELOADABLE.has(name)),
      restart: changedOptions(settings, await readSupervisorSettings()).filter(name => name !== 'storedAs'),
    }
    return { ending: own, changes }
  }
}

function byOptionName({ asking, ...settings }: VersionSettings): object {
  const { interval, timeout, passes } = asking
  return { ...settings, healthInterval: interval, healthTimeout: timeout, healthPasses: passes }
}

function changedOptions<T extends object>(before: T, after: T): string[] {
  const [was, is] = [normalized(before), normalized(after)]
  const names = new Set([...Object.keys(was), ...Object.keys(is)])
  return [...names].filter(name => !isDeepStrictEqual(was[name], is[name]))
}

/** Normalizes as exec state does: JSON drops undefined values. */
function normalized(value: object): Record<string, unknown> {
  return JSON.parse(JSON.stringify(value))
}

function nothingToReload(): FdbError {
  const why = `process ${process.pid} was started without --config: there is nothing to reload; fd-broker upgrade starts the next version`
  return new FdbError('ERR_FDB_COMMAND_UNKNOWN', why)
}
