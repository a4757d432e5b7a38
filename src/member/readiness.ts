import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { afterHearing, type Limit, Pending } from '../wire/pending.js'

import { Checks } from './checks.js'
import type { ReadyOptions } from './member-options.js'
import { ReadyReminder } from './ready-reminder.js'

/** How this process comes to serve: its offer, the application's checks, those who wait for it, and the time that they have. */
export class Readiness {
  readonly #late: () => void
  readonly #reminder: ReadyReminder
  readonly #offer = new Pending<void>()
  #checks: Checks | null = null
  #waiting: Pending<void>[] = []
  #limit: Limit | undefined
  #served = false

  constructor(late: () => void, logger: Logger) {
    this.#late = late
    this.#reminder = new ReadyReminder(logger)
  }

  /** This process has come to serve, once. */
  get served(): boolean {
    return this.#served
  }

  /** Warns when the application does not come to ready(). `incumbent`: who serves meanwhile. */
  remind(incumbent: () => number | null): void {
    this.#reminder.start(() => ({ check: this.#checks?.current ?? null, incumbent: incumbent() }))
  }

  /** The time begins now; an earlier limit does not count any more. */
  limit(ms: number): void {
    this.#limit?.clear()
    this.#limit = afterHearing(ms, this.#late)
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

  /**
   * Runs the application's checks, then `last`: rejects with the first that does not pass, or why this process will not serve.
   * `serving`: what {@link wait} has returned.
   */
  async check(options: ReadyOptions, serving: Promise<void>, last: () => void): Promise<void> {
    const until = performance.now() + (options.timeout ?? 0)
    this.#checks = new Checks(options)
    await this.#checks.run(serving)
    last()
    this.#reminder.stop()
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
    this.#reminder.stop()
    this.#limit?.clear()
    this.#offer.reject(why)
    for (const serving of this.#waiting.splice(0)) serving.reject(why)
  }
}
/** Told to whoever awaits, before this process is ready, a change of the state that waits until it serves. */
export function notReady(): FdbError {
  return new FdbError(
    'ERR_FDB_NOT_READY',
    'a change of the state was awaited before this process was ready: it is made once this process serves, so ready() would never ' +
      'be called, or its checks never pass. The change is kept: call ready() first, and await the change after it',
  )
}
