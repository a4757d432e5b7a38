import { afterReading } from '../base/after-reading.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import {
  closeAll,
  foreignConnections,
  hasEnded,
  type OwnedFd,
  type PeerCredentials,
  peerPidfd,
} from '../kernel/index.js'
import type { Operations } from '../operator/requests.js'
import { serveOperator } from '../operator/server.js'
import { outOfDescriptors } from '../os/limits.js'
import { ownPidfd, pidOf } from '../os/liveness.js'
import { identify, type ProcessIdentity } from '../os/process-identity.js'
import type { fdbroker } from '../proto/wire.js'
import { Channel } from '../wire/channel.js'
import type { ForeignUser } from '../wire/foreign-user.js'
import { type Hello, type Intent, intentOf } from '../wire/greeting.js'
import { Link, negotiate, type VersionRange } from '../wire/link.js'

/** Time limit for a caller's first message, the Hello. */
export const HELLO_MS = 5_000
/** Limit of the name of a service. */
export const MOST_SERVICE_CHARACTERS = 128

/** A process that has connected to the control socket and whose Hello was accepted. */
export interface Caller {
  readonly hello: Hello
  readonly intent: Intent
  readonly version: number
  /** The receiver must call `start()` with its own handler. */
  readonly link: Link
  /** The pid from the kernel; if that is 0 (another PID namespace), the pid that the process reports. */
  readonly pid: number
  readonly uid: number
  readonly gid: number
  readonly pidfd: OwnedFd | null
  /** Whether the kernel has confirmed that `pidfd` belongs to `pid`. Only then may a signal be sent through `pidfd`. */
  readonly proven: boolean
  readonly identity: ProcessIdentity
}

/** Warns if the next version would not write the state to the file at this path. */
export function warnWithoutStateFile(
  { hello, pid }: Pick<Caller, 'hello' | 'pid'>,
  path: string,
  logger: Logger,
): void {
  if (hello.stateFile) return
  logger.warn(
    { successor: pid, stateFile: path },
    'the next version has no stateFile: from its commit on changes are not in the file, and are lost with the last process',
  )
}

/** Whether the caller is neither root nor of this process's user. This process must not change files at paths that such a caller names. */
export function isForeign({ uid }: Pick<Caller, 'uid'>): boolean {
  return uid !== 0 && uid !== process.geteuid?.()
}

interface AdmissionOptions {
  readonly versions: VersionRange
  /** The only service that callers may name, or null if they may name any (daemon). */
  readonly service: string | null
  /** The time in which a caller must send Hello. */
  readonly timeoutMs: number
  readonly logger: Logger
  /** Whether another user may connect; its requests are checked later. If absent, only this process's user and root may connect. */
  readonly mayConnect?: (uid: number) => boolean
  /** Counts a connection of `uid` until `closed` resolves. Returns an error if the user has too many. If absent, there is no limit. */
  readonly connected?: (uid: number, closed: Promise<void>) => FdbError | null
  /** Returns what counts and limits the messages of another user. */
  readonly foreignUserOf?: (uid: number) => ForeignUser | undefined
}

/** Time of the event loop that a connection takes besides its messages. */
const CONNECTION_MS = 0.3

/**
 * Reads the Hello of a client that runs as this process's user, as root, or as a user that `mayConnect` allows; rejects all others. Calls
 * `admit` at most once, in the turn of the event loop in which the Hello arrives. Owns `fd`. A client of another user waits until that user has time
 * left, so that the clients behind it in the queue of the control socket do not wait for it; if too many wait, it is not even answered: returns false.
 */
export function receiveHello(
  fd: OwnedFd,
  who: PeerCredentials,
  options: AdmissionOptions,
  admit: (caller: Caller) => void,
): boolean {
  const foreignUser = options.foreignUserOf?.(who.uid)
  if (foreignUser !== undefined || isForeign(who)) fd.countAs(foreignConnections)
  if (foreignUser === undefined) {
    serveHello(fd, who, options, admit)
    return true
  }
  let waited = false
  const serve = () => {
    foreignUser.spend(CONNECTION_MS)
    try {
      serveHello(fd, who, { ...options, foreignUser }, admit)
    } catch (err) {
      // The listener hears of the other failures.
      if (!waited) throw err
      fd.closeStream()
      options.logger.warn({ err }, 'a connection to the control socket was not accepted')
    }
  }
  if (foreignUser.inTurn(serve)) {
    waited = true
    return true
  }
  fd.closeStream()
  return false
}

