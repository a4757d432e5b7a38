import { type Lent, type OwnedFd, PolledSocket, READABLE, sendOn, WRITABLE } from '../kernel/index.js'
import type { ByteStream, Bytes, DetachedStream, StreamOwner, Tally } from './byte-stream.js'
import { concat, joined, NOTHING, toBuffer } from './bytes.js'
import { READ_BYTES, READ_INTO } from './read-into.js'

/** Full reads of one socket in one turn: the others wait meanwhile. */
const MOST_READS = 4

export interface PolledInput {
  /** It reads from the beginning. */
  reading: boolean
  /** The peer's IP address; '' where it has none, or nobody wants it. */
  remoteAddress: string
}

/** A {@link ByteStream} over a connected TCP or Unix socket in the clear, of which Node knows nothing: idle, it takes a few hundred bytes. */
export class PolledStream extends PolledSocket implements ByteStream {
  owner: StreamOwner | null
  readonly remoteAddress: string
  bytesRead = 0
  bytesWritten = 0
  readonly #tally: Tally
  /** What the kernel has not taken; null while nothing is unsent. */
  #queue: Buffer[] | null = null
  #reading: boolean
  /** The last read was a full one: the kernel may have more. */
  #more = false
  #ended = false
  #peerEnded = false
  /** It ends in the next turn: with this error, or null, because both sides have ended. */
  #ending: Error | null | undefined = undefined

  /** As {@link PolledSocket}'s. */
  constructor(fd: OwnedFd | Lent, owner: StreamOwner, tally: Tally, { reading, remoteAddress }: PolledInput) {
    super(fd)
    this.owner = owner
    this.remoteAddress = remoteAddress
    this.#tally = tally
    this.#reading = reading
    tally.open++
    this.#listen()
  }

  get connecting(): boolean {
    return false
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
    return this.open && this.#ending === undefined
  }

  get reusable(): boolean {
    return this.#queue === null && !this.#more && !this.#ended && !this.#peerEnded && this.alive
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
    if (size === 0 || this.#ended || !this.open) return
    const first = typeof bytes === 'string' ? toBuffer(bytes) : bytes
    if (this.#queue !== null) {
      this.#queue.push(joined(first, from, to, more, moreFrom, moreTo))
      return
    }
    const sent = this.#send(first, from, to, more, moreFrom, moreTo)
    if (sent === size) return
    this.#queue = [joined(first, from, to, more, moreFrom, moreTo, sent)]
    this.#listen()
  }

  setReading(on: boolean): void {
    if (on === this.#reading) return
    this.#reading = on
    // Off is told to the kernel when something comes: mostly it is on again by then.
    if (on) this.#listen()
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    if (this.#queue === null) this.#finish()
  }

  destroy(): void {
    this.#leave()
    this.close()
  }

  reset(): void {
    this.#leave()
    // What is to go before FIN would be thrown away.
    this.close(!(this.#ended && this.#queue !== null))
  }

  takeUnsent(): Buffer[] {
    return []
  }

  detach(): DetachedStream {
    const unsent = concat(this.#queue ?? [])
    this.destroy()
    return { unread: NOTHING, unsent, ended: this.#ended }
  }

  override ready(events: number): void {
    if ((events & WRITABLE) !== 0 && this.#queue !== null) this.#flush(this.#queue)
    if ((events & READABLE) !== 0) this.#read()
    this.#listen()
  }

  #read(): void {
    for (let reads = 0; reads < MOST_READS && this.#reading && !this.#peerEnded && this.alive; reads++) {
      let bytes: number
      try {
        bytes = this.receive(READ_INTO)
      } catch (error) {
        this.#fail(error as Error)
        return
      }
      if (bytes === 0) {
        this.#more = false
        this.#peerEnded = true
        this.owner?.onEnd(this)
        this.#endOfBoth()
        return
      }
      this.#more = bytes >= READ_BYTES
      if (bytes < 0) return
      this.bytesRead += bytes
      this.owner?.onData(this, READ_INTO, bytes)
      if (!this.#more) return
    }
  }

  /** How many the kernel has taken. */
  #send(first: Buffer, from: number, to: number, more: Buffer, moreFrom: number, moreTo: number): number {
    try {
      const taken = sendOn(this.descriptor, first, from, to - from, more, moreFrom, moreTo - moreFrom)
      const sent = Math.max(0, taken)
      this.bytesWritten += sent
      return sent
    } catch (error) {
      // Whoever writes is not told in the middle of it.
      this.#endSoon(error as Error)
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
      this.#endSoon(error as Error)
      return
    }
    this.#endOfBoth()
  }

  #endOfBoth(): void {
    if (this.#peerEnded && this.#ended && this.#queue === null && this.alive) this.#endSoon(null)
  }

  #endSoon(error: Error | null): void {
    if (this.#ending !== undefined) return
    this.#ending = error
    setImmediate(endNow, this)
  }

  /** @internal */
  endNow(): void {
    if (this.open) this.#fail(this.#ending ?? null)
  }

  #fail(error: Error | null): void {
    const { owner } = this
    this.destroy()
    owner?.onClose(this, error)
  }

  #listen(): void {
    if (!this.alive) return
    const wanted = (this.#reading && !this.#peerEnded ? READABLE : 0) | (this.#queue === null ? 0 : WRITABLE)
    try {
      this.watch(wanted)
    } catch (error) {
      this.#endSoon(error as Error)
    }
  }

  #leave(): void {
    this.owner = null
    if (this.open) this.#tally.open--
  }
}

// One for all: a stream costs no closure.
function endNow(stream: PolledStream): void {
  stream.endNow()
}
