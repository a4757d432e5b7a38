import { constants, renameSync, rmSync } from 'node:fs'
import { nodeCrypto } from '../../base/lazy.js'
import { FdbError } from '../../errors.js'
import { type OwnedFd, openFile, readAt, statOf, writeAllAt } from '../../kernel/index.js'
import { type DeathWatch, openPidfd, watchDeath } from '../../os/liveness.js'
import { isAlive, isSame, type ProcessIdentity, watchIdentity } from '../../os/process-identity.js'

/** How long is waited for rights-holders whose death cannot be seen from here (another PID namespace). */
const UNSEEN_MS = 5_000

/**
 * The lease holders that a restarted daemon waits for: those that are neither back, nor proved dead, nor known to have given up. It waits
 * for a stopped one as long as that lives; for one that cannot be seen, a few seconds.
 */
export class Recovery {
  #members: RightsHolder[] = []
  readonly #unseen = new Set<RightsHolder>()
  readonly #watches: DeathWatch[] = []
  readonly #changed: () => void
  readonly #timer: NodeJS.Timeout

  /** `changed` is told of deaths and of the end of the wait for the unseen, never before this has returned. */
  constructor(members: readonly RightsHolder[], changed: () => void) {
    this.#changed = changed
    for (const member of members) if (isAlive(member)) this.#add(member)
    this.#timer = setTimeout(() => this.#giveUpUnseen(), UNSEEN_MS)
  }

  get members(): RightsHolder[] {
    return [...this.#members]
  }

  /** The members that are awaited and these, each once, as it is known now. */
  mergeMembers(present: readonly (ProcessIdentity | undefined)[]): RightsHolder[] {
    const all = this.members
    for (const one of present) {
      if (one === undefined) continue
      const known = all.findIndex(member => isSame(member, one))
      all.splice(known < 0 ? all.length : known, 1, one)
    }
    return all
  }

  /** The pids of the members that are not among these. */
  missing(present: readonly (ProcessIdentity | undefined)[]): number[] {
    return this.#members
      .filter(member => !present.some(one => one !== undefined && isSame(one, member)))
      .map(({ pid }) => pid)
  }

  /** It has no right any more: it is dead, or has given up. */
  stopAwaiting(member: RightsHolder): void {
    if (this.#remove(other => isSame(member, other))) this.#changed()
  }

  /** Idempotent. */
  close(): void {
    clearTimeout(this.#timer)
    for (const watch of this.#watches.splice(0)) watch.close()
    this.#members = []
  }

  #remove(which: (member: RightsHolder) => boolean): boolean {
    const left = this.#members.filter(member => !which(member))
    const any = left.length < this.#members.length
    this.#members = left
    return any
  }

  #add(member: RightsHolder): void {
    const { pid, startTime } = member
    const pidfd = startTime === undefined ? null : openPidfd(pid)
    if (pidfd === 'dead') return
    const died = () => this.stopAwaiting(member)
    // The process is looked at again: the number may have become another process's before the descriptor was its.
    if (isAlive(member)) {
      this.#members.push(member)
      const watch = watchOf(member, pidfd, died)
      if (watch === null) this.#unseen.add(member)
      else this.#watch(watch)
    }
    pidfd?.close()
  }

  #watch(watch: DeathWatch): void {
    watch.unref()
    this.#watches.push(watch)
  }

  #giveUpUnseen(): void {
    if (this.#remove(member => this.#unseen.has(member))) this.#changed()
  }
}

/** Null: its death cannot be seen. */
function watchOf(member: RightsHolder, pidfd: OwnedFd | null, died: () => void): DeathWatch | null {
  if (pidfd === null) return watchIdentity(member, died)
  try {
    return watchDeath(pidfd, died)
  } catch {
    // No descriptor left.
    return watchIdentity(member, died)
  }
}

/** The error for joining before all are there. */
export function stillAwaited(pids: readonly number[]): FdbError {
  const missing = pids.map(pid => `process ${pid}`).join(', ')
  const why = `the daemon was restarted and waits for ${missing}: try again`
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}

/** A process that was given descriptors. */
type RightsHolder = ProcessIdentity

/** The facts of a service that a restarted daemon needs: for which processes to wait. */
export interface RememberedService {
  readonly service: string
  readonly generation: number
  readonly startedAt: number
  readonly members: readonly RightsHolder[]
  /** The file that its members keep the state in; empty, or absent: none. */
  readonly stateFile?: string
  /** When one was lost last, milliseconds since 1970. */
  readonly diedAt?: number
  /** Another user than the daemon's has, or had, members of it. */
  readonly foreign?: boolean
}

/**
 * The list of lease holders beside a daemon's control socket. Sockets and state are in the members' hands while the daemon is away; this
 * file names the members, so that the next daemon names no writer before each is back or proved dead. Written atomically on change, and of
 * each service only the changes: there may be many.
 */
export class RightsHolders {
  readonly #path: string
  readonly #onUnreadable: (error: unknown) => void
  /** By service, as it is written. */
  readonly #lines = new Map<string, string>()
  /** The file says something else. */
  #stale = true

