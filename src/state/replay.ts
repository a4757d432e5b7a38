import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { schemaRefusal } from './schema.js'
import { runAtOnce, runInSlices } from './time-slices.js'

/** Most bytes that a section's read replays itself; more are read in slices. */
const FOLLOW_BYTES = 64 * 1024

/** Reads the records of other processes: in slices, one reading after the other, or as they are appended, in a log that is followed. */
export class Replay {
  /** Each read of a section sees the appends of others, as long as they can be read. */
  following = false
  readonly #core: LogCore
  #reading: Promise<unknown> = Promise.resolve()
  #readers = 0
  /** The owner knows that a section may not be read. */
  #schemaReported = false

  constructor(core: LogCore) {
    this.#core = core
  }

  get busy(): boolean {
    return this.#readers > 0
  }

  /** Runs after earlier readings. `start` may throw. Also rejects with ERR_FDB_SCHEMA, after everything was read. */
  async enqueue(start: () => Generator<unknown, void>, signal: AbortSignal | undefined): Promise<void> {
    const { closing, sliceMs, deferred } = this.#core
    const task = this.#reading.then(async () => {
      const work = start()
      this.#readers++
      try {
        const either = signal ? AbortSignal.any([signal, closing]) : closing
        await runInSlices(work, { sliceMs, signal: either })
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

  /** Resolves when no reading is running or queued. */
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
      this.enqueue(() => history.readNew(), undefined).catch(error => this.#fail(error))
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

  /** A section that may not be read stays in the log: the others are still followed. */
  #fail(error: unknown): void {
    const forbidden = FdbError.is(error) && error.code === 'ERR_FDB_SCHEMA'
    if (!forbidden) this.following = false
    else if (this.#schemaReported) return
    this.#schemaReported ||= forbidden
    const { closing, warn, owner } = this.#core
    if (closing.aborted) return
    warn({ err: error }, 'the state of the process that serves now cannot be read any more')
    owner.onUnreadable?.(error)
  }
}
