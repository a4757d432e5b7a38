import { accessSync, type BigIntStats, constants, readFileSync, statSync } from 'node:fs'
import { isAbsolute, resolve } from 'node:path'
import { FdbError } from '../errors.js'
import type { ProgramStart } from '../kernel/index.js'

export interface CommandLine {
  /** argv[0] as the shell passed it: `node`, not the path that PATH gave; a symbolic link, not its target. */
  argv0: string
  execArgv: readonly string[]
  /** The script as it was named; with `node -e` the first argument, if any. */
  script: string | undefined
  args: readonly string[]
  /** The working folder at the start. $PWD if it names this folder, so that a link in it, such as `current/`, is followed again later. */
  cwd: string
  env: Readonly<NodeJS.ProcessEnv>
}

export interface SuccessorOptions {
  /** The whole command line including argv[0]. Default: that of this process. */
  argv?: readonly string[] | undefined
  /** Default: the working folder in which this process was started. */
  cwd?: string | undefined
  /** Overrides variables of the environment with which this process was started; undefined removes a variable. */
  env?: NodeJS.ProcessEnv | undefined
}

/** Environment variable: `1` says that the process is a main process, see main-process.ts. Removed for its successors. */
export const MAIN_PROCESS = 'FD_BROKER_MAIN_PROCESS'

/** Environment variable: the addresses that this version deliberately gives up, see given-up.ts. Removed for its successors. */
export const WITHOUT = 'FD_BROKER_WITHOUT'

/** Global key under which the copies of this module share `startedAs`: `fd-broker/auto` and the library, which it loads later, are two bundles. */
const CAPTURED = Symbol.for('fd-broker.started-as')

/** Read when this module is first imported: later the program may call chdir(), or overwrite the command line by process.title. */
export const startedAs: CommandLine = ((globalThis as { [CAPTURED]?: CommandLine })[CAPTURED] ??= capture())

/** The command line of a process and the folder in which it was started, both as they were given. */
export interface OwnStart {
  readonly argv: readonly string[]
  readonly cwd: string
}

/** Returns how this process was started, whatever title and folder it has now. */
export function ownStart(): OwnStart {
  return { argv: ownArgv(), cwd: startedAs.cwd }
}

function ownArgv(): readonly string[] {
  const { argv0, execArgv, script, args } = startedAs
  return [argv0, ...execArgv, ...(script === undefined ? [] : [script]), ...args]
}

/**
 * Returns the command that starts the next version of this program: the same command line, looked up again as a shell does (absolute;
 * relative to the start folder; by PATH). The real path of the running program is not used, so that a replaced link or package leads to
 * the new version. Throws ERR_FDB_NO_BINARY, ERR_FDB_NO_CWD.
 */
export function successorCommand(options: SuccessorOptions = {}): ProgramStart {
  const argv = options.argv ?? ownArgv()
  const cwd = options.cwd ?? startedAs.cwd
  const found = folderAt(cwd)
  if (!found?.isDirectory()) {
    const why = found
      ? `${cwd} is no folder: give the folder to start in as cwd (fd-broker run --cwd)`
      : options.cwd === undefined
        ? `the start folder ${cwd} no longer exists: create it again, or start the next version manually in another folder (fd-broker run --cwd)`
        : `the folder ${cwd} to start in does not exist: create it, or give another cwd`
    throw new FdbError('ERR_FDB_NO_CWD', why, { details: { cwd } })
  }
  const env: NodeJS.ProcessEnv = { ...startedAs.env, PWD: cwd, [MAIN_PROCESS]: undefined, ...options.env }
  for (const name of Object.keys(env)) if (env[name] === undefined) delete env[name]
  const search = { cwd: startedAs.cwd, path: env.PATH, given: options.argv !== undefined }
  return { file: resolveBinary(argv[0] ?? '', search), argv, cwd, env }
}

/**
 * Returns the path of this process's script as it was named: links in it, and in the start folder (`cd current && node server.js`), are not resolved,
 * so that the next version has the same path. `script` is process.argv[1], which Node may have resolved.
 */
export function scriptPath(script: string): string {
  const { script: named, cwd } = startedAs
  const path = resolve(script)
  return named !== undefined && resolve(named) === path ? resolve(cwd, named) : path
}

/** Returns the path of a file or folder as the command line names it: a link in the path of the start folder is followed again at each use. */
export function namedPath(path: string): string {
  return resolve(startedAs.cwd, path)
}

