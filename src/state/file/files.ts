import { constants } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { LONGEST_MS } from '../../base/duration.js'
import { nodeCrypto, nodeFiles } from '../../base/lazy.js'
import { checkOptions } from '../../checks/options.js'
import { optional, required, type ShapeOf, shortFor } from '../../checks/shape.js'
import { oneOf, or, predicate } from '../../checks/values.js'
import { FdbError } from '../../errors.js'
import {
  closeOnThrow,
  isRegularFile,
  lockIfPossible,
  type OwnedFd,
  openFile,
  readAt,
  statOf,
  syncFolder,
} from '../../kernel/index.js'
import { FRAME_HEADER, isHeader, MOST_HEADER_BYTES, parseHeader, readHeader } from '../segment.js'

/** Mode of a file without secrets, before the umask. */
const OPEN_MODE = 0o640
export const SECRET_MODE = 0o600

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY } = constants

/**
 * Opens the file for reading; returns null if it does not exist. Throws ERR_FDB_STATE_FILE unless it is a regular file of this user or of root. `write`:
 * also for writing if possible, because NFS locks only such files.
 */
export function openStateFile(path: string, { write = false } = {}): OwnedFd | null {
  let fd: OwnedFd
  try {
    fd = openFile(path, (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK, `state file ${path}`)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (write && code !== 'ENOENT' && code !== 'ELOOP') return openStateFile(path)
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    if (code === 'ELOOP') throw isLink(path)
    throw new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} cannot be read (${code})`, { cause })
  }
  return closeOnThrow([fd], () => {
    if (!isRegularFile(fd)) throw notRegular(path)
    checkKind(path, statOf(fd))
    return fd
  })
}

/** Throws ERR_FDB_STATE_FILE if a process of this service must not replace the file. `owns`: as for checkReplaceable(). */
export function checkContents(path: string, fd: OwnedFd, service: string, owns: boolean): void {
  const room = Buffer.alloc(MOST_HEADER_BYTES)
  checkHead(path, room.subarray(0, readAt(fd, room, 0, room.length, 0)), service, owns)
}

/** `head`: the first bytes of a file. An empty file may be replaced, also one whose header is damaged, or of a newer format. */
function checkHead(path: string, head: Buffer, service: string, owns: boolean): void {
  if (!owns && head.length > 0 && !isHeader(head, FRAME_HEADER))
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      `the file ${path} is not replaced, because fd-broker has not written it: give another path as the state file, or move the file away`,
      { details: { path } },
    )
  checkOwner(
    path,
    serviceOf(() => parseHeader(head)),
    service,
  )
}

/** Throws ERR_FDB_STATE_FILE if the file belongs to another service. */
export function checkService(path: string, fd: OwnedFd, service: string): void {
  checkOwner(path, serviceOfFile(fd), service)
}

/** Returns the service that owns the file, or '' if the header has none or is damaged. */
export function serviceOfFile(fd: OwnedFd): string {
  return serviceOf(() => readHeader(fd, 0))
}

export function isStateFile(fd: OwnedFd): boolean {
  try {
    readHeader(fd, 0)
    return true
  } catch {
    return false
  }
}

function serviceOf(header: () => { service: string }): string {
  try {
    return header().service
  } catch {
    return ''
  }
}

function checkOwner(path: string, owner: string, service: string): void {
  if (service === '' || owner === '' || owner === service) return
  throw new FdbError(
    'ERR_FDB_STATE_FILE',
    `the state file ${path} belongs to service "${owner}", not to "${service}": each service needs its own file. Give another path, ` +
      'or move the file away',
    { details: { path, service: owner } },
  )
}

/**
 * Returns the mode of the present file, or null if there is none. Throws ERR_FDB_STATE_FILE if this process must not replace it. `inUse`: the error to throw
 * if another process writes it; null if that may be the predecessor. `owns`: this process has had its file there, so that what another program has put in
 * its place may be replaced.
 */
export async function checkReplaceable(
  path: string,
  service: string,
  owns: boolean,
  inUse: ((inode: bigint) => FdbError) | null = null,
): Promise<{ mode: number } | null> {
  const { lstat, open } = nodeFiles()
  // Together, because each takes a turn of the event loop.
  const [found, opened] = await Promise.allSettled([
    lstat(path),
    open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK),
  ])
  if (opened.status === 'rejected' && ['EMFILE', 'ENFILE'].includes(opened.reason.code)) throw opened.reason
  // If the file may not be read, its service is unknown: it may be replaced.
  const handle = opened.status === 'fulfilled' ? opened.value : null
  try {
    if (found.status === 'rejected') {
      if (found.reason.code === 'ENOENT') return null
      throw found.reason
    }
    checkKind(path, found.value)
    const room = Buffer.alloc(MOST_HEADER_BYTES)
    const { bytesRead = 0 } = (await handle?.read(room, 0, room.length, 0)) ?? {}
    checkHead(path, room.subarray(0, bytesRead), service, owns)
    if (inUse !== null && handle !== null && lockIfPossible(handle) === false)
      throw inUse((await handle.stat({ bigint: true })).ino)
    return found.value
  } finally {
    closeSoon(handle)
  }
}

function closeSoon(handle: FileHandle | null): void {
  handle?.close().catch(() => {})
}

interface FileStat {
  isFile(): boolean
  isSymbolicLink(): boolean
  uid: number
  mode: number
}

function checkKind(path: string, stat: FileStat): void {
  if (stat.isSymbolicLink()) throw isLink(path)
  if (!stat.isFile()) throw notRegular(path)
  const refuse = (reason: string) => new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} ${reason}`)
  const own = process.geteuid?.() ?? stat.uid
  if (stat.uid !== own && stat.uid !== 0)
    throw refuse(
      `belongs to user ${stat.uid}, but this process runs as user ${own}: chown the file, or give another path`,
    )
  if ((stat.mode & 0o002) !== 0)
    throw refuse('is writable by every user: chmod o-w, if you trust its contents')
}

