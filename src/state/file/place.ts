import { randomBytes } from 'node:crypto'
import { constants, fstatSync, openSync } from 'node:fs'
import { type FileHandle, link, lstat, open, readdir, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { FdbError } from '../../errors.js'
import { OwnedFd } from '../../fd/owned.js'
import { native } from '../../native.js'

/** A file that holds no secrets, less what the umask takes away. */
const OPEN_MODE = 0o640
const SECRET_MODE = 0o600

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/** For reading; null: there is none. Throws ERR_FDB_STATE_FILE for a link, another user's file, or no file at all. */
export function openStateFile(path: string): OwnedFd | null {
  let raw: number
  try {
    raw = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    if (code === 'ELOOP') throw isLink(path)
    throw new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} cannot be read (${code})`, { cause })
  }
  native.adopt(raw)
  const fd = OwnedFd.own(raw, `state file ${path}`)
  try {
    checkKind(path, fstatSync(raw))
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

interface Facts {
  isFile(): boolean
  isSymbolicLink(): boolean
  uid: number
  mode: number
}

function checkKind(path: string, stat: Facts): void {
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

export interface NewFile {
  path: string
  handle: FileHandle
}

/** A new, empty file beside the state file, with permissions no wider than those that that one has. */
export async function createBeside(path: string, secret: boolean): Promise<NewFile> {
  const present = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (present) checkKind(path, present)
  const beside = `${path}.new-${randomBytes(4).toString('hex')}`
  const handle = await open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, OPEN_MODE)
  try {
    // As long as it is open: see removeLeftovers().
    native.tryLock(handle.fd)
    const { mode } = await handle.stat()
    const most = secret ? SECRET_MODE : OPEN_MODE
    const wanted = mode & most & (present?.mode ?? most) & 0o777
    if (wanted !== (mode & 0o777)) await handle.chmod(wanted | SECRET_MODE)
    return { path: beside, handle }
  } catch (error) {
    await handle.close()
    await unlink(beside).catch(() => {})
    throw error
  }
}

/** Nobody but its owner may read it from now on. */
export async function makeSecret(handle: FileHandle): Promise<void> {
  await handle.chmod(SECRET_MODE)
}

/** Removes what processes that were killed have left beside the state file. */
export async function removeLeftovers(path: string): Promise<void> {
  for (const beside of await besides(path)) {
    const handle = await open(beside, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => null)
    if (handle === null) continue
    try {
      if (native.tryLock(handle.fd)) await unlink(beside).catch(() => {})
    } finally {
      await handle.close()
    }
  }
}

/** Removes all but one of the files beside the state file, also of processes that live: they find nothing to rename. */
export async function removeOthers(path: string, own: string): Promise<void> {
  for (const beside of await besides(path)) if (beside !== own) await unlink(beside).catch(() => {})
}

async function besides(path: string): Promise<string[]> {
  const before = `${basename(path)}.new-`
  const names = await readdir(dirname(path))
  const made = names.filter(
    name => name.startsWith(before) && /^[0-9a-f]{8}$/.test(name.slice(before.length)),
  )
  return made.map(name => join(dirname(path), name))
}

/** Puts a file in the place of the state file, for good: also after a power cut it is the one or the other. */
export async function replaceStateFile(from: string, path: string): Promise<void> {
  await rename(from, path)
  const folder = await open(dirname(path), O_RDONLY)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** A second name for a damaged file, so that it is there when the state file is replaced. Returns it. */
export async function keepAside(path: string): Promise<string> {
  const aside = `${path}.damaged-${new Date().toISOString().replace(/[:.]/g, '-')}`
  // Where there are no hard links it must move.
  await link(path, aside).catch(() => rename(path, aside))
  return aside
}
