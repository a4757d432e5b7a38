import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { closeAll, type OwnedFd, type PeerCredentials, peerPidfd } from '../kernel/index.js'
import type { Operations } from '../operator/requests.js'
import { serveOperator } from '../operator/server.js'
import { noDescriptors } from '../os/limits.js'
import { ownPidfd, pidOf } from '../os/liveness.js'
import { identify, type ProcessIdentity } from '../os/process-identity.js'
import { fdbroker } from '../proto/wire.js'
import { Channel } from '../wire/channel.js'
import { Link, negotiate, type VersionRange, type WireBody } from '../wire/link.js'
import { afterReading } from '../wire/pending.js'

export type Hello = fdbroker.wire.Hello.$Properties
export type Intent = 'join' | 'back' | 'operate' | 'draining' | 'follow'

const INTENTS: ReadonlyMap<number, Intent> = new Map([
  [fdbroker.wire.Intent.JOIN, 'join'],
  [fdbroker.wire.Intent.BACK, 'back'],
  [fdbroker.wire.Intent.OPERATE, 'operate'],
  [fdbroker.wire.Intent.DRAINING, 'draining'],
  [fdbroker.wire.Intent.FOLLOW, 'follow'],
])

/** A client that has said Hello and may be here. */
export interface Caller {
  readonly hello: Hello
  readonly intent: Intent
  readonly version: number
  /** The link is not yet started for anybody: start() it with a handler. */
  readonly link: Link
  readonly pid: number
  readonly uid: number
  readonly gid: number
  readonly pidfd: OwnedFd | null
  /** The kernel has said that the pidfd is this process's: it may be killed by it. */
  readonly proven: boolean
  readonly identity: ProcessIdentity
}

/** Another user's than this process's, or root's: its paths are not this process's to write or to remove. */
export function isForeign({ uid }: Pick<Caller, 'uid'>): boolean {
  return uid !== 0 && uid !== process.geteuid?.()
}

export interface AdmissionOptions {
  readonly versions: VersionRange
  /** The service that is here; null: any (daemon). */
  readonly service: string | null
  /** How long a peer may take to say Hello. */
  readonly timeoutMs: number
  readonly logger: Logger
  /** Whether another user may say Hello; what it may do is its reader's to decide. Absent: none may. */
  readonly mayConnect?: (uid: number) => boolean
  /** Counts a connection until it has closed; why it is one too many, or null. Absent: none is. */
  readonly connected?: (uid: number, closed: Promise<void>) => FdbError | null
}

/**
 * Reads the Hello of a client of this process's user, of root, or of a user that `mayConnect` names; others are told, and closed unread.
 * Calls `admit` at most once, in the turn in which the Hello arrived.
 */
