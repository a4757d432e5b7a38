import type { LentFd } from '../adapter.js'

/** Text is latin1. */
export type BytesOrText = Buffer | string

/** Receives the events of a stream. A stream may change its owner; after {@link ByteStream.destroy} or {@link ByteStream.detach} the owner gets no event. */
export interface StreamOwner {
  /** The connection is established. Called only for a stream that started as `connecting`. */
  onOpen(stream: ByteStream): void
  /** `chunk[0, to)` has arrived. The chunk is valid only during the call: the next read overwrites it. */
  onData(stream: ByteStream, chunk: Buffer, to: number): void
  /** The stream is no longer `congested`. */
  onDrain(stream: ByteStream): void
  /** The peer has sent FIN; it may still read. */
  onEnd(stream: ByteStream): void
  /** The stream has closed, because of `error` or because both sides have ended. No other call follows. */
  onClose(stream: ByteStream, error: Error | null): void
}

/** The owner of a new stream until its creator sets another. */
export const NO_OWNER: StreamOwner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }

/** The state that must move to another process with the descriptor, see {@link ByteStream.detach}. */
export interface DetachedStream {
  /** Bytes that were read from the kernel and not given to the owner. */
  unread: Buffer
  /** Bytes that the owner has written and the kernel has not taken. */
  unsent: Buffer
  /** {@link ByteStream.end} was called. */
  ended: boolean
}

/** Both directions of one connection, plain or encrypted. No call blocks, and none throws because of the peer. */
export interface ByteStream {
  owner: StreamOwner | null
  /** When this process got the connection, in milliseconds of `performance.now()`; 0: not recorded. Set by {@link UpstreamPools}. */
  since: number
  /** The connection is not established yet; writes are queued. */
  readonly connecting: boolean
  /** Written bytes wait for the kernel: the writer should stop reading its source until `onDrain`. */
  readonly congested: boolean
  readonly unsentBytes: number
  /** False as soon as the stream is closed, one turn of the event loop before `onClose`. */
  readonly alive: boolean
  /** Another exchange may start: neither side has ended, and no bytes are known to wait in either direction. */
  readonly reusable: boolean
  readonly bytesRead: number
  readonly bytesWritten: number
  /** The peer's IP address without zone or port; '' for Unix sockets. */
  readonly remoteAddress: string

  /** Sends `bytes[from, to)`, by default all, then `more[moreFrom, moreTo)`. A string has a character for each byte (latin1). Copies bytes that must wait, so the caller may reuse both buffers. */
  write(
    bytes: BytesOrText,
    from?: number,
    to?: number,
    more?: Buffer,
    moreFrom?: number,
    moreTo?: number,
  ): void
  /** Accepted and dialled streams read from the start, streams from a descriptor do not. */
  setReading(on: boolean): void
  /** Sends FIN after everything written so far. */
  end(): void
  /** Closes both directions at once. The owner gets no event. */
  destroy(): void
  /** As {@link destroy}, but the peer sees an error (RST) if the transport has one. */
  reset(): void
  /** Returns all written bytes, none of which has reached the kernel, and empties the queue. Call it only while `connecting`. */
  takeUnsent(): Buffer[]
  /** Whether another process can continue with a dup of {@link descriptor}: false with TLS. Never changes. */
  readonly movable: boolean
  /** The stream owns the descriptor: use it at once, or make a dup if `movable`. Valid only while `alive` and not `connecting`. */
  readonly descriptor: LentFd
  /** Closes the stream between two bytes; neither the peer nor the holder of a dup notices. Call it only while {@link descriptor} is valid. */
  detach(): DetachedStream
}

/** Counts open streams. Each stream increments and decrements its tally itself. */
export interface Tally {
  open: number
}
