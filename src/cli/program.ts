import { createRequire } from 'node:module'
import { type Command as AnyCommand, CommanderError, InvalidArgumentError } from 'commander'
import { type OnServerStage, onServerStage } from '../base/server-stage.js'
import { FdbError } from '../errors.js'
import { Command } from './command.js'
import { EXIT_CODES, type ExitCode, failureText, printFailure, style, writeStderr } from './output.js'

/** Runs one command line (without node and script). `onStage` is called at each stage of a server. Never rejects. */
export function main(args: readonly string[], onStage: OnServerStage): Promise<ExitCode> {
  process.stdout.on('error', outputLost)
  onServerStage(onStage)
  return run(args)
}

/**
 * Commands that change something. A lost output does not end an order: an upgrade must still restore the release that
 * it has replaced, and the exit code must tell how the order ended. All other commands end with their output.
 */
export const ORDERS: ReadonlySet<string> = new Set([
  'start',
  'upgrade',
  'stop',
  'init',
  'reload',
  'rollback',
  'drain',
  'adopt',
  ...['restart', 'set'].map(order => `workers ${order}`),
  ...['put', 'claim', 'release', 'remove'].map(order => `fd ${order}`),
  ...['add', 'remove', 'apply'].map(order => `routes ${order}`),
  ...['drain', 'undrain', 'weight', 'add', 'remove'].map(order => `servers ${order}`),
  ...['add', 'remove'].map(order => `certificates ${order}`),
  ...['put', 'delete', 'import', 'repair'].map(order => `state ${order}`),
])

/** The words of the command that runs, such as `routes add`. Empty while the command line is read. */
let running = ''

/** Whether stderr has told why stdout cannot be written. */
let isLossTold = false

function outputLost({ code, message }: NodeJS.ErrnoException): void {
  // The reader has closed the pipe, as `head -1` does.
  const hasNoReader = code === 'EPIPE'
  if (!hasNoReader && !isLossTold) writeStderr(`stdout cannot be written: ${message}`)
  isLossTold = true
  if (!ORDERS.has(running)) process.exit(hasNoReader ? undefined : 1)
}

/** Never rejects: failures are printed on stderr. */
export async function run(args: readonly string[]): Promise<ExitCode> {
  try {
    const [first, about = ''] = args
    // For `help UNKNOWN` Commander would show the general help: the unknown command is reported instead.
    const isUnknown =
      first === 'help' && about !== '' && !about.startsWith('-') && !COMMANDS.has(about) && about !== 'help'
    const words = isUnknown ? [about] : args
    await (await buildProgram(words)).parseAsync(words, { from: 'user' })
    return 0
  } catch (thrown) {
    const error = (thrown as NodeJS.ErrnoException | null)?.syscall === 'uv_cwd' ? nowhere(thrown) : thrown
    if (error instanceof CommanderError) {
      // Commander has printed the error.
      if (error.exitCode === 0) return 0
      if (asksForJson(args))
        printFailure(new FdbError('ERR_FDB_OPTION', error.message.replace('error: ', '')))
      return 2
    }
    const why = failureText(error)
    writeStderr(why.replace(/^ERR_FDB_\w+/, code => style('red', code, process.stderr)))
    if (asksForJson(args)) printFailure(error as object)
    const { writeExitReason } = await import('../versions/exit-reason.js')
    writeExitReason(why)
    if (!FdbError.is(error)) return 1
    return (await import('./exit-code-of.js')).exitCodeOf(error)
  }
}

function nowhere(cause: unknown): FdbError {
  const why = 'the current folder was removed: run this command in another, or with absolute paths'
  return new FdbError('ERR_FDB_NO_CWD', why, { cause })
}

/** Whether --json is given, and not to the program behind `--`. */
function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf('--')
  return (end < 0 ? args : args.slice(0, end)).includes('--json')
}

/** Commands that work where the addon cannot be loaded. */
const WITHOUT_ADDON: ReadonlySet<string> = new Set(['completion', 'convert', 'doctor', 'init'])

