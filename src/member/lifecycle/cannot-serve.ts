import { Backoff } from '../../base/backoff.js'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import { isShortage } from '../../kernel/index.js'
import type { UnfitReport } from '../../operator/status-report.js'
import { outOfDescriptors } from '../../os/limits.js'

/** The reason why this process cannot serve or stand by, for its holder, for `status`, and for errors of changes. */
export class CannotServe {
  cause: FdbError | null = null

  get report(): UnfitReport | null {
    return this.cause && { code: this.cause.code, message: this.cause.message }
  }

  /** Records the cause, unless one is known: later errors mostly follow from the first. Returns the first cause. */
  record(error: unknown): FdbError {
    const cause = isShortage(error) ? outOfDescriptors('this process cannot serve', error) : error
    this.cause ??= FdbError.from(cause)
    return this.cause
  }

  unfitError(): FdbError {
    const { cause } = this
    return new FdbError(
      'ERR_FDB_UNFIT',
      `this process serves reads only and cannot write: ${cause?.message ?? 'this process could not take over'}; ` +
        'upgrade to a version that can (status shows "unfit")',
      { cause, details: { reason: cause?.code ?? null } },
    )
  }
}

/** Returns the error for changes after another process got the right to write. `epoch`: the last epoch of this process. */
export function fencedError(epoch: Epoch): FdbError {
  return new FdbError(
    'ERR_FDB_FENCED',
    `another process has the right to write now (epoch ${epoch} of this process has ended): repeat the change there`,
    { retryable: true },
  )
}

export function entryFencedError(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_FENCED',
    `another process has started to serve before "${name}" could be registered: register or open it there`,
    { retryable: true },
  )
}

const SHORTAGES: ReadonlySet<string> = new Set(['ERR_FDB_FDS_TRUNCATED', 'ERR_FDB_NO_DESCRIPTORS'])

export function isDescriptorShortage(error: unknown): boolean {
  return isShortage(error) || (FdbError.is(error) && SHORTAGES.has(error.code))
}

/** Retries an operation that failed for lack of descriptors, with an increasing delay. Logs the start and the end of the shortage. */
export class DescriptorShortage {
  readonly #what: string
  readonly #logger: Logger
  readonly #backoff = new Backoff({ firstMs: 50, longestMs: 5_000 })
  #timer: NodeJS.Timeout | undefined
  #logged = false

  /** `what`: the failure, for the log, such as "newer state cannot be received". */
  constructor(what: string, logger: Logger) {
    this.#what = what
    this.#logger = logger
  }

  /** Logs the failure, and calls `retry` after a delay unless {@link end} is called before. */
  retryLater(error: unknown, retry: () => void): void {
    this.log(error)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(retry, this.#backoff.next()).unref()
  }

  /** Logs the failure of an operation that the caller retries itself. */
  log(error: unknown): void {
    if (this.#logged) return
    this.#logged = true
    this.#logger.warn(
      { err: outOfDescriptors(this.#what, error) },
      `${this.#what}: retrying until it succeeds`,
    )
  }

  /** Stops retrying: the operation has succeeded, or is not needed any more. */
  end(): void {
    clearTimeout(this.#timer)
    this.#backoff.reset()
    if (this.#logged) this.#logger.info({}, `${this.#what}: the shortage is over`)
    this.#logged = false
  }
}
