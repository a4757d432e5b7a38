import { FdbError } from '../errors.js'
import {
  closeAll,
  type NativeError,
  type OwnedFd,
  type PeerCredentials,
  type Poll,
  peerCredentials,
  READABLE,
  type ReceivedMessage,
  receiveMessage,
  socketPair,
  unreadBytes,
  WRITABLE,
  watch,
} from '../kernel/index.js'
import { type ConnectOptions, connectUnix, listeningPid } from '../os/connect.js'
import { fdLimits } from '../os/limits.js'
import { type FrameLimits, frameLimits } from './frame.js'
import { FrameDecoder } from './frame-decoder.js'
import { Outbound } from './outbound.js'

const BUFFER_BYTES = 64 * 1024
/** One turn of the event loop reads at most this much from one channel, and delivers for at most so long. */
const TURN_BYTES = 256 * 1024
const TURN_MS = 3

export interface ChannelOptions {
  /** Limits of a frame, in both directions. */
  limits?: Partial<FrameLimits>
  /** A frame that the kernel has not taken whole after so many milliseconds ends the channel. Default 10 000. */
  sendTimeoutMs?: number
  /** Bytes that may wait for a slow peer, 1 KiB for each frame beside its own; one frame may always wait. Default 64 MiB. */
  maxQueuedBytes?: number
}

export interface ChannelHandler {
  /** One whole message, in order. Payload and descriptors are the handler's from now on, also when it throws. */
  message(payload: Buffer, fds: OwnedFd[]): void
  /**
   * Once, when the peer or a failure has ended the channel: null is an orderly end between two messages. Not
   * called after one's own {@link Channel.close}. The channel is closed already.
   */
  end(error: FdbError | null): void
}

/**
 * Framed messages with descriptors over one connected Unix stream socket, which it owns.
 *
 * It guarantees that messages arrive whole, in order and with exactly their descriptors, or the channel ends; that no descriptor that
 * arrived is leaked; and that a slow or hostile peer costs bounded time a turn and bounded memory.
 */
export class Channel implements AsyncDisposable {
  /** Credentials at connect (clients see who called listen()); pid 0: another PID namespace. */
  readonly peer: PeerCredentials
  /** Resolves when the socket is closed, for whatever reason. Never rejects. */
  readonly closed: Promise<void>
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

  static async connect(path: string, options: ChannelOptions & ConnectOptions = {}): Promise<Channel> {
    return new Channel(await connectUnix(path, options), options)
  }

  static pair(options: ChannelOptions = {}): [Channel, Channel] {
    const [a, b] = socketPair('channel')
    return [new Channel(a, options), new Channel(b, options)]
  }

  /** Takes ownership of `fd`, also when it throws: a connected, non-blocking Unix stream socket. */
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
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    this.#decoder = new FrameDecoder(limits)
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

  /** Begins to read. Until then everything waits in the kernel. */
  start(handler: ChannelHandler): void {
    if (this.#handler !== null) {
      throw new FdbError('ERR_FDB_CHANNEL_STARTED', 'this channel was started before: one handler reads it')
    }
    this.#refuseClosed()
    this.#handler = handler
    this.#buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES)
    this.#watch()
  }

  /**
   * Resolves when the kernel has taken the whole frame (it then survives our close and our death). The
   * descriptors, and a payload above 32 KiB, are borrowed until the promise settles, and still the caller's then.
   * `signal` withdraws a frame of which nothing was sent; one that has begun goes on to its end. One that is late ends the channel.
   *
   * Rejects with ERR_FDB_CHANNEL_CLOSED, ERR_FDB_CHANNEL_FULL, ERR_FDB_DEADLINE, ERR_FDB_FRAME_TOO_LARGE,
   * ERR_FDB_FRAME_TOO_MANY_FDS, ERR_FDB_FDS_REFUSED, ERR_FDB_SEND.
   */
  send(payload: Uint8Array, fds?: readonly OwnedFd[], options?: { signal?: AbortSignal }): Promise<void> {
    return this.#outbound.send(payload, fds, options?.signal)
  }

  /** No message is delivered and nothing more is read until {@link resume}. Sending goes on. */
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

  get paused(): boolean {
    return this.#paused
  }

  /** Descriptors that the kernel has taken, since the channel was made. */
  get fdsSent(): number {
    return this.#outbound.fdsSent
  }

  /** Bytes accepted by {@link send} and not yet taken by the kernel. */
  get queuedBytes(): number {
    return this.#outbound.queuedBytes
  }