export function receiveHello(
  fd: OwnedFd,
  who: PeerCredentials,
  options: AdmissionOptions,
  admit: (caller: Caller) => void,
): void {
  const own = process.geteuid?.() ?? who.uid
  // First: it may throw, and owns the descriptor.
  const link = new Link(new Channel(fd))
  let pidfd: OwnedFd | null = null
  let ended = false
  let unwatched: FdbError | null = null
  try {
    const peer = peerPidfd(fd, `pidfd of ${who.pid}`)
    ended = peer === 'dead'
    if (peer !== 'dead') pidfd = peer
    else unwatched = new FdbError('ERR_FDB_CHANNEL_CLOSED', `process ${who.pid}, which connected, has ended`)
  } catch (cause) {
    unwatched = noDescriptors(`process ${who.pid} cannot be watched`, cause)
  }
  // A connected client does not keep a process alive that has nothing else to do.
  link.channel.unref()
  /** Refused or admitted: what else is in the channel already is not for us. */
  let over = false
  const refuse = (error: FdbError, facts: Partial<fdbroker.wire.Reject.$Properties> = {}) => {
    if (over) return
    over = true
    limit.clear()
    pidfd?.close()
    const { pid, uid, gid } = who
    const audit = error.code === 'ERR_FDB_DENIED' ? { audit: 'connect', allowed: false } : {}
    options.logger.warn({ err: error, ...audit, pid, uid, gid }, 'refused a process on the control socket')
    reject(link, error, facts)
  }
  const silent = () =>
    refuse(
      new FdbError('ERR_FDB_DEADLINE', `process ${who.pid} said no Hello within ${options.timeoutMs} ms`),
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
      if (over) {
        closeAll(fds)
        return
      }
      if (!hello) {
        closeAll(fds)
        refuse(
          new FdbError(
            'ERR_FDB_MESSAGE',
            `the first message must be Hello, got ${envelope.body ?? 'nothing known'}`,
          ),
        )
        return
      }
      limit.clear()
      const given = fds.shift() ?? null
      closeAll(fds)
      // The kernel's word about who connected is worth more than the peer's own: also that it has ended.
      const proof = pidfd ?? (ended ? null : given)
      if (proof !== given) given?.close()
      const answer = check(hello, options)
      // A client that only asks is answered also when there is no descriptor left to watch it by.
      const checked =
        unwatched !== null && 'intent' in answer && answer.intent !== 'operate' ? unwatched : answer
      if (checked instanceof FdbError) {
        if (proof !== pidfd) proof?.close()
        const { min: versionMin, max: versionMax } = options.versions
        refuse(checked, { versionMin, versionMax })
        return
      }
      over = true
      const identity = identify(who.pid, hello)
      const proven = proof !== null && (proof === pidfd || (who.pid > 0 && pidOf(proof) === who.pid))
      const { pid } = identity
      const { uid, gid } = who
      admit({ hello, ...checked, link, pid, uid, gid, pidfd: proof, proven, identity })
    },
    broken: error => refuse(error),
    end: () => {
      over = true
      limit.clear()
      pidfd?.close()
    },
  })
}

function check(hello: Hello, options: AdmissionOptions): { intent: Intent; version: number } | FdbError {
  const theirs = { min: hello.versionMin ?? 0, max: hello.versionMax ?? 0 }
  const version = negotiate(options.versions, theirs)
  if (version === null) {
    return new FdbError(
      'ERR_FDB_VERSION',
      `no common protocol version: this process speaks ${range(options.versions)}, process ${hello.pid} speaks ${range(theirs)}; upgrade by way of a release that speaks both`,
    )
  }
  const intent = INTENTS.get(hello.intent ?? 0)
  if (intent === undefined)
    return new FdbError('ERR_FDB_MESSAGE', `Hello with an unknown intent (${hello.intent})`)
  if (intent !== 'operate' && options.service !== null && hello.service !== options.service) {
    return new FdbError(
      'ERR_FDB_SERVICE',
      `this control socket serves "${options.service}", not "${hello.service}": give each service a control path of its own`,
    )
  }
  return { intent, version }
}

export function range({ min, max }: VersionRange): string {
  return min === max ? `${min}` : `${min} to ${max}`
}

/** Tells a caller why it is not wanted, and lets go of it: owns link and pidfd. */
export function turnAway({ link, pidfd }: Pick<Caller, 'link' | 'pidfd'>, error: FdbError): void {
  pidfd?.close()
  reject(link, error)
}

/** Lets go of a caller without a word: owns link and pidfd. */
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
    .catch(() => {})
    .finally(() => link.close())
}

/** Sends the Welcome, with this process's own pidfd. */
export function welcome(link: Link, body: fdbroker.wire.Welcome.$Properties): void {
  let own: OwnedFd | null = null
  try {
    own = ownPidfd()
  } catch {
    // No descriptor left: it knows us by our pid.
  }
  const envelope: WireBody = { welcome: body }
  link
    .send(envelope, own === null ? [] : [own])
    .catch(() => {})
    .finally(() => own?.close())
}

/** Serves a caller who came to operate, until it leaves. `facts`: what its Welcome says of the process that serves it. `idleMs`: as {@link serveOperator}. Takes it. */
export function serveCaller(
  { link, pidfd, version }: Caller,
  operations: Operations,
  facts: Partial<fdbroker.wire.Welcome.$Properties> = {},
  idleMs: number | null = null,
): void {
  pidfd?.close()
  welcome(link, { version, pid: process.pid, ...facts })
  serveOperator(link, operations, idleMs)
}
