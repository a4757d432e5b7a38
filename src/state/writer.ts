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
  NOT_WRITER,
  unknownOutcomeError,
} from './forwarded-write.js'
import type { Position } from './history.js'
import type { Replay } from './replay.js'
import { requestIdRefusal, type WriteOptions } from './requests.js'
import type { Segment } from './segment.js'
import type { NewWrite, PendingWrite, UpdateResult } from './write-queue.js'

/** How long a read may rely on the last look at the seal. The look costs a system call. */
const SEAL_MS = 1

/** A change of this process: encoded, or an update that runs when all earlier changes are made. */
export type OwnWrite =
  | Pick<NewWrite, 'sections' | 'parts' | 'request' | 'prints' | 'readResult' | 'own'>
  | OwnUpdate

export interface OwnUpdate {
  readonly update: (state: StateDraft) => unknown
  readonly request: string
  /** Fingerprints of the changes that may result. */
  readonly prints: readonly number[]
}

type Mode = 'reading' | 'writing' | 'paused' | 'fenced' | 'forwarding' | 'ended'

/** Queues each change and, depending on this process's role, appends it, forwards it to the process that writes, makes it wait, or refuses it. */
export class Writer {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #appender: Appender
  #mode: Mode = 'reading'
  #ended: unknown = null
  #forwarding: ForwardQueue | null = null
  /** The error for {@link NewWrite.own} changes, once another process writes. */
  #refusal: FdbError | null = null
  #nextLook = 0

