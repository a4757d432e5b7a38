import type { LentFd } from '../adapter.js'

/** Output: bytes, or text in which every character is one byte (latin1). */
export type Bytes = Buffer | string

/** Hears the events of a stream. Its owner may change while it is open; after {@link ByteStream.destroy} or {@link ByteStream.detach} there are none. */
export interface StreamOwner {
  /** The peer's connection stands. Only for streams that began as `connecting`. */
  onOpen(stream: ByteStream): void
  /** `chunk[0, to)` has come. It is valid during the call only: the next read overwrites it. */
  onData(stream: ByteStream, chunk: Buffer, to: number): void
  /** The kernel has taken all congested bytes. */
  onDrain(stream: ByteStream): void
  /** The peer sends nothing more (FIN); it may still read. */
  onEnd(stream: ByteStream): void
  /** The stream is gone. Comes once, as the last call; with the error if one ended it. */
  onClose(stream: ByteStream, error: Error | null): void
}

/** The owner of a new stream, until it has another. */
export const NO_OWNER: StreamOwner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }

/** The bytes that travel with a stream that leaves this process, see {@link ByteStream.detach}. */
export interface DetachedStream {
  /** Bytes that were read from the peer and not passed on. */
  unread: Buffer
  /** Written by the owner, not yet taken by the kernel. */
  unsent: Buffer
  /** {@link ByteStream.end} was called. */
  ended: boolean
}

/** Both directions of one connection, plain or encrypted. No call blocks or throws for what the peer did. */
export interface ByteStream {
  owner: StreamOwner | null
  /** When this process came to have it, on the clock of `performance`; 0: not noted. Kept by {@link UpstreamPools}. */
  since: number
  /** Not connected, yet or (once it is gone) ever; what is written waits. */
  readonly connecting: boolean
  /** Written bytes are not in the kernel yet: the writer should stop reading its source until `onDrain`. */
  readonly congested: boolean
  readonly unsentBytes: number
  /** False from when it is closed, which is a turn of the event loop before `onClose`. */
  readonly alive: boolean
  /** Nothing is under way in either direction, as far as can be told, and neither side has ended: another exchange may begin. */
  readonly reusable: boolean
  readonly bytesRead: number
  readonly bytesWritten: number
  /** The peer's IP address without zone or port; '' where it has none (Unix). */
  readonly remoteAddress: string

  /** Sends `bytes[from, to)` (text: all of it), then `more[moreFrom, moreTo)`. Both are the caller's again: what has to wait is copied. */
  write(bytes: Bytes, from?: number, to?: number, more?: Buffer, moreFrom?: number, moreTo?: number): void
  /** Whether bytes of the peer are wanted. Accepted and dialled streams begin by themselves, reopened ones do not. */
  setReading(on: boolean): void
  /** Sends FIN behind everything written so far. */
  end(): void
  /** Closes both directions at once, without telling the owner. */
  destroy(): void
  /** The same, and the peer sees an error (RST) rather than an end, where the transport can do that. */
  reset(): void
  /** Takes back all that was written but never reached the kernel: only of one that is `connecting`. */
  takeUnsent(): Buffer[]
  /** A dup of {@link descriptor} is all that another process needs besides the bytes: so not with TLS. Never changes. */
  readonly movable: boolean
  /** The descriptor, which the stream keeps: for a dup (if `movable`) or a look at once. Only if it is `alive` and not `connecting`. */
  readonly descriptor: LentFd
  /** Gives up the socket at any point, unnoticed by the holder of a dup and the peer. Only if {@link descriptor} may be read. */
  detach(): DetachedStream
}

/** How many streams of some kind are open; kept by the streams themselves. */
export interface Tally {
  open: number
}
