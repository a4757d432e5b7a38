import { readFileSync, realpathSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { nodeCrypto } from '../base/lazy.js'
import {
  accept,
  bindSocket,
  connectToAbstract,
  type NativeError,
  type OwnedFd,
  peerCredentials,
} from '../kernel/index.js'
import { findOccupant, MAX_UNIX_NAME, parseListenerSpec } from '../listeners/index.js'

/** Returns device and path in the file system, such as `8:1:/run/shop.sock`, which all mount namespaces share; null if unknown. */
export function locationInFileSystem(path: string): string | null {
  let real: string
  let table: string
  try {
    real = join(realpathSync(dirname(path)), basename(path))
    table = readFileSync('/proc/self/mountinfo', 'utf8')
  } catch {
    return null
  }
  let best: Mount | null = null
  for (const line of table.split('\n')) {
    const mount = mountOf(line)
    // If there are two mounts at the same point, the later one hides the earlier one.
    if (mount !== null && isBelow(real, mount.point) && mount.point.length >= (best?.point.length ?? 0))
      best = mount
  }
  return best === null ? null : `${best.device}:${join(best.root, relative(best.point, real))}`
}

interface Mount {
  /** major:minor */
  readonly device: string
  /** The folder of the file system that is mounted. */
  readonly root: string
  readonly point: string
}

/** proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, … */
function mountOf(line: string): Mount | null {
  const [, , device, root, point] = line.split(' ', 5)
  if (device === undefined || root === undefined || point === undefined) return null
  return { device, root: unescaped(root), point: unescaped(point) }
}

/** Decodes the kernel's octal escapes of space, tab, newline and backslash. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
}

function isBelow(path: string, folder: string): boolean {
  return folder === '/' || path.startsWith(`${folder}/`)
}

/** Number of processes that can ask who holds the reservation between two calls of {@link dropQueries}. */
const BACKLOG = 128

/**
 * Reserves a control path for this process and its successors, which get duplicates. Even if a cleaner removes path, lock file and folder,
 * no other process can start to serve at the path. The reservation is an abstract Unix socket, which has no file. Only processes in this
 * network namespace see it; it ends when the last descriptor is closed.
 *
 * Returns 'taken' if another process has reserved the path. Returns null, so that only the lock file decides, if reservations are
 * impossible (no abstract sockets, no `/proc`), or if another user has the name: this user must not be able to block the service.
 */
export function reserve(path: string): OwnedFd | 'taken' | null {
  const name = nameFor(path)
  if (name === null) return null
  try {
    return bindSocket({ kind: 'unix', host: name, abstract: true, backlog: BACKLOG }, 'control reservation')
  } catch (error) {
    if ((error as NativeError).code !== 'EADDRINUSE') return null
    return isHeldByTrustedUser(name) ? 'taken' : null
  }
}

/** Returns the pid of the process that has reserved the path; null if unknown. Takes up to 200 ms of processor time. */
export function holderOfReservation(path: string): number | null {
  const name = nameFor(path)
  return name === null ? null : (findOccupant(parseListenerSpec(`unix:@${name}`))?.pid ?? null)
}

/** Empties the reservation's queue of the connections of processes that asked who holds it: a full queue would look like no holder. */
export function dropQueries(reservation: OwnedFd): void {
  try {
    for (let asked = accept(reservation, 'asked'); asked !== null; asked = accept(reservation, 'asked'))
      asked.close()
  } catch {
    // This process has reached its limit of open files: a later call closes the remaining connections.
  }
}

/** Whether the process that has this name runs as root or as this user, according to the kernel. */
function isHeldByTrustedUser(name: string): boolean {
  try {
    using asked = connectToAbstract(name, 'control reservation')
    const { uid } = peerCredentials(asked)
    return uid === 0 || uid === process.geteuid?.()
  } catch {
    // That process has just ended or does not listen yet, or its queue is full: the lock decides.
    return false
  }
}

function nameFor(path: string): string | null {
  if (process.platform !== 'linux') return null
  const place = locationInFileSystem(path)
  if (place === null) return null
  const name = `fd-broker:${place}`
  if (Buffer.byteLength(name) <= MAX_UNIX_NAME && /^[\w:/.@+~-]+$/.test(name)) return name
  return `fd-broker:${nodeCrypto().createHash('sha256').update(place).digest('hex')}`
}
