import { FdbError } from '../errors.js'
import type { Durability } from './durable.js'
import type { StateLimits } from './limits.js'
import type { SectionStore } from './section-store.js'
import { Slice } from './slices.js'

/** Bytes that a waiting update counts for. */
const UPDATE_BYTES = 512
/** Rejections without a look at the clock. */
const AT_ONCE = 32

/** A change, or a bulk of them, that is to become one record: encoded but for its place in the log. */
export interface NewWrite {
  /** Those whose schema the log must know. */
  readonly sections: readonly SectionStore[]
  /** The body of its record, in parts. */
  readonly parts: readonly Uint8Array[]
  /** '': none. */
  readonly request: string
  /** Fingerprints of its changes, see {@link RequestMemory}. */
  readonly prints: readonly number[]
  /** Called right before it is applied: what its promise resolves with. */
  readonly readResult?: () => unknown
  /** Made by another process, which has it still: it is not forwarded by this one. */
  readonly foreign?: boolean
  readonly durability?: Durability | null
  /** An update: it is made in its turn, of the state as it is then; sections and parts are empty. Its exception rejects it. */
  readonly makeUpdate?: () => UpdateResult
}

export interface UpdateResult {
  /** Entries of the log that it has looked at. */
  readonly reads: readonly { readonly section: SectionStore; readonly key: string }[]
  readonly sections: readonly SectionStore[]
  /** Empty: there is nothing to change. */
  readonly parts: readonly Uint8Array[]
  /** It changes a section whose changes are durable. */
  readonly durable?: boolean
  readonly result: unknown
}

export interface PendingWrite extends NewWrite {
  /** One that is forwarded gets an id of its own where it has none. */
  request: string
  prints: readonly number[]
  /** The value that it resolves with, if it was forwarded and is found in the log. */
  outcome?: unknown
  /** It was sent to another process at least once. */
  sent?: boolean
  /** Before it waits a change of another process with its request: it is looked at when it is known what has become of that one. */
  readonly retry: boolean
  /** When it was made, as of performance.now(). */
  readonly queuedAt: number
  readonly bytes: number
  readonly promise: Promise<unknown>
  resolve(result?: unknown): void
  reject(error: unknown): void
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
  add(write: NewWrite): Promise<unknown> {
    let bytes = write.makeUpdate === undefined ? 0 : UPDATE_BYTES
    for (const part of write.parts) bytes += part.length
    const { waitingBytes, waitingWrites } = this.#limits
    const head = this.#writes[0]?.bytes ?? 0
    // A bulk that is larger by itself does not wait, and others do not wait for it.
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
    let settle!: Pick<PendingWrite, 'resolve' | 'reject'>
    const promise = new Promise<unknown>((resolve, reject) => {
      settle = { resolve, reject }
    })
    const retry = write.request !== '' && this.#requests.has(write.request)
    const pending: PendingWrite = { ...write, queuedAt: performance.now(), bytes, promise, retry, ...settle }
    this.#writes.push(pending)
    this.#bytes += bytes
    if (write.request !== '') this.#requests.set(write.request, pending)
    return promise
  }

  /** The change that is so many places behind the head. */
  at(index: number): PendingWrite | undefined {
    return this.#writes[index]
  }

  get last(): PendingWrite | undefined {
    return this.#writes.at(-1)
  }

  /** Rejects the changes that other processes made: they have them still. */
  rejectForeign(error: unknown): void {
    for (const write of this.#removeWhere(({ foreign = false }) => foreign)) write.reject(error)
  }

  /** Those that no other process can have made wait no more; they are told in slices. */
  async rejectUnsent(error: unknown, sliceMs: number): Promise<void> {
    await reject(
      this.#removeWhere(({ sent = false }) => !sent),
      () => error,
      sliceMs,
    )
  }

  #removeWhere(which: (write: PendingWrite) => boolean): PendingWrite[] {
    const taken = this.#writes.filter(which)
    if (taken.length === 0) return taken
    this.#writes = this.#writes.filter(write => !which(write))
    for (const write of taken) this.#forgetWrite(write)
    return taken
  }

  #forgetWrite(write: PendingWrite): void {
    this.#bytes -= write.bytes
    if (this.#requests.get(write.request) === write) this.#requests.delete(write.request)
  }

  get head(): PendingWrite | undefined {
    return this.#writes[0]
  }

  /** The first ones, up to `bytes` in all (at least one), an update or a retry only as the first; they stay until {@link remove}. */
  first(bytes: number): PendingWrite[] {
    let count = 0
    for (let sum = 0; count < this.#writes.length; count++) {
      const write = this.#writes[count]!
      sum += write.bytes
      if (count > 0 && (sum > bytes || write.makeUpdate !== undefined || write.retry)) break
      if (write.makeUpdate !== undefined) return [write]
    }
    return this.#writes.slice(0, count)
  }

  /** The first `count` are settled by the caller. */
  remove(count: number): void {
    for (const write of this.#writes.splice(0, count)) this.#forgetWrite(write)
  }

  /** None waits any more; they are told in slices. */
  async rejectAll(errorOf: (write: PendingWrite) => unknown, sliceMs: number): Promise<void> {
    const writes = this.#writes
    this.#writes = []
    this.#bytes = 0
    this.#requests.clear()
    await reject(writes, errorOf, sliceMs)
  }
}

async function reject(
  writes: readonly PendingWrite[],
  errorOf: (write: PendingWrite) => unknown,
  sliceMs: number,
): Promise<void> {
  const slice = new Slice(sliceMs)
  for (let i = 0; i < writes.length; i++) {
    writes[i]!.reject(errorOf(writes[i]!))
    if (i % AT_ONCE === AT_ONCE - 1) await slice.passed()
  }
}
