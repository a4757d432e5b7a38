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

/** Where a path lies in its file system, as `8:1:/run/shop.sock`: the same in every mount namespace. Null: it cannot be told. */
export function placeInFileSystem(path: string): string | null {
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
    // A later mount at the same point hides the one before.
    if (mount !== null && isBelow(real, mount.point) && mount.point.length >= (best?.point.length ?? 0))
      best = mount
  }
  return best === null ? null : `${best.device}:${join(best.root, relative(best.point, real))}`
}

interface Mount {
  /** major:minor */
  readonly device: string
  /** The folder of that file system which is mounted. */
  readonly root: string
  readonly point: string
}

/** proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, … */
function mountOf(line: string): Mount | null {
  const [, , device, root, point] = line.split(' ', 5)
  if (device === undefined || root === undefined || point === undefined) return null
  return { device, root: unescaped(root), point: unescaped(point) }
}

/** The kernel writes space, tab, newline and backslash as three octal digits. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
}

function isBelow(path: string, folder: string): boolean {
  return folder === '/' || path.startsWith(`${folder}/`)
}

/** As many processes may find the path reserved before {@link forgetAsked} is called. */
const BACKLOG = 128

/**
 * Reserves a control path for the process that serves under it, and for its successor, which gets a duplicate: no second process starts to serve
 * there, even if a cleaner has removed path, lock file and folder. The reservation is an abstract Unix socket, which has no file. It holds
 * for all processes of this network namespace, and ends with the last descriptor.
 *
 * Null: there is no such reservation (no abstract sockets, no `/proc`), or another user has taken the name, which must not keep
 * this service from starting. Then the lock file alone decides.
 */
export function reserve(path: string): OwnedFd | 'taken' | null {
  const name = nameFor(path)
  if (name === null) return null
  try {
    return bindSocket({ kind: 'unix', host: name, abstract: true, backlog: BACKLOG }, 'control reservation')
  } catch (error) {
    if ((error as NativeError).code !== 'EADDRINUSE') return null
    return isHeldByTrusted(name) ? 'taken' : null
  }
}

/** The process that has reserved the path; null: none can be named. Takes up to 200 ms of processor time. */
export function holderOfReservation(path: string): number | null {
  const name = nameFor(path)
  return name === null ? null : (findOccupant(parseListenerSpec(`unix:@${name}`))?.pid ?? null)
}

/** Closes the connections of processes that found the path reserved: each takes a place in the queue. */
export function forgetAsked(reservation: OwnedFd): void {
  try {
    for (let asked = accept(reservation, 'asked'); asked !== null; asked = accept(reservation, 'asked'))
      asked.close()
  } catch {
    // No descriptor is left: the next look closes them.
  }
}

/** The kernel tells as which user the other process has called listen(). */
function isHeldByTrusted(name: string): boolean {
  try {
    using asked = connectToAbstract(name, 'control reservation')
    const { uid } = peerCredentials(asked)
    return uid === 0 || uid === process.geteuid?.()
  } catch {
    // Its process has just ended, does not listen yet (then the lock decides), or lets its queue stay full.
    return false
  }
}

function nameFor(path: string): string | null {
  if (process.platform !== 'linux') return null
  const place = placeInFileSystem(path)
  if (place === null) return null
  const name = `fd-broker:${place}`
  if (Buffer.byteLength(name) <= MAX_UNIX_NAME && /^[\w:/.@+~-]+$/.test(name)) return name
  return `fd-broker:${nodeCrypto().createHash('sha256').update(place).digest('hex')}`
}
