import { lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectToDatagram, connectToUnix, type NativeError, type OwnedFd } from '../kernel/index.js'

const PREFIX = 'fd-broker-'
const NAME = /^fd-broker-[A-Za-z0-9]{6}$/
/** The socket of a younger folder may be about to be bound. */
const YOUNG_MS = 60_000

/**
 * Makes a folder for one socket, and removes those that processes of this user have left behind at a `kill -9`: folders in which no process
 * listens any more. A process in another PID namespace is seen too, by its socket.
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
    // The folder cannot be read: what is left stays.
  }
}

function removeIfLeft(folder: string): void {
  try {
    const { mtimeMs, uid } = lstatSync(folder)
    if (uid !== process.geteuid?.() || Date.now() - mtimeMs < YOUNG_MS) return
    if (readdirSync(folder).every(name => isLeft(join(folder, name))))
      rmSync(folder, { recursive: true, force: true })
  } catch {
    // The folder has gone meanwhile, or is another's.
  }
}

/** Returns true of a socket at which no process listens, and of nothing else. */
function isLeft(path: string): boolean {
  if (!lstatSync(path).isSocket()) return false
  const label = 'socket of a temporary folder'
  const datagram = refusal(() => connectToDatagram(path, false, label))
  return (datagram === 'EPROTOTYPE' ? refusal(() => connectToUnix(path, label)) : datagram) === 'ECONNREFUSED'
}

/** Null: a process listens. */
function refusal(connect: () => OwnedFd): string | null {
  try {
    connect().close()
    return null
  } catch (error) {
    return (error as NativeError).code
  }
}
