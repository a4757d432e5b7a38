import { lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectToDatagram, connectToUnix, type NativeError, type OwnedFd } from '../kernel/index.js'

const PREFIX = 'fd-broker-'
const NAME = /^fd-broker-[A-Za-z0-9]{6}$/
/** Younger folders are not removed: a process may be about to bind its socket there. */
const YOUNG_MS = 60_000

/**
 * Creates a folder for one socket. Also removes the folders of killed processes of this user. Connects to a folder's socket to find out whether
 * its process lives, because the pid of a process in another PID namespace is unknown.
 */
export function temporaryFolder(): string {
  const parent = process.env.RUNTIME_DIRECTORY?.split(':')[0] || tmpdir()
  removeLeft(parent)
  return mkdtempSync(join(parent, PREFIX))
}

function removeLeft(parent: string): void {
  try {
    for (const name of readdirSync(parent)) if (NAME.test(name)) removeIfLeft(join(parent, name))
  } catch {
    // The folder is unreadable: nothing is removed.
  }
}

function removeIfLeft(folder: string): void {
  try {
    const { mtimeMs, uid } = lstatSync(folder)
    if (uid !== process.geteuid?.() || Date.now() - mtimeMs < YOUNG_MS) return
    if (readdirSync(folder).every(name => isLeft(join(folder, name))))
      rmSync(folder, { recursive: true, force: true })
  } catch {
    // Another process has just removed the folder, or the folder is another user's.
  }
}

/** Whether the path is a socket on which no process listens. */
function isLeft(path: string): boolean {
  if (!lstatSync(path, { bigint: true }).isSocket()) return false
  const label = 'socket of a temporary folder'
  const datagram = errorCodeOf(() => connectToDatagram(path, false, label))
  return (
    (datagram === 'EPROTOTYPE' ? errorCodeOf(() => connectToUnix(path, label)) : datagram) === 'ECONNREFUSED'
  )
}

/** Returns the error code of connecting; null if a process listens. */
function errorCodeOf(connect: () => OwnedFd): string | null {
  try {
    connect().close()
    return null
  } catch (error) {
    return (error as NativeError).code
  }
}
