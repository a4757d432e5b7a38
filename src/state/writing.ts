import type { FdbError } from '../errors.js'
import { Appender } from './appender.js'
import type { LogCore } from './core.js'
import { runUpdate, type StateDraft } from './draft.js'
import { type Disk, type Durability, makeDurably, requireDisk } from './durable.js'
import { type ForwardingOptions, ForwardQueue } from './forward-queue.js'
import {
  type Answer,
  answerOf,
  type ForwardedWrite,
  type IncomingWrite,
  mayBeMade,
  NOT_HERE,
} from './forwarded-write.js'
import type { Position } from './history.js'
import type { Replay } from './replay.js'
import { requestRefusal, type WriteOptions } from './requests.js'
import type { Segment } from './segment.js'
import type { NewWrite, PendingWrite, UpdateResult } from './write-queue.js'

type Mode = 'reading' | 'writing' | 'paused' | 'fenced' | 'forwarding' | 'ended'

/** Decides about each change: it waits, is appended, is forwarded to the process that writes, or is refused. */
export class Writing {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #appender: Appender
  #mode: Mode = 'reading'
  #ended: unknown = null
  #forwarding: ForwardQueue | null = null

  constructor(core: LogCore, replay: Replay) {
    this.#core = core
    this.#replay = replay
    this.#appender = new Appender(core, {
      mayAppend: () => this.#mode === 'writing',
      onFenced: () => this.#fence(),
    })
  }

  /** This process may still try to write to its segment. */
  get mayWrite(): boolean {
    return this.#mode === 'writing' || this.#mode === 'paused'
  }

  get amidBulk(): boolean {
    return this.#appender.amidBulk
  }

  start(segment: Segment): void {
    this.#core.history.claim(segment)
    this.#mode = 'writing'
    this.#ended = null
    this.#replay.following = false
    this.#stopForwarding()
    this.#core.flush()
  }

  pause(): Position {
    this.#core.flush()
    if (this.#mode === 'writing') this.#mode = 'paused'
    return this.#core.history.position
  }

  resume(): void {
    if (this.#mode !== 'paused') return
    this.#mode = 'writing'
    this.#core.flush()
  }

  end(error: unknown): void {
    this.#mode = 'ended'
    this.#ended = error
    this.#stopForwarding()
    const { queue, sliceMs } = this.#core
    queue.rejectForeign(NOT_HERE)
    const why = 'this process lost its way to the one that serves before that had said'
    const errorOf = ({ sent, request }: PendingWrite) => (sent ? mayBeMade(why, request, error) : error)
    void queue.rejectAll(errorOf, sliceMs)
  }

  forward(options: ForwardingOptions): ForwardQueue {
    if (this.#forwarding) return this.#forwarding
    this.#mode = 'forwarding'
    this.#core.queue.rejectForeign(NOT_HERE)
    this.#forwarding = new ForwardQueue(this.#core, this.#replay, options)
    return this.#forwarding
  }

  #stopForwarding(): void {
    this.#forwarding?.stop()
    this.#forwarding = null
  }

  #fence(): void {
    this.#mode = 'fenced'
    queueMicrotask(() => {
      if (this.#mode === 'fenced') this.#core.owner.onFenced?.()
    })
  }

  follow(): void {
    this.#replay.following =
      (this.#writesElsewhere || this.#mode === 'reading') && !this.#core.closing.aborted
    this.#forwarding?.wake()
  }

  get #writesElsewhere(): boolean {
    return this.#mode === 'ended' || this.#mode === 'forwarding'
  }

  flush(): void {
    this.#appender.flush()
  }

  /** Brings `durable` changes to the disk; if another process writes, to that one's. */
  get disk(): Disk | null {
    return this.#core.owner.disk === null ? null : this.#disk
  }

  /** Shared by all changes, as each asks for it. */
  readonly #disk: Disk = {
    // During a handoff a durable change waits like any other; before ready() it is refused.
    checkServing: () => {
      const waits = this.#mode === 'paused' || this.#mode === 'fenced' || this.#mode === 'forwarding'
      if (!waits) this.#core.owner.disk?.checkServing()
    },
    flush: async () => {
      const { disk } = this.#core.owner
      if (disk !== null) await this.#flushTo(disk)
    },
  }

  /** Changes from before another process got the right to write are in that one's log: it reports when its disk has them. */
  async #flushTo(disk: Disk): Promise<void> {
    try {
      await disk.flush()
      return
    } catch (error) {
      if (isServing(disk)) throw error
    }
    const durability: Durability = { needed: true, done: false }
    await this.write({
      sections: [],
      parts: [],
      request: '',
      prints: [],
      durability,
      makeUpdate: emptyUpdate,
    })
    // This process writes again.
    if (!durability.done) await disk.flush()
  }

  /** Resolves with the result of `readResult` or `makeUpdate`. Throws if it is refused at once. */
  write(write: NewWrite): Promise<unknown> {
    if (this.#mode === 'ended') throw this.#ended
    const { queue, store } = this.#core
    const { request, prints } = write
    if (request !== '') {
      const waiting = queue.waitingFor(request)
      const known = store.requests.get(request)
      const before = known ? [known.print] : waiting?.prints
      const refusal = before ? requestRefusal(request, before, prints) : null
      if (refusal) throw refusal
      // Another process's change may never be made here: then this one is, at its own place.
      if (waiting && (!waiting.foreign || write.foreign)) return waiting.promise
      if (known) return Promise.resolve()
    }
    const refused = this.#forwarding?.refusal
    if (refused) throw refused
    const promise = queue.add(write)
    this.#forwarding?.wake()
    if (this.#mode === 'writing') this.#appender.schedule()
    return promise
  }

  /** The promise of a change for its caller. A `durable` one is refused instead of waiting. */
  guardPremature<R>(change: Promise<R>, options: WriteOptions): Promise<R> {
    if (this.#mode !== 'reading' || options?.durable === true) return change
    const premature = () => (this.#mode === 'reading' ? (this.#core.owner.premature?.() ?? null) : null)
    return premature() === null ? change : PrematureAwait.of(change, premature)
  }

  get waiting(): number {
    this.#core.flush()
    return this.#core.queue.length
  }

  settled(): Promise<void> {
    this.#core.flush()
    const none = () => {}
    const last = this.#core.queue.last?.promise.then(none, none) ?? Promise.resolve()
    return this.guardPremature(last, {})
  }

  /** `prints`: of its possible results. */
  update<R>(
    change: (state: StateDraft) => R,
    request: string,
    prints: readonly number[],
    durability: Durability | null,
  ): Promise<R | undefined> {
    const make = () => {
      const drawn = runUpdate(change, this.#core.store)
      if (drawn.durable) requireDisk(durability, this.disk)
      return drawn
    }
    const write: NewWrite = { sections: [], parts: [], request, prints, durability, makeUpdate: make }
    return this.write(write) as Promise<R | undefined>
  }

  async accept(arriving: IncomingWrite, write: Omit<ForwardedWrite, 'parts'>): Promise<Answer> {
    const { owner, history, closing } = this.#core
    try {
      if (this.#writesElsewhere) throw NOT_HERE
      const make = () => this.write(arriving.toWrite(write))
      const existed = await makeDurably(make, write, owner.disk)
      return { outcome: 'applied', existed: existed === true, sequence: history.sequence }
    } catch (error) {
      // The right to write ended before the change was on the disk: its author sends it to the next writer.
      const over = closing.aborted || (owner.disk !== null && !isServing(owner.disk))
      return answerOf(over ? NOT_HERE : error, history.sequence)
    }
  }
}

function isServing(disk: Disk): boolean {
  try {
    disk.checkServing()
    return true
  } catch {
    return false
  }
}

function emptyUpdate(): UpdateResult {
  return { reads: [], sections: [], parts: [], result: undefined }
}

/** A change that waits for an event which may never come while it is awaited: awaiting it rejects in the next turn. The change still waits. */
class PrematureAwait<T> extends Promise<T> {
  #premature: (() => FdbError | null) | undefined

  /** `premature`: why awaiting it now would never end; null: it may be awaited. */
  static of<T>(change: Promise<T>, premature: () => FdbError | null): Promise<T> {
    const outcome = new PrematureAwait<T>((resolve, reject) => void change.then(resolve, reject))
    outcome.#premature = premature
    return outcome
  }

  // The results of then(), catch() and finally() are ordinary promises.
  static override get [Symbol.species](): PromiseConstructor {
    return Promise
  }

  // biome-ignore lint/suspicious/noThenProperty: `await` calls it, which is what is to be noticed.
  override then<R = T, E = never>(
    fulfilled?: ((value: T) => R | PromiseLike<R>) | null,
    rejected?: ((reason: unknown) => E | PromiseLike<E>) | null,
  ): Promise<R | E> {
    const premature = this.#premature
    if (premature === undefined || premature() === null) return super.then(fulfilled, rejected)
    // A refused change rejects in this turn, and ready() may still be called in it.
    const refusal = new Promise<never>((_resolve, reject) =>
      setImmediate(() => {
        const why = premature()
        if (why !== null) reject(why)
      }),
    )
    return Promise.race([super.then(), refusal]).then(fulfilled, rejected)
  }
}
