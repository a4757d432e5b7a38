import type { LentFd } from '../adapter.js'
import type { PositionRecord } from '../tls13/position-record.js'

/** Each character of a string is one byte (latin1). */
export type BytesOrText = Buffer | string

/** The stream to which bytes go that their owner need not see, and how many at most. */
export interface Passage {
  readonly to: ByteStream
  readonly most: number
}

/** Receives the events of a stream. A stream may change its owner; after {@link ByteStream.destroy} or {@link ByteStream.detach} the owner gets no event. */
export interface StreamOwner {
  /** Whether a broken stream stays open while the owner does not read, so that the owner gets all bytes that the peer had sent. Default: the stream closes at once, as a stream over a socket of Node always does. */
  readonly readsToEnd?: boolean
  /** The connection is established. Called only for a stream that started as `connecting`. */
  onOpen(stream: ByteStream): void
  /** `chunk[0, to)` has arrived. The chunk is valid only during the call: the next read overwrites it. */
  onData(stream: ByteStream, chunk: Buffer, to: number): void
  /** Where the next bytes may go without {@link onData}; null if the owner must see them. The streams may, but need not, make use of it. */
  passage?(stream: ByteStream): Passage | null
  /** `bytes` is how many have gone to the stream of {@link passage}, which may be `congested` now. */
  onPassed?(stream: ByteStream, bytes: number): void
  /** The stream is no longer `congested`. */
  onDrain(stream: ByteStream): void
  /** The peer has sent FIN, but may still receive. */
  onEnd(stream: ByteStream): void
  /** The stream has closed: because of `error`, or because both sides have sent FIN (`error` is null). The owner gets no further call. */
  onClose(stream: ByteStream, error: Error | null): void
}

/** A placeholder: owns a new stream until the stream's creator sets the real owner. */
export const NO_OWNER: StreamOwner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }

/** The state that must move to another process with the descriptor, see {@link ByteStream.detach}. */
export interface DetachedStream {
  /** Bytes that the stream has read from the kernel, but not given to its owner. */
  unread: Buffer
  /** Bytes that the owner has written, but the kernel has not accepted. */
  unsent: Buffer
  /** {@link ByteStream.end} was called. */
  ended: boolean
  /** The position of a `secure` stream's TLS, whose bytes `unread` and `unsent` are decrypted. */
  tls?: PositionRecord
}

/** Both directions of one connection, plain or encrypted. No method blocks. An error of the connection reaches `onClose`; no method throws it. */
export interface ByteStream {
  owner: StreamOwner | null
  /** When this process got the connection, in milliseconds of `performance.now()`; 0: not recorded. Set by {@link UpstreamPools}. */
  since: number
  /** True until the connection is established; until then writes are queued. */
  readonly connecting: boolean
  /** The kernel has not accepted all written bytes: until `onDrain` the owner should not read more bytes to write here. */
  readonly congested: boolean
  readonly unsentBytes: number
  /** False as soon as the stream has ended or failed; `onClose` may follow one turn of the event loop later. */
  readonly alive: boolean
  /** Another request may be sent: neither side has sent FIN, and no bytes are known to wait in either direction. */
  readonly reusable: boolean
  /** As {@link reusable}, and neither bytes, FIN nor an error had arrived when the kernel was asked last, at most one turn of the event loop ago. */
  readonly untouched: boolean
  /** As {@link untouched}, but asks the kernel now, which is a system call. */
  readonly untouchedNow: boolean
  readonly bytesRead: number
  readonly bytesWritten: number
  /** How many written bytes have left this process, if the stream knows that better than the kernel, which knows only the whole connection. */
  readonly acked?: number
  /** {@link ServerTls.id}, if the stream leads to a server that uses TLS. */
  readonly tlsId?: string | undefined
  /** The peer waits for a WebSocket over HTTP/2, which each 2xx opens: the server must have sent this `Sec-WebSocket-Accept`. Null, or absent, for all others. */
  readonly webSocketAccept?: string | null
  /** The peer's IP address without zone or port; '' for Unix sockets. */
  readonly remoteAddress: string
  /** The peer's port, or 0. */
  readonly remotePort?: number

  /** Sends `bytes[from, to)`, by default all, then `more[moreFrom, moreTo)`. Copies bytes that the kernel does not accept at once, so the caller may reuse both buffers. */
  write(
    bytes: BytesOrText,
    from?: number,
    to?: number,
    more?: Buffer,
    moreFrom?: number,
    moreTo?: number,
  ): void
  /** Starts or stops reading. A new stream reads, unless {@link streamFromFd} made it. */
  setReading(on: boolean): void
  /** Sends FIN after all bytes written so far. */
  end(): void
  /** While `late`, the owner acts because a time limit has passed: a stream that it ends then, and whose peer has not taken all bytes, was cut off because of its peer. */
  setLate?(late: boolean): void
  /** Closes both directions at once. The owner gets no event. */
  destroy(): void
  /** As {@link destroy}, but the peer of a plain TCP connection gets RST. */
  reset(): void
  /** Returns all written bytes, and empties the queue: the kernel has not accepted any of them. Call it only while `connecting`. */
  takeUnsent(): Buffer[]
  /** Whether another process can continue with a dup of {@link descriptor}, now or later. Only a `secure` stream may lose this. */
  readonly movable: boolean
  /** The stream uses TLS that can move: what it detaches contains secrets. */
  readonly secure: boolean
  /** The reason why a `secure` stream cannot move now, or null. */
  readonly stays: string | null
  /** The stream owns the descriptor: use it at once, or make a dup if `movable`. Valid only while `alive` and not `connecting`. */
  readonly descriptor: LentFd
  /** Reports whether the stream can move now. If it only needs time, calls `ready` when it may. */
  mayMove(ready: () => void): boolean
  /**
   * Closes the stream. A dup of {@link descriptor} keeps the connection open, so that the peer does not notice. Call it only if `movable`, in the same turn in which
   * {@link mayMove} was true, and while {@link descriptor} is valid.
   */
  detach(): DetachedStream
}

/** The number of open streams. A stream adds itself when it is created, and subtracts itself when it closes. */
export interface Tally {
  open: number
}
