import { FdbError } from '../errors.js'
import type { StateLimits } from './limits.js'
import type { SectionStore } from './section-store.js'

/** A change, or a bulk of them, that is to become one record: encoded but for its place in the log. */
export interface PendingWrite {
  section: SectionStore
  /** The body of its record, in parts. */
  parts: Uint8Array[]
  bytes: number
  request: string
  /** Of what it does, see {@link RequestMemory}. */
  print: number
  resolve: () => void
  reject: (error: unknown) => void
  promise: Promise<void>
}

/** Changes in the order they were made, until they are appended. Bounded: what does not fit is refused. */
export class WriteQueue {
  readonly #limits: StateLimits
  #writes: PendingWrite[] = []
  #bytes = 0
  /** Requests that wait: a retry gets the same promise. */
  readonly #requests = new Map<string, PendingWrite>()

  constructor(limits: StateLimits) {
    this.#limits = limits
  }

  get length(): number {
    return this.#writes.length
  }

  get bytes(): number {
    return this.#bytes
  }

  waitingFor(request: string): PendingWrite | undefined {
    return this.#requests.get(request)
  }

  /** Throws ERR_FDB_STATE_BACKPRESSURE when it is full. An empty queue takes any one write. */
  add(
    section: SectionStore,
    parts: Uint8Array[],
    bytes: number,
    request: string,
    print: number,
  ): Promise<void> {
    const { waitingBytes, waitingWrites } = this.#limits
    const head = this.#writes[0]?.bytes ?? 0
    // A bulk that is larger by itself waits for nobody, and others not for it.
    const waiting = head > waitingBytes ? this.#bytes - head : this.#bytes
    const full = waiting + bytes > waitingBytes || this.#writes.length >= waitingWrites
    if (full && this.#writes.length > 0) {
      throw new FdbError(
        'ERR_FDB_STATE_BACKPRESSURE',
        `${this.#writes.length} changes (${this.#bytes} bytes) wait to be appended; the limits are ${waitingWrites} ` +
          `("waitingWrites") and ${waitingBytes} bytes ("waitingBytes"). Try again when earlier ones have settled`,
        { retryable: true },
      )
    }
    const write = { section, parts, bytes, request, print } as PendingWrite
    write.promise = new Promise<void>((resolve, reject) => {
      write.resolve = resolve
      write.reject = reject
    })
    this.#writes.push(write)
    this.#bytes += bytes
    if (request !== '') this.#requests.set(request, write)
    return write.promise
  }

  /** The one that is next. */
  get head(): PendingWrite | undefined {
    return this.#writes[0]
  }

  /** The first ones, up to `bytes` in all (at least one); they stay until {@link remove}. */
  first(bytes: number): PendingWrite[] {
    let count = 0
    for (let sum = 0; count < this.#writes.length; count++) {
      sum += this.#writes[count]!.bytes
      if (count > 0 && sum > bytes) break
    }
    return this.#writes.slice(0, count)
  }

  /** The first `count` are settled by the caller. */
  remove(count: number): void {
    for (const write of this.#writes.splice(0, count)) {
      this.#bytes -= write.bytes
      if (write.request !== '') this.#requests.delete(write.request)
    }
  }

  rejectAll(error: unknown): void {
    const writes = this.#writes.slice()
    this.remove(writes.length)
    for (const write of writes) write.reject(error)
  }
}
