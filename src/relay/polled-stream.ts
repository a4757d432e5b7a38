import {
  type KernelAddress,
  type Lent,
  type OwnedFd,
  PolledSocket,
  READABLE,
  sendOn,
  WRITABLE,
} from '../kernel/index.js'
import type { ByteStream, Bytes, DetachedStream, StreamOwner, Tally } from './byte-stream.js'
import { concat, joined, NOTHING, READ_BYTES, READ_INTO, toBuffer } from './bytes.js'

/** Delay before the next attempt at a Unix server with a full queue; doubles up to the most. */
const FIRST_RETRY_MS = 1
const LONGEST_RETRY_MS = 32

/** Full reads of one socket in one turn: other sockets wait meanwhile. */
const MOST_READS = 4

export interface PolledInput {
  reading: boolean
  /** The peer's IP address; '' for none, or if not wanted. */
  remoteAddress: string
  /** Another connector that will provide the descriptor. */
  dialling?: Dialling
  /** The stream connects by itself. */
  address?: KernelAddress
}

/** A connection made by other code, which calls {@link PolledStream.connected} or {@link PolledStream.unconnected}. */
export interface Dialling {
  readonly destroyed: boolean
  destroy(): void
}

/** A {@link ByteStream} over a plain TCP or Unix socket that Node does not know once it is connected: idle it takes a few hundred bytes. */
export class PolledStream extends PolledSocket implements ByteStream {
  owner: StreamOwner | null
  remoteAddress: string
  since = 0
  bytesRead = 0
  bytesWritten = 0
  readonly #tally: Tally
  /** Null: it is connected. */
  #dialling: Dialling | null
  /** Bytes that the kernel has not taken; null: none. */
  #queue: Buffer[] | null
  #reading: boolean
  /** The last read filled its buffer: the kernel may have more. */
  #moreToRead = false
  #ended = false
  #peerEnded = false
  #closed = false
  /** Ends in the next turn: with this error, after a last read, or null, because both sides have ended. */
  #ending: Error | null | undefined = undefined

  constructor(
    fd: OwnedFd | Lent | null,
    owner: StreamOwner,
    tally: Tally,
    { reading, remoteAddress, dialling, address }: PolledInput,
  ) {
    super(fd)
    this.#dialling = address === undefined ? (dialling ?? null) : new OwnDialling()
    this.#queue = this.#dialling === null ? null : []
    this.owner = owner
    this.remoteAddress = remoteAddress
    this.#tally = tally
    this.#reading = reading
    tally.open++
    if (address === undefined) this.#watchEvents()
    else this.#connect(address)
  }

  get connecting(): boolean {
    return this.#dialling !== null
  }

  get congested(): boolean {
    return this.#queue !== null
  }

  get unsentBytes(): number {
    let bytes = 0
    if (this.#queue !== null) for (const piece of this.#queue) bytes += piece.length
    return bytes
  }

  get alive(): boolean {
    return this.#exists && this.#ending === undefined
  }

  get #exists(): boolean {
    return this.open || this.#dialling?.destroyed === false
  }

  get reusable(): boolean {
    return this.#queue === null && !this.#moreToRead && !this.#ended && !this.#peerEnded && this.alive
  }

  get movable(): boolean {
    return true
  }

