import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Epoch } from '../handoff/messages.js'
import type { UnfitReport } from '../operator/status-report.js'
import { outOfDescriptors } from '../os/limits.js'

/** The reason why a process cannot serve, or stand by: told to its holder, to operators and to writers. */
export class CannotServe {
  #cause: FdbError | null = null

  get cause(): FdbError | null {
    return this.#cause
  }

  get report(): UnfitReport | null {
    return this.#cause === null ? null : { code: this.#cause.code, message: this.#cause.message }
  }

  /** The first cause counts: what failed because of it says less. */
  record(error: unknown): FdbError {
    this.#cause ??= FdbError.from(error)
    return this.#cause
  }

  /** This process serves, or tries anew. */
  clear(): void {
    this.#cause = null
  }

  /** The error for changes that are asked for here. */
  refusal(): FdbError {
    const { cause } = this
    return new FdbError(
      'ERR_FDB_UNFIT',
      `this process answers from what it has read and cannot write: ${cause?.message ?? 'it could not take over'}; ` +
        'upgrade to a version that can (status shows "unfit")',
      { cause, details: { reason: cause?.code ?? null } },
    )
  }
}

/** Another has the right to write. */
export function fenced(epoch: Epoch): FdbError {
  return new FdbError(
    'ERR_FDB_FENCED',
    `another process has the right to write now (this was epoch ${epoch}): repeat the change there`,
    { retryable: true },
  )
}

/** Another process serves, and has what the service has. */
export function fencedFrom(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_FENCED',
    `another process has come to serve before "${name}" could be taken in: give it to the next version, or open it there`,
    { retryable: true },
  )
}

const FIRST_MS = 50
const MOST_MS = 5_000

const SHORT: ReadonlySet<unknown> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ERR_FDB_FDS_TRUNCATED'])

/** The operation may succeed when another descriptor has been closed. */
export function isShortOfDescriptors(error: unknown): boolean {
  return SHORT.has((error as Partial<NodeJS.ErrnoException> | null)?.code)
}

/** Tries again, after ever longer rests, what failed for want of a descriptor. The log says that, and when it is over, once each. */
export class ShortOfDescriptors {
  readonly #what: string
  readonly #logger: Logger
  #rest = FIRST_MS
  #timer: NodeJS.Timeout | undefined
  #said = false

  /** `what` cannot be, as the log says it. */
  constructor(what: string, logger: Logger) {
    this.#what = what
    this.#logger = logger
  }

  /** It has failed; `again` follows, unless {@link over} is called before. */
  failed(error: unknown, again: () => void): void {
    this.record(error)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(again, this.#rest).unref()
    this.#rest = Math.min(2 * this.#rest, MOST_MS)
  }

  /** The operation has failed, and other code tries again. */
  record(error: unknown): void {
    if (this.#said) return
    this.#said = true
    this.#logger.warn(
      { err: outOfDescriptors(this.#what, error) },
      `${this.#what}: it is tried again until it can be`,
    )
  }

  /** The operation has succeeded, or is not wanted any more. */
  over(): void {
    clearTimeout(this.#timer)
    this.#rest = FIRST_MS
    if (this.#said) this.#logger.info({}, `${this.#what}: that is over`)
    this.#said = false
  }
}
