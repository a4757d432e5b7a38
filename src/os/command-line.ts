import { accessSync, constants, readFileSync, statSync } from 'node:fs'
import { isAbsolute } from 'node:path'
import { FdbError } from '../errors.js'

export interface CommandLine {
  /** The name as given: a `node` found by PATH is still `node`, a script's symlink still a symlink. */
  argv0: string
  /** Node's own options, as given. */
  execArgv: readonly string[]
  /** The script as given (with `node -e` the first argument, if any). */
  script: string | undefined
  args: readonly string[]
  /** The working folder as given: $PWD when it names it, so that a `current/` link is resolved anew later. */
  cwd: string
  env: Readonly<NodeJS.ProcessEnv>
}

/** The command that {@link successorCommand} found, ready for spawn. */
export interface SuccessorCommand {
  /** Absolute path of the binary, its symlinks unresolved. */
  file: string
  argv0: string
  args: readonly string[]
  cwd: string
  env: NodeJS.ProcessEnv
}

export interface SuccessorOptions {
  /** The whole command line including argv0. Default: as this process was started. */
  argv?: readonly string[] | undefined
  /** Default: the working folder at start, by the name it had. */
  cwd?: string | undefined
  /** Laid over the environment at start; undefined removes a variable. */
  env?: NodeJS.ProcessEnv | undefined
}

/** A variable of the environment; `1`: the process is a main process, see main-process.ts. Not for those that it starts. */
export const MAIN_PROCESS = 'FD_BROKER_MAIN_PROCESS'

/** Where the first copy of this module leaves its finding for others: `fd-broker/auto` is a bundle of its own, and loads the library later. */
const CAPTURED = Symbol.for('fd-broker.started-as')

/** Captured when this module is first imported: before anybody calls chdir() or sets process.title. */
export const startedAs: CommandLine = capturedOnce(globalThis as Shared)

/**
 * The command that starts the next version of this program: the same words, looked up again now. The binary is
 * found as a shell would find it (absolute; relative to the start folder; by PATH), never by its real path, so
 * that a replaced symlink or package leads to the new version. Throws ERR_FDB_NO_BINARY, ERR_FDB_NO_CWD.
 */
export function successorCommand(options: SuccessorOptions = {}): SuccessorCommand {
  const { argv0, execArgv, script, args } = startedAs
  const argv = options.argv ?? [argv0, ...execArgv, ...(script === undefined ? [] : [script]), ...args]
  const cwd = options.cwd ?? startedAs.cwd
  if (!statSync(cwd, { throwIfNoEntry: false })?.isDirectory()) {
    const why =
      options.cwd === undefined
        ? `the start folder ${cwd} does not exist any more: make it again, or start the next version by hand in another folder (of fd-broker run: --cwd)`
        : `there is no folder ${cwd} to start it in: make it, or give another one as cwd`
    throw new FdbError('ERR_FDB_NO_CWD', why, { details: { cwd } })
  }
  const env: NodeJS.ProcessEnv = { ...startedAs.env, PWD: cwd, [MAIN_PROCESS]: undefined, ...options.env }
  for (const name of Object.keys(env)) if (env[name] === undefined) delete env[name]
  const name = argv[0] ?? ''
  const search = { cwd: startedAs.cwd, path: env.PATH, given: options.argv !== undefined }
  return { file: resolveBinary(name, search), argv0: name, args: argv.slice(1), cwd, env }
}

interface Search {
  readonly cwd: string
  readonly path: string | undefined
  /** It is none of this process's own words. */
  readonly given: boolean
}

function resolveBinary(name: string, { cwd, path, given }: Search): string {
  if (name.includes('/')) {
    // Joined, not normalised: `..` after a symlink means what the kernel says.
    const file = isAbsolute(name) ? name : `${cwd}/${name}`
    if (runnable(file)) return file
    throw noBinary(name, `${file} is missing or not executable`, given)
  }
  if (name !== '') {
    for (const folder of (path ?? '/usr/local/bin:/usr/bin:/bin').split(':')) {
      const base = folder === '' ? cwd : isAbsolute(folder) ? folder : `${cwd}/${folder}`
      const file = `${base}/${name}`
      if (runnable(file)) return file
    }
  }
  throw noBinary(name, `no executable of that name in PATH=${path ?? ''}`, given)
}

