import { lstatSync, type Stats, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Backoff } from '../base/backoff.js'
import { FdbError } from '../errors.js'
import {
  closeOnThrow,
  connectToUnix,
  type NativeError,
  OwnedFd,
  peerCredentials,
  peerLives,
  requireAddon,
} from '../kernel/index.js'

/** One byte less than the longest path of a Unix socket: a control socket is bound under a temporary name, which is one byte longer. */
const MAX_CONTROL_PATH_BYTES = process.platform === 'darwin' ? 102 : 106

export interface ConnectOptions {
  signal?: AbortSignal | undefined
  /** Time to wait while the listener's queue is full. Default 5000. */
  timeoutMs?: number | undefined
  /** The role of this process, on which it depends whether a listening process is trusted. Default: `operator`. */
  as?: ConnectRole | undefined
}

/** Throws if a control socket cannot have this path. */
export function checkSocketPath(path: string): void {
  const length = Buffer.byteLength(path)
  const limit = MAX_CONTROL_PATH_BYTES
  if (length > limit) {
    throw new FdbError(
      'ERR_FDB_PATH_TOO_LONG',
      `control socket path of ${length} bytes exceeds the limit of ${limit}: choose a shorter folder, for example under /run. Path: ${path}`,
      { details: { limit, got: length, path } },
    )
  }
  if (length === 0 || path.includes('\0')) {
    throw new FdbError(
      'ERR_FDB_CONTROL_PATH',
      'the control socket path is empty or contains a NUL byte: give a file system path',
    )
  }
}

/**
 * Tries to connect once. Returns 'absent' if the path does not exist, 'refused' if no process listens there, 'full' if the listener's queue
 * is full. Throws ERR_FDB_CONTROL_PATH or ERR_FDB_DENIED for other errors. Does not check whether the listening process is trusted.
 */
export function tryConnect(path: string): OwnedFd | 'absent' | 'refused' | 'full' {
  try {
    return connectToUnix(path, 'control channel')
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'ENOENT') return 'absent'
    if (code === 'ECONNREFUSED') return 'refused'
    if (code === 'EAGAIN') return 'full'
    throw new FdbError(
      code === 'EACCES' || code === 'EPERM' ? 'ERR_FDB_DENIED' : 'ERR_FDB_CONTROL_PATH',
      `cannot connect to the control socket ${path} (${code}): ${remedy(code)}`,
      { cause: error, details: { path } },
    )
  }
}

/**
 * Connects a non-blocking Unix stream socket, which the caller owns. Waits only while the listener's queue is full. Sends nothing; rejects
 * if the listening process is not trusted (see {@link verifyHolder}).
 */
export async function connectUnix(path: string, options: ConnectOptions = {}): Promise<OwnedFd> {
  const { signal, timeoutMs = 5000, as = 'operator' } = options
  requireAddon()
  checkSocketPath(path)
  const attempt = () => {
    const result = tryConnect(path)
    if (result instanceof OwnedFd) return verifiedChannel(result, path, as)
    if (result === 'full') return null
    const errno = result === 'absent' ? 'ENOENT' : 'ECONNREFUSED'
    const kind = result === 'absent' ? null : kindAt(path)
    const why =
      kind !== null
        ? `it is ${kind}, not a socket. Give the path of the control socket`
        : `${result === 'absent' ? 'it does not exist' : 'nothing listens on it'} (${errno}). Start one, or check the path`
    const facts = { retryable: kind === null, details: { path, errno } }
    throw new FdbError('ERR_FDB_NO_HOLDER', `no process serves at ${path}: ${why}`, facts)
  }
  const late = () =>
    new FdbError(
      'ERR_FDB_DEADLINE',
      `the queue of the control socket ${path} stayed full for ${timeoutMs} ms: its process is stuck, stopped or overloaded`,
      { retryable: true, details: { path, ms: timeoutMs } },
    )
  return await retry(attempt, performance.now() + timeoutMs, signal, late)
}

/** Asks the file system about the control socket, or its folder. */
function look<T>(path: string, ask: () => T): T {
  try {
    return ask()
  } catch (error) {
    const { code } = error as NativeError
    throw new FdbError(
      code === 'EACCES' || code === 'EPERM' ? 'ERR_FDB_DENIED' : 'ERR_FDB_CONTROL_PATH',
      `cannot look at the control socket ${path} (${code}): ${remedy(code)}`,
      { cause: error, details: { path } },
    )
  }
}

/** Returns the kind of file at the path, for messages; null for a socket, or if unknown. */
function kindAt(path: string): string | null {
  const stat = look(path, () => statSync(path, { bigint: true, throwIfNoEntry: false }))
  if (stat === undefined || stat.isSocket()) return null
  return stat.isFile() ? 'a file' : stat.isDirectory() ? 'a folder' : 'another kind of file'
}

