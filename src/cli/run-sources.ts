import { readFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { basename, resolve } from 'node:path'
import { serviceName } from '../auto/settings.js'
import { defaultText } from '../base/default-times.js'
import { hooksShape } from '../checks/hooks.js'
import { checkOptions } from '../checks/options.js'
import { OptionPlace, shortJson } from '../checks/place.js'
import { absent, type Field, map, optional } from '../checks/shape.js'
import {
  boolean,
  type Checked,
  duration,
  InvalidValue,
  integer,
  list,
  named,
  oneOf,
  refine,
  text,
  type ValueCheck,
} from '../checks/values.js'
import { documentOf, requireFile, unreadable } from '../config/document.js'
import { FdbError } from '../errors.js'
import { parseListenerSpec } from '../listeners/index.js'
import { namedPath, startedAs } from '../os/command-line.js'
import type { NamedListener } from '../os/foreign-listeners.js'
import { ownAddressProblem } from '../run/own-address.js'
import type { Takeover } from '../run/predecessor.js'
import type { SupervisorSettings, VersionSettings } from '../run/settings.js'
import { parseReadiness, READINESS, type ReadinessSpec } from '../versions/version-probe.js'
import { isListenerName, parseListeners } from './named-listeners.js'
import { parsePid } from './options.js'
import { UPGRADE_SIGNALS } from './signals.js'

/** Checks a text, or a number that was written without quotes. */
const word: ValueCheck<string> = (value, place) =>
  typeof value === 'string' || typeof value === 'number' ? `${value}` : place.refuse(value, 'a string')

/**
 * A link in the path of the start folder is followed again at each use: for each version its folder, as without the option; a control socket and a pid file
 * when they are missing there.
 */
const path: ValueCheck<string> = (value, place) => {
  const given = word(value, place)
  return given === undefined ? undefined : namedPath(given)
}

/** Also accepts what a variable of the environment can express. */
const flag: ValueCheck<boolean> = (value, place) => {
  if (value === 'false' || value === '0') return false
  return value === 'true' || value === '1' ? true : boolean(value, place)
}

const count: ValueCheck<number> = (value, place) =>
  integer(1, 9999)(typeof value === 'string' && /^\d{1,4}$/.test(value) ? Number(value) : value, place)

function oneOfSignals(signals: readonly string[]): string {
  return `one of ${signals.map(name => name.slice('SIG'.length)).join(', ')}`
}

/** Checks one of the signals `of`, with or without SIG. `what` appears in the error message. */
function signal(
  what = 'a signal, for example TERM',
  of: readonly string[] = Object.keys(constants.signals),
): ValueCheck<NodeJS.Signals> {
  return (value, place) => {
    const name = String(value).toUpperCase()
    const full = name.startsWith('SIG') ? name : `SIG${name}`
    if (typeof value === 'string' && of.includes(full)) return full as NodeJS.Signals
    return place.refuse(value, what)
  }
}

const readiness: ValueCheck<ReadinessSpec> = (value, place) =>
  (typeof value === 'string' ? parseReadiness(value) : null) ?? place.refuse(value, READINESS)

/** A null value removes a variable. */
const variable: ValueCheck<string | null> = (value, place) =>
  value === null ? null : typeof value === 'object' ? place.refuse(value, 'a string, or null') : String(value)

const address = text('a listener address', given => {
  try {
    return parseListenerSpec(given)
  } catch (error) {
    if (!FdbError.is(error)) throw error
    return new InvalidValue(error.message)
  }
})

const listenerName = (given: string) =>
  isListenerName(given)
    ? given
    : new InvalidValue(
        `${shortJson(given)} is no name of a listener: 1 to 255 characters, no colon, = or space`,
      )

const listeners = refine(named(listenerName, address, 'a map of names to addresses'), pairs =>
  pairs.map(([name, spec]): NamedListener => ({ name, spec })),
)

/** Accepts a key without a value, for which `check` gets `written`. */
function orEmpty<T>(check: ValueCheck<T>, written: unknown): ValueCheck<T> {
  return (value, place) => check(value ?? written, place)
}

/**
 * The options of `fd-broker run`: the flags, and how the value is checked. Each option has an environment variable (`--pid-file`:
 * FD_BROKER_PID_FILE) and, unless it is {@link COMMAND_LINE_ONLY}, a key in the --config file.
 */
export const RUN_OPTIONS = {
  listen: [
    '--listen <name=address...>',
    absent(
      orEmpty(listeners, {}),
      [],
      'listener that every version inherits, for example web=tcp://0.0.0.0:8080',
    ),
  ],
  adopt: [
    '--adopt <pid>',
    absent(word, undefined, 'take over the listeners of this process, then end the process'),
  ],
  from: ['--from <control>', absent(word, undefined, 'control socket of a daemon that holds the listeners')],
  adoptSignal: [
    '--adopt-signal <signal>',
    absent(word, undefined, 'signal that ends the adopted process; or none (default: --stop-signal)'),
  ],
  ready: ['--ready <how>', optional(orEmpty(readiness, 'delay:1s'), 'delay:1s', READINESS)],
  readyTimeout: [
    '--ready-timeout <duration>',
    optional(duration(0), defaultText('ready'), 'a version must be ready within this time'),
  ],
  healthInterval: [
    '--health-interval <duration>',
    absent(duration(1), null, 'interval of checks (default: 100ms until the version is ready, then 250ms)'),
  ],
  healthTimeout: [
    '--health-timeout <duration>',
    optional(duration(1), defaultText('healthTimeout'), 'time limit of a check'),
  ],
  healthPasses: [
    '--health-passes <count>',
    optional(count, 1, 'successful checks in a row that make a version ready'),
  ],
  healthyFor: [
    '--healthy-for <duration>',
    optional(duration(0), '0s', 'a version must stay ready this long before the old one ends'),
  ],
  probation: [
    '--probation <duration>',
    optional(
      duration(0),
      defaultText('probation'),
      'if a version fails within this time, the previous one is started again',
    ),
  ],
  stopSignal: ['--stop-signal <signal>', optional(signal(), 'TERM', 'signal that ends a version')],
  stopTimeout: [
    '--stop-timeout <duration>',
    optional(duration(0), defaultText('stop'), 'a version that lives this long after the signal is killed'),
  ],
  upgradeSignal: [
    '--upgrade-signal <signal>',
    optional(
      signal(oneOfSignals(UPGRADE_SIGNALS), UPGRADE_SIGNALS),
      'HUP',
      'signal that starts the next version',
    ),
  ],
  restart: [
    '--restart <when>',
    optional(
      oneOf('never', 'on-failure', 'always'),
      'never',
      'restart a serving version that ends by itself: never, on-failure, always',
    ),
  ],
  restartDelay: [
    '--restart-delay <duration>',
    optional(duration(0), defaultText('restartDelay'), 'wait before a restart; doubled each time, up to 30s'),
  ],
  control: [
    '--control <path>',
    absent(path, null, 'control socket, for fd-broker upgrade, status and stop; default: from the name'),
  ],
  pidFile: ['--pid-file <file>', absent(path, null, 'pid file of this process')],
  name: [
    '--name <name>',
    absent(word, null, 'name of the service (default: the name of the program or its package)'),
  ],
  cwd: [
    '--cwd <folder>',
    absent(path, undefined, 'working folder of the program (default: the current folder)'),
  ],
  survive: ['--survive', absent(flag, false, 'the program keeps running if this process is killed')],
  nonBlocking: ['--non-blocking', absent(flag, false, 'set O_NONBLOCK on listeners (systemd does not)')],
  config: [
    '--config <file>',
    absent(word, undefined, 'settings in YAML or JSON, read again for every version'),
  ],
} as const satisfies Record<string, readonly [flags: string, field: Field<unknown>]>

const COMMAND_LINE_ONLY = ['adopt', 'adoptSignal', 'config', 'from'] as const

type RunOptions = typeof RUN_OPTIONS
type InFile = Exclude<keyof RunOptions, (typeof COMMAND_LINE_ONLY)[number]>

const IN_FILE = Object.fromEntries(
  Object.entries(RUN_OPTIONS)
    .filter(([name]) => !COMMAND_LINE_ONLY.some(only => only === name))
    .map(([name, [, field]]) => [name, field]),
) as { [Name in InFile]: RunOptions[Name][1] }

const FILE = map({
  command: absent(orEmpty(list(text('a string', given => given)), []), []),
  env: absent(
    named(given => given, variable, 'a map of variables to strings'),
    [],
  ),
  hooks: absent(map(hooksShape(duration(1), defaultText('hook'))), null),
  ...IN_FILE,
})
type Settings = Checked<typeof FILE>

/** Options as Commander returns them. Values from the environment are text. */
export type RunFlags = Readonly<Partial<Record<keyof RunOptions, string | number | true | readonly string[]>>>

/** Reads the settings of `fd-broker run` from options and environment, which do not change, and from a file, which is read again for each version. */
export class RunSources {
  readonly #command: readonly string[]
  readonly #flags: RunFlags
  readonly #file: string | null

  constructor(command: readonly string[], flags: RunFlags) {
    this.#command = command
    this.#flags = flags
    this.#file = flags.config === undefined ? null : namedPath(`${flags.config}`)
  }

  /** Whether there is a --config file, which may change. */
  get hasFile(): boolean {
    return this.#file !== null
  }

  /** Reads the settings that the supervisor keeps until its end. Rejects with ERR_FDB_OPTION, ERR_FDB_SPEC, ERR_FDB_CONFIG. */
  async supervisorSettings(): Promise<SupervisorSettings> {
    const { command, cwd = startedAs.cwd, ...given } = await this.#read()
    const storedAs = given.name ?? basename(command[0]!)
    const script = scriptOf(command)
    const name = given.name ?? (script === null ? storedAs : serviceName(resolve(cwd, script)))
    const { control, pidFile, restart, restartDelay, upgradeSignal } = given
    return {
      name,
      ...(name !== storedAs && { storedAs }),
      control,
      pidFile,
      restart,
      restartDelay,
      upgradeSignal,
    }
  }

  /** The running process whose place the first version takes (`--adopt`); null if there is none. The configuration file cannot name it: it would be named again at each later start. Throws ERR_FDB_OPTION. */
  get takeover(): Takeover | null {
    const { adopt, adoptSignal } = this.#flags
    if (adopt === undefined) return null
    const pid = parsePid('adopt', `${adopt}`)
    if (adoptSignal === undefined) return { pid, signal: undefined }
    if (`${adoptSignal}`.toLowerCase() === 'none') return { pid, signal: 'none' }
    return { pid, signal: checkOptions('run', adoptSignal, signal(), 'adoptSignal') }
  }

  /** Reads the settings for the next version. Rejects with ERR_FDB_OPTION, ERR_FDB_SPEC, ERR_FDB_CONFIG. */
  async versionSettings(): Promise<VersionSettings> {
    const { env, healthInterval, healthTimeout, healthPasses, ...given } = await this.#read()
    const { command, cwd, listen, nonBlocking, ready, readyTimeout } = given
    const { healthyFor, hooks, probation, stopSignal, stopTimeout, survive } = given
    return {
      command,
      cwd,
      env: Object.fromEntries(env.map(([name, value]) => [name, value ?? undefined])),
      listen,
      nonBlocking,
      ready,
      asking: { interval: healthInterval, timeout: healthTimeout, passes: healthPasses },
      readyTimeout,
      healthyFor,
      probation,
      stopSignal,
      stopTimeout,
      survive,
      hooks,
    }
  }

  async #read(): Promise<Settings> {
    const flags = flagValues(this.#flags)
    const check: ValueCheck<Settings> = (document, place) => {
      const inFile = FILE(document ?? {}, place)
      if (inFile === undefined) return undefined
      const settings = { ...inFile, ...flags }
      const problem = ownAddressProblem(settings.ready, settings.listen)
      if (problem === null) return settings
      return (flags.ready === undefined ? place : new OptionPlace('run')).at('ready').wrong(problem)
    }
    if (this.#file !== null) requireFile(this.#file)
    const settings =
      this.#file === null
        ? checkOptions('run', {}, check)
        : documentOf(await readFile(this.#file).catch(unreadable(this.#file)), this.#file, check)
    const command = this.#command.length > 0 ? this.#command : settings.command
    if (command.length > 0) return { ...settings, command: [...command] }
    throw new FdbError(
      'ERR_FDB_OPTION',
      'there is no program to run: give it after -- , or as the list "command" of --config',
    )
  }
}

/** Returns the values of the given options. Throws ERR_FDB_OPTION, ERR_FDB_SPEC. */
function flagValues({ listen, ...flags }: RunFlags): Partial<Settings> {
  const place = new OptionPlace('run')
  const given = Object.entries(IN_FILE).flatMap(([name, field]: [string, Field<unknown>]) => {
    const value = (flags as Record<string, unknown>)[name]
    return value === undefined ? [] : [[name, field.check(value, place.at(name))]]
  })
  return {
    ...(Object.fromEntries(given) as Partial<Settings>),
    ...(listen !== undefined && { listen: parseListeners([listen].flat().map(String)) }),
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