  /** `refused`: the file is not this user's, or cannot be read. */
  constructor(control: string, refused: (error: unknown) => void = () => {}) {
    this.#path = `${control}.members`
    this.#onUnreadable = refused
  }

  /** The services of an earlier daemon with their living members. A file that cannot be read or trusted counts as none, and is told. */
  read(): RememberedService[] {
    let services: unknown
    try {
      services = JSON.parse(readSideFile(this.#path) ?? '[]')
    } catch (error) {
      this.#onUnreadable(error)
      return []
    }
    if (!Array.isArray(services)) return []
    return services
      .filter(isService)
      .map(service => ({ ...service, members: service.members.filter(isAlive) }))
  }

  /** Counts when it is written. */
  remember(remembered: RememberedService): void {
    const line = JSON.stringify(remembered)
    if (this.#lines.get(remembered.service) === line) return
    this.#lines.set(remembered.service, line)
    this.#stale = true
  }

  /** The service is no more. Counts when it is written. */
  forget(service: string): void {
    if (this.#lines.delete(service)) this.#stale = true
  }

  /** These, and no others. Counts when it is written. */
  replace(services: readonly RememberedService[]): void {
    this.#lines.clear()
    this.#stale = true
    for (const remembered of services) this.remember(remembered)
  }

  /** Throws when it cannot be written: it is tried with the next change. */
  write(): void {
    if (!this.#stale) return
    writeSideFile(this.#path, `[\n${[...this.#lines.values()].join(',\n')}\n]\n`, 0o600)
    this.#stale = false
  }
}

function isService(value: unknown): value is RememberedService {
  const { service, generation, startedAt, members, stateFile, diedAt } = (value ??
    {}) as Partial<RememberedService>
  return (
    (stateFile === undefined || typeof stateFile === 'string') &&
    (diedAt === undefined || Number.isFinite(diedAt)) &&
    typeof service === 'string' &&
    Number.isSafeInteger(generation) &&
    Number.isFinite(startedAt) &&
    Array.isArray(members) &&
    members.every(
      member =>
        Number.isSafeInteger(member?.pid) &&
        member.pid >= 0 &&
        (member.startTime === undefined || typeof member.startTime === 'string') &&
        (member.instance === undefined || typeof member.instance === 'string'),
    )
  )
}

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/**
 * Reads a file that a process of this user keeps beside its socket; null: there is none. In a folder that others may write to (/tmp) another user may
 * have been there first. Throws ERR_FDB_SIDE_FILE for a link, for what is no file, and for what another user has made or may write.
 */
function readSideFile(path: string): string | null {
  let fd: OwnedFd
  try {
    fd = openFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, `side file ${path}`)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return null
    throw refused(path, code === 'ELOOP' ? 'is a symbolic link' : `cannot be read (${code})`, cause)
  }
  using file = fd
  const stat = statOf(file)
  const own = process.geteuid?.() ?? stat.uid
  if (!stat.isFile()) throw refused(path, 'is no regular file')
  if (stat.uid !== own && stat.uid !== 0)
    throw refused(path, `belongs to uid ${stat.uid}, and this process is of uid ${own}`)
  if ((stat.mode & 0o022) !== 0)
    throw refused(path, `may be written by others (mode 0${(stat.mode & 0o777).toString(8)})`)
  const bytes = Buffer.alloc(stat.size)
  return bytes.toString('utf8', 0, readAt(file, bytes, 0, bytes.length, 0))
}

/**
 * Writes such a file at one stroke: its readers find the one before or this one. The new file is made under a name that no other user can know, never through a
 * link. Throws what the kernel throws, and leaves nothing.
 */
function writeSideFile(path: string, text: string, mode: number): void {
  const aside = `${path}~${nodeCrypto().randomBytes(8).toString('hex')}`
  try {
    {
      using file = openFile(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, `side file ${aside}`, mode)
      writeAllAt(file, Buffer.from(text), 0)
    }
    renameSync(aside, path)
  } catch (error) {
    rmSync(aside, { force: true })
    throw error
  }
}

function refused(path: string, why: string, cause?: unknown): FdbError {
  return new FdbError(
    'ERR_FDB_SIDE_FILE',
    `${path} ${why}: it is not read. Remove it, or use a folder of your own (mode 0700)`,
    { cause, details: { path } },
  )
}
