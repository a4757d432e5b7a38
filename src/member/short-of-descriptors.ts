import type { Logger } from '../base/logger.js'
import { noDescriptors } from '../os/limits.js'

const FIRST_MS = 50
const MOST_MS = 5_000

const SHORT: ReadonlySet<unknown> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ERR_FDB_FDS_TRUNCATED'])

/** What failed may be done when another descriptor has been closed. */
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
    this.note(error)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(again, this.#rest).unref()
    this.#rest = Math.min(2 * this.#rest, MOST_MS)
  }

  /** It has failed, and somebody else tries again. */
  note(error: unknown): void {
    if (this.#said) return
    this.#said = true
    this.#logger.warn(
      { err: noDescriptors(this.#what, error) },
      `${this.#what}: it is tried again until it can be`,
    )
  }

  /** It was done, or nobody wants it any more. */
  over(): void {
    clearTimeout(this.#timer)
    this.#rest = FIRST_MS
    if (this.#said) this.#logger.info({}, `${this.#what}: that is over`)
    this.#said = false
  }
}