  write(
    bytes: Bytes,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NOTHING,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    const size = to - from + moreTo - moreFrom
    if (size === 0 || this.#ended || !this.#exists) return
    const first = typeof bytes === 'string' ? toBuffer(bytes) : bytes
    if (this.#queue !== null) {
      this.#queue.push(joined(first, from, to, more, moreFrom, moreTo))
      return
    }
    const sent = this.#send(first, from, to, more, moreFrom, moreTo)
    if (sent === size) return
    this.#queue = [joined(first, from, to, more, moreFrom, moreTo, sent)]
    this.#watchEvents()
  }

  setReading(on: boolean): void {
    if (on === this.#reading) return
    this.#reading = on
    // The kernel is told "off" with the next event: mostly reading is on again by then.
    if (on) this.#watchEvents()
    else this.setEager(false)
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    if (this.#queue === null) this.#finish()
  }

  destroy(): void {
    this.#markClosed()
    this.#dialling?.destroy()
    this.close()
  }

  reset(): void {
    this.#markClosed()
    this.#dialling?.destroy()
    this.close(true)
  }

  takeUnsent(): Buffer[] {
    const queue = this.#queue ?? []
    this.#queue = []
    return queue
  }

  /** Takes the descriptor from `lent`, which must not have been read from. */
  connected(lent: Lent): void {
    try {
      this.adopt(lent)
    } catch (error) {
      // There is no descriptor left for a moment: as a failed connection.
      this.#fail(error as Error)
      return
    }
    this.#established()
  }

  #established(): void {
    this.#dialling = null
    this.owner?.onOpen(this)
    if (this.#queue !== null && this.open) this.#flush(this.#queue)
    this.#watchEvents()
  }

  /** An immediate failure is reported in a later turn, as any other. */
  #connect(address: KernelAddress, again = FIRST_RETRY_MS): void {
    try {
      this.connectTo(address)
      this.#watchEvents()
      // A local connection is established already, and need not wait behind all ready sockets.
      setImmediate(checkDial, this)
    } catch (error) {
      const full = address.kind === 'unix' && (error as NodeJS.ErrnoException).code === 'EAGAIN'
      const next = () => {
        if (this.#closed) return
        if (full) this.#connect(address, Math.min(2 * again, LONGEST_RETRY_MS))
        else this.#fail(error as Error)
      }
      if (full) setTimeout(next, again)
      else setImmediate(next)
    }
  }

  unconnected(error: Error | null): void {
    const { owner } = this
    this.#markClosed()
    owner?.onClose(this, error)
  }

  detach(): DetachedStream {
    const unsent = concat(this.#queue ?? [])
    const unread = this.takeRead() ?? NOTHING
    this.bytesRead += unread.length
    this.destroy()
    return { unread, unsent, ended: this.#ended }
  }

  override ready(events: number, chunk: Buffer, bytes: number): void {
    if (this.#dialling !== null) {
      this.checkDial()
      return
    }
    if ((events & WRITABLE) !== 0 && this.#queue !== null) this.#flush(this.#queue)
    if (bytes !== -1) this.#deliverRead(chunk, bytes)
    else if ((events & READABLE) !== 0) this.#read(MOST_READS)
    this.#watchEvents()
  }

  /** @internal */
  checkDial(): void {
    if (this.#dialling === null || !this.open) return
    const failure = this.connectFailure()
    if (failure === null) this.#established()
    else if (failure !== undefined) this.#fail(failure)
  }

  /** Reading was on when the kernel was asked, so these bytes are delivered whatever happened since. */
  #deliverRead(chunk: Buffer, bytes: number): void {
    if (this.#ending === null) return
    if (bytes < -1) this.#fail(this.failure(bytes))
    else {
      this.#deliver(chunk, bytes, chunk.length)
      if (this.#moreToRead) this.#read(MOST_READS - 1)
    }
  }

  #read(most: number): void {
    for (let reads = 0; reads < most && this.#reading && !this.#peerEnded && this.open; reads++) {
      let bytes: number
      try {
        bytes = this.receive(READ_INTO)
      } catch (error) {
        this.#fail(error as Error)
        return
      }
      this.#deliver(READ_INTO, bytes, READ_BYTES)
      // A broken stream gets no further events.
      if (!this.#moreToRead && (this.alive || bytes < 0)) return
    }
  }

  /** `most`: a read of so many bytes may have left more. */
  #deliver(chunk: Buffer, bytes: number, most: number): void {
    this.#moreToRead = bytes >= most
    if (bytes === 0) {
      this.#peerEnded = true
      // The failed write has consumed the reset's error, so the rest looks like FIN.
      if (this.#ending && (this.#ending as NodeJS.ErrnoException).code !== 'EPIPE') return
      this.owner?.onEnd(this)
      this.#endIfBothEnded()
    } else if (bytes > 0) {
      this.bytesRead += bytes
      this.owner?.onData(this, chunk, bytes)
    }
  }

  #send(first: Buffer, from: number, to: number, more: Buffer, moreFrom: number, moreTo: number): number {
    try {
      const taken = sendOn(this.descriptor, first, from, to - from, more, moreFrom, moreTo - moreFrom)
      const sent = Math.max(0, taken)
      this.bytesWritten += sent
      return sent
    } catch (error) {
      // The owner gets no event in the middle of its write.
      this.#scheduleEnd(error as Error)
      return 0
    }
  }

  #flush(queue: readonly Buffer[]): void {
    const all = concat(queue)
    const sent = this.#send(all, 0, all.length, NOTHING, 0, 0)
    if (sent < all.length) {
      this.#queue = [all.subarray(sent)]
      return
    }
    this.#queue = null
    if (this.#ended) this.#finish()
    this.owner?.onDrain(this)
  }

  #finish(): void {
    if (!this.alive) return
    try {
      this.shutDown()
    } catch (error) {
      this.#scheduleEnd(error as Error)
      return
    }
    this.#endIfBothEnded()
  }

  #endIfBothEnded(): void {
    if (this.#peerEnded && this.#ended && this.#queue === null && this.alive) this.#scheduleEnd(null)
  }

  #scheduleEnd(error: Error | null): void {
    if (this.#ending !== undefined) return
    this.#ending = error
    setImmediate(endNow, this)
  }

  /** @internal */
  endNow(): void {
    // Bytes that arrived before the peer broke the connection may be its answer.
    if (this.#ending) this.#read(MOST_READS)
    if (!this.open) return
    if (this.#ending && this.#moreToRead && this.#reading) setImmediate(endNow, this)
    else this.#fail(this.#ending ?? null)
  }

  #fail(error: Error | null): void {
    const { owner } = this
    this.destroy()
    owner?.onClose(this, error)
  }

  #watchEvents(): void {
    if (!this.open || this.#ending !== undefined) return
    if (this.#dialling !== null) {
      this.watch(WRITABLE)
      return
    }
    const wanted = (this.#reading && !this.#peerEnded ? READABLE : 0) | (this.#queue === null ? 0 : WRITABLE)
    // A busy peer is read in larger pieces.
    this.setEager((wanted & READABLE) !== 0 && !this.#moreToRead)
    try {
      this.watch(wanted)
    } catch (error) {
      this.#scheduleEnd(error as Error)
    }
  }

  #markClosed(): void {
    this.owner = null
    if (this.#closed) return
    this.#closed = true
    this.#tally.open--
  }
}

class OwnDialling implements Dialling {
  destroyed = false

  destroy(): void {
    this.destroyed = true
  }
}

// Shared functions: a stream costs no closure.
function endNow(stream: PolledStream): void {
  stream.endNow()
}

function checkDial(stream: PolledStream): void {
  stream.checkDial()
}
