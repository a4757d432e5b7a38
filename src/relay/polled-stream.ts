import {
  type KernelAddress,
  type Lent,
  type OwnedFd,
  PolledSocket,
  READABLE,
  type Spliced,
  sendBytes,
  splice,
  WRITABLE,
} from '../kernel/index.js'
import type { ByteStream, BytesOrText, DetachedStream, StreamOwner, Tally } from './byte-stream.js'
import { concat, joinCopies, NO_BYTES, READ_BYTES, READ_INTO, toBuffer } from './bytes.js'

/** Delay before the next attempt to connect to a Unix server whose accept queue is full. Doubles up to {@link MAX_RETRY_MS}. */
const FIRST_RETRY_MS = 1
const MAX_RETRY_MS = 32

/** After this many full reads in one turn a socket must wait, so that other sockets get their turn. */
const MAX_READS = 4

/**
 * Bytes that pass to another stream at once: the kernel does not copy them, so they need not fit in a cache. A stream that has no room for all gets fewer at
 * first, because the rest is in the memory of this process.
 */
const PASSED_BYTES = { first: 64 * 1024, most: 256 * 1024 } as const

/** Not a shared buffer: a caller of {@link PolledStream.untouchedNow} may be processing bytes in it. */
const ONE_BYTE = Buffer.alloc(1)

interface PolledInput {
  reading: boolean
  remoteAddress: string
  remotePort?: number
  /** The creator connects, and provides the descriptor. */
  dialling?: Dialling
  /** The stream connects to this address. */
  address?: KernelAddress
}

/** An attempt to connect. If the creator of the stream connects, it calls {@link PolledStream.attach} or {@link PolledStream.failConnect} at the end. */
interface Dialling {
  readonly destroyed: boolean
  destroy(): void
}

/** The attempt of a stream that connects itself, and ends it by closing its descriptor. */
const OWN_DIALLING: Dialling = { destroyed: false, destroy() {} }

/** A {@link ByteStream} over a plain TCP or Unix socket without a `net.Socket`: an idle stream takes a few hundred bytes of memory. */
export class PolledStream extends PolledSocket implements ByteStream {
  owner: StreamOwner | null
  remoteAddress: string
  readonly remotePort: number
  since = 0
  bytesRead = 0
  bytesWritten = 0
  readonly #tally: Tally
  /** Null once the connection is established. */
  #dialling: Dialling | null
  /** Bytes that the kernel has not accepted; null if there are none. */
  #queue: Buffer[] | null
  #reading: boolean
  /** The last read filled its buffer, so the kernel may have more bytes. */
  #moreToRead = false
  /** The last read has left nothing in the kernel. */
  #drained = true
  #ended = false
  #peerEnded = false
  #closed = false
  /** The most that other streams pass to this one at once. */
  #passable: number = PASSED_BYTES.first
  /** Undefined unless the stream is about to close in a later turn: because of an error, after a last read, or because both sides have sent FIN (null). */
  #ending: Error | null | undefined = undefined

  constructor(
    fd: OwnedFd | Lent | null,
    owner: StreamOwner,
    tally: Tally,
    { reading, remoteAddress, remotePort = 0, dialling, address }: PolledInput,
  ) {
    super(fd)
    this.#dialling = address === undefined ? (dialling ?? null) : OWN_DIALLING
    this.#queue = this.#dialling === null ? null : []
    this.owner = owner
    this.remoteAddress = remoteAddress
    this.remotePort = remotePort
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
    return this.#ending === undefined && this.#exists()
  }

  // No private getter: V8 calls its runtime for each use of one.
  #exists(): boolean {
    return this.open || (!this.#closed && this.#dialling?.destroyed === false)
  }

  get reusable(): boolean {
    return this.#queue === null && !this.#moreToRead && !this.#ended && !this.#peerEnded && this.alive
  }

  get untouched(): boolean {
    if (!this.reusable) return false
    return this.isInTurn && this.#drained ? !this.isReported : this.untouchedNow
  }

  get untouchedNow(): boolean {
    if (!this.reusable || this.isReported) return false
    try {
      return this.receive(ONE_BYTE) === -1
    } catch {
      // The connection is broken: the caller closes it.
      return false
    }
  }

  get movable(): boolean {
    return true
  }

  get secure(): boolean {
    return false
  }

  get stays(): null {
    return null
  }

  mayMove(): boolean {
    return true
  }

