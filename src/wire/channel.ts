import { afterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import {
  closeAll,
  isHungUp,
  isShortage,
  type NativeError,
  type OwnedFd,
  type PeerCredentials,
  type Poll,
  peerCredentials,
  READABLE,
  type ReceivedMessage,
  receiveMessage,
  unreadBytes,
  WRITABLE,
  watch,
} from '../kernel/index.js'
import { type ConnectOptions, connectUnix, listeningPid } from '../os/connect.js'
import { fdLimits, outOfDescriptors } from '../os/limits.js'
import { chargeTurn, type ForeignUser } from './foreign-user.js'
import { type FrameLimits, frameLimits, SMALL_FRAMES } from './frame.js'
import { FrameDecoder } from './frame-decoder.js'
import { Outbound } from './outbound.js'
import { deadlineError } from './pending.js'

const BUFFER_BYTES = 64 * 1024
/** There may be many connections of other users, and few of them have much to say. */
const FOREIGN_BUFFER_BYTES = 16 * 1024
/** Limit of the buffers that are kept for the next connections: each is memory outside of V8's heap, and brings the next collection nearer. */
const MOST_SPARE = 64
const spareBuffers: Buffer[] = []
/** A frame of another user must be complete after this time. */
const FRAME_MS = 10_000
/** Per turn of the event loop a channel reads at most this many bytes and delivers messages for at most this long. */
const TURN_BYTES = 256 * 1024
const TURN_MS = 3
/** {@link Channel.readNow} takes at most this long. */
const NOW_MS = 50

export interface ChannelOptions {
  /** Frame limits for both directions. */
  limits?: Partial<FrameLimits>
  /** The channel ends if the kernel has not accepted a whole frame after this time. Default 10 000. */
  sendTimeoutMs?: number
  /** Bytes that may be queued for a slow peer, counting 1 KiB of overhead per frame. One frame may always be queued. Default 64 MiB. */
  maxQueuedBytes?: number
  /** The other user whose process the peer is. Until {@link Channel.allow} the limits of received frames are those of `SMALL_FRAMES`. */
  foreignUser?: ForeignUser | undefined
}

interface ChannelHandler {
  /** Receives one whole message, in order. The handler owns payload and descriptors, also if it throws. */
  message(payload: Buffer, fds: OwnedFd[]): void
  /**
   * Called once, after the peer or a failure has closed the channel; `error` is null if the peer closed it between two messages.
   * Not called after {@link Channel.close}.
   */
  end(error: FdbError | null): void
}

/**
 * Framed messages with descriptors over one connected Unix stream socket, which the channel owns.
 *
 * Messages arrive whole, in order and with exactly their descriptors, or the channel ends. The channel leaks no received descriptor.
 * A slow or hostile peer costs bounded memory, and bounded time per turn of the event loop.
 */
export class Channel {
  /** The peer's credentials when it connected; for a client, those of the process that called listen(). Pid 0: in another PID namespace. */
  readonly peer: PeerCredentials
  /** Resolves when the socket is closed, for any reason. Never rejects. */
  readonly closed: Promise<void>
  /** The other user whose process the peer is. */
  readonly foreignUser: ForeignUser | undefined
  readonly #fd: OwnedFd
  readonly #poll: Poll
  readonly #decoder: FrameDecoder<OwnedFd>
  readonly #outbound: Outbound
  readonly #maxQueuedBytes: number
  #handler: ChannelHandler | null = null
  #buffer: Buffer | null = null
  #interest = 0
  #wantsWritable = false
  #paused = false
  #pumping = false
  #pumpTimer: NodeJS.Immediate | undefined
  #isClosed = false
  #resolveClosed!: () => void
  #stoppedAtFds = false
  #lastReceivedAt = performance.now()
  /** Bytes that the user was charged for this channel. */
  #heldBytes = 0
  #frameLimit: Limit | undefined
  /** Whether a frame was delivered since {@link #frameLimit} was set. */
  #delivered = false
  /** Set while the user has used more than its share of time. */
  #waitTimer: NodeJS.Timeout | undefined

  static async connect(path: string, options: ChannelOptions & ConnectOptions = {}): Promise<Channel> {
    const fd = await connectUnix(path, options)
    try {
      return new Channel(fd, options)
    } catch (error) {
      if (!isShortage(error)) throw error
      throw outOfDescriptors('the connection to the control socket cannot be watched', error)
    }
  }

  /** Takes ownership of `fd`, a connected, non-blocking Unix stream socket; closes it if the constructor throws. */
  constructor(fd: OwnedFd, options: ChannelOptions = {}) {
    let limits: FrameLimits
    try {
      limits = frameLimits(options.limits)
      this.peer = peerCredentials(fd)
      this.#poll = watch(fd, () => this.#onPoll())
    } catch (error) {
      fd.close()
      throw error
    }
    this.#fd = fd
    this.foreignUser = options.foreignUser
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    this.#decoder = new FrameDecoder(this.foreignUser === undefined ? limits : SMALL_FRAMES)
    const { sendTimeoutMs = 10_000, maxQueuedBytes = 64 * 1024 * 1024 } = options
    this.#maxQueuedBytes = maxQueuedBytes
    this.#outbound = new Outbound(
      fd,
      { limits, sendTimeoutMs, maxQueuedBytes },
      {
        blocked: on => {
          this.#wantsWritable = on
          this.#watch()
        },
        broken: error => this.#finish(error),
      },
    )
  }

  /** Starts to read. Until then messages wait in the kernel. */
  start(handler: ChannelHandler): void {
    if (this.#handler !== null) {
      throw new FdbError(
        'ERR_FDB_CHANNEL_STARTED',
        'this channel is already started: only one handler can read it',
      )
    }
    this.#refuseClosed()
    this.#handler = handler
    this.#buffer =
      this.foreignUser === undefined
        ? Buffer.allocUnsafeSlow(BUFFER_BYTES)
        : (spareBuffers.pop() ?? Buffer.allocUnsafeSlow(FOREIGN_BUFFER_BYTES))
    this.#watch()
  }

  /** Sets the limits of the frames that another user may send. */
  allow(limits: Partial<FrameLimits>): void {
    if (this.foreignUser !== undefined) this.#decoder.limits = limits
  }

  /**
   * Resolves when the kernel has accepted the whole frame, which then arrives even if this process closes the channel or dies. The channel borrows
   * the descriptors, and a payload above 32 KiB, until the promise settles; the caller keeps owning them. A frame that misses the send timeout
   * ends the channel.
   *
   * Rejects with ERR_FDB_CHANNEL_CLOSED, ERR_FDB_CHANNEL_FULL, ERR_FDB_DEADLINE, ERR_FDB_FRAME_TOO_LARGE, ERR_FDB_FRAME_TOO_MANY_FDS,
   * ERR_FDB_FDS_REFUSED, ERR_FDB_SEND.
   */
  send(payload: Uint8Array, fds?: readonly OwnedFd[]): Promise<void> {
    const sent = this.#outbound.send(payload, fds)
    if (this.foreignUser !== undefined) this.#charge()
    return sent
  }

  /** Stops reading and delivering until {@link resume}. Sending continues. */
  pause(): void {
    this.#paused = true
    this.#watch()
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#watch()
    this.#continueLater()
  }

  /** Delivers in this turn of the event loop what has arrived before it, at most for 50 ms, also if another user has used up its share of time. */
  readNow(): void {
    if (this.foreignUser !== undefined) chargeTurn(this.foreignUser)
    const until = performance.now() + NOW_MS
    while (this.#pump() && performance.now() < until);
  }

  /** Number of descriptors that the kernel has accepted since the channel was created. */
  get fdsSent(): number {
    return this.#outbound.fdsSent
  }

  /** Bytes passed to {@link send} that the kernel has not accepted yet. */
  get queuedBytes(): number {
    return this.#outbound.queuedBytes
  }

  /** Bytes that the kernel has accepted and the peer has not read, as {@link unreadBytes} counts them. */
  get unreadBytes(): number {
    return this.#isClosed ? 0 : unreadBytes(this.#fd)
  }

  /** Whether the peer has closed its end, also if the channel has not read to the end yet: no answer can reach the peer. */
  get isHungUp(): boolean {
    return this.#isClosed || isHungUp(this.#fd)
  }

  /** Whether the queue is more than half full: senders whose messages can wait must hold them back, to leave room for urgent ones. */
  get crowded(): boolean {
    return this.queuedBytes > this.#maxQueuedBytes / 2
  }

  /** Milliseconds since the last byte arrived, or since the channel's creation. */
  get idleMs(): number {
    return performance.now() - this.#lastReceivedAt
  }

  /** Client only: the pid of the living process that listens at the other end, or 0 if the kernel cannot name it. */
  listeningPid(): number {
    this.#refuseClosed()
    return listeningPid(this.#fd)
  }

  /** Makes an idle channel keep the process alive, which is the default. */
  ref(): void {
    this.#poll.ref()
  }

  unref(): void {
    this.#poll.unref()
  }

  /**
   * Closes at once: rejects queued sends, closes undelivered descriptors, and calls no callback afterwards. Bytes that the kernel has
   * accepted still reach the peer. Idempotent.
   */
  close(): Promise<void> {
    this.#closeNow(null)
    return this.closed
  }

  /** Called on a socket error too: the channel reads the remaining bytes, then the read fails with the cause. */
  #onPoll(): void {
    if (this.foreignUser !== undefined) chargeTurn(this.foreignUser)
    if (this.#wantsWritable) this.#outbound.flush()
    if (this.foreignUser === undefined) this.#pump()
    else {
      this.#charge()
      this.#pumpOf(this.foreignUser)
    }
  }

  /** Reads in the user's share of time. */
  #pumpOf(user: ForeignUser): void {
    if (this.#waitTimer !== undefined || this.#handler === null || this.#isClosed) return
    if (this.#waits(user)) return
    chargeTurn(user)
    try {
      this.#pump()
    } finally {
      this.#charge()
      if (!this.#isClosed) this.#limitFrame()
    }
  }

  /** Stops reading for as long as the user must wait. Returns whether it must. */
  #waits({ waitMs }: ForeignUser): boolean {
    if (waitMs <= 0) return false
    this.#waitTimer = setTimeout(() => {
      this.#waitTimer = undefined
      this.#watch()
      this.#continueLater()
    }, Math.ceil(waitMs)).unref()
    this.#watch()
    return true
  }

  /** Charges the user for the memory that this channel holds now, and ends the channel if that is too much. */
  #charge(): void {
    const held = this.#isClosed ? 0 : this.#decoder.heldBytes + this.#outbound.heldBytes
    const by = held - this.#heldBytes
    this.#heldBytes = held
    const error = by === 0 ? null : this.foreignUser!.holdBytes(by)
    if (error !== null) this.#finish(error)
  }

  /** Ends the channel if a frame stays incomplete. */
  #limitFrame(): void {
    const waits = this.#decoder.midFrame && !this.#paused
    if (waits && !this.#delivered && this.#frameLimit !== undefined) return
    this.#delivered = false
    this.#frameLimit?.clear()
    this.#frameLimit = undefined
    if (!waits) return
    const late = () => this.#finish(deadlineError('the end of a message', FRAME_MS))
    this.#frameLimit = afterReading(FRAME_MS, late, { unref: true })
  }

  /** Delivers decoded frames and reads more, within the limits of a turn. Returns whether a limit has ended that. */
  #pump(): boolean {
    const handler = this.#handler
    if (handler === null || this.#pumping || this.#isClosed) return false
    this.#pumping = true
    const until = performance.now() + TURN_MS
    let failure: FdbError | null | undefined
    let drained = false
    let limited = false
    try {
      for (let bytes = 0; ; ) {
        failure = this.#deliver(handler, until)
        if (failure !== undefined || this.#isClosed || this.#paused) break
        const over = bytes >= TURN_BYTES || performance.now() >= until
        limited = this.#decoder.pending || (over && !drained)
        if (limited || drained) break
        const got = this.#read()
        if (typeof got !== 'number') {
          failure = got
          break
        }
        if (got === 0) break
        bytes += got
        // If recvmsg does not fill the buffer, the socket is empty, or recvmsg stopped at a batch of descriptors.
        drained = got < this.#buffer!.length && !this.#stoppedAtFds
      }
    } finally {
      this.#pumping = false
      if (failure === undefined && !this.#isClosed) {
        this.#continueLater()
        this.#watch()
      }
    }
    if (failure !== undefined) this.#finish(failure)
    return limited
  }

  /** Returns the decoder's error, which ends the channel. An exception of the handler passes through and leaves the channel usable. */
  #deliver(handler: ChannelHandler, until: number): FdbError | undefined {
    while (!this.#paused && !this.#isClosed) {
      let frame: ReturnType<FrameDecoder<OwnedFd>['next']>
      try {
        frame = this.#decoder.next()
      } catch (error) {
        return error as FdbError
      }
      if (frame === null) return undefined
      this.#delivered = true
      handler.message(frame.payload, frame.fds)
      if (this.#decoder.pending && performance.now() >= until) return undefined
    }
    return undefined
  }

  /** Returns the bytes read, 0 if the socket is empty, null if the peer closed between two messages, or the error that ends the channel. */
  #read(): number | FdbError | null {
    const buffer = this.#buffer!
    let got: ReceivedMessage
    try {
      got = receiveMessage(this.#fd, buffer, this.foreignUser?.fds)
    } catch (error) {
      return receiveError(error as NativeError)
    }
    const { fds } = got
    if (got.truncated) {
      if (fds !== null) closeAll(fds)
      return truncatedError(fds?.length ?? 0)
    }
    if (got.bytes < 0) return 0
    if (got.bytes === 0) {
      if (fds !== null) closeAll(fds)
      return this.#decoder.midFrame ? cutError() : null
    }
    this.#lastReceivedAt = performance.now()
    this.#stoppedAtFds = fds !== null
    try {
      this.#decoder.push(buffer.subarray(0, got.bytes), fds)
    } catch (error) {
      return error as FdbError
    }
    return (fds === null ? null : this.foreignUser?.demandFds()) ?? got.bytes
  }

  #continueLater(): void {
    if (this.#pumpTimer !== undefined || this.#paused || this.#pumping || !this.#decoder.pending) return
    this.#pumpTimer = setImmediate(() => {
      this.#pumpTimer = undefined
      if (this.foreignUser === undefined) this.#pump()
      else this.#pumpOf(this.foreignUser)
    })
  }

  #watch(): void {
    if (this.#isClosed) return
    const reads = this.#handler !== null && !this.#paused && this.#waitTimer === undefined
    const interest = (reads ? READABLE : 0) | (this.#wantsWritable ? WRITABLE : 0)
    if (interest === this.#interest) return
    this.#interest = interest
    if (interest === 0) this.#poll.stop()
    else this.#poll.start(interest)
  }

  #finish(error: FdbError | null): void {
    if (this.#isClosed) return
    this.#closeNow(error)
    this.#handler?.end(error)
  }

  #closeNow(error: FdbError | null): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearImmediate(this.#pumpTimer)
    this.#frameLimit?.clear()
    clearTimeout(this.#waitTimer)
    // Closes the poll first: epoll keeps reporting a socket as long as another process holds a descriptor of it.
    this.#poll.close()
    this.#fd.closeStream()
    closeAll(this.#decoder.takeFds())
    if (this.foreignUser !== undefined && this.#buffer !== null && spareBuffers.length < MOST_SPARE)
      spareBuffers.push(this.#buffer)
    this.#buffer = null
    if (this.#heldBytes > 0) this.foreignUser?.holdBytes(-this.#heldBytes)
    this.#heldBytes = 0
    this.#outbound.fail(
      new FdbError('ERR_FDB_CHANNEL_CLOSED', 'the channel is closed: nothing more can be sent on it', {
        cause: error ?? undefined,
      }),
    )
    this.#resolveClosed()
  }

  #refuseClosed(): void {
    if (this.#isClosed) throw new FdbError('ERR_FDB_CHANNEL_CLOSED', 'the channel is closed: connect again')
  }
}

function receiveError(error: NativeError): FdbError {
  if (error.code === 'ECONNRESET') {
    return new FdbError(
      'ERR_FDB_CHANNEL_RESET',
      'the peer closed the channel, or died, before it had read everything that this process sent: connect again',
      { cause: error },
    )
  }
  return new FdbError('ERR_FDB_RECEIVE', `receiving on the channel failed (${error.code}): see the cause`, {
    cause: error,
  })
}

function cutError(): FdbError {
  return new FdbError(
    'ERR_FDB_CHANNEL_TRUNCATED',
    'the peer closed the channel, or died, in the middle of a message: connect again',
  )
}

function truncatedError(arrived: number): FdbError {
  const { soft, hard, open } = fdLimits()
  return new FdbError(
    'ERR_FDB_FDS_TRUNCATED',
    `descriptors were lost on arrival (${arrived} fitted and were closed): this process has ${open ?? 'an unknown number of'} descriptors open; its limit is ${soft ?? 'unknown'} (RLIMIT_NOFILE, hard limit ${hard ?? 'unknown'}): raise the limit (ulimit -n, LimitNOFILE=) and try again`,
    { retryable: true, details: { arrived, open, soft, hard } },
  )
}
