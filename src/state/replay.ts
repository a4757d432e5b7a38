import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { schemaRefusal } from './schema.js'
import { runAtOnce, runInSlices } from './time-slices.js'

/** A section's read replays up to this many new bytes synchronously; more are read in slices. */
const FOLLOW_BYTES = 64 * 1024
/** The same for the first read after another process has sealed the segment: this process may have been stopped meanwhile. */
const CATCH_UP_BYTES = 8 * 1024 * 1024

/** Reads the records of other processes: in slices, one task after the other, or, in a followed log, before each read of a section. */
export class Replay {
  /** Whether the log is followed: each read of a section first replays new records of other processes. Ends at an unreadable record. */
  #following = false
  /** The log is followed since its own segment was found sealed; the owner has not said yet that another process writes. */
  #early = false
  readonly #core: LogCore
  #reading: Promise<unknown> = Promise.resolve()
  #readers = 0
  /** The owner was notified that a schema forbids reading a section. */
  #schemaReported = false

  constructor(core: LogCore) {
    this.#core = core
  }

  get busy(): boolean {
    return this.#readers > 0
  }

  /** Calls `start` after all earlier tasks, and runs the returned generator. Rejects with the exception of either, or with ERR_FDB_SCHEMA after everything was read. */
  async enqueue(start: () => Generator<unknown, void>): Promise<void> {
    const { closing, sliceMs, deferred } = this.#core
    const task = this.#reading.then(async () => {
      const work = start()
      this.#readers++
      try {
        await runInSlices(work, { sliceMs, signal: closing })
        await deferred.done()
        this.#checkSchemas()
      } finally {
        this.#readers--
        this.#core.flush()
      }
    })
    this.#reading = task.catch(() => {})
    return task
  }

  /** Calls `work` when the tasks that are queued now have ended, before later ones begin. */
  between<T>(work: () => T): Promise<T> {
    const done = this.#reading.then(work)
    this.#reading = done.catch(() => {})
    return done
  }

  /** Resolves when the tasks that are queued now have ended. */
  async ended(): Promise<void> {
    await this.#reading
  }

  /** Follows the log in the segments that come next. Called when the log's own segment is sealed. */
  adoptNext(): void {
    const { owner, history, warn, closing } = this.#core
    if (this.#occupied || closing.aborted) return
    try {
      const newest = history.held.at(-1)!.segment.epoch
      for (const segment of owner.segmentsAfter?.(newest) ?? []) history.hold(segment)
    } catch (error) {
      warn({ err: error }, 'newer state cannot be read: this process may answer from older state')
    }
    if (this.#following || this.#early) return
    this.#following = this.#early = true
    this.follow(CATCH_UP_BYTES)
  }

  /** Starts or stops to follow. An error that was found early is reported now. */
  setFollowing(on: boolean): void {
    const early = this.#early
    this.#following = on
    this.#early = false
    if (!on || !early) return
    try {
      this.#checkSchemas()
    } catch (error) {
      this.#fail(error)
    }
  }

  /** A record is being read or applied. */
  get #occupied(): boolean {
    const { history, deferred } = this.#core
    return this.busy || history.applying || deferred.stepping
  }

  /** Reads new records, if the log is followed; more than `most` bytes in slices. */
  follow(most = FOLLOW_BYTES): void {
    const { history, deferred } = this.#core
    if (!this.#following || this.#occupied) return
    const fresh = history.unread()
    if (fresh === 0) return
    if (fresh > most || deferred.pending) {
      this.enqueue(() => history.readNew()).catch(error => this.#fail(error))
      return
    }
    try {
      runAtOnce(history.readNew())
      this.#checkSchemas()
    } catch (error) {
      this.#fail(error)
    }
  }

  #checkSchemas(): void {
    for (const { stored, schema } of this.#core.store.sections.values()) {
      const refusal = stored && schema ? schemaRefusal(stored, schema) : null
      if (refusal) throw refusal
    }
  }

  /** After ERR_FDB_SCHEMA the log is still followed for its other sections; after any other error it is not. */
  #fail(error: unknown): void {
    const forbidden = FdbError.is(error) && error.code === 'ERR_FDB_SCHEMA'
    if (!forbidden) this.#following = false
    if (this.#early) return
    if (forbidden && this.#schemaReported) return
    this.#schemaReported ||= forbidden
    const { closing, warn, owner } = this.#core
    if (closing.aborted) return
    warn({ err: error }, 'this process can no longer read the state of the serving process')
    owner.onUnreadable?.(error)
  }
}
