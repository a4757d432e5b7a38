import { lstatSync, type Stats, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Backoff } from '../base/backoff.js'
import { FdbError } from '../errors.js'
import {
  connectToUnix,
  type NativeError,
  OwnedFd,
  peerCredentials,
  peerLives,
  requireAddon,
} from '../kernel/index.js'

/** Bytes of sun_path without its final NUL. */
export const MAX_SOCKET_PATH_BYTES = process.platform === 'darwin' ? 103 : 107

export interface ConnectOptions {
  signal?: AbortSignal | undefined
  /** How long a full backlog is waited for, milliseconds. Default 5000. */
  timeoutMs?: number | undefined
  /** The role in which this process asks: it says which listener to trust. Default: `operator`. */
  as?: Asker | undefined
}

/** Throws unless `path` fits a Unix socket address; `spare` bytes are kept for a suffix. */
export function checkSocketPath(path: string, spare = 0): void {
  const length = Buffer.byteLength(path)
  const limit = MAX_SOCKET_PATH_BYTES - spare
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
 * One attempt. 'absent': there is no such path; 'refused': no process listens there; 'full': a process listens and its queue is full at
 * present. Anything else throws ERR_FDB_CONTROL_PATH, or ERR_FDB_DENIED, with the cause. The listening process is not checked.
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
 * A connected, non-blocking Unix stream socket, the caller's own. Waits only while the listener's queue is full. Rejects
 * unless the peer may be trusted (see {@link checkHolder}): nothing has been said to it then.
 */
export async function connectUnix(path: string, options: ConnectOptions = {}): Promise<OwnedFd> {
  const { signal, timeoutMs = 5000, as = 'operator' } = options
  requireAddon()
  checkSocketPath(path)
  const attempt = () => {
    const result = tryConnect(path)
    if (result instanceof OwnedFd) return trusted(result, path, as)
    if (result === 'full') return null
    const kind = result === 'absent' ? null : otherKind(path)
    if (kind !== null)
      throw new FdbError(
        'ERR_FDB_NO_HOLDER',
        `no process serves at ${path}: it is ${kind}, and no socket. Give the path of the control socket`,
        {
          details: { path, errno: 'ECONNREFUSED' },
        },
      )
    const why = result === 'absent' ? 'it does not exist (ENOENT)' : 'nothing listens on it (ECONNREFUSED)'
    throw new FdbError(
      'ERR_FDB_NO_HOLDER',
      `no process serves at ${path}: ${why}. Start one, or check the path`,
      {
        retryable: true,
        details: { path, errno: result === 'absent' ? 'ENOENT' : 'ECONNREFUSED' },
      },
    )
  }
  const late = () =>
    new FdbError(
      'ERR_FDB_DEADLINE',
      `the queue of the control socket ${path} stayed full for ${timeoutMs} ms: its process is stuck, stopped or overloaded`,
      { retryable: true, details: { path, ms: timeoutMs } },
    )
  return await retry(attempt, performance.now() + timeoutMs, signal, late)
}

/** Null: it is a socket, or cannot be looked at. */
function otherKind(path: string): string | null {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined || stat.isSocket()) return null
  return stat.isFile() ? 'a file' : stat.isDirectory() ? 'a folder' : 'of another kind'
}

/** The same descriptor, or it is closed. */
export function trusted(channel: OwnedFd, path: string, asker: Asker): OwnedFd {
  try {
    checkHolder(channel, path, asker)
    return channel
  } catch (error) {
    channel.close()
    throw error
  }
}

function remedy(code: string): string {
  if (code === 'EACCES' || code === 'EPERM')
    return 'run as the user who owns it, or have its owner grant access'
  if (code === 'EPROTOTYPE') return 'another kind of socket has this name; choose another path'
  if (code === 'ENOTDIR' || code === 'ELOOP') return 'a part of the path is not a folder; correct the path'
  return 'see the cause'
}

const BOUNDS = { firstMs: 2, longestMs: 50 }

/** Calls `attempt` with a backoff until it returns no null. At `until` rejects with `late()`; at an abort with the signal's reason. */
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

/** Rejects with the signal's own reason. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal })
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  }
}

/** A member gives and takes descriptors and state; an operator's tool asks. */
type Asker = 'member' | 'operator'

const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000

/**
 * Throws unless the process that listens at the control path may be trusted: by the kernel's word on the peer of `channel` it is of this
 * user or root, and so is each user who may put a socket there. Root may also ask, as an operator, the service of another user in a folder
 * of that user's own. ERR_FDB_DENIED, ERR_FDB_CONTROL_PATH. Borrows the descriptor.
 */
function checkHolder(channel: OwnedFd, path: string, asker: Asker): void {
  const { uid: peer } = peerCredentials(channel)
  const own = process.geteuid?.() ?? peer
  const folder = statSync(dirname(path))
  const trusted = new Set([own, 0])
  if (own === 0 && asker === 'operator' && (folder.mode & STICKY) === 0) trusted.add(folder.uid)
  refuseOpenFolder(dirname(path), folder, trusted)
  // A server that was started as root and has become another user since: what is in root's folder root has put there.
  if (own === 0 && folder.uid === 0 && (folder.mode & WRITABLE_BY_OTHERS) === 0) return
  const owner = lstatSync(path, { throwIfNoEntry: false })?.uid ?? peer
  for (const [uid, what] of [
    [peer, `${nameOf(channel)}, which listens there, runs as`],
    [owner, 'it belongs to'],
  ] as const) {
    if (trusted.has(uid)) continue
    const users = [...trusted].map(user => (user === 0 ? 'root' : `uid ${user}`)).join(' or ')
    throw new FdbError(
      'ERR_FDB_DENIED',
      `${path} is not to be trusted: ${what} uid ${uid}, not ${users}: use a folder of your own (mode 0700), or run as that user`,
      { details: { path, uid } },
    )
  }
}

/** Refuses a folder in which others may write: they could replace our socket. In a sticky folder (/tmp) only its owner may. */
export function refuseOpenFolder(
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
    `the folder ${folder} of the control socket ${why}, who could replace the socket: use a folder of your own, mode 0700`,
    { details: { folder, mode, uid } },
  )
}

/** The living process that called listen() at the other end, by the kernel's word. 0: another PID namespace, or it has ended. */
export function listeningPid(channel: OwnedFd): number {
  const { pid } = peerCredentials(channel)
  try {
    return peerLives(channel) === false ? 0 : pid
  } catch {
    return pid
  }
}

/** `process 123`, or `a process` when it cannot be named. */
function nameOf(channel: OwnedFd): string {
  const pid = listeningPid(channel)
  return pid > 0 ? `process ${pid}` : 'a process'
}
