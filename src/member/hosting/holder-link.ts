import { setTimeout as sleep } from 'node:timers/promises'
import { afterReading } from '../../base/after-reading.js'
import { OWN_INSTANCE } from '../../base/own-instance.js'
import { FdbError } from '../../errors.js'
import { closeAll, closeOnThrow, type OwnedFd, peerPidfd } from '../../kernel/index.js'
import { connectUnix } from '../../os/connect.js'
import { outOfDescriptors } from '../../os/limits.js'
import { type DeathWatch, ownPidfd, pidOf } from '../../os/liveness.js'
import { fateOf, identify, killVerified, watchProcess } from '../../os/process-identity.js'
import type { fdbroker } from '../../proto/wire.js'
import type { BundleItem } from '../../wire/bundle.js'
import { Channel } from '../../wire/channel.js'
import { helloFor, readWelcome, type Welcomed } from '../../wire/greeting.js'
import {
  FORWARDS_WRITES,
  Link,
  MERGES_SEGMENTS,
  TAKES_CONNECTIONS,
  type WireEnvelope,
} from '../../wire/link.js'
import { deadlineError, Pending } from '../../wire/pending.js'
import { isDescriptorShortage } from '../lifecycle/cannot-serve.js'
import type { Settings } from '../options/options.js'

/** A holder can make a joiner wait at most this long for the end of a probation. */
const LONGEST_WAIT_MS = 3_600_000

export interface HolderFacts {
  readonly pid: number
  /** Whether the holder is a daemon, which stays the holder after the handoff. */
  readonly daemon: boolean
  /** A random name of the running daemon, so that a restart is noticed. Empty in embedded hosting. */
  readonly incarnation: string
  /** The daemon forwards the changes of draining generations to the member that serves. */
  readonly forwardsWrites: boolean
  readonly generation: number
  readonly serviceStartedAt: number
  /** The interval of heartbeats in both directions, in milliseconds; 0 if the Welcome has none. */
  readonly heartbeatMs: number
  /** The Offer may come so much later than usual, because the holder is in probation. */
  readonly waitMs: number
}

type HelloSettings = Pick<Settings, 'service' | 'versions' | 'wantedTimes' | 'stateFile'>

/** The link to the holder that this process joins or has joined. Owns the link and the holder's pidfd. */
export class HolderLink {
  readonly facts: HolderFacts
  readonly link: Link
  readonly #pidfd: OwnedFd | null
  readonly #watch: DeathWatch | null
  readonly #welcomedAt = performance.now()
  #dead = false
  #onDeath: (() => void) | null = null
  /** The holder's pid if the kernel reports the same one; otherwise 0, because the holder may be in another PID namespace. */
  readonly #confirmedPid: number
  #closed = false