/** Returns the channel if the listening process is trusted; else closes the channel and throws. */
export function verifiedChannel(channel: OwnedFd, path: string, role: ConnectRole): OwnedFd {
  return closeOnThrow([channel], () => {
    verifyHolder(channel, path, role)
    return channel
  })
}

function remedy(code: string): string {
  if (code === 'EACCES' || code === 'EPERM')
    return 'run as the user who owns it, or have its owner grant access'
  if (code === 'EPROTOTYPE') return 'another kind of socket has this name; choose another path'
  if (code === 'ENOTDIR' || code === 'ELOOP') return 'a part of the path is not a folder; correct the path'
  return 'see the cause'
}

const BOUNDS = { firstMs: 2, longestMs: 50 }

/** Repeats `attempt`, with growing delays, until it returns a value. Rejects with `late()` at `until`, or with the signal's reason. */
export async function retry<T>(
  attempt: () => T | null | Promise<T | null>,
  until: number,
  signal: AbortSignal | undefined,
  late: () => FdbError,
): Promise<T> {
  const backoff = new Backoff(BOUNDS)
  for (;;) {
    signal?.throwIfAborted()
    const done = await attempt()
    if (done !== null) return done
    const wait = backoff.next()
    if (performance.now() + wait > until) throw late()
    await pause(wait, signal)
  }
}

/** Waits for `ms`. On abort rejects with the signal's reason. */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal })
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  }
}

/** A `member` exchanges descriptors and state with the listening process; an `operator` only sends requests to it. */
type ConnectRole = 'member' | 'operator'

const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000

/**
 * Throws ERR_FDB_DENIED or ERR_FDB_CONTROL_PATH if the process that listens at the control path is not trusted. Trusted is a process that
 * runs as this user or root, and only these can create a socket in the folder. An operator who is root also trusts a folder's owner in that
 * folder. Borrows the descriptor.
 */
function verifyHolder(channel: OwnedFd, path: string, role: ConnectRole): void {
  const { uid: peer } = peerCredentials(channel)
  const own = process.geteuid?.() ?? peer
  const folder = look(path, () => statSync(dirname(path)))
  const trusted = new Set([own, 0])
  if (own === 0 && role === 'operator' && (folder.mode & STICKY) === 0) trusted.add(folder.uid)
  requirePrivateFolder(dirname(path), folder, trusted)
  // The socket is in a folder of root's, so root created it, even if the server runs as another user now.
  if (own === 0 && folder.uid === 0 && (folder.mode & WRITABLE_BY_OTHERS) === 0) return
  const socket = look(path, () => lstatSync(path, { bigint: true, throwIfNoEntry: false }))
  const owner = Number(socket?.uid ?? peer)
  for (const [uid, what] of [
    [peer, `${listeningProcess(channel)}, which listens there, runs as`],
    [owner, 'it belongs to'],
  ] as const) {
    if (trusted.has(uid)) continue
    const users = [...trusted].map(user => (user === 0 ? 'root' : `uid ${user}`)).join(' or ')
    throw new FdbError(
      'ERR_FDB_DENIED',
      `${path} cannot be trusted: ${what} uid ${uid}, not ${users}: use a folder of your own (mode 0700), or run as that user`,
      { details: { path, uid } },
    )
  }
}

/** Throws if other users can replace a socket in the folder: they can write to it, and it is not sticky as /tmp is. */
export function requirePrivateFolder(
  folder: string,
  { mode, uid }: Pick<Stats, 'mode' | 'uid'>,
  trusted: ReadonlySet<number>,
): void {
  const own = process.geteuid?.() ?? uid
  const why = !trusted.has(uid)
    ? `belongs to uid ${uid}, not to this user (${own}) or root`
    : (mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0
      ? `may be written to by others (mode 0${(mode & 0o7777).toString(8)})`
      : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `the folder ${folder} of the control socket ${why}: another user could replace the socket. Use a folder of your own, mode 0700`,
    { details: { folder, mode, uid } },
  )
}

/** Returns the pid of the process that listens at the other end, from the kernel; 0 if it has ended or is in another PID namespace. */
export function listeningPid(channel: OwnedFd): number {
  const { pid } = peerCredentials(channel)
  try {
    return peerLives(channel) === false ? 0 : pid
  } catch {
    return pid
  }
}

/** Returns the pid of the process that listens at a path; 0 if unknown; null if no process listens. Throws as {@link tryConnect} does. */
export function listenerAt(path: string): number | null {
  const found = tryConnect(path)
  if (found === 'absent' || found === 'refused') return null
  if (found === 'full') return 0
  const pid = listeningPid(found)
  found.close()
  return pid
}

/** Returns `process 123`, or `a process` if its pid is unknown. */
function listeningProcess(channel: OwnedFd): string {
  const pid = listeningPid(channel)
  return pid > 0 ? `process ${pid}` : 'a process'
}
