import { Backoff } from '../base/backoff.js'
import { FdbError } from '../errors.js'
import { MAX_FDS_PER_MESSAGE, type NativeError, type OwnedFd, sendMessage } from '../kernel/index.js'
import { checkFrame, type FrameLimits, HEADER_BYTES, writeHeader } from './frame.js'
import { deadlineError } from './pending.js'

/** Payloads up to this size are copied after their header and sent in one call; larger ones are sent in place. */
const COPY_BYTES = 32 * 1024

/** Memory overhead of a queued frame: objects and a promise. */
const FRAME_BYTES = 1024

/** Limit of bytes per flush, so that a fast peer does not keep this process from its other work. */
const TURN_BYTES = 1024 * 1024

const RETRY_BOUNDS = { firstMs: 1, longestMs: 50 }

/** A timer that is later shows that this process was stopped, or busy. */
const LATE_MS = 10

/** One buffer for all channels: send() fills it and passes it to the kernel before any other code runs. */
const scratch = Buffer.allocUnsafeSlow(HEADER_BYTES + COPY_BYTES)
const DONE = Promise.resolve()
const NO_FDS: readonly OwnedFd[] = []

interface OutboundOptions {
  limits: FrameLimits
  sendTimeoutMs: number
  maxQueuedBytes: number
}

interface OutboundEvents {
  /** `on`: the kernel's buffer is full, so the owner must call {@link Outbound.flush} when the socket is writable. Otherwise polling may stop. */
  blocked(on: boolean): void
  /** A frame missed its deadline, or only part of it was sent. Later frames may depend on it, so the owner must close the stream. */
  broken(error: FdbError): void
}

interface QueuedFrame {
  head: Uint8Array
  body: Uint8Array | null
  total: number
  sent: number
  fds: readonly OwnedFd[]
  fdsSent: number
  deadline: number
  resolve: () => void
  reject: (error: unknown) => void
}

/** The sending half of a channel: sends frames in order, each with its descriptors. Borrows the socket. */
export class Outbound {
  readonly #socket: OwnedFd
  readonly #options: OutboundOptions
  readonly #events: OutboundEvents
  #queue: QueuedFrame[] = []
  #first = 0
  #queuedBytes = 0
  #fdsSent = 0
  #failure: FdbError | null = null
  #deadlineTimer: NodeJS.Timeout | undefined
  #retryTimer: NodeJS.Timeout | undefined
  readonly #backoff = new Backoff(RETRY_BOUNDS)

  constructor(socket: OwnedFd, options: OutboundOptions, events: OutboundEvents) {
    this.#socket = socket
    this.#options = options
    this.#events = events
  }

  get queuedBytes(): number {
    return this.#queuedBytes
  }

  /** Memory that the queue takes, in bytes. */
  get heldBytes(): number {
    return this.#idle ? 0 : this.#cost
  }

  get fdsSent(): number {
    return this.#fdsSent
  }

