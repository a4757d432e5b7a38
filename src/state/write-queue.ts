import { FdbError } from '../errors.js'
import type { Durability } from './durable.js'
import type { StateLimits } from './limits.js'
import type { SectionStore } from './section-store.js'
import { Slice } from './time-slices.js'

/** A queued update counts as this many bytes. */
const UPDATE_BYTES = 512
const REJECTIONS_PER_CHECK = 32

/** One or more changes for one record, encoded without their position in the log. */
export interface NewWrite {
  /** Sections whose schema the log must have. */
  readonly sections: readonly SectionStore[]
  readonly parts: readonly Uint8Array[]
  /** Request id, or ''. */
  readonly request: string
  /** Fingerprints of the changes, see {@link RequestMemory}. */
  readonly prints: readonly number[]
  /** Called right before the record is applied. Returns the value with which the promise resolves. */
  readonly readResult?: (() => unknown) | undefined
  /** Another process forwarded the write and still has it, so that this process does not forward it again. */
  readonly foreign?: boolean
  /** Only this process may make the change: it is refused if another one writes. */
  readonly own?: boolean
  readonly durability?: Durability | null
  /** Runs an update when it is first in the queue; `sections` and `parts` are empty. An exception rejects the write. */
  readonly makeUpdate?: () => UpdateResult
}

export interface UpdateResult {
  /** Entries of the log that the update has read. */
  readonly reads: readonly { readonly section: SectionStore; readonly key: string }[]
  readonly sections: readonly SectionStore[]
  /** Empty if the update changes nothing. */
  readonly parts: readonly Uint8Array[]
  readonly durable?: boolean
  readonly result: unknown
}

export interface PendingWrite extends NewWrite {
  /** The forward queue assigns an id if there is none. */
  request: string
  prints: readonly number[]
  /** The result of a forwarded write whose record is in the log. */
  outcome?: unknown
  sent?: boolean
  /** A foreign change with the same request id is queued before this write, which must wait for the foreign change's result. */
  readonly retry: boolean
  /** performance.now() when the write was queued. */
  readonly queuedAt: number
  readonly bytes: number
  readonly promise: Promise<unknown>
  resolve(result?: unknown): void
  reject(error: unknown): void
}

/** Holds changes in order until they are appended. Refuses changes above its limits. */
export class WriteQueue {
  readonly #limits: StateLimits
  #writes: PendingWrite[] = []
  bytes = 0
  /** The bytes of all writes that were ever queued. */
  added = 0
  /** The queued writes with a request id, by id. A retry gets the promise of the queued write. */
  readonly #requests = new Map<string, PendingWrite>()

  constructor(limits: StateLimits) {
    this.#limits = limits
  }

  get length(): number {
    return this.#writes.length
  }

  findRequest(request: string): PendingWrite | undefined {
    return this.#requests.get(request)
  }

  /** Throws ERR_FDB_STATE_BACKPRESSURE if the queue is full. An empty queue accepts a write of any size. */
  add(write: NewWrite): Promise<unknown> {
    let bytes = write.makeUpdate === undefined ? 0 : UPDATE_BYTES
    for (const part of write.parts) bytes += part.length
    const { waitingBytes, waitingWrites } = this.#limits
    const head = this.#writes[0]?.bytes ?? 0
    // An oversized bulk at the head does not count, so that other writes can still be queued.
    const waiting = head > waitingBytes ? this.bytes - head : this.bytes
    const full = waiting + bytes > waitingBytes || this.#writes.length >= waitingWrites
    if (full && this.#writes.length > 0) {
      throw new FdbError(
        'ERR_FDB_STATE_BACKPRESSURE',
        `a change of ${bytes} bytes has no room: ${this.#writes.length} changes (${this.bytes} bytes) wait to be appended; the limits are ` +
          `${waitingWrites} ("waitingWrites") and ${waitingBytes} bytes ("waitingBytes"). Try again when ` +
          (bytes > waitingBytes ? 'no other change waits' : 'earlier ones have settled'),
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
    this.bytes += bytes
    this.added += bytes
    if (write.request !== '') this.#requests.set(write.request, pending)
    return promise
  }

  /** Returns the change at `index`, counted from the head. */
  at(index: number): PendingWrite | undefined {
    return this.#writes[index]
  }

  get last(): PendingWrite | undefined {
    return this.#writes.at(-1)
  }

  /** Removes the writes that `which` selects, and rejects them in slices. */
  async reject(
    which: (write: PendingWrite) => boolean,
    errorOf: (write: PendingWrite) => unknown,
    sliceMs: number,
  ): Promise<void> {
    const rejected = this.#writes.filter(which)
    this.#writes = this.#writes.filter(write => !which(write))
    for (const write of rejected) this.#forgetWrite(write)
    const slice = new Slice(sliceMs)
    for (const [i, write] of rejected.entries()) {
      write.reject(errorOf(write))
      if ((i + 1) % REJECTIONS_PER_CHECK === 0) await slice.passed()
    }
  }

  #forgetWrite(write: PendingWrite): void {
    this.bytes -= write.bytes
    if (this.#requests.get(write.request) === write) this.#requests.delete(write.request)
  }

  get head(): PendingWrite | undefined {
    return this.#writes[0]
  }

  /** Returns the first writes, up to `bytes`, at least one. An update or a retry is returned only as the first. The writes stay queued until {@link remove}. */
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

  /** Removes the first writes; the caller settles them. */
  remove(count: number): void {
    for (const write of this.#writes.splice(0, count)) this.#forgetWrite(write)
  }
}
