import { afterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'

export interface PendingOptions {
  /** An abort rejects the answer with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Called once, when the answer is settled, before code that awaits it runs. */
  onSettled?: () => void
}

/**
 * The awaited answer to a request, which is settled once: by its arrival, by the time limit or by a signal. Later answers are ignored.
 * A rejection that no code awaits is never reported as unhandled.
 */
export class Pending<T> {
  readonly answer: Promise<T>
  readonly #signal: AbortSignal | undefined
  readonly #onSettled: () => void
  readonly #aborted = () => this.reject(this.#signal?.reason)
  #resolve!: (value: T) => void
  #reject!: (error: unknown) => void
  #limit: Limit | undefined
  #settled = false

  constructor({ signal, onSettled = () => {} }: PendingOptions = {}) {
    this.#signal = signal
    this.#onSettled = onSettled
    this.answer = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.answer.catch(() => {})
    if (signal?.aborted) this.#aborted()
    else signal?.addEventListener('abort', this.#aborted, { once: true })
  }

  get settled(): boolean {
    return this.#settled
  }

  /** Sets or replaces the time limit. Calls `onTimeout`, which usually settles the answer, as {@link afterReading} does. */
  limit(ms: number, onTimeout: () => void, options: { unref?: boolean } = {}): this {
    this.#limit?.clear()
    if (!this.#settled) this.#limit = afterReading(ms, onTimeout, options)
    return this
  }

  /** Returns false if the answer was already settled. */
  resolve(value: T): boolean {
    if (!this.#markSettled()) return false
    this.#resolve(value)
    return true
  }

  /** Returns false if the answer was already settled. */
  reject(error: unknown): boolean {
    if (!this.#markSettled()) return false
    this.#reject(error)
    return true
  }

  #markSettled(): boolean {
    if (this.#settled) return false
    this.#settled = true
    this.#limit?.clear()
    this.#signal?.removeEventListener('abort', this.#aborted)
    this.#onSettled()
    return true
  }
}

/** Notifies listeners of each change of an object, such as a member, a service of a daemon or a pool of workers. */
export class ChangeNotifier {
  readonly #listeners = new Set<() => void>()

  /** Calls `listener` after each change. Returns the function that removes it. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  notify(): void {
    for (const listener of [...this.#listeners]) listener()
  }

  /**
   * Resolves when `holds` returns true, which is checked after each change, or after `timeoutMs`; null: only when `holds` returns true.
   * Rejects with the signal's reason.
   */
  async until(holds: () => boolean, timeoutMs: number | null, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    if (holds()) return
    const stop = this.watch(() => {
      if (holds()) waiting.resolve()
    })
    const waiting = new Pending<void>({ signal, onSettled: stop })
    if (timeoutMs !== null) waiting.limit(timeoutMs, () => waiting.resolve())
    await waiting.answer
  }
}

/** Settles as `promise` does, but rejects with ERR_FDB_DEADLINE after `ms` milliseconds. `what` names the awaited message: "the holder's Welcome". */
export function withDeadline<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  const pending = new Pending<T>()
  pending.limit(ms, () => pending.reject(deadlineError(what, ms)))
  promise.then(
    value => pending.resolve(value),
    error => pending.reject(error),
  )
  return pending.answer
}

/** `limitMs` may be the rest of a longer limit, and then is a fraction. */
export function deadlineError(what: string, limitMs: number): FdbError {
  const ms = Math.round(limitMs)
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${what} did not happen within ${ms} ms: the other side is stuck, stopped or overloaded; raise the deadline if it is only slow`,
    { retryable: true, details: { what, ms } },
  )
}

export interface Call<Peer, T> {
  /** Counts from 1; the peer's answer repeats it. */
  readonly number: number
  readonly peer: Peer
  readonly pending: Pending<T>
}

/**
 * The pending requests to other processes, by number: commands, status requests, forwarded upgrades and registrations.
 * A request is settled once: by its peer's answer, a failure, its timeout or its signal.
 */
export class Calls<Peer, T, Context extends object = object> {
  readonly #pending = new Map<number, Call<Peer, T> & Context>()
  #last = 0

  get size(): number {
    return this.#pending.size
  }

  /** Opens a call. If `signal` is already aborted, the returned call is already rejected. */
  open(
    peer: Peer,
    context: Context,
    { onSettled, ...options }: PendingOptions = {},
  ): Call<Peer, T> & Context {
    const number = ++this.#last
    const pending = new Pending<T>({
      ...options,
      onSettled: () => {
        this.#pending.delete(number)
        onSettled?.()
      },
    })
    const call = { ...context, number, peer, pending }
    if (!pending.settled) this.#pending.set(number, call)
    return call
  }

  /** The pending calls to `peer`, or to all peers, oldest first. */
  callsTo(peer?: Peer): (Call<Peer, T> & Context)[] {
    const all = [...this.#pending.values()]
    return peer === undefined ? all : all.filter(call => call.peer === peer)
  }

  /** Settles the call `number` with the result of `read`. Number 0, from a peer that does not number its answers, means the peer's oldest call. */
  answer(peer: Peer, number: number, read: () => T): void {
    const call = number === 0 ? this.callsTo(peer)[0] : this.#pending.get(number)
    if (call?.peer !== peer) return
    try {
      call.pending.resolve(read())
    } catch (error) {
      call.pending.reject(error)
    }
  }

  /** Rejects the pending calls to `peer`, or to all peers. */
  fail(reason: unknown, peer?: Peer): void {
    for (const { pending } of this.callsTo(peer)) pending.reject(reason)
  }
}
