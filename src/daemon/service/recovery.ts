import { constants, existsSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { afterReading, type Limit } from '../../base/after-reading.js'
import { nodeCrypto } from '../../base/lazy.js'
import { FdbError } from '../../errors.js'
import { isRegularFile, type OwnedFd, openFile, readAt, statOf, writeAllAt } from '../../kernel/index.js'
import { type DeathWatch, openPidfd } from '../../os/liveness.js'
import {
  isAlive,
  isSame,
  type ProcessIdentity,
  watchIdentity,
  watchProcess,
} from '../../os/process-identity.js'

/** Limit of the wait for rights-holders in another PID namespace, whose death this process cannot detect. */
const UNSEEN_MS = 5_000

/**
 * The rights-holders for which a restarted daemon waits until they reconnect, die or give up their rights. The daemon waits for a
 * process as long as it lives; for a process in another PID namespace, 5 s.
 */
export class Recovery {
  #members: RightsHolder[] = []
  readonly #unseen = new Set<RightsHolder>()
  readonly #watches: DeathWatch[] = []
  readonly #onChange: () => void
  readonly #limit: Limit

  /** `onChange` is called after each death and after the wait for invisible processes, but never from the constructor. */
  constructor(members: readonly RightsHolder[], onChange: () => void) {
    this.#onChange = onChange
    for (const member of members) if (isAlive(member)) this.#add(member)
    // A member may have reconnected while this process was stopped.
    this.#limit = afterReading(UNSEEN_MS, () => this.#giveUpUnseen())
  }

  get members(): RightsHolder[] {
    return [...this.#members]
  }

  /** Returns the awaited members and those in `present`, without duplicates; the data in `present` is newer. */
  mergeMembers(present: readonly (ProcessIdentity | undefined)[]): RightsHolder[] {
    const all = this.members
    for (const identity of present) {
      if (identity === undefined) continue
      const known = all.findIndex(member => isSame(member, identity))
      all.splice(known < 0 ? all.length : known, 1, identity)
    }
    return all
  }

  /** Returns the awaited members that are not in `present`. */
  missing(present: readonly (ProcessIdentity | undefined)[]): ProcessIdentity[] {
    return this.#members.filter(member => !present.some(one => one !== undefined && isSame(one, member)))
  }

  /** Stops waiting for a member that is dead or has given up its rights. Returns whether it was awaited. */
  stopAwaiting(member: RightsHolder): boolean {
    const wasAwaited = this.#remove(other => isSame(member, other))
    if (wasAwaited) this.#onChange()
    return wasAwaited
  }

  /** Idempotent. */
  close(): void {
    this.#limit.clear()
    for (const watch of this.#watches.splice(0)) watch.close()
    this.#members = []
  }

  #remove(which: (member: RightsHolder) => boolean): boolean {
    const remaining = this.#members.filter(member => !which(member))
    const any = remaining.length < this.#members.length
    this.#members = remaining
    return any
  }

  #add(member: RightsHolder): void {
    const { pid, startTime } = member
    const pidfd = startTime === undefined ? null : openPidfd(pid)
    if (pidfd === 'dead') return
    const died = () => this.stopAwaiting(member)
    // Checks again: the pid may have been reused before the pidfd was opened.
    if (isAlive(member)) {
      this.#members.push(member)
      const watch = watchOf(member, pidfd, died)
      watch?.unref()
      if (watch === null) this.#unseen.add(member)
      else this.#watches.push(watch)
    }
    pidfd?.close()
  }

  #giveUpUnseen(): void {
    if (this.#remove(member => this.#unseen.has(member))) this.#onChange()
  }
}

/** Returns null if this process cannot detect the member's death. */
function watchOf(member: RightsHolder, pidfd: OwnedFd | null, died: () => void): DeathWatch | null {
  try {
    return watchProcess(pidfd, member, died)
  } catch {
    // This process has no free descriptor.
    return watchIdentity(member, died)
  }
}

export function recoveringError(missing: readonly ProcessIdentity[]): FdbError {
  const names = missing
    .map(({ pid }) => (pid > 0 ? `process ${pid}` : 'members that it does not know'))
    .join(', ')
  const reason = `the daemon was restarted and waits for ${names} to reconnect or end: try again`
  return new FdbError('ERR_FDB_BUSY', reason, { retryable: true })
}

/** A process that has got the service's descriptors: it may have the right to write. */
type RightsHolder = ProcessIdentity

/** Stands for the members of a service of which the list says nothing. As processes in another PID namespace, they have 5 s to reconnect. */
export const UNKNOWN_MEMBER: RightsHolder = { pid: 0 }

/** The facts about a service that a restarted daemon needs, above all the processes for which it must wait. */
export interface ServiceRecord {
  readonly service: string
  readonly generation: number
  readonly startedAt: number
  /** The uid of the process that started the service, if a daemon has seen it. */
  readonly startedBy?: number
  readonly members: readonly RightsHolder[]
  /** Previous members that drain: they have no rights, but clients. */
  readonly draining?: readonly ProcessIdentity[]
  /** The member that was told to stop, and serves until no previous member drains. */
  readonly stopped?: ProcessIdentity | undefined
  /** The members' state file; '' or absent if there is none. */
  readonly stateFile?: string
  /** When a member last died, in milliseconds since 1970. */
  readonly diedAt?: number
  /** Whether a user other than the daemon's has or had members of the service. */
  readonly foreign?: boolean
}

/**
 * The list of rights-holders in a file beside a daemon's control socket. While the daemon is down, only the members have sockets and state. The file
 * lets the next daemon wait until each of them is back or dead, before it grants the right to write. The file is written atomically after changes;
 * the JSON of each service is cached, because there may be many services.
 */
export class RightsHolders {
  readonly #path: string
  readonly #onUnreadable: (error: unknown) => void
  /** The JSON of each service, by name. */
  readonly #lines = new Map<string, string>()
  /** Whether the file differs from {@link #lines}. */
  #stale = true

  /** `onUnreadable` is called if the file belongs to another user or cannot be read. */
  constructor(control: string, onUnreadable: (error: unknown) => void = () => {}) {
    this.#path = `${control}.members`
    this.#onUnreadable = onUnreadable
  }

  /** Returns the services of an earlier daemon with their living members. A file that is unreadable or not trustworthy is reported and treated as empty. */
  read(): ServiceRecord[] {
    let services: unknown
    try {
      services = JSON.parse(readSideFile(this.#path) ?? '[]')
    } catch (error) {
      this.#onUnreadable(error)
      return []
    }
    if (!Array.isArray(services)) return []
    return services.filter(isService).map(service => ({
      ...service,
      members: service.members.filter(isAlive),
      draining: service.draining?.filter(isAlive) ?? [],
    }))
  }

  /** Removes the files of earlier daemons that were killed while they wrote the list. No other daemon may be writing it. */
  removeLeftovers(): void {
    const folder = dirname(this.#path)
    for (const name of namesIn(folder)) {
      if (!isAside(name, this.#path)) continue
      try {
        rmSync(join(folder, name))
      } catch {
        // In a folder for all users it may be another user's.
      }
    }
  }

  /** Adds or replaces a service; takes effect with {@link write}. */
  remember(record: ServiceRecord): void {
    const line = JSON.stringify(record)
    if (this.#lines.get(record.service) === line) return
    this.#lines.set(record.service, line)
    this.#stale = true
  }

  /** Removes a service; takes effect with {@link write}. */
  forget(service: string): void {
    if (this.#lines.delete(service)) this.#stale = true
  }

  /** Replaces all services; takes effect with {@link write}. */
  replace(services: readonly ServiceRecord[]): void {
    this.#lines.clear()
    this.#stale = true
    for (const record of services) this.remember(record)
  }

  /** Notices that the file was removed, which {@link write} does not see. */
  look(): void {
    if (!existsSync(this.#path)) this.#stale = true
  }

  /** Writes the file if it differs from the list. Throws ERR_FDB_SIDE_FILE; the next call tries again. */
  write(): void {
    if (!this.#stale) return
    try {
      writeSideFile(this.#path, `[\n${[...this.#lines.values()].join(',\n')}\n]\n`)
    } catch (cause) {
      throw unwrittenError(this.#path, cause)
    }
    this.#stale = false
  }
}

function isService(value: unknown): value is ServiceRecord {
  const { service, generation, startedAt, startedBy, members, draining, stopped, stateFile, diedAt } =
    (value ?? {}) as Partial<ServiceRecord>
  return (
    (startedBy === undefined || Number.isSafeInteger(startedBy)) &&
    (stateFile === undefined || typeof stateFile === 'string') &&
    (diedAt === undefined || Number.isFinite(diedAt)) &&
    typeof service === 'string' &&
    Number.isSafeInteger(generation) &&
    Number.isFinite(startedAt) &&
    areIdentities(members) &&
    (stopped === undefined || areIdentities([stopped])) &&
    (draining === undefined || areIdentities(draining))
  )
}

function areIdentities(value: unknown): boolean {
  return (
    Array.isArray(value) &&
    value.every(
      (process: Partial<ProcessIdentity> | null) =>
        Number.isSafeInteger(process?.pid) &&
        process!.pid! >= 0 &&
        (process!.startTime === undefined || typeof process!.startTime === 'string') &&
        (process!.instance === undefined || typeof process!.instance === 'string'),
    )
  )
}

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/**
 * Reads a file beside the control socket; returns null if it does not exist. In a directory that other users can write to (/tmp) another user may
 * have created it. Throws ERR_FDB_SIDE_FILE for a link, for anything but a regular file, and for a file that another user owns or can write.
 */
function readSideFile(path: string): string | null {
  let fd: OwnedFd
  try {
    fd = openFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, `side file ${path}`)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return null
    throw sideFileError(path, code === 'ELOOP' ? 'is a symbolic link' : `cannot be read (${code})`, cause)
  }
  using file = fd
  if (!isRegularFile(file)) throw sideFileError(path, 'is not a regular file')
  const stat = statOf(file)
  const own = process.geteuid?.() ?? stat.uid
  if (stat.uid !== own && stat.uid !== 0)
    throw sideFileError(path, `belongs to uid ${stat.uid}, but this process runs as uid ${own}`)
  if ((stat.mode & 0o022) !== 0)
    throw sideFileError(path, `is writable by other users (mode 0${(stat.mode & 0o777).toString(8)})`)
  const bytes = Buffer.alloc(stat.size)
  return bytes.toString('utf8', 0, readAt(file, bytes, 0, bytes.length, 0))
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    // This process may not read the folder, or lacks descriptors: nothing is removed.
    return []
  }
}

/** Whether this is the name of a new file that {@link writeSideFile} has not renamed to `path`. */
function isAside(name: string, path: string): boolean {
  const prefix = `${basename(path)}~`
  return name.startsWith(prefix) && /^[0-9a-f]{16}$/.test(name.slice(prefix.length))
}

/**
 * Writes such a file atomically: readers see either the old or the new contents. Creates the new file under a random name, so that no other user can
 * place a link there. Throws the kernel's errors, and leaves no temporary file.
 */
function writeSideFile(path: string, text: string): void {
  const aside = `${path}~${nodeCrypto().randomBytes(8).toString('hex')}`
  try {
    {
      using file = openFile(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, `side file ${aside}`, 0o600)
      writeAllAt(file, Buffer.from(text), 0)
    }
    renameSync(aside, path)
  } catch (error) {
    rmSync(aside, { force: true })
    throw error
  }
}

function sideFileError(path: string, reason: string, cause?: unknown): FdbError {
  return new FdbError(
    'ERR_FDB_SIDE_FILE',
    `${path} ${reason}: the daemon does not read it. Remove it, or use a directory of your own (mode 0700)`,
    { cause, details: { path } },
  )
}

function unwrittenError(path: string, cause: unknown): FdbError {
  const { code, message } = cause as NodeJS.ErrnoException
  return new FdbError(
    'ERR_FDB_SIDE_FILE',
    `${path} cannot be written (${code ?? message}), and the next daemon must read there for which members it waits: make room in its folder, or remove what is there, and try again`,
    { cause, retryable: true, details: { path } },
  )
}
