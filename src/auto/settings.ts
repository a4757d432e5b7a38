import { readFileSync } from 'node:fs'
import { basename, dirname, extname, join, resolve } from 'node:path'
import { DEFAULT_TIMES } from '../base/default-times.js'
import { aDuration, durationMs } from '../base/duration.js'
import { isFolder } from '../checks/files.js'
import { nearest } from '../checks/spelling.js'
import { FdbError } from '../errors.js'
import { startedAs } from '../os/command-line.js'
import { defaultControl, temporaryControl } from '../os/default-control.js'
import { givenUp } from '../os/given-up.js'

/** Settings of `fd-broker/auto`, from the program's path and the variables FD_BROKER_…. */
export interface AutoSettings {
  /** The program's file as given: a link such as `current/` is not resolved. */
  readonly program: string
  readonly service: string
  /** Whether FD_BROKER_NAME names the service. If so, another program with that name is its next version. */
  readonly isNamed: boolean
  readonly control: string
  /** The process is ready when it listens, when it calls ready(), or when it answers a GET of this path. */
  readonly ready: 'listen' | 'call' | { readonly path: string }
  /** Addresses of the previous version that this version gives up. */
  readonly without: readonly string[]
  /** A program that the user has started, and that has listened on other addresses only for this long, is no next version. */
  readonly quietMs: number
  /** Delay before a retired process without a SIGTERM handler exits. */
  readonly exitMs: number
  /** Options of join(), if given. */
  readonly drainMs: number | undefined
  readonly probationMs: number | undefined
  readonly readyMs: number | undefined
  readonly pidFile: string | undefined
  readonly stateFile: string | undefined
  /** TLS connections of `https` servers move. */
  readonly tlsMoves: boolean
  readonly log: 'debug' | 'info' | 'warn'
  /** Whether `fd-broker start` has started this process. */
  readonly isStarted: boolean
}

type Env = Readonly<NodeJS.ProcessEnv>

/** Names of scripts that do not identify a program. */
const COMMON = new Set(['app', 'bin', 'index', 'main', 'server', 'start', 'www'])

const PREFIX = 'FD_BROKER_'
/** The variables that {@link settingsOf} reads, without {@link PREFIX}. */
const VARIABLES = [
  'AUTO',
  'CONTROL',
  'DRAIN',
  'EXIT',
  'LOG',
  'NAME',
  'PID_FILE',
  'PROBATION',
  'QUIET',
  'READY',
  'READY_TIMEOUT',
  'STATE_FILE',
  'TLS',
  'WITHOUT',
]

/** Returns a warning for each FD_BROKER_ variable that is probably a misspelt setting. */
export function misspelled(env: Env): string[] {
  const given = Object.keys(env).filter(name => name.startsWith(PREFIX))
  return given.flatMap(name => {
    const word = name.slice(PREFIX.length)
    const meant = VARIABLES.includes(word) ? undefined : nearest(word, VARIABLES)
    return meant === undefined
      ? []
      : [`${name} is not a setting and is ignored: did you mean ${PREFIX}${meant}?`]
  })
}

export function isOff({ FD_BROKER_AUTO: text = '' }: Env): boolean {
  return /^(?:off|no|false|0)$/i.test(text)
}

/** Throws ERR_FDB_OPTION for a wrong value, ERR_FDB_CONTROL_PATH if there is no usable path for the control socket. */
export function settingsOf(program: string, env: Env): AutoSettings {
  const name = env.FD_BROKER_NAME
  const service = name || serviceName(program)
  const auto = env.FD_BROKER_AUTO ?? ''
  if (!isOff(env) && !/^(?:|on|yes|true|1)$/i.test(auto)) throw wrong('FD_BROKER_AUTO', auto, '"on" or "off"')
  return {
    program,
    service,
    isNamed: Boolean(name),
    control: env.FD_BROKER_CONTROL ? resolve(env.FD_BROKER_CONTROL) : controlFor(service, env),
    ready: readyOf(env.FD_BROKER_READY),
    without: givenUp(env),
    quietMs: duration(env, 'FD_BROKER_QUIET') ?? DEFAULT_TIMES.quiet.ms,
    exitMs: duration(env, 'FD_BROKER_EXIT') ?? DEFAULT_TIMES.retired.ms,
    drainMs: duration(env, 'FD_BROKER_DRAIN'),
    probationMs: duration(env, 'FD_BROKER_PROBATION'),
    readyMs: duration(env, 'FD_BROKER_READY_TIMEOUT'),
    pidFile: env.FD_BROKER_PID_FILE || undefined,
    stateFile: env.FD_BROKER_STATE_FILE || undefined,
    isStarted: Boolean(env.FD_BROKER_LOG_FILE),
    tlsMoves: movesTls(env.FD_BROKER_TLS || 'stay'),
    log: levelOf(env.FD_BROKER_LOG || 'warn'),
  }
}

/**
 * Returns the service name of a program: the name of its package, else of its folder, plus the script's name unless that is generic
 * (`server`, `index`). A program installed by a package (`next start`) is named after its working folder.
 */
export function serviceName(program: string): string {
  const installed = /[\\/]node_modules[\\/]/.test(program)
  // `node .`
  const isRunAsFolder = isFolder(program)
  const folder = installed ? startedAs.cwd : isRunAsFolder ? program : dirname(program)
  const script = isRunAsFolder ? 'index' : basename(program, extname(program))
  const whole = packageName(folder) ?? basename(folder)
  const own = COMMON.has(script) || installed ? whole : `${whole}-${script}`
  return own.replace(/^@[^/]*\//, '').replace(/[^\w.-]+/g, '-') || script
}

function packageName(folder: string): string | null {
  for (let at = folder; ; at = dirname(at)) {
    try {
      const { name } = JSON.parse(readFileSync(join(at, 'package.json'), 'utf8')) as { name?: unknown }
      if (typeof name === 'string' && name !== '') return name
    } catch {
      // The folder has no readable package.json.
    }
    if (dirname(at) === at) return null
  }
}

function controlFor(service: string, env: Env): string {
  try {
    return defaultControl(service, env)
  } catch {
    return temporaryControl(service)
  }
}

function readyOf(text = ''): AutoSettings['ready'] {
  if (text === '' || text === 'listen') return 'listen'
  if (text === 'call') return 'call'
  if (text.startsWith('/')) return { path: text }
  throw wrong('FD_BROKER_READY', text, '"listen", "call", or a path such as /health')
}

function duration(env: Env, name: string): number | undefined {
  const text = env[name]
  if (text === undefined || text === '') return undefined
  if (text === '0') return 0
  const ms = durationMs(text)
  if (ms === null) throw wrong(name, text, aDuration())
  return ms
}

function levelOf(text: string): AutoSettings['log'] {
  if (text === 'debug' || text === 'info' || text === 'warn') return text
  throw wrong('FD_BROKER_LOG', text, '"debug", "info" or "warn"')
}

function movesTls(text: string): boolean {
  if (text === 'move' || text === 'stay') return text === 'move'
  throw wrong('FD_BROKER_TLS', text, '"move" or "stay"')
}

function wrong(name: string, text: string, wanted: string): FdbError {
  return new FdbError('ERR_FDB_OPTION', `${name} is "${text}": give ${wanted}`)
}