function notRegular(path: string): FdbError {
  return new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} is not a regular file: give another path`)
}

function isLink(path: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_FILE',
    `the state file ${path} is a symbolic link, which fd-broker does not follow: give the path of the file itself`,
  )
}

export interface StateFileKind {
  /** The file holds secrets: no other user may ever be able to open it. */
  secret: boolean
  service: string
}

export const CREATE = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW

export function temporaryPath(path: string): string {
  return `${path}.new-${nodeCrypto().randomBytes(4).toString('hex')}`
}

/** Returns the mode of a replacement, which never has more permissions than the present file. The umask applies too. */
export function newMode(present: { mode: number } | null | undefined, secret: boolean): number {
  const most = secret ? SECRET_MODE : OPEN_MODE
  return (most & (present?.mode ?? most)) | SECRET_MODE
}

/** An empty file beside the state file, and their folder. */
interface Temporary {
  path: string
  handle: FileHandle
  folder: FileHandle
}

/** Creates an empty file beside the state file. Throws ERR_FDB_STATE_FILE if this process must not replace the state file. */
export async function createTemporary(
  path: string,
  { secret, service }: StateFileKind,
  owns: boolean,
): Promise<Temporary> {
  const { open } = nodeFiles()
  const present = await checkReplaceable(path, service, owns)
  const beside = temporaryPath(path)
  // Together, because each takes a turn of the event loop.
  const [folder, file] = await Promise.allSettled([
    open(dirname(path), O_RDONLY),
    open(beside, CREATE, newMode(present, secret)),
  ])
  if (file.status === 'fulfilled' && folder.status === 'fulfilled') {
    // The lock marks the file as in use for removeLeftovers().
    lockIfPossible(file.value)
    return { path: beside, handle: file.value, folder: folder.value }
  }
  for (const opened of [folder, file]) if (opened.status === 'fulfilled') closeSoon(opened.value)
  if (file.status === 'rejected') throw file.reason
  await nodeFiles().unlink(beside)
  throw (folder as PromiseRejectedResult).reason
}

/** Whether the disk has room for a state file of so many bytes, and for some changes. */
export async function hasRoom(path: string, bytes: number): Promise<boolean> {
  const free = await nodeFiles()
    .statfs(dirname(path))
    .then(({ bavail, bsize }) => bavail * bsize)
    .catch(() => Number.POSITIVE_INFINITY)
  return free >= bytes + bytes / 16 + SPARE_ROOM
}

const SPARE_ROOM = 64 * 1024

/** Removes the temporary files that killed processes left beside the state file. */
export async function removeLeftovers(path: string): Promise<void> {
  const { open, unlink } = nodeFiles()
  for (const beside of await temporaryFiles(path)) {
    const handle = await open(beside, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => null)
    if (handle === null) continue
    try {
      if (lockIfPossible(handle)) await unlink(beside).catch(() => {})
    } finally {
      await handle.close()
    }
  }
}

/** Removes temporary files other than the own one, also those of living processes, so that these cannot rename theirs over the state file. */
export async function removeOthers(beside: readonly string[], own: string): Promise<void> {
  const { unlink } = nodeFiles()
  for (const other of beside) if (other !== own) await unlink(other).catch(() => {})
}

export async function temporaryFiles(path: string): Promise<string[]> {
  const names = await nodeFiles().readdir(dirname(path))
  return names.filter(name => isTemporary(name, path)).map(name => join(dirname(path), name))
}

/** Whether this is the name of a temporary file beside the state file. */
export function isTemporary(name: string, path: string): boolean {
  const prefix = `${basename(path)}.new-`
  return name.startsWith(prefix) && /^[0-9a-f]{8}$/.test(name.slice(prefix.length))
}

export function syncFolderNow(path: string): void {
  syncFolder(dirname(path))
}

/** Gives a damaged file a second name, so that its replacement does not delete it. Returns that name. */
export async function keepDamaged(path: string): Promise<string> {
  const { link, rename } = nodeFiles()
  const aside = `${path}.damaged-${new Date().toISOString().replace(/[:.]/g, '-')}`
  // Moves the file if the file system has no hard links.
  await link(path, aside).catch(() => rename(path, aside))
  return aside
}

/** How the state is kept on disk. */
export interface StateFileOptions {
  /** The directory must exist. A file that belongs to another service is refused (ERR_FDB_STATE_FILE). */
  path: string
  /**
   * When written changes are synced (fdatasync): `always`, after each write; a number, at this interval in milliseconds if there
   * were writes; `never`, whenever the kernel does so. Default 1000. A compaction and the end of the process always sync.
   */
  sync?: 'always' | 'never' | number | undefined
  /**
   * If the first process finds the file damaged, or shorter than at its last sync: with `refuse` (default) join() rejects and
   * the file is unchanged; with `prefix` the process starts with the records before the damage, and the file is kept as `PATH.damaged-TIME`.
   */
  damaged?: 'refuse' | 'prefix' | undefined
}

export interface StateFileSettings extends Required<StateFileOptions> {
  /** The service that owns the state: files of other services are neither read nor replaced. '' accepts any file. */
  service: string
}

const OPTIONS = {
  path: required(
    predicate<string>(
      'the path of a file',
      value => typeof value === 'string' && value !== '' && !value.includes('\0') && !value.endsWith('/'),
    ),
  ),
  sync: optional(
    or(
      predicate<number>(
        '"always", "never" or milliseconds from 1',
        value => Number.isInteger(value) && Number(value) >= 1 && Number(value) <= LONGEST_MS,
      ),
      'always',
      'never',
    ),
    1000,
  ),
  damaged: optional(oneOf('refuse', 'prefix'), 'refuse'),
} satisfies ShapeOf<StateFileOptions>
const SETTINGS = shortFor('path', OPTIONS)

/** Checks the options and adds the defaults. Throws ERR_FDB_OPTION. */
export function stateFileSettings(pathOrOptions: string | StateFileOptions, service = ''): StateFileSettings {
  const { path, sync, damaged } = checkOptions('stateFile', pathOrOptions, SETTINGS, 'stateFile')
  return { path: resolve(path), sync, damaged, service }
}