function serveHello(
  fd: OwnedFd,
  who: PeerCredentials,
  options: AdmissionOptions & { readonly foreignUser?: ForeignUser },
  admit: (caller: Caller) => void,
): void {
  const { foreignUser } = options
  const own = process.geteuid?.() ?? who.uid
  // Made first, so that the channel closes `fd` even if a later step throws.
  const link = new Link(new Channel(fd, { foreignUser }))
  let pidfd: OwnedFd | null = null
  let ended = false
  let unwatched: FdbError | null = null
  try {
    const peer = peerPidfd(fd, `pidfd of ${who.pid}`)
    if (peer !== 'dead') pidfd = peer
    // The caller may have ended while its connection waited to be accepted, because this process was stopped or has just recovered the socket.
    ended = peer === 'dead' || (peer !== null && hasEnded(peer))
    if (ended)
      unwatched = new FdbError('ERR_FDB_CHANNEL_CLOSED', `process ${who.pid}, which connected, has ended`)
  } catch (cause) {
    unwatched = outOfDescriptors(`process ${who.pid} cannot be watched`, cause)
  }
  link.channel.unref()
  let decided = false
  const refuse = (error: FdbError, facts: Partial<fdbroker.wire.Reject.$Properties> = {}) => {
    if (decided) return
    decided = true
    limit.clear()
    pidfd?.close()
    const { pid, uid, gid } = who
    const audit = error.code === 'ERR_FDB_DENIED' ? { audit: 'connect', allowed: false } : {}
    // A process that has ended waits for no answer: a child or tool under fd-broker/auto that has only started.
    const level = ended ? 'info' : 'warn'
    options.logger[level]({ err: error, ...audit, pid, uid, gid }, 'refused a process on the control socket')
    reject(link, error, facts)
  }
  const silent = () =>
    refuse(
      new FdbError('ERR_FDB_DEADLINE', `process ${who.pid} sent no Hello within ${options.timeoutMs} ms`),
    )
  const limit = afterReading(options.timeoutMs, silent, { unref: true })
  if (who.uid !== own && who.uid !== 0 && !options.mayConnect?.(who.uid)) {
    refuse(
      new FdbError(
        'ERR_FDB_DENIED',
        `uid ${who.uid} may not use this control socket: it belongs to uid ${own}; run as that user or as root`,
      ),
    )
    return
  }
  const tooMany = options.connected?.(who.uid, link.channel.closed) ?? null
  if (tooMany !== null) {
    refuse(tooMany)
    return
  }
  link.start({
    message: (envelope, fds) => {
      const { hello } = envelope
      if (decided) {
        closeAll(fds)
        return
      }
      if (!hello) {
        closeAll(fds)
        refuse(
          new FdbError(
            'ERR_FDB_MESSAGE',
            `the first message must be Hello, got ${envelope.body ?? 'a message that this release does not know'}`,
          ),
        )
        return
      }
      limit.clear()
      const sentPidfd = fds.shift() ?? null
      closeAll(fds)
      // Prefer the pidfd from the kernel to the one in the message. If the kernel reports that the caller has ended, use neither.
      const proof = pidfd ?? (ended ? null : sentPidfd)
      if (proof !== sentPidfd) sentPidfd?.close()
      const answer = checkHello(hello, options)
      // An operator's process is not watched, so no pidfd of it is needed.
      const checked =
        unwatched !== null && 'intent' in answer && answer.intent !== 'operate' ? unwatched : answer
      if (checked instanceof FdbError) {
        if (proof !== pidfd) proof?.close()
        const { min: versionMin, max: versionMax } = options.versions
        refuse(checked, { versionMin, versionMax })
        return
      }
      decided = true
      const identity = identify(who.pid, hello)
      const proven = proof !== null && (proof === pidfd || (who.pid > 0 && pidOf(proof) === who.pid))
      const { pid } = identity
      const { uid, gid } = who
      admit({ hello, ...checked, link, pid, uid, gid, pidfd: proof, proven, identity })
    },
    broken: error => refuse(error),
    end: () => {
      decided = true
      limit.clear()
      pidfd?.close()
    },
  })
}