/** Loads and adds each command, in the order of the help: a command line loads only its own, the help loads all. */
const COMMANDS: ReadonlyMap<string, (program: Command) => Promise<void>> = new Map([
  ['start', async (program: Command) => (await import('./start.js')).addStart(program)],
  ['status', async program => (await import('./status.js')).addStatus(program)],
  ['logs', async program => (await import('./logs.js')).addLogs(program)],
  ['upgrade', async program => (await import('./upgrade.js')).addUpgrade(program)],
  ['stop', async program => (await import('./stop.js')).addStop(program)],
  ['init', async program => (await import('./init.js')).addInit(program)],
  ['doctor', async program => (await import('./doctor.js')).addDoctor(program)],
  ['top', async program => (await import('./top.js')).addTop(program)],
  ['reload', async program => (await import('./reload.js')).addReload(program)],
  ['rollback', async program => (await import('./rollback.js')).addRollback(program)],
  ['events', async program => (await import('./events.js')).addEvents(program)],
  ['history', async program => (await import('./events.js')).addHistory(program)],
  ['serve', async program => (await import('./serve.js')).addServe(program)],
  ['workers', async program => (await import('./workers.js')).addWorkers(program)],
  ['run', async program => (await import('./run.js')).addRun(program)],
  ['exec', async program => (await import('./exec.js')).addExec(program)],
  ['adopt', async program => (await import('./adopt.js')).addAdopt(program)],
  ['fd', async program => (await import('./fd.js')).addFd(program)],
  ['proxy', async program => (await import('./proxy.js')).addProxy(program)],
  ['drain', async program => (await import('./drain.js')).addDrain(program)],
  ['routes', async program => (await import('./routes.js')).addRoutes(program)],
  ['servers', async program => (await import('./servers.js')).addServers(program)],
  ['certificates', async program => (await import('./certificates.js')).addCertificates(program)],
  ['convert', async program => (await import('./convert.js')).addConvert(program)],
  ['state', async program => (await import('./state.js')).addState(program)],
  ['write-log', async program => (await import('./write-log.js')).addWriteLog(program)],
  ['keep', async program => (await import('./keep.js')).addKeep(program)],
  [
    'completion',
    async program => (await import('./completion.js')).addCompletion(program, () => wholeProgram()),
  ],
])

export function wholeProgram(): Promise<Command> {
  return buildProgram(['--help', '--version'])
}

async function buildProgram(args: readonly string[]): Promise<Command> {
  const [name = ''] = args
  const codes = Object.entries(EXIT_CODES)
    .map(([code, what]) => `${code} ${what}`)
    .join(', ')
  const root = new Command('fd-broker')
    .description('Replace a running server with its next version without losing a connection.')
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(withHint(text, args)) })
    .showHelpAfterError('(--help shows the options and examples)')
    .notes(`Examples:
  $ fd-broker start server.js
  $ fd-broker status --control /run/shop/upgrade.sock
  $ fd-broker upgrade --control /run/shop/upgrade.sock
  $ fd-broker serve --control /run/shop/broker.sock
  $ fd-broker workers start --service shop --count auto -- node server.mjs
  $ fd-broker run --listen web=tcp://0.0.0.0:8080 --ready http:/health -- gunicorn app:app
  $ fd-broker exec --service shop web=tcp://0.0.0.0:8080 -- gunicorn app:app
  $ fd-broker adopt --pid 4711
  $ fd-broker fd list --control /run/shop/broker.sock
  $ fd-broker proxy --config edge.yaml
  $ fd-broker routes list --control /run/edge/upgrade.sock
  $ fd-broker certificates list --control /run/edge/upgrade.sock
  $ fd-broker state stats --control /run/shop/upgrade.sock

Exit codes: ${codes} (stderr: CODE: message). fd-broker run ends with the exit code of the program.`)
  if (!WITHOUT_ADDON.has(name))
    root.hook('preAction', async () => (await import('../kernel/index.js')).requireAddon())
  root.hook('preAction', (_, command) => {
    running = wordsOf(command)
  })
  const entry = COMMANDS.get(name)
  // Reading package.json costs time: only the help and `--version` need it.
  if (entry === undefined || args.includes('--version') || args.includes('-V')) root.version(version())
  for (const add of entry ? [entry] : COMMANDS.values()) await add(root)
  refuseEmptyValues(root)
  return root
}

/** Returns the words with which a command line names a command: `routes add`. */
export function wordsOf(command: AnyCommand): string {
  const { parent } = command
  return parent?.parent == null ? command.name() : `${wordsOf(parent)} ${command.name()}`
}

