import { readFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { basename, resolve } from 'node:path'
import { serviceName } from '../auto/settings.js'
import { checkKeys, wrongOption } from '../base/check-option.js'
import { DEFAULT_TIMES, defaultText } from '../base/default-times.js'
import { aDuration, durationMs } from '../base/duration.js'
import { isMap, list, text, type ValueCheck } from '../config/check.js'
import { ConfigDocument, parseDocument } from '../config/document.js'
import { FdbError } from '../errors.js'
import type { NamedListener } from '../os/foreign-listeners.js'
import { refuseOwnAddress } from '../run/own-address.js'
import type { Takeover } from '../run/predecessor.js'
import type { SupervisorSettings, VersionSettings } from '../run/settings.js'
import type { Restart } from '../versions/machine.js'
import { parseReadiness, READINESS, type ReadinessSpec } from '../versions/probe.js'
import { checkedListeners, parseListeners } from './named-listeners.js'
import { parsePid } from './options.js'

/** Signals that can be configured to start the next version. */
export const UPGRADE_SIGNALS: readonly NodeJS.Signals[] = [
  'SIGHUP',
  'SIGUSR1',
  'SIGUSR2',
  'SIGWINCH',
  'SIGTTIN',
  'SIGTTOU',
  'SIGALRM',
  'SIGVTALRM',
  'SIGCONT',
]

/**
 * The options of `fd-broker run`. Each option has an environment variable (`--pid-file`: FD_BROKER_PID_FILE) and, unless it is
 * {@link COMMAND_LINE_ONLY}, a key in the --config file.
 */
export const RUN_OPTIONS = {
  listen: [
    '--listen <name=address...>',
    'listener that every version inherits, for example web=tcp://0.0.0.0:8080',
  ],
  adopt: ['--adopt <pid>', 'take over the listeners of this process, then end the process'],
  from: ['--from <control>', 'control socket of a daemon that holds the listeners'],
  adoptSignal: [
    '--adopt-signal <signal>',
    'signal that ends the adopted process; or none (default: --stop-signal)',
  ],
  ready: ['--ready <how>', `${READINESS} (default: delay:1s)`],
  readyTimeout: [
    '--ready-timeout <duration>',
    `a version must be ready within this time (default: ${defaultText('ready')})`,
  ],
  healthInterval: [
    '--health-interval <duration>',
    'interval of checks (default: 100ms until the version is ready, then 250ms)',
  ],
  healthTimeout: [
    '--health-timeout <duration>',
    `time limit of a check (default: ${defaultText('healthTimeout')})`,
  ],
  healthPasses: [
    '--health-passes <count>',
    'successful checks in a row that make a version ready (default: 1)',
  ],
  healthyFor: [
    '--healthy-for <duration>',
    'a version must stay ready this long before the old one ends (default: 0s)',
  ],
  probation: [
    '--probation <duration>',
    `if a version fails within this time, the previous one is started again (default: ${defaultText('probation')})`,
  ],
  stopSignal: ['--stop-signal <signal>', 'signal that ends a version (default: TERM)'],
  stopTimeout: [
    '--stop-timeout <duration>',
    `a version that lives this long after the signal is killed (default: ${defaultText('stop')})`,
  ],
  upgradeSignal: ['--upgrade-signal <signal>', 'signal that starts the next version (default: HUP)'],
  restart: [
    '--restart <when>',
    'restart a serving version that ends by itself: never, on-failure, always (default: never)',
  ],
  restartDelay: [
    '--restart-delay <duration>',
    `wait before a restart; doubled each time, up to 30s (default: ${defaultText('restartDelay')})`,
  ],
  control: [
    '--control <path>',
    'control socket, for fd-broker upgrade, status and stop; default: from the name',
  ],
  pidFile: ['--pid-file <file>', 'pid file of this process'],
  name: ['--name <name>', 'name of the service (default: the name of the program or its package)'],
  cwd: ['--cwd <folder>', 'working folder of the program (default: the current folder)'],
  survive: ['--survive', 'the program keeps running if this process is killed'],
  nonBlocking: ['--non-blocking', 'set O_NONBLOCK on listeners (systemd does not)'],
  config: ['--config <file>', 'settings in YAML or JSON, read again for every version'],
} as const satisfies Record<string, readonly [flags: string, description: string]>

const COMMAND_LINE_ONLY: readonly string[] = [
  'adopt',
  'adoptSignal',
  'config',
  'from',
] satisfies (keyof typeof RUN_OPTIONS)[]

/** Options as Commander returns them. Values from the environment are text. */
export type RunFlags = Readonly<
  Partial<
    Record<Exclude<keyof typeof RUN_OPTIONS, 'listen' | 'healthPasses' | 'survive' | 'nonBlocking'>, string>
  >
> & {
  readonly listen?: string | readonly string[]
  readonly healthPasses?: string | number
  readonly survive?: true | string
  readonly nonBlocking?: true | string
}

/** The values in the --config file. Its keys were checked. */
type RunDocument = Readonly<Record<string, unknown>>

const DOCUMENT: Readonly<Record<string, true>> = Object.fromEntries(
  ['command', 'env', ...Object.keys(RUN_OPTIONS).filter(name => !COMMAND_LINE_ONLY.includes(name))].map(
    name => [name, true],
  ),
)

/** Reads the value of a setting. Throws ERR_FDB_OPTION, ERR_FDB_SPEC for a wrong value. */
type SettingReader<T> = (name: string, value: unknown) => T

/** Reads the settings of `fd-broker run` from options and environment, which do not change, and from a file, which is read again for each version. */
export class RunSources {
  readonly #command: readonly string[]
  readonly #flags: RunFlags
  readonly #file: string | null

  constructor(command: readonly string[], flags: RunFlags) {
    this.#command = command
    this.#flags = flags
    this.#file = flags.config === undefined ? null : resolve(flags.config)
  }

  /** Whether there is a --config file, which may change. */
  get hasFile(): boolean {
    return this.#file !== null
  }

  /** Reads the settings that the supervisor keeps until its end. Rejects with ERR_FDB_OPTION, ERR_FDB_CONFIG. */
  async supervisorSettings(): Promise<SupervisorSettings> {
    return this.#read(setting => {
      const command = this.#commandOf(setting)
      const storedAs = setting('name', word, basename(command[0]!))
      const script = scriptOf(command)
      const folder = setting('cwd', path, process.cwd())
      const name = setting('name', word, script === null ? storedAs : serviceName(resolve(folder, script)))
      return {
        name,
        ...(name !== storedAs && { storedAs }),
        control: setting('control', path, null),
        pidFile: setting('pidFile', path, null),
        restart: setting('restart', restart, 'never'),
        restartDelay: setting('restartDelay', duration(), DEFAULT_TIMES.restartDelay.ms),
        upgradeSignal: setting('upgradeSignal', signal('HUP', UPGRADE_SIGNALS), 'SIGHUP'),
      }
    })
  }

  /** The running process whose place the first version takes (`--adopt`); null if there is none. The configuration file cannot name it: it would be named again at each later start. Throws ERR_FDB_OPTION. */
  get takeover(): Takeover | null {
    return takeoverOf(this.#flags)
  }

  /** Reads the settings for the next version. Rejects with ERR_FDB_OPTION, ERR_FDB_SPEC, ERR_FDB_CONFIG. */
  async versionSettings(): Promise<VersionSettings> {
    return this.#read(setting => {
      const listen =
        this.#flags.listen === undefined
          ? setting('listen', listeners, [])
          : parseListeners(this.#flags.listen)
      return this.#settingsWith(setting, listen)
    })
  }

  #settingsWith(setting: Setting, listen: readonly NamedListener[]): VersionSettings {
    return {
      command: this.#commandOf(setting),
      cwd: setting('cwd', path, undefined),
      env: setting('env', environment, {}),
      listen,
      nonBlocking: setting('nonBlocking', flag, false),
      ready: setting('ready', (name, value) => refuseOwnAddress(readiness(name, value), listen), DELAY),
      asking: {
        interval: setting('healthInterval', duration(1), null),
        timeout: setting('healthTimeout', duration(1), DEFAULT_TIMES.healthTimeout.ms),
        passes: setting('healthPasses', count, 1),
      },
      readyTimeout: setting('readyTimeout', duration(), DEFAULT_TIMES.ready.ms),
      healthyFor: setting('healthyFor', duration(), 0),
      probation: setting('probation', duration(), DEFAULT_TIMES.probation.ms),
      stopSignal: setting('stopSignal', signal('TERM'), 'SIGTERM'),
      stopTimeout: setting('stopTimeout', duration(), DEFAULT_TIMES.stop.ms),
      survive: setting('survive', flag, false),
    }
  }

  #commandOf(setting: Setting): readonly string[] {
    if (this.#command.length > 0) return this.#command
    const command = setting('command', (_, value) => value as readonly string[] | null, null)
    if (command !== null && command.length > 0) return command
    throw new FdbError(
      'ERR_FDB_OPTION',
      'there is no program to run: give it after -- , or as the list "command" of --config',
    )
  }

  /** Calls `settings` with a function that looks up one setting: in the flags, then the file, then its default. */
  async #read<T>(settings: (setting: Setting) => T): Promise<T> {
    const flags: RunDocument = this.#flags
    const file = this.#file === null ? null : await SettingsFile.read(this.#file)
    return settings((name, read, byDefault) => {
      if (flags[name] !== undefined) return read(name, flags[name])
      return file === null ? byDefault : file.setting(name, read, byDefault)
    })
  }
}

