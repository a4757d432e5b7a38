import { constants } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { type Checks, checkOptions, oneOf, predicate } from '../../base/check-option.js'
import { LONGEST_MS } from '../../base/duration.js'
import { nodeCrypto, nodeFiles } from '../../base/lazy.js'
import { FdbError } from '../../errors.js'
import { type OwnedFd, openFile, readAt, statOf, syncFolder, tryLockNow } from '../../kernel/index.js'
import { MOST_HEADER_BYTES, parseHeader } from '../segment.js'

/** For a file without secrets, before the umask. */
const OPEN_MODE = 0o640
const SECRET_MODE = 0o600

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/** Opens the file for reading; null: there is none. Throws ERR_FDB_STATE_FILE unless it is a regular file of this user. */
export function openStateFile(path: string): OwnedFd | null {
  let fd: OwnedFd
  try {
    fd = openFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, `state file ${path}`)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    if (code === 'ELOOP') throw isLink(path)
    throw new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} cannot be read (${code})`, { cause })
  }
  try {
    checkKind(path, statOf(fd))
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** Throws ERR_FDB_STATE_FILE for a file of another service. */
export function checkService(path: string, fd: OwnedFd, service: string): void {
  checkNamed(path, serviceIn(fd), service)
}

export function serviceIn(fd: OwnedFd): string {
  const head = Buffer.alloc(MOST_HEADER_BYTES)
  return serviceOf(head.subarray(0, readAt(fd, head, 0, head.length, 0)))
}

export function isStateFile(fd: OwnedFd): boolean {
  const head = Buffer.alloc(MOST_HEADER_BYTES)
  try {
    parseHeader(head.subarray(0, readAt(fd, head, 0, head.length, 0)))
    return true
  } catch {
    return false
  }
}

function checkNamed(path: string, named: string, service: string): void {
  if (service === '' || named === '' || named === service) return
  throw new FdbError(
    'ERR_FDB_STATE_FILE',
    `the state file ${path} is of service "${named}", this is "${service}": one file is of one service alone. Give another path, ` +
      'or move the file away',
    { details: { path, service: named } },
  )
}

function serviceOf(head: Buffer): string {
  try {
    return parseHeader(head).service
  } catch {
    return ''
  }
}

/** The present file, or null. Throws ERR_FDB_STATE_FILE if it may not be replaced. */
export async function checkReplaceable(path: string, service: string): Promise<{ mode: number } | null> {
  const { lstat, open } = nodeFiles()
  const present = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (present === null) return null
  checkKind(path, present)
  // An unreadable file may be this service's.
  const handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => null)
  try {
    const head = Buffer.alloc(MOST_HEADER_BYTES)
    const { bytesRead = 0 } = (await handle?.read(head, 0, head.length, 0)) ?? {}
    checkNamed(path, serviceOf(head.subarray(0, bytesRead)), service)
  } finally {
    await handle?.close()
  }
  return present
}

interface FileStat {
  isFile(): boolean
  isSymbolicLink(): boolean
  uid: number
  mode: number
}

function checkKind(path: string, stat: FileStat): void {
  if (stat.isSymbolicLink()) throw isLink(path)
  const refuse = (why: string) => new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} ${why}`)
  if (!stat.isFile()) throw refuse('is no regular file: give another path')
  const own = process.geteuid?.() ?? stat.uid
  if (stat.uid !== own && stat.uid !== 0)
    throw refuse(
      `belongs to user ${stat.uid}, this process is of user ${own}: chown it, or give another path`,
    )
  if ((stat.mode & 0o002) !== 0)
    throw refuse('may be written by everybody: chmod o-w, if you trust what is in it')
}

function isLink(path: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_FILE',
    `the state file ${path} is a symbolic link, which is not followed: give the path of the file itself`,
  )
}

export interface StateFileKind {
  /** No other user may ever have opened it. */
  secret: boolean
  service: string
}

export interface NewFile {
  path: string
  handle: FileHandle
}

export const CREATE = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW

export function temporaryPath(path: string): string {
  return `${path}.new-${nodeCrypto().randomBytes(4).toString('hex')}`
}

/** The mode of a replacement, never wider than the present file's. The umask applies too. */
export function newMode(present: { mode: number } | null | undefined, secret: boolean): number {
  const most = secret ? SECRET_MODE : OPEN_MODE
  return (most & (present?.mode ?? most)) | SECRET_MODE
}

