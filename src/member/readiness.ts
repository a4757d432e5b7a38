import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { afterReading, type Limit, Pending } from '../wire/pending.js'
import type { Check, ReadyOptions } from './member-options.js'

/** How this process comes to serve: its offer, the application's checks, those who wait for it, and the time that they have. */
export class Readiness {
  readonly #late: () => void
  readonly #missingReady: MissingReadyWarning
  readonly #offer = new Pending<void>()
  #checks: Checks | null = null
  #waiting: Pending<void>[] = []
  #limit: Limit | undefined
  #served = false
  #keepsAlive = true

  constructor(late: () => void, logger: Logger) {
    this.#late = late
    this.#missingReady = new MissingReadyWarning(logger)
  }

  /** This process has come to serve, once. */
  get served(): boolean {
    return this.#served
  }

  /** Warns when the application does not come to ready(). `incumbent`: who serves meanwhile. */
  remind(incumbent: () => number | null): void {
    this.#missingReady.start(() => ({ check: this.#checks?.current ?? null, incumbent: incumbent() }))
  }

  /** The time begins now; an earlier limit does not count any more. */
  limit(ms: number): void {
    this.#limit?.clear()
    this.#limit = afterReading(ms, this.#late)
    this.keepAlive(this.#keepsAlive)
  }

  /** Whether the limit keeps the process alive (it does at first). */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    this.#limit?.keepAlive(on)
  }

  /** Resolves when an offer is here whole; rejects when it is clear that none will be. */
  offer(): Promise<void> {
    return this.#offer.answer
  }

  offered(): void {
    this.#offer.resolve()
  }

  /** Resolves when this process serves, rejects when it is clear that it will not. */
  wait(): Promise<void> {
    const serving = new Pending<void>()
    this.#waiting.push(serving)
    return serving.answer
  }

  /** Runs the application's checks, then `last`. Rejects with the first failure, or why this process will not serve (`serving`). */
  async check(options: ReadyOptions, serving: Promise<void>, last: () => void): Promise<void> {
    const until = performance.now() + (options.timeout ?? 0)
    this.#checks = new Checks(options)
    await this.#checks.run(serving)
    last()
    this.#missingReady.stop()
    if (options.timeout !== undefined) this.limit(Math.max(1, until - performance.now()))
  }

  /** This process writes, or answers at least. */
  serves(): void {
    this.#limit?.clear()
    for (const serving of this.#waiting.splice(0)) serving.resolve()
  }

  /** This process writes. */
  begun(): void {
    this.#served = true
    this.serves()
  }

  fail(why: Error): void {
    this.#missingReady.stop()
    this.#limit?.clear()
    this.#offer.reject(why)
    for (const serving of this.#waiting.splice(0)) serving.reject(why)
  }
}
/** The error for a change of the state that waits until this process serves, and is awaited before it is ready. */
export function notReady(): FdbError {
  return new FdbError(
    'ERR_FDB_NOT_READY',
    'a change of the state was awaited before this process was ready: it is made once this process serves, so ready() would never ' +
      'be called, or its checks never pass. The change is kept: call ready() first, and await the change after it',
  )
}

/** The application's checks: one after the other, at most for the time that `ready()` was given. */
class Checks {
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

/** A process that has joined and is not ready for so long has most likely been forgotten, or waits for itself. */
const REMIND_MS = 10_000

/** Warns once of a process that does not call `ready()`: until it does, it serves no client, and others wait for it. */
export class MissingReadyWarning {
  readonly #logger: Logger
  readonly #afterMs: number
  #timer: NodeJS.Timeout | undefined

  constructor(logger: Logger, afterMs: number = REMIND_MS) {
    this.#logger = logger
    this.#afterMs = afterMs
  }

  /** `check`: the one of the application that is run, once ready() was called; `incumbent`: who serves meanwhile. */
  start(facts: () => { check: string | null; incumbent: number | null }): void {
    this.#timer = setTimeout(() => {
      const { check, incumbent } = facts()
      const meanwhile =
        incumbent === null ? 'it accepts nothing until then' : `process ${incumbent} serves until then`
      const remedy =
        check === null
          ? `ready() was not called: ${meanwhile}. Call it once the servers are attached, and await no change of the state before it`
          : `check "${check}" has not settled: ${meanwhile}. Bound what it waits for, or give ready() a timeout`
      this.#logger.warn({ check, incumbent, afterMs: this.#afterMs }, remedy)
    }, this.#afterMs)
    this.#timer.unref()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}