  send(payload: Uint8Array, fds: readonly OwnedFd[] = NO_FDS): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    const refusal = checkFrame(payload.length, fds.length, this.#options.limits)
    if (refusal !== null) return Promise.reject(refusal)

    const total = HEADER_BYTES + payload.length
    const small = payload.length <= COPY_BYTES
    const entry: Pick<QueuedFrame, 'sent' | 'fdsSent'> = { sent: 0, fdsSent: 0 }
    let retry = false
    if (small && this.#idle && fds.length <= MAX_FDS_PER_MESSAGE) {
      writeHeader(scratch, payload.length, fds.length)
      scratch.set(payload, HEADER_BYTES)
      try {
        const sent = sendMessage(this.#socket, scratch, 0, total, fds)
        if (sent > 0) this.#fdsSent += fds.length
        if (sent === total) return DONE
        if (sent > 0) {
          entry.sent = sent
          entry.fdsSent = fds.length
        }
      } catch (error) {
        if (!isTemporary(error)) return Promise.reject(this.#sendFailed(error, false))
        retry = true
      }
    }
    if (!this.#idle && this.#cost + total > this.#options.maxQueuedBytes)
      return Promise.reject(this.#full(total))
    const head = Buffer.allocUnsafe(small ? total : HEADER_BYTES)
    writeHeader(head, payload.length, fds.length)
    if (small) head.set(payload, HEADER_BYTES)
    const wasIdle = this.#idle
    const promise = new Promise<void>((resolve, reject) => {
      this.#push({
        ...entry,
        head,
        body: small ? null : payload,
        total,
        fds,
        deadline: performance.now() + this.#options.sendTimeoutMs,
        resolve,
        reject,
      })
    })
    if (retry) this.#retryLater()
    else if (wasIdle) this.flush()
    return promise
  }

  /** Sends until the queue is empty, the kernel's buffer is full, or the budget of this turn is used up. */
  flush(): void {
    if (this.#retryTimer !== undefined || this.#failure !== null) return
    let budget = TURN_BYTES
    while (!this.#idle) {
      const entry = this.#queue[this.#first]!
      const before = entry.sent
      let state: 'done' | 'blocked'
      try {
        state = this.#advance(entry)
      } catch (error) {
        if (isTemporary(error)) {
          this.#events.blocked(false)
          this.#retryLater()
          return
        }
        const failure = this.#sendFailed(error, entry.sent > 0)
        if (this.#failure !== null) return
        this.#shift()
        entry.reject(failure)
        continue
      }
      budget -= entry.sent - before
      if (state === 'done') {
        this.#backoff.reset()
        this.#shift()
        entry.resolve()
      }
      if (state === 'blocked' || (budget <= 0 && !this.#idle)) {
        this.#events.blocked(true)
        return
      }
    }
    this.#events.blocked(false)
  }

  /** Rejects all queued frames and all later sends. Idempotent. */
  fail(error: FdbError): void {
    if (this.#failure !== null) return
    this.#failure = error
    clearTimeout(this.#deadlineTimer)
    clearTimeout(this.#retryTimer)
    const left = this.#queue.slice(this.#first)
    this.#queue = []
    this.#first = 0
    this.#queuedBytes = 0
    for (const entry of left) entry.reject(error)
  }

  get #idle(): boolean {
    return this.#first === this.#queue.length
  }

  get #cost(): number {
    return this.#queuedBytes + (this.#queue.length - this.#first) * FRAME_BYTES
  }

  #advance(entry: QueuedFrame): 'done' | 'blocked' {
    const { head, body, fds } = entry
    while (entry.sent < entry.total) {
      const inHead = entry.sent < head.length
      const data = inHead ? head : body!
      const offset = inHead ? entry.sent : entry.sent - head.length
      let length = data.length - offset
      const left = fds.length - entry.fdsSent
      const batch = Math.min(left, MAX_FDS_PER_MESSAGE)
      // Every batch but the last takes one byte; checkFrame limits the batches to the header's eight bytes.
      if (left > batch) length = 1
      const now = batch === 0 ? [] : fds.slice(entry.fdsSent, entry.fdsSent + batch)
      const sent = sendMessage(this.#socket, data, offset, length, now)
      if (sent < 0) return 'blocked'
      entry.sent += sent
      entry.fdsSent += batch
      this.#fdsSent += batch
      this.#queuedBytes -= sent
    }
    return 'done'
  }

  /** Returns the error to report; stops sending if the peer has left or only part of a frame was sent. */
  #sendFailed(error: unknown, begun: boolean): FdbError {
    const { code } = error as Partial<NativeError>
    if (code === 'EPIPE' || code === 'ECONNRESET' || code === 'ENOTCONN') {
      const closedError = new FdbError(
        'ERR_FDB_CHANNEL_CLOSED',
        `the peer has closed the channel (${code}): connect again`,
        { cause: error },
      )
      this.fail(closedError)
      this.#events.blocked(false)
      return closedError
    }
    const failure =
      code === 'EPERM'
        ? new FdbError(
            'ERR_FDB_FDS_REFUSED',
            'the peer accepts no descriptors on this channel (EPERM): it has switched SO_PASSRIGHTS off, or a security policy forbids passing them',
            { cause: error },
          )
        : FdbError.is(error)
          ? error
          : new FdbError(
              'ERR_FDB_SEND',
              `sending on the channel failed (${code ?? String(error)}): see the cause`,
              { cause: error },
            )
    if (begun) {
      this.fail(failure)
      this.#events.broken(failure)
    }
    return failure
  }

  #push(entry: QueuedFrame): void {
    this.#queue.push(entry)
    this.#queuedBytes += entry.total - entry.sent
    if (this.#deadlineTimer === undefined) this.#armDeadline()
  }

  #shift(): void {
    const entry = this.#queue[this.#first]!
    this.#queue[this.#first++] = undefined as never
    this.#queuedBytes -= entry.total - entry.sent
    if (this.#idle) {
      this.#queue = []
      this.#first = 0
      clearTimeout(this.#deadlineTimer)
      this.#deadlineTimer = undefined
    } else if (this.#first >= 1024) {
      this.#queue = this.#queue.slice(this.#first)
      this.#first = 0
    }
  }

  #resume(): void {
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
    this.flush()
  }

  #armDeadline(): void {
    const wait = this.#queue[this.#first]!.deadline - performance.now()
    this.#deadlineTimer = setTimeout(() => this.#onDeadline(), Math.max(1, Math.ceil(wait)))
  }

  #onDeadline(): void {
    this.#deadlineTimer = undefined
    const wasStopped = performance.now() - this.#queue[this.#first]!.deadline > LATE_MS
    const before = this.#queuedBytes
    // If this process was stopped (SIGSTOP), the deadline has passed although the kernel may accept the frame now: try once more.
    this.#resume()
    if (this.#idle || this.#deadlineTimer !== undefined) return
    // The peer has read meanwhile: the other bytes get the whole time.
    if (wasStopped && this.#queuedBytes < before) this.#extendDeadlines()
    const entry = this.#queue[this.#first]!
    if (entry.deadline > performance.now()) {
      this.#armDeadline()
      return
    }
    const error = deadlineError(
      `sending ${entry.total} bytes with ${entry.fds.length} descriptors`,
      this.#options.sendTimeoutMs,
    )
    this.fail(error)
    this.#events.broken(error)
  }

  #extendDeadlines(): void {
    const deadline = performance.now() + this.#options.sendTimeoutMs
    for (const entry of this.#queue.slice(this.#first)) entry.deadline = deadline
  }

  /** ETOOMANYREFS means that this user has too many descriptors in flight; the kernel accepts more after any process receives or closes some. */
  #retryLater(): void {
    this.#retryTimer = setTimeout(() => this.#resume(), this.#backoff.next())
  }

  #full(bytes: number): FdbError {
    const { maxQueuedBytes } = this.#options
    return new FdbError(
      'ERR_FDB_CHANNEL_FULL',
      `${this.#cost} bytes wait for a slow peer (counting ${FRAME_BYTES} of overhead per frame), and ${bytes} more would exceed the limit of ${maxQueuedBytes}: await earlier sends, or raise maxQueuedBytes`,
      { retryable: true, details: { limit: maxQueuedBytes, got: this.#cost + bytes } },
    )
  }
}

function isTemporary(error: unknown): boolean {
  const { code } = error as Partial<NativeError>
  return code === 'ETOOMANYREFS' || code === 'ENOBUFS' || code === 'ENOMEM'
}