/** Options of Node whose value is the next word. */
const WITH_VALUE = /^(?:-r|-C|--(?:import|require|loader|experimental-loader|env-file|conditions|title))$/

/** Returns the script of a command line of Node; null for other programs. */
function scriptOf([program, ...words]: readonly string[]): string | null {
  if (basename(program!) !== 'node') return null
  const at = words.findIndex((word, i) => !word.startsWith('-') && !WITH_VALUE.test(words[i - 1] ?? ''))
  const isEvaluated = words.slice(0, at).some(word => /^(?:-\w*[ep]|--eval|--print)$/.test(word))
  return at < 0 || isEvaluated ? null : words[at]!
}

type Setting = <T, D>(name: string, read: SettingReader<T>, byDefault: D) => T | D

class SettingsFile {
  readonly #file: string
  readonly #text: string
  readonly #values: RunDocument

  private constructor(file: string, text: string) {
    this.#file = file
    this.#text = text
    this.#values = parseDocument(text, file, value => (value ?? {}) as RunDocument)
  }

  static async read(path: string): Promise<SettingsFile> {
    let text: string
    try {
      text = await readFile(path, 'utf8')
    } catch (cause) {
      throw new FdbError('ERR_FDB_CONFIG', `${path} cannot be read: ${(cause as Error).message}`, { cause })
    }
    const file = new SettingsFile(path, text)
    file.#check()
    return file
  }

