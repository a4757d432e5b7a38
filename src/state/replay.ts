import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { schemaRefusal } from './schema.js'
import { runAtOnce, runInSlices } from './time-slices.js'

/** A section's read replays up to this many new bytes synchronously; more are read in slices. */
const FOLLOW_BYTES = 64 * 1024

/** Reads the records of other processes: in slices, one task after the other, or, in a followed log, before each read of a section. */
export class Replay {
  /** Whether the log is followed: each read of a section first replays new records of other processes. Ends at an unreadable record. */
  following = false
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

  /** Resolves when no task is running or queued. */
  async ended(): Promise<void> {
    do await this.#reading
    while (this.#readers > 0)
  }

  /** Reads new records, if the log is followed. */
  follow(): void {
    const { history, deferred } = this.#core
    if (!this.following || this.busy || history.applying || deferred.stepping) return
    const fresh = history.unread()
    if (fresh === 0) return
    if (fresh > FOLLOW_BYTES || deferred.pending) {
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
    if (!forbidden) this.following = false
    else if (this.#schemaReported) return
    this.#schemaReported ||= forbidden
    const { closing, warn, owner } = this.#core
    if (closing.aborted) return
    warn({ err: error }, 'this process can no longer read the state of the serving process')
    owner.onUnreadable?.(error)
  }
}
