import { FdbError } from '../errors.js'
import type { Check, ReadyOptions } from './member-options.js'

/** The application's checks: one after the other, at most for the time that `ready()` was given. */
export class Checks {
  readonly #options: ReadyOptions
  /** The one that is run now. */
  #current: Check | null = null

  constructor(options: ReadyOptions) {
    this.#options = options
  }

  /** The name of the one that is run now. */
  get current(): string | null {
    return this.#current === null ? null : nameOf(this.#current)
  }

  /**
   * Rejects at the first that does not pass: ERR_FDB_CHECK, or what it threw if that is an FdbError; ERR_FDB_DEADLINE when they
   * take too long; and as `off` does, when the handoff is off. One that never settles is left behind, with its signal aborted.
   */
  async run(off: Promise<unknown>): Promise<void> {
    const { timeout } = this.#options
    const over = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_resolve, reject) => {
      if (timeout !== undefined) timer = setTimeout(() => reject(this.#late(timeout)), timeout)
    })
    try {
      await Promise.race([this.#all(over.signal), off, late])
    } finally {
      clearTimeout(timer)
      over.abort()
      this.#current = null
    }
  }

  async #all(signal: AbortSignal): Promise<void> {
    for (const check of this.#options.checks ?? []) {
      if (signal.aborted) return
      this.#current = check
      let passed: unknown
      try {
        passed = await check({ signal })
      } catch (cause) {
        if (FdbError.is(cause)) throw cause
        throw new FdbError('ERR_FDB_CHECK', `a check failed: ${(cause as Error)?.message ?? cause}`, {
          cause,
        })
      }
      if (passed === false) throw new FdbError('ERR_FDB_CHECK', `check "${nameOf(check)}" answered false`)
    }
  }

  #late(timeout: number): FdbError {
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `check "${this.current}" has not settled, and ready() was given ${timeout} ms: bound what it waits for (its signal tells when it is too late), or give more time`,
      { retryable: true },
    )
  }
}

function nameOf(check: Check): string {
  return check.name || 'anonymous'
}
