import { isDeepStrictEqual } from 'node:util'
import type { HookSettings } from '../checks/hooks.js'
import { FdbError } from '../errors.js'
import type { ReloadReply } from '../operator/service-commands.js'
import type { NamedListener } from '../os/foreign-listeners.js'
import type { Restart } from '../versions/version-machine.js'
import type { ProbedSettings } from '../versions/version-probe.js'

/** How a version is started, checked and stopped. Read again before each version starts. Times are in milliseconds. */
export interface VersionSettings extends ProbedSettings {
  /** The command line with argv[0], which is looked up in PATH again for each version. */
  readonly command: readonly string[]
  /** The listeners that the version gets as descriptors 3, 4 and so on. */
  readonly listen: readonly NamedListener[]
  readonly readyTimeout: number
  /** How long a ready version must stay ready before it replaces the serving version. */
  readonly healthyFor: number
  /** If a version fails within this time after it started to serve, the previous version replaces it. */
  readonly probation: number
  readonly stopSignal: NodeJS.Signals
  readonly stopTimeout: number
  /** Whether the version keeps running if the supervisor is killed. */
  readonly survive: boolean
  /** Hooks for the outcomes of upgrades while the version serves. Absent in the state that an older release has left. */
  readonly hooks?: HookSettings | null
}

/** Settings that are fixed when the supervisor starts. */
export interface SupervisorSettings {
  /** The name in `status` and logs. */
  readonly name: string
  /** The name under which a service manager keeps the listeners, if it differs from `name`. */
  readonly storedAs?: string | undefined
  /** Path of the control socket; null: the default path. */
  readonly control: string | null
  readonly pidFile: string | null
  readonly restart: Restart
  /** Delay before the second start in milliseconds; doubled for each further start. */
  readonly restartDelay: number
  readonly upgradeSignal: NodeJS.Signals
}

export interface StopOptions {
  /** Default: each version's stop signal. */
  readonly signal?: NodeJS.Signals
  /** Time in milliseconds before the versions are killed. Default: each version's stop timeout. */
  readonly timeoutMs?: number
  /** Kill the versions at once. */
  readonly now?: boolean
}

/** Settings that a reload applies to running versions. */
export type ReloadableSettings = Pick<VersionSettings, 'stopSignal' | 'stopTimeout' | 'hooks'>

const RELOADABLE: ReadonlySet<string> = new Set([
  'stopSignal',
  'stopTimeout',
  'hooks',
] satisfies (keyof ReloadableSettings)[])

export interface SettingsSource {
  readonly settings: SupervisorSettings
  /** Reads the settings for the next version. If it rejects, that version is not started. */
  readonly read: () => Promise<VersionSettings>
  /** Reads the supervisor's settings again. Null without a configuration file: nothing can have changed. */
  readonly readSupervisorSettings: (() => Promise<SupervisorSettings>) | null
}

/** Names of changed options, grouped by when the change takes effect. */
type SettingsChanges = Pick<ReloadReply, 'now' | 'next' | 'restart'>

/** Reads the settings of each version. A command that an operator gave replaces the configured one when a version with it serves. */
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

  /** The command that an operator gave, if a version has served with it; null: the configured command. */
  get argv(): readonly string[] | null {
    return this.#argv
  }

  get hasServed(): boolean {
    return this.#hasServed
  }

  /** Reads the settings of version `id`. `given`: the command from the request for this version. */
  async read(id: number, given: readonly string[] | null): Promise<VersionSettings> {
    const own = await this.#source.read()
    if (given !== null) this.#withGivenCommand.add(id)
    return { ...own, command: given ?? this.#argv ?? own.command }
  }

  /** Notes that version `id` serves. If its command came with a request, later versions run this command. */
  noteServing(id: number, { command }: VersionSettings): void {
    this.#hasServed = true
    if (this.#withGivenCommand.delete(id)) this.#argv = command
  }

  /** Makes later versions run the command of an earlier version that serves again; if null, the configured one. */
  restoreCommand(argv: readonly string[] | null): void {
    this.#argv = argv
  }

  /** Reads the settings again and compares them with `now`. Rejects with read errors; without --config with ERR_FDB_COMMAND_UNKNOWN. */
  async reread(
    now: VersionSettings,
  ): Promise<{ readonly own: ReloadableSettings; readonly changes: SettingsChanges }> {
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
    return { own, changes }
  }
}

function byOptionName({ asking, env: variables, ...settings }: VersionSettings): object {
  const { interval, timeout, passes } = asking
  // A variable that is removed is not one that is not named.
  const env = Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, value ?? null]))
  return { ...settings, env, healthInterval: interval, healthTimeout: timeout, healthPasses: passes }
}

function changedOptions<T extends object>(before: T, after: T): string[] {
  const [was, is] = [normalized(before), normalized(after)]
  const names = new Set([...Object.keys(was), ...Object.keys(is)])
  return [...names].filter(name => !isDeepStrictEqual(was[name], is[name]))
}

/** Drops undefined values, as the exec state does. */
function normalized(value: object): Record<string, unknown> {
  return JSON.parse(JSON.stringify(value))
}

function nothingToReload(): FdbError {
  const why = `process ${process.pid} was started without --config: there is nothing to reload; fd-broker upgrade starts the next version`
  return new FdbError('ERR_FDB_COMMAND_UNKNOWN', why)
}
