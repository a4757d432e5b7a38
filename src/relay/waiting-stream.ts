import type { LentFd } from '../adapter.js'
import type { ByteStream, BytesOrText, DetachedStream, StreamOwner } from './byte-stream.js'
import { joinCopies, NO_BYTES, toBuffer } from './bytes.js'

/** Stands for a connection that cannot be opened yet, because of a limit of connections. Keeps what is written; its creator sends that over another stream. */
export class WaitingStream implements ByteStream {
  owner: StreamOwner | null = null
  since = 0
  readonly connecting = true
  readonly congested = true
  readonly reusable = false
  readonly untouched = false
  readonly untouchedNow = false
  readonly bytesRead = 0
  readonly bytesWritten = 0
  readonly remoteAddress = ''
  readonly movable = true
  readonly secure = false
  readonly stays = null
  /** When the wait is over, in milliseconds of `performance.now()`; Infinity: its creator decides. */
  readonly until: number
  /** When its request began to wait for the first time, in milliseconds of `performance.now()`. */
  readonly arrived: number
  readonly #ended: (stream: WaitingStream) => void
  #queue: Buffer[] = []
  #alive = true

  /** `ended`: called when the stream is destroyed. */
  constructor(
    ended: (stream: WaitingStream) => void,
    until = Number.POSITIVE_INFINITY,
    arrived: number = performance.now(),
  ) {
    this.#ended = ended
    this.until = until
    this.arrived = arrived
  }

  get alive(): boolean {
    return this.#alive
  }

  get unsentBytes(): number {
    return this.#queue.reduce((sum, piece) => sum + piece.length, 0)
  }

  get descriptor(): LentFd {
    throw new Error('a connection that waits has no descriptor')
  }

  write(
    bytes: BytesOrText,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NO_BYTES,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    this.#queue.push(joinCopies(toBuffer(bytes), from, to, more, moreFrom, moreTo))
  }

  takeUnsent(): Buffer[] {
    return this.#queue.splice(0)
  }

  setReading(): void {}

  end(): void {}

  destroy(): void {
    if (!this.#alive) return
    this.#alive = false
    this.#ended(this)
  }

  reset(): void {
    this.destroy()
  }

  mayMove(): boolean {
    return true
  }

  detach(): DetachedStream {
    throw new Error('a connection that waits has nothing to detach')
  }
}
