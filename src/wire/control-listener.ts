import { FdbError } from '../errors.js'
import {
  accept,
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

/** Connections accepted in one turn of the event loop. */
const TURN_ACCEPTS = 16
/** Without a free descriptor accept fails at once, again and again: wait instead. */
const PAUSE_MS = 100

export interface ControlListenerEvents {
  /**
   * A peer has connected. The callback owns the socket; who the peer is was told by the kernel. Where it throws (there is no room to watch
   * one more, ENOSPC) the socket is closed, and {@link error} is told.
   */
  channel(fd: OwnedFd, peer: PeerCredentials): void
  /** There is no descriptor for this connection but the spare one: the callback tells the peer at once, and closes the socket. Absent: it waits in the queue. */
  crowded?(fd: OwnedFd, cause: unknown): void
  /** Accepting failed for good and has stopped; with `retryable` it is tried again in 100 ms, or goes on without that peer. */
  error?(error: FdbError): void
}

/**
 * Accepts on a listening Unix socket. Borrows the descriptor: its owner passes it on or closes it, after {@link stop}. Clients that connect
 * while it is stopped wait in the kernel's queue.
 */
export class ControlListener {
  readonly fd: OwnedFd
  #poll: Poll | null = null
  #events: ControlListenerEvents | null = null
  #pause: NodeJS.Timeout | undefined
  /** Given up for a moment where no other is left, so that the peer can be told. */
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
    this.#keepSpare()
    this.#poll.start(READABLE)
  }

  /** Accepts no more; keeps the descriptor, which still queues. May be started again. Idempotent. */
  stop(): void {
    clearTimeout(this.#pause)
    this.#pause = undefined
    this.#poll?.close()
    this.#poll = null
    this.#events = null
    this.#spare?.close()
    this.#spare = null
  }

  /** Whether a waiting listener keeps the process alive (it does at first). */
  ref(): void {
    this.#referenced = true
    this.#poll?.ref()
  }

  unref(): void {
    this.#referenced = false
    this.#poll?.unref()
  }

  /** From now on the kernel names this process to clients that connect: else it names the process that called listen() first. */
  #claimPeerName(): void {
    try {
      listen(this.fd, CONTROL_BACKLOG)
    } catch {
      // The socket listens all the same; who connects does not learn our pid.
    }
  }

  #accept(): void {
    for (let i = 0; i < TURN_ACCEPTS && this.#poll !== null; i++) {
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
        this.#events!.channel(fd, peerCredentials(fd))
      } catch (cause) {
        fd.close()
        this.#peerLost(cause)
      }
    }
  }

  #keepSpare(): void {
    try {
      if (this.#events?.crowded) this.#spare ??= this.fd.dup()
    } catch {
      // There is none to spare: who connects waits.
    }
  }

  /** Reports whether a peer was told. */
  #acceptCrowded(cause: unknown): boolean {
    this.#keepSpare()
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
      this.#keepSpare()
    }
  }

  /** Others are served on: they need not end with this process. */
  #peerLost(cause: unknown): void {
    const { code, message } = cause as NativeError
    const why = `a peer on the control socket cannot be served (${code ?? message})`
    const remedy = 'it is told by the end of its connection; of ENOSPC: raise fs.epoll.max_user_watches'
    this.#events?.error?.(new FdbError('ERR_FDB_ACCEPT', `${why}: ${remedy}`, { cause, retryable: true }))
  }

  #acceptFailed(error: NativeError): void {
    const events = this.#events
    const passing = ['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'].includes(error.code)
    if (passing) {
      this.#poll?.stop()
      this.#pause = setTimeout(() => this.#poll?.start(READABLE), PAUSE_MS)
      if (!this.#referenced) this.#pause.unref()
    } else this.stop()
    const remedy = passing
      ? `tried again in ${PAUSE_MS} ms; raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)`
      : 'it has stopped; see the cause'
    events?.error?.(
      new FdbError('ERR_FDB_ACCEPT', `accepting on the control socket failed (${error.code}): ${remedy}`, {
        cause: error,
        retryable: passing,
      }),
    )
  }
}
