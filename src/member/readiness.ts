import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { afterReading, type Limit, Pending } from '../wire/pending.js'
import type { Check, ReadyOptions } from './member-options.js'

/** Waits until this process serves: for the Offer, for the application's checks, and for the handoff, within a limit. */
export class Readiness {
  readonly #late: () => void
  readonly #missingReady: MissingReadyWarning
  readonly #offer = new Pending<void>()
  #checks: CheckRunner | null = null
  #waiting: Pending<void>[] = []
  #limit: Limit | undefined
  #served = false
  #keepsAlive = true

  constructor(late: () => void, logger: Logger) {
    this.#late = late
    this.#missingReady = new MissingReadyWarning(logger)
  }

  /** Whether this process has ever served. */
  get served(): boolean {
    return this.#served
  }

  /** Warns if the application does not call ready(). `incumbent`: returns the pid of the process that serves until then. */
  remind(incumbent: () => number | null): void {
    this.#missingReady.start(() => ({ check: this.#checks?.current ?? null, incumbent: incumbent() }))
  }

  /** Starts a limit, and replaces an earlier one. */
  limit(ms: number): void {
    this.#limit?.clear()
    this.#limit = afterReading(ms, this.#late)
    this.keepAlive(this.#keepsAlive)
  }

  /** Sets whether the limit keeps the process alive. Default true. */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    this.#limit?.keepAlive(on)
  }

  /** Resolves when a complete Offer is here. Rejects if there will be none. */
  waitForOffer(): Promise<void> {
    return this.#offer.answer
  }

  resolveOffer(): void {
    this.#offer.resolve()
  }

  /** Resolves when this process serves. Rejects if this process will not serve. */
  waitForServing(): Promise<void> {
    const serving = new Pending<void>()
    this.#waiting.push(serving)
    return serving.answer
  }

  /** Runs the application's checks, then `last`. Rejects with the first failure, or when `serving` rejects. */
  async check(options: ReadyOptions, serving: Promise<void>, last: () => void): Promise<void> {
    const until = performance.now() + (options.timeout ?? 0)
    this.#checks = new CheckRunner(options)
    await this.#checks.run(serving)
    last()
    this.#missingReady.stop()
    if (options.timeout !== undefined) this.limit(Math.max(1, until - performance.now()))
  }

  /** Resolves the promises that wait until this process serves, although it may only read. */
  resolveWaiting(): void {
    this.#limit?.clear()
    for (const serving of this.#waiting.splice(0)) serving.resolve()
  }

  /** Records that this process serves and writes. */
  markServed(): void {
    this.#served = true
    this.resolveWaiting()
  }

  fail(why: Error): void {
    this.#missingReady.stop()
    this.#limit?.clear()
    this.#offer.reject(why)
    for (const serving of this.#waiting.splice(0)) serving.reject(why)
  }
}

/** The error for a change of the state that is awaited before ready(), although the change waits until this process serves. */
export function notReady(): FdbError {
  return new FdbError(
    'ERR_FDB_NOT_READY',
    'a change of the state was awaited before this process was ready: it is made once this process serves, so ready() would never ' +
      'be called, or its checks never pass. The change is kept: call ready() first, and await the change after it',
  )
}

/** Runs the application's checks one after the other, for at most the timeout of `ready()`. */
class CheckRunner {
  readonly #options: ReadyOptions
  #current: Check | null = null

  constructor(options: ReadyOptions) {
    this.#options = options
  }

  get current(): string | null {
    return this.#current === null ? null : nameOf(this.#current)
  }

  /**
   * Rejects at the first check that fails, with ERR_FDB_CHECK or the check's own FdbError; with ERR_FDB_DEADLINE at the timeout; and when
   * `serving` rejects. A check that is still running is not awaited then; its signal aborts.
   */
  async run(serving: Promise<unknown>): Promise<void> {
    const { timeout } = this.#options
    const over = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_resolve, reject) => {
      if (timeout !== undefined) timer = setTimeout(() => reject(this.#late(timeout)), timeout)
    })
    try {
      await Promise.race([this.#all(over.signal), serving, late])
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
      if (passed === false) throw new FdbError('ERR_FDB_CHECK', `check "${nameOf(check)}" returned false`)
    }
  }

  #late(timeout: number): FdbError {
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `check "${this.current}" has not settled within the ${timeout} ms of ready(): limit its waiting (its signal aborts when it is too late), or give ready() more time`,
      { retryable: true },
    )
  }
}

function nameOf(check: Check): string {
  return check.name || 'anonymous'
}

/** After this time the application has probably forgotten to call ready(), or waits for itself. */
const REMIND_MS = 10_000

/** Warns once if the application does not call `ready()`, because until then this process serves no client and blocks other joiners. */
export class MissingReadyWarning {
  readonly #logger: Logger
  readonly #afterMs: number
  #timer: NodeJS.Timeout | undefined

  constructor(logger: Logger, afterMs: number = REMIND_MS) {
    this.#logger = logger
    this.#afterMs = afterMs
  }

  /** `check`: the name of the running check if ready() was called. `incumbent`: the pid of the process that serves until this one is ready. */
  start(facts: () => { check: string | null; incumbent: number | null }): void {
    this.#timer = setTimeout(() => {
      const { check, incumbent } = facts()
      const meanwhile =
        incumbent === null ? 'it accepts nothing until then' : `process ${incumbent} serves until then`
      const remedy =
        check === null
          ? `ready() was not called: ${meanwhile}. Call it once the servers are attached, and await no change of the state before it`
          : `check "${check}" has not settled: ${meanwhile}. Limit its waiting, or give ready() a timeout`
      this.#logger.warn({ check, incumbent, afterMs: this.#afterMs }, remedy)
    }, this.#afterMs)
    this.#timer.unref()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}