  constructor(core: LogCore, replay: Replay) {
    this.#core = core
    this.#replay = replay
    this.#appender = new Appender(core, {
      mayAppend: () => this.#mode === 'writing',
      onFenced: () => this.#fence(),
    })
  }

  /** Whether this process may still try to write to its segment. */
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
    this.#replay.setFollowing(false)
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
    const reason = 'this process lost its connection to the serving process before that answered'
    const errorOf = ({ foreign, sent, request }: PendingWrite) => {
      if (foreign) return NOT_WRITER
      return sent ? unknownOutcomeError(reason, request, error) : error
    }
    void queue.reject(() => true, errorOf, sliceMs)
  }

  forward(options: ForwardingOptions): ForwardQueue {
    if (this.#forwarding) return this.#forwarding
    this.#mode = 'forwarding'
    const { queue, sliceMs } = this.#core
    this.#refusal = options.refusal
    // The processes that forwarded these changes still have them.
    void queue.reject(
      ({ foreign = false, own = false }) => foreign || own,
      ({ own = false }) => (own ? options.refusal : NOT_WRITER),
      sliceMs,
    )
    this.#forwarding = new ForwardQueue(this.#core, this.#replay, options)
    return this.#forwarding
  }

  #stopForwarding(): void {
    this.#forwarding?.stop()
    this.#forwarding = null
    this.#refusal = null
  }

  /**
   * Called before each read: if another process has sealed the segment, it may write by now, although this process has not heard so. From then on
   * reads see what others append to the segments that this process has.
   */
  checkRight(): void {
    if (this.#mode !== 'writing' && this.#mode !== 'paused' && this.#mode !== 'fenced') return
    const now = performance.now()
    if (now < this.#nextLook) return
    this.#nextLook = now + SEAL_MS
    if (this.#mode !== 'fenced') {
      if (!this.#core.history.writeSegment!.segment.sealed) return
      this.#fence()
    }
    this.#replay.adoptNext()
  }

  /** As {@link checkRight}, however short the time since the last look. */
  #checkRightNow(): void {
    this.#nextLook = 0
    this.checkRight()
  }

  #fence(): void {
    this.#mode = 'fenced'
    this.#nextLook = 0
    queueMicrotask(() => {
      if (this.#mode === 'fenced') this.#core.owner.onFenced?.()
    })
  }

  follow(): void {
    const mayRead = this.#anotherWrites || this.#mode === 'reading' || this.#mode === 'fenced'
    this.#replay.setFollowing(mayRead && !this.#core.closing.aborted)
    this.#forwarding?.wake()
  }

  get #anotherWrites(): boolean {
    return this.#mode === 'ended' || this.#mode === 'forwarding'
  }

  flush(): void {
    this.#appender.flush()
  }

  /** Writes `durable` changes to disk. If another process writes, that process does so. Null without a state file. */
  get disk(): Disk | null {
    return this.#core.owner.disk === null ? null : this.#disk
  }

  readonly #disk: Disk = {
    // Before ready() a durable change is refused. In other modes it waits, is forwarded or refused as any other change, also if another process has sealed the segment unheard.
    checkServing: () => {
      this.#checkRightNow()
      const { accepts, disk } = this.#core.owner
      if (this.#mode === 'writing' || (this.#mode === 'reading' && accepts?.() !== true)) disk?.checkServing()
    },
    flush: async () => {
      const { disk } = this.#core.owner
      if (disk !== null) await this.#flushTo(disk)
    },
  }

  /** Flushes the log. If another process writes by now, its log has these changes too: forwards an empty durable change to wait for that process's disk. */
  async #flushTo(disk: Disk): Promise<void> {
    try {
      await disk.flush({ marked: false })
      return
    } catch (error) {
      if (isServing(disk)) throw error
    }
    // Otherwise this process would make the empty change itself.
    this.#checkRightNow()
    const durability: Durability = { needed: true, done: false }
    await this.write({
      sections: [],
      parts: [],
      request: '',
      prints: [],
      durability,
      makeUpdate: emptyUpdate,
    })
    // If no other process has answered, this process writes again.
    if (!durability.done) await disk.flush({ marked: false })
  }

  /** Resolves with the result of `readResult` or `makeUpdate`. Throws if the write is refused at once. */
  write(write: NewWrite): Promise<unknown> {
    if (this.#mode === 'ended') throw this.#ended
    const { queue, store } = this.#core
    const { request, prints } = write
    if (request !== '') {
      const waiting = queue.findRequest(request)
      const known = store.requests.get(request)
      const before = known ? [known.print] : waiting?.prints
      const refusal = before ? requestIdRefusal(request, before, prints) : null
      if (refusal) throw refusal
      // This process may lose the right to write before it makes a foreign change, so an own write does not share its promise.
      if (waiting && (!waiting.foreign || write.foreign)) return waiting.promise
      if (known) return Promise.resolve()
    }
    const refused = write.own ? this.#refusal : this.#forwarding?.refusal
    if (refused) throw refused
    if (this.#keepsOnly) return this.#keep(write)
    const promise = queue.add(write)
    this.#forwarding?.wake()
    if (this.#mode === 'writing') this.#appender.schedule()
    return promise
  }

  /**
   * Makes a change of this process, as the caller has encoded it; null: nothing is changed. Every error rejects, and awaiting the change before ready()
   * rejects too. `durable`: the section's setting. `result` returns the value of the promise, from that of `readResult` or of the update.
   */
  change<R>(
    write: OwnWrite | null | Promise<OwnWrite | null>,
    options: WriteOptions,
    durable: boolean | undefined,
    result: (made: unknown) => R,
  ): Promise<R> {
    const change = this.#make(write, options, durable, result)
    // Before ready() a `durable` change is refused at once, so awaiting it cannot block.
    return options.durable === true ? change : this.#guardPremature(change)
  }

  async #make<R>(
    given: OwnWrite | null | Promise<OwnWrite | null>,
    options: WriteOptions,
    durable: boolean | undefined,
    result: (made: unknown) => R,
  ): Promise<R> {
    // A change that is encoded already is queued in this turn, so that changes keep the order of their calls.
    const write = given instanceof Promise ? await given : given
    if (write === null) return result(undefined)
    const make = (durability: Durability | null) =>
      'update' in write ? this.#update(write, durability) : this.write({ ...write, durability })
    return result(await makeDurably(make, options, this.disk, durable))
  }

  /** Whether changes wait until this process serves, and a check of ready() may wait for them. */
  get #keepsOnly(): boolean {
    const { inCheck, prematureError } = this.#core.owner
    return this.#mode === 'reading' && inCheck?.() === true && (prematureError?.() ?? null) !== null
  }

  /** Queues a change, and resolves with its result for the present state. Throws if the change is refused at once. */
  #keep(write: NewWrite): Promise<unknown> {
    const result = write.makeUpdate ? write.makeUpdate().result : write.readResult?.()
    this.#core.queue
      .add(write)
      .catch(error => this.#core.warn({ err: error }, 'a change that a check of ready() made was refused'))
    return Promise.resolve(result)
  }

  #guardPremature<R>(change: Promise<R>): Promise<R> {
    if (this.#mode !== 'reading' || this.#keepsOnly) return change
    const premature = () => (this.#mode === 'reading' ? (this.#core.owner.prematureError?.() ?? null) : null)
    return premature() === null ? change : PrematureAwait.of(change, premature)
  }

  get waiting(): number {
    this.#core.flush()
    return this.#core.queue.length
  }

  settled(): Promise<void> {
    this.#core.flush()
    const none = () => {}
    if (this.#keepsOnly) return Promise.resolve()
    const last = this.#core.queue.last?.promise.then(none, none) ?? Promise.resolve()
    return this.#guardPremature(last)
  }

  #update({ update, request, prints }: OwnUpdate, durability: Durability | null): Promise<unknown> {
    const makeUpdate = () => {
      const result = runUpdate(update, this.#core.store)
      if (result.durable) requireDisk(durability, this.disk)
      return result
    }
    return this.write({ sections: [], parts: [], request, prints, durability, makeUpdate })
  }

  async accept(arriving: IncomingWrite, write: Omit<ForwardedWrite, 'parts'>): Promise<Answer> {
    const { owner, history, closing } = this.#core
    try {
      if (this.#anotherWrites) throw NOT_WRITER
      const make = () => this.write(arriving.toWrite(write))
      const existed = await makeDurably(make, write, owner.disk)
      // A retry has no result: the change was made before, and then a deleted entry counts as existing.
      const counts = existed ?? arriving.deletesOne
      return { outcome: 'applied', existed: counts === true, sequence: history.sequence }
    } catch (error) {
      // If the right to write ended before the change was on disk, the sender sends it to the next writer.
      const ended = closing.aborted || (owner.disk !== null && !isServing(owner.disk))
      return answerOf(ended ? NOT_WRITER : error, history.sequence)
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

/** The promise of a change that waits for ready(). Awaiting it before ready() would block forever, so `then` rejects in the next turn; the change stays queued. */
class PrematureAwait<T> extends Promise<T> {
  #premature: (() => FdbError | null) | undefined

  /** `premature` returns an error while `change` must not be awaited, otherwise null. */
  static of<T>(change: Promise<T>, premature: () => FdbError | null): Promise<T> {
    const outcome = new PrematureAwait<T>((resolve, reject) => void change.then(resolve, reject))
    outcome.#premature = premature
    return outcome
  }

  // The results of then(), catch() and finally() are ordinary promises.
  static override get [Symbol.species](): PromiseConstructor {
    return Promise
  }

  // biome-ignore lint/suspicious/noThenProperty: `await` calls then(), which is how this class notices it.
  override then<R = T, E = never>(
    fulfilled?: ((value: T) => R | PromiseLike<R>) | null,
    rejected?: ((reason: unknown) => E | PromiseLike<E>) | null,
  ): Promise<R | E> {
    const premature = this.#premature
    if (premature === undefined || premature() === null) return super.then(fulfilled, rejected)
    // Rejects in the next turn: in this one the change may be refused with its own error, and ready() may still be called.
    const refusal = new Promise<never>((_resolve, reject) =>
      setImmediate(() => {
        const error = premature()
        if (error !== null) reject(error)
      }),
    )
    return Promise.race([super.then(), refusal]).then(fulfilled, rejected)
  }
}
