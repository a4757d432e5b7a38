import { constants, renameSync, rmSync } from 'node:fs'
import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { type OwnedFd, openFile, readAt, statOf, writeAllAt } from '../kernel/index.js'

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/**
 * Reads a file that a process of this user keeps beside its socket; null: there is none. In a folder that others may write to (/tmp) another user may
 * have been there first. Throws ERR_FDB_SIDE_FILE for a link, for what is no file, and for what another user has made or may write.
 */
export function readSideFile(path: string): string | null {
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
export function writeSideFile(path: string, text: string, mode: number): void {
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