  write(
    bytes: BytesOrText,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NO_BYTES,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    const size = to - from + moreTo - moreFrom
    if (size === 0 || this.#ended || !this.alive) return
    const first = typeof bytes === 'string' ? toBuffer(bytes) : bytes
    if (this.#queue !== null) {
      this.#queue.push(joinCopies(first, from, to, more, moreFrom, moreTo))
      return
    }
    const sent = this.#send(first, from, to, more, moreFrom, moreTo)
    if (sent === size) return
    this.#queue = [joinCopies(first, from, to, more, moreFrom, moreTo, sent)]
    this.#watchEvents()
  }

  setReading(on: boolean): void {
    if (on === this.#reading) return
    this.#reading = on
    // Pausing leaves the epoll set unchanged until the next event, because reading usually resumes before it.
    if (!on) this.setEager(false)
    else if (this.#ending) setImmediate(endNow, this)
    else this.#watchEvents()
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

  /** The creator has connected: takes over the descriptor of `lent`, from which nothing may have been read. */
  attach(lent: Lent): void {
    try {
      this.adopt(lent)
    } catch (error) {
      // adopt() needs a dup, and no descriptor is free.
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

  /** Starts to connect. Even an immediate failure is reported in a later turn. */
  #connect(address: KernelAddress, again = FIRST_RETRY_MS): void {
    try {
      this.connectTo(address)
      this.#watchEvents()
      // A connection to the same machine is established by now, but the poll would report it only after all other ready sockets.
      setImmediate(checkDial, this)
    } catch (error) {
      const full = address.kind === 'unix' && (error as NodeJS.ErrnoException).code === 'EAGAIN'
      const next = () => {
        if (this.#closed) return
        if (full) this.#connect(address, Math.min(2 * again, MAX_RETRY_MS))
        else this.#fail(error as Error)
      }
      if (full) setTimeout(next, again)
      else setImmediate(next)
    }
  }

  failConnect(error: Error | null): void {
    const { owner } = this
    this.#markClosed()
    owner?.onClose(this, error)
  }

  detach(): DetachedStream {
    const unsent = concat(this.#queue ?? [])
    const unread = this.takeRead() ?? NO_BYTES
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
    else if ((events & READABLE) !== 0) this.#read(MAX_READS)
    this.#watchEvents()
  }

  /** @internal */
  checkDial(): void {
    if (this.#dialling === null || !this.open) return
    const failure = this.connectFailure()
    if (failure === null) this.#established()
    else if (failure !== undefined) this.#fail(failure)
  }

  /** Delivers bytes that the poll has read. Even a paused stream delivers them, because the kernel no longer has them. */
  #deliverRead(chunk: Buffer, bytes: number): void {
    if (this.#ending === null) return
    if (bytes < -1) this.#fail(this.failure(bytes))
    else {
      this.#deliver(chunk, bytes, chunk.length)
      if (this.#moreToRead) this.#read(MAX_READS - 1)
    }
  }

  #read(maxReads: number): void {
    for (let reads = 0; reads < maxReads && this.#reading && !this.#peerEnded && this.open; reads++) {
      let bytes: number
      try {
        if (this.#pass()) {
          if (this.#moreToRead) continue
          return
        }
        bytes = this.receive(READ_INTO)
      } catch (error) {
        this.#fail(error as Error)
        return
      }
      this.#deliver(READ_INTO, bytes, READ_BYTES)
      // A broken stream gets no further events, so all its bytes are read here.
      if (!this.#moreToRead && (this.alive || bytes < 0)) return
    }
  }

  /** Moves bytes to where their owner would write them. Returns false if the owner gets them, or nothing has come. Throws if the connection is broken. */
  #pass(): boolean {
    // For a few bytes a copy is cheaper.
    if (!this.#moreToRead || !this.alive) return false
    const passage = this.owner?.passage?.(this)
    const to = passage?.to
    if (!(to instanceof PolledStream) || !to.#takesPassed()) return false
    const most = Math.min(passage!.most, to.#passable)
    const passed = splice(this.descriptor, to.descriptor, most)
    if (passed === null) return false
    const taken = passed?.taken ?? 0
    this.#drained = taken < most
    this.#moreToRead = taken >= READ_BYTES && taken !== passage!.most
    if (taken === 0) return passed === undefined
    this.bytesRead += taken
    to.#hasPassed(passed!)
    this.owner?.onPassed?.(this, taken)
    return true
  }

  #takesPassed(): boolean {
    return this.#queue === null && !this.#ended && this.alive
  }

  #hasPassed({ taken, rest, failure }: Spliced): void {
    this.bytesWritten += taken - (rest?.length ?? 0)
    if (failure !== null) this.#scheduleEnd(failure)
    else if (rest === null) this.#passable = Math.min(2 * this.#passable, PASSED_BYTES.most)
    else {
      this.#passable = PASSED_BYTES.first
      this.#queue = [rest]
      this.#watchEvents()
    }
  }

  #deliver(chunk: Buffer, bytes: number, bufferSize: number): void {
    this.#moreToRead = bytes >= bufferSize
    this.#drained = !this.#moreToRead
    if (bytes === 0) {
      this.#peerEnded = true
      // After RST a failed write consumes the kernel's error, so that the next read reports 0 bytes as after FIN. EPIPE means that FIN came before RST.
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
      const taken = sendBytes(this.descriptor, first, from, to - from, more, moreFrom, moreTo - moreFrom)
      const sent = Math.max(0, taken)
      this.bytesWritten += sent
      return sent
    } catch (error) {
      // In a later turn: the owner must not get onClose() during its call of write().
      this.#scheduleEnd(error as Error)
      return 0
    }
  }

  #flush(queue: readonly Buffer[]): void {
    const all = concat(queue)
    const sent = this.#send(all, 0, all.length, NO_BYTES, 0, 0)
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
    // The peer may have sent its response before it broke the connection.
    if (this.#ending) this.#read(MAX_READS)
    if (!this.open) return
    if (this.#ending && !this.#reading && !this.#peerEnded && this.owner?.readsToEnd) {
      // setReading() continues. The kernel reports the broken connection for every watched event.
      this.watch(0)
    } else if (this.#ending && this.#moreToRead && this.#reading) setImmediate(endNow, this)
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
    // An eager poll reads a few kilobytes by itself. If the last read was full, larger reads are cheaper.
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

// Shared functions, so that a stream needs no closure.
function endNow(stream: PolledStream): void {
  stream.endNow()
}

function checkDial(stream: PolledStream): void {
  stream.checkDial()
}
