import { type ChildProcess, spawn } from 'node:child_process'
import {
  type BigIntStats,
  lstatSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import type { Socket } from 'node:net'
import { homedir } from 'node:os'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { pathForOthers } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { handleOf } from '../node/socket-handle.js'
import { realPathOf, replaceLink } from '../os/release-link.js'

/** Environment variable: the log of a program started by `fd-broker start` (`shop.log`), a link to the serving version's file. */
export const LOG_FILE = 'FD_BROKER_LOG_FILE'
/** Environment variable: the log file of this process. */
const OWN_PART = 'FD_BROKER_LOG_PART'
/** Environment variable: the size at which a log file is rotated. */
export const LOG_SIZE = 'FD_BROKER_LOG_SIZE'
/** Path of the command `fd-broker`, next to this bundle. */
export const COMMAND = pathForOthers(join(import.meta.dirname, 'cli.cjs'))
/** Number of links and of files that are kept. */
const KEPT = 10
/** Time limit for the log writer to create its file, and to write the last lines of a program that has ended. */
export const LOG_WRITER_MS = 1_000

type Env = Readonly<NodeJS.ProcessEnv>

/** A stream, if its descriptor is unknown. */
type LogPipe = number | NonNullable<ChildProcess['stdin']>

/** The log file of one version. A small process, the log writer, writes it, and ends when no process has its pipe open. */
export interface LogPart {
  readonly path: string
  readonly env: NodeJS.ProcessEnv
  readonly stdio: ['ignore', LogPipe, LogPipe]
  /** Closes this process's end of the pipe. Call it after the start of the version, or after that has failed. */
  close(): void
}

/** The log files of a process that `fd-broker start` has started. */
export interface OwnPart {
  /** See {@link LOG_FILE}. */
  readonly log: string
  /** The file of this process. */
  readonly part: string
}

/**
 * Returns the default log of a service: in `/var/log/fd-broker` for root, else in the user's state folder. Throws ERR_FDB_OPTION for a user without a home
 * folder.
 */
export function defaultLog(service: string, env: Env): string {
  const { XDG_STATE_HOME: state = '' } = env
  const isRoot = process.geteuid?.() === 0
  const folder = isRoot ? '/var/log' : isAbsolute(state) ? state : join(homeFolder(), '.local/state')
  return join(folder, 'fd-broker', `${service}.log`)
}

function homeFolder(): string {
  try {
    return homedir()
  } catch (cause) {
    // Without HOME, for a user that the system does not know, as in a container.
    const why = `user ${process.geteuid?.()} has no home folder, and so no default log file: give --log-file, or set HOME or XDG_STATE_HOME`
    throw new FdbError('ERR_FDB_OPTION', why, { cause, details: { option: 'log-file' } })
  }
}

/**
 * Creates the log file of a version that will be started, and returns its path. Throws ERR_FDB_OPTION if the file cannot be created, or if
 * `log` is neither free nor a link that {@link linkLog} has made.
 */
export function createPart(log: string): string {
  try {
    const found = lstatSync(log, { bigint: true, throwIfNoEntry: false })
    if (found !== undefined && !isOwnLink(log, log)) {
      const why = `there is ${kindOfFile(found)} at ${log}, and fd-broker start would replace it by a link to the log`
      throw logError(log, `${why}: give --log-file a path that does not exist`)
    }
    const path = newPart(log)
    writeFileSync(path, '', { flag: 'a', mode: 0o600 })
    return path
  } catch (error) {
    if (FdbError.is(error)) throw error
    const why = `process ${process.pid} (uid ${process.geteuid?.()}) cannot create the log ${log}`
    throw logError(
      log,
      `${why} (${(error as Error).message}): give --log-file a path in a folder in which its user can create files`,
    )
  }
}

/** Starts the log writer for a version that will be started. */
export function openPart(log: string, env: Env, path = newPart(log)): LogPart {
  const size = env[LOG_SIZE] ?? '10M'
  const writer = spawn(process.execPath, [COMMAND, 'write-log', '--file', path, '--size', size], {
    cwd: '/',
    detached: true,
    env: { ...env, NODE_OPTIONS: '' },
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  writer.on('error', () => {})
  writer.unref()
  const { stdin } = writer
  stdin.on('error', () => {})
  const pipe = handleOf(stdin as Socket)?.fd ?? stdin
  return {
    path,
    env: { [LOG_FILE]: log, [OWN_PART]: path, [LOG_SIZE]: size },
    stdio: ['ignore', pipe, pipe],
    close: () => stdin.destroy(),
  }
}

/** Returns the log files of this process; null if it was not started by `fd-broker start`. */
export function ownPart(env: Env): OwnPart | null {
  const { [LOG_FILE]: log, [OWN_PART]: part } = env
  return log && part ? { log, part } : null
}

/** Returns the log; the file of this process if the log leads to another one: another service of the same name may have made that link. */
export function linkedLog({ log, part }: OwnPart): string {
  return realPathOf(log) === realPathOf(part) ? log : part
}

/**
 * Links the log to the file of the generation that serves. If the generation serves for the first time (`isNew`), also removes old files, and
 * links of higher generations, which are left from an earlier run of the service. Replaces and removes no file of another origin. Never throws.
 */
export function linkLog({ log, part }: OwnPart, generation: number, isNew: boolean): void {
  try {
    for (const link of [generationLog(log, generation), log])
      if (lstatSync(link, { bigint: true, throwIfNoEntry: false }) === undefined || isOwnLink(link, log))
        replaceLink(link, basename(part))
    if (isNew) removeOld(log, generation)
  } catch {
    // Without links, the log is still in its file.
  }
}

/** Returns the file of the version that was started last, even if it never served; null if there is none. */
export function newestPart(log: string): string | null {
  try {
    const [newest] = partsIn(log)
    return newest === undefined ? null : join(dirname(log), newest)
  } catch {
    return null
  }
}

/**
 * Returns the file of the version that was started last, at or after `since` (milliseconds since 1970), and does not serve. Returns undefined
 * if no version that was started since then has a file: such a version has written nothing. Returns null if the link leads to no file.
 */
export function unservedPart(log: string, since: number): string | null | undefined {
  try {
    const serving = realpathSync(log)
    const newest = newestPart(log)
    const isSince = newest !== null && basename(newest) >= basename(partAt(log, since))
    return isSince && realpathSync(newest) !== serving ? newest : undefined
  } catch {
    // An administrator may have removed the link or its file, or this process cannot see them.
    return null
  }
}

/** Returns the names of the services that have a log in this folder, sorted; none if this process cannot read the folder. */
export function servicesWithLog(folder: string): string[] {
  try {
    const names = readdirSync(folder).flatMap(name => /^(.+)\.\d{17}\.log$/.exec(name)?.[1] ?? [])
    return [...new Set(names)].sort()
  } catch {
    return []
  }
}

/** Returns the link to a generation's file. */
export function generationLog(log: string, generation: number): string {
  return join(dirname(log), `${stem(log)}.generation-${generation}.log`)
}

function stem(log: string): string {
  return basename(log, '.log')
}

function newPart(log: string): string {
  return partAt(log, Date.now())
}

/** Returns the path of the file of a version that is started at this time. */
function partAt(log: string, ms: number): string {
  const stamp = new Date(ms).toISOString().replace(/\D/g, '').slice(0, 17)
  return join(dirname(log), `${stem(log)}.${stamp}.log`)
}

/** Returns true if the path is a link to the file of a version in the same folder. */
function isOwnLink(path: string, log: string): boolean {
  try {
    return isPart(readlinkSync(path), log)
  } catch {
    return false
  }
}

/** Returns true if this is the name of a version's file: `shop.20260131120000000.log`. */
function isPart(name: string, log: string): boolean {
  const before = `${stem(log)}.`
  return name.startsWith(before) && /^\d{17}\.log$/.test(name.slice(before.length))
}

function kindOfFile(found: BigIntStats): string {
  if (found.isFile()) return 'a file'
  if (found.isDirectory()) return 'a folder'
  if (found.isSymbolicLink()) return 'a symbolic link'
  return found.isCharacterDevice() || found.isBlockDevice() ? 'a device' : 'a pipe or socket'
}

function logError(log: string, message: string): FdbError {
  return new FdbError('ERR_FDB_OPTION', message, { details: { option: 'log-file', path: log } })
}

/** Returns the names of the files of versions, newest first. */
function partsIn(log: string): string[] {
  return readdirSync(dirname(log))
    .filter(name => isPart(name, log))
    .sort()
    .reverse()
}

/** Removes links of generations after this one, and all but the last {@link KEPT} links and files, including rotated ones. */
function removeOld(log: string, generation: number): void {
  const folder = dirname(log)
  const before = `${stem(log)}.generation-`
  const names = readdirSync(folder)
  const links = names
    .filter(name => name.startsWith(before) && isOwnLink(join(folder, name), log))
    .map(name => ({ name, at: lstatSync(join(folder, name)).mtimeMs }))
    .toSorted((a, b) => b.at - a.at)
  const own = links.filter(({ name }) => Number.parseInt(name.slice(before.length), 10) <= generation)
  const kept = own.slice(0, KEPT)
  for (const { name } of links)
    if (!kept.some(other => other.name === name)) rmSync(join(folder, name), { force: true })
  const parts = partsIn(log)
  const used = new Set([...parts.slice(0, KEPT), ...kept.map(({ name }) => readlinkSync(join(folder, name)))])
  for (const part of parts.filter(part => !used.has(part)))
    for (const name of names) if (name.startsWith(part)) rmSync(join(folder, name), { force: true })
}
