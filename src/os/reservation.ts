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

/** Returns a path's place in its file system, as `8:1:/run/shop.sock`, which is the same in every mount namespace; null if unknown. */
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
    // A later mount at the same point hides the earlier one.
    if (mount !== null && isBelow(real, mount.point) && mount.point.length >= (best?.point.length ?? 0))
      best = mount
  }
  return best === null ? null : `${best.device}:${join(best.root, relative(best.point, real))}`
}

interface Mount {
  /** major:minor */
  readonly device: string
  /** The mounted folder of that file system. */
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

/** Number of processes that may find the path reserved before {@link dropQueries} is called. */
const BACKLOG = 128

/**
 * Reserves a control path for the serving process and its successor, which gets a duplicate: no second process starts to serve there, even
 * if a cleaner removed path, lock file and folder. The reservation is an abstract Unix socket, which has no file. It is visible in this
 * network namespace, and ends with its last descriptor.
 *
 * Returns null if reservations are impossible (no abstract sockets, no `/proc`), or if another user holds the name: another user must not
 * be able to block this service. Then the lock file alone decides.
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

/** Returns the process that holds the reservation; null if unknown. Takes up to 200 ms of processor time. */
export function holderOfReservation(path: string): number | null {
  const name = nameFor(path)
  return name === null ? null : (findOccupant(parseListenerSpec(`unix:@${name}`))?.pid ?? null)
}

/** Accepts and closes the connections of processes that found the path reserved: each occupies a place in the queue. */
export function dropQueries(reservation: OwnedFd): void {
  try {
    for (let asked = accept(reservation, 'asked'); asked !== null; asked = accept(reservation, 'asked'))
      asked.close()
  } catch {
    // This process has reached its limit of open files: a later call closes the remaining connections.
  }
}

/** Whether root or this user holds the name, by the kernel's credentials. */
function isHeldByTrustedUser(name: string): boolean {
  try {
    using asked = connectToAbstract(name, 'control reservation')
    const { uid } = peerCredentials(asked)
    return uid === 0 || uid === process.geteuid?.()
  } catch {
    // The holder has just ended, does not listen yet (then the lock decides), or its queue is full.
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
