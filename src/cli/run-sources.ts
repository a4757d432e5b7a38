import { readFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { basename, resolve } from 'node:path'
import { checkKeys, wrongOption } from '../base/check-option.js'
import { yaml } from '../base/lazy.js'
import { durationMs, LONGEST_MS } from '../base/time.js'
import { type Check, list, text } from '../config/check.js'
import { parseDocument } from '../config/read.js'
import { FdbError } from '../errors.js'
import type { Takeover } from '../run/predecessor.js'
import type { SupervisorSettings, VersionSettings } from '../run/settings.js'
import type { Restart } from '../versions/machine.js'
import { parseReadiness, READINESS } from '../versions/probe.js'
import { named, namedListeners } from './named-listeners.js'
import { pidOf } from './options.js'

/** Signals with which the next version may be started. */
export const UPGRADING: readonly NodeJS.Signals[] = [
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

/** The flags of `fd-broker run`. Each has a variable (`--pid-file`: FD_BROKER_PID_FILE), and but for {@link COMMAND_LINE_ONLY} a name in --config. */
export const RUN_OPTIONS = {
  listen: ['--listen <name=address...>', 'listener of every version, for example web=tcp://0.0.0.0:8080'],
  adopt: ['--adopt <pid>', 'process whose listeners are taken over, and which then ends'],
  from: ['--from <control>', 'daemon that holds these listeners by name'],
  adoptSignal: ['--adopt-signal <signal>', 'ends that process in order; or none (default: --stop-signal)'],
  ready: ['--ready <how>', `${READINESS} (default: delay:1s)`],
  readyTimeout: ['--ready-timeout <duration>', 'until a version must be ready (default: 60s)'],
  healthInterval: [
    '--health-interval <duration>',
    'interval of questions (default: 100ms until it is ready, then 250ms)',
  ],
  healthTimeout: ['--health-timeout <duration>', 'limit for an answer (default: 5s)'],
  healthPasses: ['--health-passes <count>', 'good answers in a row that make a version ready (default: 1)'],
  healthyFor: ['--healthy-for <duration>', 'time that it runs beside the old one (default: 0s)'],
  probation: [
    '--probation <duration>',
    'within it a failed version is replaced by the one before (default: 10s)',
  ],
  stopSignal: ['--stop-signal <signal>', 'tells a version to end (default: TERM)'],
  stopTimeout: ['--stop-timeout <duration>', 'then it is killed (default: 30s)'],
  upgradeSignal: ['--upgrade-signal <signal>', 'starts the next version (default: HUP)'],
  restart: [
    '--restart <when>',
    'when the serving version ends by itself: never, on-failure, always (default: never)',
  ],
  restartDelay: ['--restart-delay <duration>', 'doubled each time, up to 30s (default: 100ms)'],
  control: ['--control <path>', 'control socket, for fd-broker upgrade, status and stop'],
  pidFile: ['--pid-file <file>', 'pid file of this process'],
  name: ['--name <name>', 'in status and log (default: the name of the program)'],
  cwd: ['--cwd <folder>', 'working folder of the program (default: this one)'],
  survive: ['--survive', 'the program lives on when this process is killed'],
  nonBlocking: ['--non-blocking', 'listeners have O_NONBLOCK; those of systemd have not'],
  config: ['--config <file>', 'settings in YAML or JSON, read again for every version'],
} as const satisfies Record<string, readonly [flags: string, description: string]>

const COMMAND_LINE_ONLY: readonly string[] = [
  'adopt',
  'adoptSignal',
  'config',
  'from',
] satisfies (keyof typeof RUN_OPTIONS)[]

/** As commander has them, from the command line and the environment: all of it text. */
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

interface RunDocument
  extends Omit<RunFlags, 'adopt' | 'adoptSignal' | 'config' | 'from' | 'listen' | 'survive' | 'nonBlocking'> {
  readonly command?: readonly string[]
  readonly env?: Readonly<Record<string, string | number | boolean | null>>
  readonly listen?: Readonly<Record<string, string>>
  readonly survive?: boolean
  readonly nonBlocking?: boolean
}

const DOCUMENT: Readonly<Record<string, true>> = Object.fromEntries(
  ['command', 'env', ...Object.keys(RUN_OPTIONS).filter(name => !COMMAND_LINE_ONLY.includes(name))].map(
    name => [name, true],
  ),
)

const RESTARTS: readonly string[] = ['never', 'on-failure', 'always'] satisfies readonly Restart[]

/** Where the settings of `fd-broker run` come from: flags and environment for good, a file that is read anew. */
export class RunSources {
  readonly #command: readonly string[]
  readonly #flags: RunFlags
  readonly #file: string | null

  constructor(command: readonly string[], flags: RunFlags) {
    this.#command = command
    this.#flags = flags
    this.#file = flags.config === undefined ? null : resolve(flags.config)
  }

  /** There is a file, which may change. */
  get changeable(): boolean {
    return this.#file !== null
  }

  /** The settings that stay until the end, as they are at the start. Rejects with ERR_FDB_OPTION, ERR_FDB_CONFIG. */
  async lasting(): Promise<SupervisorSettings> {
    const document = await this.#document()
    const { name, control, pidFile, restart, restartDelay, upgradeSignal } = {
      ...document,
      ...defined(this.#flags),
    }
    if (restart !== undefined && !RESTARTS.includes(restart))
      throw wrongOption('restart', restart, RESTARTS.join(', '))
    return {
      name: name ?? basename(this.#commandOf(document)[0]!),
      control: control === undefined ? null : resolve(control),
      pidFile: pidFile === undefined ? null : resolve(pidFile),
      restart: (restart ?? 'never') as Restart,
      restartDelay: duration('restartDelay', restartDelay, 100),
      upgradeSignal: signal('upgradeSignal', upgradeSignal, 'SIGHUP', UPGRADING),
    }
  }

  /** The takeover, which only the command line can ask for: it is done once. Throws ERR_FDB_OPTION. */
  get takeover(): Takeover | null {
    return takeoverOf(this.#flags)
  }

  /** For the next version. Rejects with ERR_FDB_OPTION, ERR_FDB_SPEC, ERR_FDB_CONFIG. */
  async read(): Promise<VersionSettings> {
    const document = await this.#document()
    const flags = defined(this.#flags)
    const { ready, readyTimeout, healthyFor, probation, stopSignal, stopTimeout, cwd, ...rest } = {
      ...document,
      ...flags,
    }
    return {
      command: this.#commandOf(document),
      cwd: cwd === undefined ? undefined : resolve(cwd),
      env: environment(document.env),
      listen:
        this.#flags.listen === undefined
          ? named(Object.entries(document.listen ?? {}))
          : namedListeners(this.#flags.listen),
      nonBlocking: flag('nonBlocking', this.#flags.nonBlocking ?? document.nonBlocking),
      ready: parseReadiness(`${ready ?? 'delay:1s'}`),
      asking: {
        interval:
          rest.healthInterval === undefined ? null : duration('healthInterval', rest.healthInterval, 0, 1),
        timeout: duration('healthTimeout', rest.healthTimeout, 5_000, 1),
        passes: count('healthPasses', rest.healthPasses, 1),
      },
      readyTimeout: duration('readyTimeout', readyTimeout, 60_000),
      healthyFor: duration('healthyFor', healthyFor, 0),
      probation: duration('probation', probation, 10_000),
      stopSignal: signal('stopSignal', stopSignal, 'SIGTERM'),
      stopTimeout: duration('stopTimeout', stopTimeout, 30_000),
      survive: flag('survive', this.#flags.survive ?? document.survive),
    }
  }

  #commandOf({ command }: RunDocument): readonly string[] {
    if (this.#command.length > 0) return this.#command
    if (command != null && command.length > 0) return command
    throw new FdbError(
      'ERR_FDB_OPTION',
      'there is no program to run: give it after -- , or as the list "command" of --config',
    )
  }

  async #document(): Promise<RunDocument> {
    if (this.#file === null) return {}
    let document: unknown
    let written: string
    try {
      written = await readFile(this.#file, 'utf8')
      document = yaml().parse(written) ?? {}
    } catch (cause) {
      throw new FdbError('ERR_FDB_CONFIG', `${this.#file} cannot be read: ${(cause as Error).message}`, {
        cause,
      })
    }
    checkKeys(this.#file, document, DOCUMENT)
    const { command } = document as RunDocument
    // Where something else stands is looked for only then.
    if (command != null && !isTexts(command)) parseDocument(written, this.#file, COMMAND)
    return document as RunDocument
  }
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every(word => typeof word === 'string')
}

const COMMAND: Check<unknown> = (document, place) =>
  list(text('a text', word => word))((document as RunDocument).command, place.at('command'))

/** Without what is not given. */
function defined({
  listen,
  survive,
  nonBlocking,
  config,
  adopt,
  adoptSignal,
  from,
  ...flags
}: RunFlags): Omit<RunDocument, 'listen'> {
  return Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined))
}

function takeoverOf({ adopt, adoptSignal }: RunFlags): Takeover | null {
  if (adopt === undefined) return null
  if (adoptSignal === undefined) return { pid: pidOf('adopt', adopt), signal: undefined }
  const none = adoptSignal.toLowerCase() === 'none'
  return { pid: pidOf('adopt', adopt), signal: none ? 'none' : signal('adoptSignal', adoptSignal, 'SIGTERM') }
}

function environment(given: RunDocument['env'] = {}): NodeJS.ProcessEnv {
  const entries = Object.entries(given)
  return Object.fromEntries(entries.map(([name, value]) => [name, value === null ? undefined : `${value}`]))
}

function duration(name: string, text: string | undefined, byDefault: number, least = 0): number {
  if (text === undefined) return byDefault
  const ms = durationMs(`${text}`)
  if (ms === null || ms < least || ms > LONGEST_MS)
    throw wrongOption(name, text, 'a duration: 500ms, 30s, 2m, 1h; at most 596h (24.8 days)')
  return ms
}

function count(name: string, given: string | number | undefined, byDefault: number): number {
  if (given === undefined) return byDefault
  const number = /^\d{1,4}$/.test(`${given}`) ? Number(given) : 0
  if (number < 1) throw wrongOption(name, given, 'a whole number from 1 to 9999')
  return number
}

function signal(
  name: string,
  text: string | undefined,
  byDefault: NodeJS.Signals,
  of: readonly string[] = Object.keys(constants.signals),
): NodeJS.Signals {
  if (text === undefined) return byDefault
  const full = text.toUpperCase().startsWith('SIG') ? text.toUpperCase() : `SIG${text.toUpperCase()}`
  if (!of.includes(full)) throw wrongOption(name, text, `a signal, for example ${byDefault.slice(3)}`)
  return full as NodeJS.Signals
}

function flag(name: string, value: unknown): boolean {
  if (value === undefined || value === false || value === 'false' || value === '0') return false
  if (value === true || value === 'true' || value === '1') return true
  throw wrongOption(name, value, 'true or false')
}