/** An empty name or path is an error in every command: it comes from a shell variable that is not set. */
function refuseEmptyValues(command: AnyCommand): void {
  for (const option of command.options) {
    const [, kind] = /<(file|name|path|service)>$/.exec(option.flags) ?? []
    if (kind !== undefined && option.parseArg === undefined) option.argParser(text => nonEmpty(kind, text))
  }
  for (const each of command.commands) refuseEmptyValues(each)
}

function nonEmpty(kind: string, text: string): string {
  if (text !== '') return text
  throw new InvalidArgumentError(`Give a ${kind === 'service' ? 'name' : kind}.`)
}

function version(): string {
  const load = createRequire(import.meta.url)
  return (load('fd-broker/package.json') as { version: string }).version
}

/** Adds a hint to an error of Commander. `args`: the command line without node and script. */
function withHint(error: string, args: readonly string[]): string {
  const hint = hintFor(error, args)
  if (hint === null) return error
  // An option of Node, or a command of another process manager, is not a misspelt one.
  const what = /^(?:set|fd-broker) /.test(hint) ? error.replace(/\n\(Did you mean .*\)/, '') : error
  return `${what.trimEnd().replace(/\.$/, '')}: ${hint}\n`
}

function hintFor(error: string, args: readonly string[]): string | null {
  const [command = '', ...rest] = args
  const [word] = rest
  if (error.startsWith('error: unknown command ')) return commandHint(command)
  if (command === 'start') return startHint(/^error: unknown option '([^']+)'/.exec(error)?.[1], rest)
  if (word === undefined || word.startsWith('-')) return null
  if (command === 'proxy' && /^error: (?:required option '--config|too many)/.test(error))
    return `give the file as --config ${word}`
  if (SERVICE_COMMANDS.has(command) && error.startsWith('error: too many arguments'))
    return `name the service by --service ${word}`
  return null
}

/** Commands of other process managers, and what does their work here. */
const COMMAND_HINTS: Readonly<Record<string, string>> = {
  delete: 'fd-broker stop stops a service',
  kill: 'fd-broker stop stops a service',
  list: 'fd-broker status shows a service',
  ls: 'fd-broker status shows a service',
  ps: 'fd-broker status shows a service',
  restart: 'fd-broker upgrade starts the next version',
}

function commandHint(command: string): string | null {
  if (isProgram(command)) return `fd-broker start ${command} starts it`
  return Object.hasOwn(COMMAND_HINTS, command) ? COMMAND_HINTS[command]! : null
}

/** Commands without arguments that find their service by `--service`. */
const SERVICE_COMMANDS: ReadonlySet<string> = new Set([
  'status',
  'top',
  'stop',
  'reload',
  'rollback',
  'drain',
  'logs',
  'events',
  'history',
])

function startHint(option: string | undefined, words: readonly string[]): string | null {
  if (option === undefined) return null
  const at = words.findIndex(word => word === option || word.startsWith(`${option}=`))
  const isOptionOfNode = words.slice(0, at).every((word, i, before) => {
    const last = before[i - 1] ?? ''
    return word.startsWith('-') || (last.startsWith('--') && !last.includes('=') && last !== '--json')
  })
  if (!isOptionOfNode) return 'put the options of the program after --'
  const program = words.find((word, i) => i > at && isProgram(word)) ?? 'server.js'
  if (option.startsWith('--watch'))
    return `start has no watch mode: in development use node --watch --import fd-broker/auto ${program}`
  if (option.startsWith('--env-file'))
    return `load the file by process.loadEnvFile() in the program, or in the shell: set -a; . ./.env; fd-broker start ${program}`
  // NODE_OPTIONS would open an inspector in this command too, at the same port.
  if (option.startsWith('--inspect')) return 'kill -USR1 PID opens the inspector of a running program'
  if (!process.allowedNodeEnvironmentFlags.has(option)) return null
  return `set an option of Node in the environment: NODE_OPTIONS='${withValue(words.slice(at))}'`
}

/** Returns an option of Node with its value. The next word is a value if a program follows it. */
function withValue([option = '', value = '', ...rest]: readonly string[]): string {
  const end = rest.indexOf('--')
  const hasValue = !option.includes('=') && !value.startsWith('-')
  return hasValue && rest.slice(0, end < 0 ? rest.length : end).some(isProgram)
    ? `${option} ${value}`
    : option
}

function isProgram(word: string): boolean {
  return /\.[cm]?[jt]sx?$/.test(word)
}