function noBinary(name: string, why: string, given: boolean): FdbError {
  const text = given
    ? `there is no program "${name}": ${why}. Correct its name, or give its absolute path`
    : `cannot resolve own binary "${name}": ${why}. Give the successor's argv with an absolute path`
  return new FdbError('ERR_FDB_NO_BINARY', text, { details: { name } })
}

function runnable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}

type Shared = { [CAPTURED]?: CommandLine }

function capturedOnce(shared: Shared): CommandLine {
  shared[CAPTURED] ??= capture()
  return shared[CAPTURED]
}

function capture(): CommandLine {
  const given = kernelArgv()
  const start = { cwd: givenCwd(), env: { ...process.env } }
  // In its own process.argv a single executable has its name twice.
  if (given === null && isSingleExecutable())
    return {
      argv0: process.argv0,
      execArgv: [],
      script: undefined,
      args: process.argv.slice(2),
      ...start,
    }
  const argv = given ?? [process.argv0, ...process.execArgv, ...process.argv.slice(1)]
  const rest = process.argv.length - 1
  const at = rest === 0 ? argv.length : argv.length - rest
  return {
    argv0: argv[0]!,
    execArgv: argv.slice(1, at),
    script: rest === 0 ? undefined : argv[at],
    args: argv.slice(at + 1),
    ...start,
  }
}

function isSingleExecutable(): boolean {
  const sea = process.getBuiltinModule('node:sea') as { isSea?(): boolean } | undefined
  return sea?.isSea?.() === true
}

/** The words from /proc; null where there is none, or where process.title has overwritten it. */
function kernelArgv(): string[] | null {
  let text: string
  try {
    text = readFileSync('/proc/self/cmdline', 'utf8')
  } catch {
    return null
  }
  const argv = text.split('\0')
  argv.pop()
  const args = process.argv.slice(2)
  const tail = args.length === 0 ? [] : argv.slice(-args.length)
  const whole = argv[0] === process.argv0 && argv.length >= process.argv.length
  return whole && args.every((arg, i) => arg === tail[i]) ? argv : null
}

function givenCwd(): string {
  const real = process.cwd()
  const named = process.env.PWD
  if (named === undefined || !isAbsolute(named)) return real
  const a = statSync(named, { bigint: true, throwIfNoEntry: false })
  const b = statSync(real, { bigint: true })
  return a !== undefined && a.ino === b.ino && a.dev === b.dev ? named : real
}

/** Names the signals that native/preloaded.c keeps blocked, as a number: bit n - 1 is signal n. Not for what a process starts. */
const HELD_VARIABLE = 'FD_BROKER_HELD_SIGNALS'

/** The environment of a program into which the addon is preloaded, with these signals blocked. Null: the loader cannot be told of this path. */
export function preloadedWith(
  addon: string,
  signals: number,
  before: string | undefined,
): NodeJS.ProcessEnv | null {
  if (/[\s:$]/.test(addon)) return null
  return {
    [HELD_VARIABLE]: `${signals}`,
    // An empty value is a value: the next image gives it back as it was.
    LD_PRELOAD: before === undefined ? addon : `${addon}:${before}`,
  }
}

/** Takes the additions of {@link preloadedWith} out of the environment of this process, and of the one that its successors start with. */
export function forgetPreload(): void {
  forgetPreloadIn(process.env)
  forgetPreloadIn(startedAs.env)
}

function forgetPreloadIn(env: NodeJS.ProcessEnv): void {
  const { [HELD_VARIABLE]: held, LD_PRELOAD: files } = env
  if (held === undefined) return
  delete env[HELD_VARIABLE]
  const end = files?.indexOf(':') ?? -1
  if (end < 0) delete env.LD_PRELOAD
  else env.LD_PRELOAD = files?.slice(end + 1)
}