  /** Owns `link` and `pidfd`, unless it throws: ERR_FDB_NO_DESCRIPTORS, ERR_FDB_NO_PIDFD. */
  private constructor(link: Link, pidfd: OwnedFd | null, facts: HolderFacts) {
    this.link = link
    this.#confirmedPid = link.channel.peer.pid === facts.pid ? facts.pid : 0
    this.#pidfd = pidfd
    this.facts = facts
    this.#watch = watchProcess(pidfd, identify(this.#confirmedPid, facts), () => {
      this.#dead = true
      if (!this.#closed) this.#onDeath?.()
    })
  }

  /**
   * Sends Hello on a new connection and waits for the Welcome. A daemon's member that connects again gives `back`. Rejects with the error in
   * the holder's Reject (ERR_FDB_VERSION, ERR_FDB_SERVICE, ERR_FDB_DENIED, ERR_FDB_BUSY …), ERR_FDB_NOT_FD_BROKER, ERR_FDB_DEADLINE,
   * ERR_FDB_NO_DESCRIPTORS, ERR_FDB_NO_PIDFD, and ERR_FDB_CHANNEL_CLOSED if the holder closes the connection or ends: then another process, such
   * as a service manager, may keep the socket open.
   */
  static async greet(
    fd: OwnedFd,
    { service, versions, wantedTimes, stateFile }: HelloSettings,
    { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal | undefined },
    back?: { generation: number; incarnation: string },
  ): Promise<HolderLink> {
    let link: Link | null = null
    let own: OwnedFd | null = null
    let watch: DeathWatch | null = null
    let isGreeted = false
    try {
      link = new Link(new Channel(fd))
      const pid = link.channel.listeningPid()
      own = ownPidfd()
      const welcomed = awaitWelcome(link, signal)
      // First reads what the process has sent before it ended.
      watch = watchListening(fd, pid, () => afterReading(0, () => welcomed.reject(leftError())))
      const facts = {
        versions,
        service,
        capabilities: [TAKES_CONNECTIONS, FORWARDS_WRITES, MERGES_SEGMENTS],
        times: wantedTimes,
        instance: OWN_INSTANCE,
        stateFile: stateFile?.path ?? '',
        ...back,
      }
      const hello = helloFor(back === undefined ? 'join' : 'back', facts)
      await link.send(hello, own === null ? [] : [own])
      isGreeted = true
      const what = `the Welcome of ${pid > 0 ? `process ${pid}` : 'the process'} on the control socket`
      welcomed.limit(timeoutMs, () => welcomed.reject(deadlineError(what, timeoutMs)))
      const { welcome, pidfd } = await welcomed.answer
      const greeted = link
      return closeOnThrow([pidfd], () => new HolderLink(greeted, pidfd, factsOf(welcome)))
    } catch (error) {
      const isShort = isDescriptorShortage(error)
      const reason = isShort ? outOfDescriptors('the process that serves cannot be joined', error) : error
      // A member that returns keeps what it has.
      if (link !== null && isGreeted && back === undefined) giveUp(link, reason)
      else link?.close()
      throw reason
    } finally {
      own?.close()
      watch?.close()
    }
  }

  /** Starts to read messages. `died`: called when the holder's process has ended. */
  listen(handler: {
    message(envelope: WireEnvelope): void
    bundle(items: BundleItem[]): void
    broken(error: FdbError): void
    /** `error`: null if the holder closed the channel. */
    lost(error: FdbError | null): void
    died(): void
  }): void {
    this.link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        handler.message(envelope)
      },
      bundle: items => handler.bundle(items),
      broken: error => handler.broken(error),
      end: error => handler.lost(error),
    })
    this.link.channel.resume()
    if (!this.link.open) queueMicrotask(() => this.#closed || handler.lost(null))
    this.#onDeath = () => handler.died()
    if (this.#dead) queueMicrotask(() => this.#closed || handler.died())
  }

  /** Returns the interval of this process's heartbeats: the shorter of `ownMs` and the holder's interval. */
  heartbeatMs(ownMs: number): number {
    const { heartbeatMs } = this.facts
    return heartbeatMs > 0 ? Math.min(ownMs, heartbeatMs) : ownMs
  }

  /** Whether the holder's end can be noticed, so that `died` will be called. */
  get watched(): boolean {
    return this.#watch !== null
  }

  /** The holder's end was noticed. */
  get dead(): boolean {
    return this.#dead
  }

  /** Milliseconds since the Welcome. */
  get ageMs(): number {
    return performance.now() - this.#welcomedAt
  }

  /** Resolves with `alive` only after 100 ms, because the kernel may report a death later than the end of the channel. */
  async fate(): Promise<'dead' | 'alive'> {
    const fate = await fateOf(this.#pidfd ?? this.#confirmedPid)
    this.#dead ||= fate === 'dead'
    return fate
  }

  /** Sends SIGKILL to the holder. Throws ERR_FDB_STUCK if no pidfd is proved to be the holder's, or the kernel refuses the signal. */
  kill(): void {
    const proven = this.#pidfd !== null && this.#confirmedPid > 0 && pidOf(this.#pidfd) === this.#confirmedPid
    killVerified(identify(this.#confirmedPid, this.facts), proven ? this.#pidfd : null)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#watch?.close()
    this.link.close()
    this.#pidfd?.close()
  }

  /** Closes the link before the Offer is read, and tells the holder `error`. */
  decline(error: FdbError): void {
    if (!this.#closed) giveUp(this.link, error)
    this.close()
  }
}

/**
 * Sends Abort, then closes `link`. The holder may have sent its Offer after Hello; the kernel closes those descriptors with the channel, so the
 * next Offer need not wait for the end of this process.
 */
function giveUp(link: Link, error: unknown): void {
  const { code, message } = FdbError.is(error) ? error : abortedJoin()
  if (link.open) link.post({ abort: { code, message, phase: 'joining' } })
  link.close()
}

/** The reason for a holder if the `signal` of join() has aborted. */
export function abortedJoin(): FdbError {
  return new FdbError('ERR_FDB_ABORTED', 'the application aborted the takeover (signal of join())')
}

function awaitWelcome(link: Link, signal: AbortSignal | undefined): Pending<Welcomed> {
  const welcomed = new Pending<Welcomed>({ signal })
  link.start({
    message: (envelope, fds) => {
      const answer = readWelcome(envelope, fds)
      closeAll(fds)
      if (FdbError.is(answer)) welcomed.reject(answer)
      else if (answer !== null) {
        // Later messages wait in the kernel until listen() has set their handler.
        link.channel.pause()
        if (!welcomed.resolve(answer)) answer.pidfd?.close()
      }
    },
    bundle: items => closeAll(items.map(item => item.fd)),
    broken: error => welcomed.reject(error),
    end: error => welcomed.reject(error ?? leftError()),
  })
  return welcomed
}

/** Calls `onDeath` once when the process that listens at the other end has ended. Returns null if this process cannot see that. */
function watchListening(channel: OwnedFd, pid: number, onDeath: () => void): DeathWatch | null {
  const peer = peerPidfd(channel, 'pidfd of the process that serves')
  if (peer === 'dead') {
    onDeath()
    return null
  }
  using pidfd = peer
  return watchProcess(pidfd, identify(pid), onDeath)
}

function leftError(): FdbError {
  return new FdbError(
    'ERR_FDB_CHANNEL_CLOSED',
    'the process that serves closed the connection or ended before its Welcome',
    { retryable: true },
  )
}

function factsOf(welcome: fdbroker.wire.Welcome.$Properties): HolderFacts {
  return {
    pid: welcome.pid ?? 0,
    daemon: welcome.daemon ?? false,
    incarnation: welcome.incarnation ?? '',
    forwardsWrites: welcome.capabilities?.includes(FORWARDS_WRITES) ?? false,
    generation: welcome.generation ?? 1,
    serviceStartedAt: welcome.serviceStartedAt ?? Date.now(),
    heartbeatMs: welcome.heartbeatMs ?? 0,
    waitMs: Math.min(welcome.waitMs ?? 0, LONGEST_WAIT_MS),
  }
}

/** Also for a refused member: as soon as the rules allow it again, its state must be there before a next version joins. */
const DAEMON_RETRY_MS = 100

/**
 * Connects to the daemon, or to a restarted one, as a returning member. Retries until `signal` aborts, then returns null. Waits first if the last
 * connection has just been made: a daemon without a free descriptor welcomes the member and closes the connection.
 */
export async function reconnectToDaemon(
  settings: Settings,
  old: HolderLink,
  generation: number,
  signal: AbortSignal,
): Promise<HolderLink | null> {
  const { control, timeout: timeoutMs, logger } = settings
  const { incarnation } = old.facts
  let toldDenied = false
  if (old.ageMs < DAEMON_RETRY_MS) await pause(DAEMON_RETRY_MS - old.ageMs, signal)
  while (!signal.aborted && control !== null) {
    try {
      const fd = await connectUnix(control, { timeoutMs, signal, as: 'member' })
      return await HolderLink.greet(fd, settings, { timeoutMs, signal }, { generation, incarnation })
    } catch (error) {
      if (signal.aborted) return null
      const isDenied = FdbError.is(error) && error.code === 'ERR_FDB_DENIED'
      if (isDenied && !toldDenied)
        logger.warn(
          { err: error },
          "this process may not use the daemon's control socket any more: it keeps its listeners and cannot write; end it, or allow it again",
        )
      else logger.debug({ err: error }, 'the daemon cannot be reached yet')
      toldDenied ||= isDenied
      await pause(DAEMON_RETRY_MS, signal)
    }
  }
  return null
}

/** Ends early when `signal` aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return sleep(ms, undefined, { signal }).catch(() => {})
}
