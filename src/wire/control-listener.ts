import { FdbError } from '../errors.js'
import {
  accept,
  foreignConnections,
  listen,
  type NativeError,
  type OwnedFd,
  type PeerCredentials,
  type Poll,
  peerCredentials,
  READABLE,
  watch,
} from '../kernel/index.js'
import { CONTROL_BACKLOG } from '../os/control-path.js'

/** The maximum number of connections that are served in one turn of the event loop. */
export const TURN_ACCEPTS = 16
/** Limit of the time spent accepting per turn. Most of a flood of connections is closed unread, which takes some 30 µs each. */
const TURN_MS = 5
/** While more connections of other users wait to be closed, none is accepted: each keeps its descriptor until then. */
const MOST_CLOSING = 64
/** Delay until it is looked whether they are closed; each takes about a millisecond. */
const CLOSING_MS = 5
/** Delay after accept() failed for lack of descriptors or memory: the socket stays readable, so an immediate retry would use all CPU time. */
const ACCEPT_RETRY_MS = 100

interface ControlListenerEvents {
  /**
   * A peer has connected; `peer` comes from the kernel. The callback owns the socket. If the callback throws (ENOSPC: epoll can watch
   * no further socket), the listener closes the socket and calls {@link error}. Returns false if it has closed the socket unread.
   */
  channel(fd: OwnedFd, peer: PeerCredentials): unknown
  /** No descriptor is free to serve this connection: the callback refuses the peer and closes the socket. Without this callback it waits in the kernel. */
  crowded?(fd: OwnedFd, cause: unknown): void
  /** A connection was not accepted. If `error.retryable`, the listener continues (after 100 ms if accept() failed); otherwise it has stopped. */
  error?(error: FdbError): void
}

/**
 * Accepts on a listening Unix socket. Borrows the descriptor: its owner passes it on or closes it after {@link stop}. Clients that connect
 * while the listener is stopped wait in the kernel's queue.
 */
export class ControlListener {
  readonly fd: OwnedFd
  #poll: Poll | null = null
  #events: ControlListenerEvents | null = null
  #retryTimer: NodeJS.Timeout | undefined
  /** A spare descriptor. If no other is free, the listener closes this one, so that accept() succeeds and the peer receives a refusal. */
  #spare: OwnedFd | null = null
  #referenced = true

  constructor(fd: OwnedFd) {
    this.fd = fd
  }

  get accepting(): boolean {
    return this.#poll !== null
  }

  start(events: ControlListenerEvents | ControlListenerEvents['channel']): void {
    this.stop()
    this.#claimPeerName()
    this.#events = typeof events === 'function' ? { channel: events } : events
    this.#poll = watch(this.fd, () => this.#accept())
    if (!this.#referenced) this.#poll.unref()
    this.reserveSpare()
    this.#poll.start(READABLE)
  }

  /** Stops accepting. The descriptor stays open and connections queue on it; {@link start} resumes. Idempotent. */
  stop(): void {
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
    this.#poll?.close()
    this.#poll = null
    this.#events = null
    this.#spare?.close()
    this.#spare = null
  }

  /** Makes a waiting listener keep the process alive, which is the default. */
  ref(): void {
    this.#referenced = true
    this.#poll?.ref()
  }

  unref(): void {
    this.#referenced = false
    this.#poll?.unref()
  }

  /** Takes the spare descriptor while this listener accepts, unless it has one. */
  reserveSpare(): void {
    try {
      if (this.#events?.crowded) this.#spare ??= this.fd.dup()
    } catch {
      // No descriptor is free: clients wait in the queue.
    }
  }

  /** Calls listen() again, so that SO_PEERCRED gives clients the pid of this process instead of the one that called listen() before. */
  #claimPeerName(): void {
    try {
      listen(this.fd, CONTROL_BACKLOG)
    } catch {
      // The socket still listens; clients only fail to learn this process's pid.
    }
  }

  #accept(): void {
    // No descriptor may have been free when the spare one was taken last.
    this.reserveSpare()
    const until = performance.now() + TURN_MS
    for (let left = TURN_ACCEPTS; left > 0 && this.#poll !== null && performance.now() < until; left--) {
      if (foreignConnections.closing > MOST_CLOSING) {
        this.#acceptLater(CLOSING_MS)
        return
      }
      let fd: OwnedFd | null
      try {
        fd = accept(this.fd, 'control connection')
      } catch (error) {
        const { code } = error as NativeError
        if (code === 'ECONNABORTED') continue
        if (code === 'EMFILE' && this.#acceptCrowded(error)) continue
        this.#acceptFailed(error as NativeError)
        return
      }
      if (fd === null) return
      try {
        if (this.#events!.channel(fd, peerCredentials(fd)) === false) left++
      } catch (cause) {
        fd.close()
        this.#reportLostPeer(cause)
      }
    }
  }

  #acceptLater(ms: number): void {
    this.#poll?.stop()
    this.#retryTimer = setTimeout(() => this.#poll?.start(READABLE), ms)
    if (!this.#referenced) this.#retryTimer.unref()
  }

  /** Accepts one connection on the spare descriptor and refuses it. Returns whether a peer was refused. */
  #acceptCrowded(cause: unknown): boolean {
    this.reserveSpare()
    if (this.#spare === null || !this.#events?.crowded) return false
    this.#spare.close()
    this.#spare = null
    try {
      const fd = accept(this.fd, 'control connection')
      if (fd === null) return false
      this.#events.crowded(fd, cause)
      return true
    } catch {
      return false
    } finally {
      this.reserveSpare()
    }
  }

  #reportLostPeer(cause: unknown): void {
    const { code, message } = cause as NativeError
    const failure = `a peer on the control socket cannot be served (${code ?? message})`
    const remedy = 'its connection is closed; on ENOSPC raise fs.epoll.max_user_watches'
    this.#events?.error?.(new FdbError('ERR_FDB_ACCEPT', `${failure}: ${remedy}`, { cause, retryable: true }))
  }

  #acceptFailed(error: NativeError): void {
    const events = this.#events
    const temporary = ['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'].includes(error.code)
    if (temporary) this.#acceptLater(ACCEPT_RETRY_MS)
    else this.stop()
    const remedy = temporary
      ? `retried in ${ACCEPT_RETRY_MS} ms; raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)`
      : 'tried again when the control path is next checked, within 5 s; see the cause'
    events?.error?.(
      new FdbError('ERR_FDB_ACCEPT', `accepting on the control socket failed (${error.code}): ${remedy}`, {
        cause: error,
        retryable: temporary,
      }),
    )
  }
}