/** Returns undefined if nothing is there. Throws ERR_FDB_NO_CWD if this process may not look. */
function folderAt(cwd: string): BigIntStats | undefined {
  try {
    return statSync(cwd, { bigint: true, throwIfNoEntry: false })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new FdbError(
      'ERR_FDB_NO_CWD',
      `the folder ${cwd} to start in cannot be entered (${code}): ${message}. Give another cwd`,
      { cause: error, details: { cwd } },
    )
  }
}

interface Search {
  readonly cwd: string
  readonly path: string | undefined
  /** Whether the caller gave the command. Otherwise the command is that of this process. */
  readonly given: boolean
}

function resolveBinary(name: string, { cwd, path, given }: Search): string {
  if (name.includes('/')) {
    // Not normalised: only the kernel resolves `..` after a symbolic link correctly.
    const file = isAbsolute(name) ? name : `${cwd}/${name}`
    const fault = faultOf(file)
    if (fault === null) return file
    throw noBinary(name, `${file} is missing or not executable (${fault})`, given)
  }
  const faults = new Set<string>()
  if (name !== '') {
    for (const folder of (path ?? '/usr/local/bin:/usr/bin:/bin').split(':')) {
      const base = folder === '' ? cwd : isAbsolute(folder) ? folder : `${cwd}/${folder}`
      const file = `${base}/${name}`
      const fault = faultOf(file)
      if (fault === null) return file
      faults.add(fault)
    }
  }
  faults.delete('ENOENT')
  const why = faults.size === 0 ? '' : ` (${[...faults].join(', ')})`
  throw noBinary(name, `no executable of that name is in a folder of PATH${why}`, given)
}

function noBinary(name: string, why: string, given: boolean): FdbError {
  const text = given
    ? `there is no program "${name}": ${why}. Correct its name, or give its absolute path`
    : `the program of this process, "${name}", cannot be found again: ${why}. Give the successor's argv with an absolute path`
  return new FdbError('ERR_FDB_NO_BINARY', text, { details: { name } })
}

/** Returns why a file cannot be executed; null if it can. */
function faultOf(file: string): string | null {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file, { bigint: true }).isFile() ? null : 'not a file'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}

function capture(): CommandLine {
  const given = kernelArgv()
  const start = { cwd: givenCwd(), env: { ...process.env } }
  // In a single executable application process.argv begins with the program's name twice.
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

/** Returns the command line from /proc; null without /proc, or if process.title has overwritten it. */
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
  const named = process.env.PWD
  let real: string
  try {
    real = process.cwd()
  } catch {
    // The folder was removed, as that of an old release. A link of its name may lead to a newer one.
    return named !== undefined && isAbsolute(named) ? named : '/'
  }
  if (named === undefined || !isAbsolute(named)) return real
  return isSameFolder(named, real) ? named : real
}

/** Returns false also if this process may not look there: a program that has changed its user may be in a folder of another one. */
function isSameFolder(one: string, other: string): boolean {
  try {
    const [a, b] = [statSync(one, { bigint: true }), statSync(other, { bigint: true })]
    return a.ino === b.ino && a.dev === b.dev
  } catch {
    return false
  }
}

/** Environment variable: mask of the signals that native/preloaded.c blocks; bit n - 1 stands for signal n. Removed for children. */
export const HELD_SIGNALS = 'FD_BROKER_HELD_SIGNALS'

/** Removes the variables of `holdingVariables()` from the environment of this process and of its successors. */
export function forgetPreload(): void {
  forgetPreloadIn(process.env)
  forgetPreloadIn(startedAs.env)
}

function forgetPreloadIn(env: NodeJS.ProcessEnv): void {
  const { [HELD_SIGNALS]: held, LD_PRELOAD: files } = env
  if (held === undefined) return
  delete env[HELD_SIGNALS]
  const end = files?.indexOf(':') ?? -1
  if (end < 0) delete env.LD_PRELOAD
  else env.LD_PRELOAD = files?.slice(end + 1)
}

const START_REMEDIES: Readonly<Record<string, string>> = {
  EACCES: 'make it executable (chmod +x), and its file system too (noexec)',
  EAGAIN: 'raise the process limit (ulimit -u, TasksMax=)',
  EMFILE: 'raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) and try again',
  ENOEXEC: 'it is empty, for another processor, or a script without a #! line',
}

/** Returns what to do if a program cannot be started with this errno name. */
export function startRemedy(code: string): string {
  return START_REMEDIES[code] ?? 'check that it is executable and that the process limit is not reached'
}