  /** Bytes that the kernel has taken and the peer has not read, as {@link unreadBytes} counts them. */
  get unreadBytes(): number {
    return this.#isClosed ? 0 : unreadBytes(this.#fd)
  }

  /** More than half of what may wait does: who can send another time leaves the rest to who cannot. */
  get crowded(): boolean {
    return this.queuedBytes > this.#maxQueuedBytes / 2
  }

  /** On the clock of performance.now(), milliseconds; at first the channel's birth. */
  get lastReceivedAt(): number {
    return this.#lastReceivedAt
  }

  /** Milliseconds since the last byte arrived. */
  get idleMs(): number {
    return performance.now() - this.#lastReceivedAt
  }

  /** A client's other end: the process that listens at the other end and lives; 0 when the kernel cannot name it. */
  listeningPid(): number {
    this.#refuseClosed()
    return listeningPid(this.#fd)
  }

  /** Whether an idle channel keeps the process alive (it does at first). */
  ref(): void {
    this.#poll.ref()
  }

  unref(): void {
    this.#poll.unref()
  }

  /**
   * Closes at once: rejects waiting sends, closes undelivered descriptors, and calls no callback afterwards. Bytes that the kernel has
   * taken still reach the peer. Idempotent.
   */
  close(): Promise<void> {
    this.#closeNow(null)
    return this.closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Also when the socket is in error: what is left is still read, and the read says why. */
  #onPoll(): void {
    if (this.#wantsWritable) this.#outbound.flush()
    this.#pump()
  }

  /** Delivers what the decoder has, reads more, within the limits of a turn. */
  #pump(): void {
    const handler = this.#handler
    if (handler === null || this.#pumping || this.#isClosed) return
    this.#pumping = true
    const until = performance.now() + TURN_MS
    let failure: FdbError | null | undefined
    let drained = false
    try {
      for (let bytes = 0; ; ) {
        failure = this.#deliver(handler, until)
        if (failure !== undefined || this.#isClosed || this.#paused || this.#decoder.pending) break
        if (drained || bytes >= TURN_BYTES || performance.now() >= until) break
        const got = this.#read()
        if (typeof got !== 'number') {
          failure = got
          break
        }
        if (got === 0) break
        bytes += got
        // A short read has emptied the socket, unless descriptors stopped it.
        drained = got < BUFFER_BYTES && !this.#stoppedAtFds
      }
    } finally {
      this.#pumping = false
      if (failure === undefined && !this.#isClosed) {
        this.#continueLater()
        this.#watch()
      }
    }
    if (failure !== undefined) this.#finish(failure)
  }

  /** undefined: go on. An exception of the handler passes through and leaves the channel as it was. */
  #deliver(handler: ChannelHandler, until: number): FdbError | undefined {
    while (!this.#paused && !this.#isClosed) {
      let frame: ReturnType<FrameDecoder<OwnedFd>['next']>
      try {
        frame = this.#decoder.next()
      } catch (error) {
        return error as FdbError
      }
      if (frame === null) return undefined
      handler.message(frame.payload, frame.fds)
      if (this.#decoder.pending && performance.now() >= until) return undefined
    }
    return undefined
  }

  /** Bytes read; 0 when nothing more waits; otherwise how the channel has ended. */
  #read(): number | FdbError | null {
    const buffer = this.#buffer!
    let got: ReceivedMessage
    try {
      got = receiveMessage(this.#fd, buffer, 0, BUFFER_BYTES)
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
    return got.bytes
  }

  #continueLater(): void {
    if (this.#pumpTimer !== undefined || this.#paused || this.#pumping || !this.#decoder.pending) return
    this.#pumpTimer = setImmediate(() => {
      this.#pumpTimer = undefined
      this.#pump()
    })
  }

  #watch(): void {
    if (this.#isClosed) return
    const reads = this.#handler !== null && !this.#paused
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
    // The poll first: epoll would go on reporting a socket that others still hold.
    this.#poll.close()
    this.#fd.close()
    closeAll(this.#decoder.takeFds())
    this.#buffer = null
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
      'the peer closed the channel, or died, before it had read all that was sent: connect again',
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
    `descriptors were lost on arrival (${arrived} fitted and were closed): this process has ${open ?? 'an unknown number of'} open and may have ${soft ?? 'an unknown number'} (RLIMIT_NOFILE, hard limit ${hard ?? 'unknown'}): raise it (ulimit -n, LimitNOFILE=) and try again`,
    { retryable: true, details: { arrived, open, soft, hard } },
  )
}
