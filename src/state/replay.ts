import { FdbError } from '../errors.js'
import type { LogCore } from './core.js'
import { schemaRefusal } from './schema.js'
import { runAtOnce, runInSlices } from './slices.js'

/** The most that a read of a followed log reads in place; what is more is read in slices meanwhile. */
const FOLLOW_BYTES = 64 * 1024

/** Reads what other processes wrote: one reading after the other, in slices; or, of a log that is followed, as it is appended. */
export class Replay {
  /** Every read of a section sees the appends of others, until these cannot be read. */
  following = false
  readonly #core: LogCore
  #reading: Promise<unknown> = Promise.resolve()
  #readers = 0
  /** It has been told that a section may not be read. */
  #schemaReported = false

  constructor(core: LogCore) {
    this.#core = core
  }

  get busy(): boolean {
    return this.#readers > 0
  }

  /** Behind the readings before it. `begin` may throw. Rejects also with ERR_FDB_SCHEMA, when all was read. */
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

  /** Resolves when no reading is under way or asked for. */
  async ended(): Promise<void> {
    do await this.#reading
    while (this.#readers > 0)
  }

  /** Where the log is followed: reads what is new. */
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

  /** A section that may not be read is in the log all the same: the others are followed on. */
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