  #check(): void {
    try {
      checkKeys(this.#file, this.#values, DOCUMENT)
    } catch (error) {
      throw this.#withPosition(error, FdbError.is(error) ? error.details.option : undefined, true)
    }
    // The document is parsed again only to throw an error with line and column.
    const { command } = this.#values
    if (command != null && !isTexts(command)) parseDocument(this.#text, this.#file, COMMAND)
  }

  setting<T, D>(name: string, read: SettingReader<T>, byDefault: D): T | D {
    const value = this.#values[name]
    if (value === undefined) return byDefault
    try {
      return read(name, value)
    } catch (error) {
      throw this.#withPosition(error, name)
    }
  }

  /** Adds the line and column of the option to an error about the file. */
  #withPosition(error: unknown, option: unknown, atKey = false): unknown {
    if (!FdbError.is(error) || typeof option !== 'string') return error
    const { line, column } = new ConfigDocument(this.#text).position([option], atKey)
    return new FdbError(error.code, `${this.#file}:${line}:${column}: ${error.message}`, {
      cause: error,
      details: { ...error.details, file: this.#file, line, column },
    })
  }
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every(word => typeof word === 'string')
}

const COMMAND: ValueCheck<unknown> = (document, place) =>
  list(text('a string', word => word))((document as RunDocument).command, place.at('command'))

function takeoverOf({ adopt, adoptSignal }: RunFlags): Takeover | null {
  if (adopt === undefined) return null
  if (adoptSignal === undefined) return { pid: parsePid('adopt', adopt), signal: undefined }
  const none = adoptSignal.toLowerCase() === 'none'
  return { pid: parsePid('adopt', adopt), signal: none ? 'none' : signal('TERM')('adoptSignal', adoptSignal) }
}

const DELAY: ReadinessSpec = { kind: 'delay', ms: 1_000 }

const readiness: SettingReader<ReadinessSpec> = (_, value) =>
  value === null ? DELAY : parseReadiness(`${value}`)

const word: SettingReader<string> = (name, value) => {
  if (typeof value !== 'string' && typeof value !== 'number') throw wrongOption(name, value, 'a string')
  return `${value}`
}

const path: SettingReader<string> = (name, value) => resolve(word(name, value))

/** A null value removes a variable. */
const environment: SettingReader<NodeJS.ProcessEnv> = (name, value) => {
  if (!isMap(value)) throw wrongOption(name, value, 'a map of variables to strings')
  return Object.fromEntries(
    Object.entries(value).map(([variable, text]) => {
      if (typeof text === 'object' && text !== null)
        throw wrongOption(name, value, `a string, or null, for ${variable}`)
      return [variable, text === null ? undefined : `${text}`]
    }),
  )
}

const listeners: SettingReader<NamedListener[]> = (name, value) => {
  if (value === null) return []
  if (!isMap(value)) throw wrongOption(name, value, 'a map of names to addresses')
  return checkedListeners(Object.entries(value).map(([listener, address]) => [listener, word(name, address)]))
}

const RESTARTS: readonly unknown[] = ['never', 'on-failure', 'always'] satisfies readonly Restart[]

const restart: SettingReader<Restart> = (name, value) => {
  if (!RESTARTS.includes(value)) throw wrongOption(name, value, RESTARTS.join(', '))
  return value as Restart
}

function duration(least = 0): SettingReader<number> {
  return (name, value) => {
    const ms = durationMs(`${value}`, least)
    if (ms === null) throw wrongOption(name, value, aDuration(least))
    return ms
  }
}

const count: SettingReader<number> = (name, value) => {
  const number = /^\d{1,4}$/.test(`${value}`) ? Number(value) : 0
  if (number < 1) throw wrongOption(name, value, 'a whole number from 1 to 9999')
  return number
}

/** Reads one of the signals `of`, with or without SIG. `example` appears in the error message. */
function signal(
  example: string,
  of: readonly string[] = Object.keys(constants.signals),
): SettingReader<NodeJS.Signals> {
  return (name, value) => {
    const text = `${value}`.toUpperCase()
    const full = text.startsWith('SIG') ? text : `SIG${text}`
    if (!of.includes(full)) throw wrongOption(name, value, `a signal, for example ${example}`)
    return full as NodeJS.Signals
  }
}

const flag: SettingReader<boolean> = (name, value) => {
  if (value === false || value === 'false' || value === '0') return false
  if (value === true || value === 'true' || value === '1') return true
  throw wrongOption(name, value, 'true or false')
}