/** Creates an empty file beside the state file. Throws ERR_FDB_STATE_FILE if the state file may not be replaced. */
export async function createTemporary(path: string, { secret, service }: StateFileKind): Promise<NewFile> {
  const { open } = nodeFiles()
  const present = await checkReplaceable(path, service)
  const beside = temporaryPath(path)
  const handle = await open(beside, CREATE, newMode(present, secret))
  // Locked while it is open, see removeLeftovers().
  tryLockNow(handle)
  return { path: beside, handle }
}

/** Removes the files that killed processes have left beside the state file. */
export async function removeLeftovers(path: string): Promise<void> {
  const { open, unlink } = nodeFiles()
  for (const beside of await temporaryFiles(path)) {
    const handle = await open(beside, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => null)
    if (handle === null) continue
    try {
      if (tryLockNow(handle)) await unlink(beside).catch(() => {})
    } finally {
      await handle.close()
    }
  }
}

/** Removes all other files beside the state file, even of living processes, which then find nothing to rename. */
export async function removeOthers(path: string, own: string): Promise<void> {
  const { unlink } = nodeFiles()
  for (const beside of await temporaryFiles(path)) if (beside !== own) await unlink(beside).catch(() => {})
}

async function temporaryFiles(path: string): Promise<string[]> {
  const before = `${basename(path)}.new-`
  const names = await nodeFiles().readdir(dirname(path))
  const made = names.filter(
    name => name.startsWith(before) && /^[0-9a-f]{8}$/.test(name.slice(before.length)),
  )
  return made.map(name => join(dirname(path), name))
}

/** Replaces the state file atomically: after a power cut it is the old one or the new. */
export async function replaceStateFile(from: string, path: string, renamed: () => void): Promise<void> {
  const { open, rename } = nodeFiles()
  await rename(from, path)
  renamed()
  const folder = await open(dirname(path), O_RDONLY)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

export function syncFolderNow(path: string): void {
  syncFolder(dirname(path))
}

/** Gives a damaged file a second name, so that it outlives the replacement. Returns that name. */
export async function keepDamaged(path: string): Promise<string> {
  const { link, rename } = nodeFiles()
  const aside = `${path}.damaged-${new Date().toISOString().replace(/[:.]/g, '-')}`
  // Without hard links the file is moved.
  await link(path, aside).catch(() => rename(path, aside))
  return aside
}

/** Where the state is kept on a disk, and how. */
export interface StateFileOptions {
  /** Its folder must exist. It belongs to one service: another service's file is refused (ERR_FDB_STATE_FILE). */
  path: string
  /**
   * When what was written is brought to the disk (fdatasync): `always`, behind each write; every so many milliseconds when
   * there was one; `never`, when the system likes. Default 1000. At a compaction and at the end always.
   */
  sync?: 'always' | 'never' | number
  /**
   * A first process that finds the file damaged, or shorter than it was when it was synced: `refuse` (default), join() rejects and
   * the file stays as it is; `prefix`, it starts with what stands before the damage, and the file is kept as `PATH.damaged-TIME`.
   */
  damaged?: 'refuse' | 'prefix'
}

export interface StateFileSettings extends Required<StateFileOptions> {
  /** The service of the state: another service's file is neither read nor replaced. Empty: any. */
  service: string
}

const OPTIONS: Checks<StateFileOptions> = {
  path: predicate(
    'the path of a file',
    value => typeof value === 'string' && value !== '' && !value.includes('\0') && !value.endsWith('/'),
  ),
  sync: predicate(
    '"always", "never" or milliseconds from 1',
    value =>
      value === 'always' ||
      value === 'never' ||
      (Number.isInteger(value) && Number(value) >= 1 && Number(value) <= LONGEST_MS),
  ),
  damaged: oneOf('refuse', 'prefix'),
}

/** Throws ERR_FDB_OPTION. */
export function stateFileSettings(given: string | StateFileOptions, service = ''): StateFileSettings {
  const options: StateFileOptions = typeof given === 'string' ? { path: given } : given
  checkOptions('stateFile', options, OPTIONS, 'stateFile.')
  const { path, sync = 1000, damaged = 'refuse' } = options
  OPTIONS.path(path, 'stateFile.path')
  return { path: resolve(path), sync, damaged, service }
}
