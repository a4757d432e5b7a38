import type { LentFd } from '../adapter.js'

/** Bytes, or latin1 text. */
export type Bytes = Buffer | string

/** Receives the events of a stream. The owner may change while the stream is open; after {@link ByteStream.destroy} or {@link ByteStream.detach} no event comes. */
export interface StreamOwner {
  /** The connection is established. Only for streams that started as `connecting`. */
  onOpen(stream: ByteStream): void
  /** `chunk[0, to)` has arrived. Valid during the call only: the next read overwrites it. */
  onData(stream: ByteStream, chunk: Buffer, to: number): void
  /** The kernel has taken all congested bytes. */
  onDrain(stream: ByteStream): void
  /** The peer sends nothing more (FIN); it may still read. */
  onEnd(stream: ByteStream): void
  /** The last call, once; with the error if one ended the stream. */
  onClose(stream: ByteStream, error: Error | null): void
}

/** The owner of a new stream, until it has another. */
export const NO_OWNER: StreamOwner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }

/** The bytes that move with a stream to another process, see {@link ByteStream.detach}. */
export interface DetachedStream {
  /** Read from the peer and not passed on. */
  unread: Buffer
  /** Written by the owner, not yet taken by the kernel. */
  unsent: Buffer
  /** {@link ByteStream.end} was called. */
  ended: boolean
}

/** Both directions of one connection, plain or encrypted. No call blocks, or throws for what the peer did. */
export interface ByteStream {
  owner: StreamOwner | null
  /** When this process got the connection, on the clock of `performance`; 0: not recorded. Set by {@link UpstreamPools}. */
  since: number
  /** Not connected: writes wait. */
  readonly connecting: boolean
  /** Written bytes wait for the kernel: the writer should stop reading its source until `onDrain`. */
  readonly congested: boolean
  readonly unsentBytes: number
  /** False once it is closed, which is one turn of the event loop before `onClose`. */
  readonly alive: boolean
  /** Idle in both directions, as far as can be told, and neither side has ended: another exchange may start. */
  readonly reusable: boolean
  readonly bytesRead: number
  readonly bytesWritten: number
  /** The peer's IP address without zone or port; '' for Unix sockets. */
  readonly remoteAddress: string

  /** Sends `bytes[from, to)` (text: all of it), then `more[moreFrom, moreTo)`. The caller may reuse both: bytes that must wait are copied. */
  write(bytes: Bytes, from?: number, to?: number, more?: Buffer, moreFrom?: number, moreTo?: number): void
  /** Accepted and dialled streams read from the start, reopened ones do not. */
  setReading(on: boolean): void
  /** Sends FIN after everything written so far. */
  end(): void
  /** Closes both directions at once. The owner gets no event. */
  destroy(): void
  /** As {@link destroy}, but the peer sees an error (RST), if the transport has one. */
  reset(): void
  /** Takes back everything written, none of which reached the kernel. Only while `connecting`. */
  takeUnsent(): Buffer[]
  /** Another process can continue with a dup of {@link descriptor} and the bytes: not with TLS. Never changes. */
  readonly movable: boolean
  /** Owned by the stream: make a dup (if `movable`) or use it at once. Only while `alive` and not `connecting`. */
  readonly descriptor: LentFd
  /** Gives up the socket at any byte; neither the peer nor the holder of a dup notices. Only while {@link descriptor} may be read. */
  detach(): DetachedStream
}

/** Counts the open streams of some kind; the streams themselves keep it. */
export interface Tally {
  open: number
}