function checkHello(hello: Hello, options: AdmissionOptions): { intent: Intent; version: number } | FdbError {
  const theirs = { min: hello.versionMin ?? 0, max: hello.versionMax ?? 0 }
  const version = negotiate(options.versions, theirs)
  if (version === null) {
    return new FdbError(
      'ERR_FDB_VERSION',
      `no common protocol version: this process speaks ${rangeText(options.versions)}, process ${hello.pid} speaks ${rangeText(theirs)}; upgrade by way of a release that speaks both`,
    )
  }
  // Before the name is in a message or a log.
  const { length } = hello.service ?? ''
  if (length > MOST_SERVICE_CHARACTERS)
    return new FdbError(
      'ERR_FDB_SERVICE',
      `process ${hello.pid} names a service of ${length} characters: a name has 1 to ${MOST_SERVICE_CHARACTERS}`,
      { details: { length, most: MOST_SERVICE_CHARACTERS } },
    )
  const intent = intentOf(hello)
  if (intent === undefined)
    return new FdbError(
      'ERR_FDB_MESSAGE',
      `process ${hello.pid} asks for something that this process does not know (intent ${hello.intent}): it is faulty, or of an incompatible release`,
    )
  if (intent !== 'operate' && options.service !== null && hello.service !== options.service) {
    return new FdbError(
      'ERR_FDB_SERVICE',
      `this control socket serves "${options.service}", not "${hello.service}": give each service a control path of its own`,
    )
  }
  return { intent, version }
}

function rangeText({ min, max }: VersionRange): string {
  return min === max ? `${min}` : `${min} to ${max}`
}

/** Sends a caller the reason, then closes its link. Owns link and pidfd. */
export function turnAway({ link, pidfd }: Pick<Caller, 'link' | 'pidfd'>, error: FdbError): void {
  pidfd?.close()
  reject(link, error)
}

/** Closes a caller's link without a message. Owns link and pidfd. */
export function dismiss({ link, pidfd }: Pick<Caller, 'link' | 'pidfd'>): void {
  pidfd?.close()
  link.close()
}

export function reject(
  link: Link,
  error: FdbError,
  facts: Partial<fdbroker.wire.Reject.$Properties> = {},
): void {
  const { code, message, retryable } = error
  link
    .send({ reject: { code, message, retryable, ...facts } })
    // The process has ended, or does not read: it gets no answer, and its link is closed.
    .catch(() => {})
    .finally(() => link.close())
}

/** Sends the Welcome, with this process's own pidfd. */
export function welcome(link: Link, body: fdbroker.wire.Welcome.$Properties): void {
  let own: OwnedFd | null = null
  try {
    own = ownPidfd()
  } catch {
    // This process has reached its limit of open files: the Welcome has its pid, but no pidfd.
  }
  link
    .send({ welcome: body }, own === null ? [] : [own])
    // The link then ends, and its end is handled.
    .catch(() => {})
    .finally(() => own?.close())
}

/** Serves an operator until it disconnects. `facts`: further fields of its Welcome. `idleMs`: see {@link serveOperator}. Owns link and pidfd. */
export function serveCaller(
  { link, pidfd, version }: Caller,
  operations: Operations,
  facts: Partial<fdbroker.wire.Welcome.$Properties> = {},
  options: Parameters<typeof serveOperator>[2] = {},
): () => void {
  pidfd?.close()
  welcome(link, { version, pid: process.pid, ...facts })
  return serveOperator(link, operations, options)
}
