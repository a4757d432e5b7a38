import { statSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Backoff } from '../base/time.js'
import { FdbError } from '../errors.js'
import { connectToUnix, type NativeError, OwnedFd } from '../kernel/index.js'
import { type Asker, checkHolder } from './holder-peer.js'

/** Bytes of sun_path without its final NUL. */
export const MAX_SOCKET_PATH_BYTES = process.platform === 'darwin' ? 103 : 107

export interface ConnectOptions {
  signal?: AbortSignal | undefined
  /** How long a full backlog is waited for, milliseconds. Default 5000. */
  timeoutMs?: number | undefined
  /** What is wanted of the process that listens there; it says whom to trust. Default: `operator`. */
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
 * One attempt. 'absent': nothing has that name; 'refused': nothing listens there; 'full': something listens and
 * its queue is full just now. Anything else throws ERR_FDB_CONTROL_PATH, or ERR_FDB_DENIED, with the cause. Who listens is not looked at.
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
  checkSocketPath(path)
  const attempt = () => {
    const result = tryConnect(path)
    if (result instanceof OwnedFd) return trusted(result, path, as)
    if (result === 'full') return null
    const kind = result === 'absent' ? null : otherKind(path)
    if (kind !== null)
      throw new FdbError(
        'ERR_FDB_NO_HOLDER',
        `no holder at ${path}: it is ${kind}, and no socket. Give the path of the control socket`,
        {
          details: { path, errno: 'ECONNREFUSED' },
        },
      )
    const why = result === 'absent' ? 'it does not exist (ENOENT)' : 'nothing listens on it (ECONNREFUSED)'
    throw new FdbError('ERR_FDB_NO_HOLDER', `no holder at ${path}: ${why}. Start one, or check the path`, {
      retryable: true,
      details: { path, errno: result === 'absent' ? 'ENOENT' : 'ECONNREFUSED' },
    })
  }
  const late = () =>
    new FdbError(
      'ERR_FDB_DEADLINE',
      `the queue of the control socket ${path} stayed full for ${timeoutMs} ms: its holder is stuck, stopped or overloaded`,
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

/**
 * Calls `attempt` with a backoff until it returns something else than null, and returns that. At `until` (of the process's own clock)
 * rejects with what `late` returns; when the signal aborts, with its reason.
 */
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
