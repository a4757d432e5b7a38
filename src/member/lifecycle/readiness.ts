import { afterReading, type Limit } from '../../base/after-reading.js'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import { writeStep } from '../../versions/exit-reason.js'
import { Pending } from '../../wire/pending.js'
import type { Check, ReadyOptions } from '../options/member-options.js'

/** The library's own checks, before and after those of the application. */
interface OwnChecks {
  readonly first: Check | null
  readonly last: () => void
}

/** Waits, within a limit, for the Offer, for the application's checks, and until this process serves. */
export class Readiness {
  readonly #late: () => void
  readonly #logger: Logger
  /** Resolves when a complete Offer has arrived. Rejects when none will arrive. */
  readonly offer = new Pending<void>()
  /** The name of the running check. */
  #check: string | null = null
  #warning: NodeJS.Timeout | undefined
  #waiting: Pending<void>[] = []
  #limit: Limit | undefined
  #served = false
  #keepsAlive = true

  constructor(late: () => void, logger: Logger) {
    this.#late = late
    this.#logger = logger
  }

  /** Whether the application's checks run. */
  get checks(): boolean {
    return this.#check !== null
  }

  /** The error of a call after this process has left, unless there is a reason. */
  get leftError(): FdbError {
    const text = this.served ? 'this member has left the service' : 'this member was closed before it served'
    return new FdbError('ERR_FDB_CLOSED', text)
  }

  get served(): boolean {
    return this.#served
  }

  /** Warns once if ready() is not called, or its checks do not settle. `incumbent` returns the pid of the process that serves meanwhile. */
  remind(incumbent: () => number | null): void {
    this.#warning = warnUnlessReady(this.#logger, () => ({
      check: this.#check,
      incumbent: incumbent(),
    }))
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

  /** Resolves when this process serves. Rejects if this process will not serve. */
  waitForServing(): Promise<void> {
    const serving = new Pending<void>()
    this.#waiting.push(serving)
    return serving.answer
  }

  /** Runs `first`, the application's checks, then `last`. Rejects with the first failure, or when `serving` rejects. */
  async check(options: ReadyOptions, serving: Promise<void>, { first, last }: OwnChecks): Promise<void> {
    const until = performance.now() + (options.timeout ?? 0)
    await this.#runChecks(options, serving, first)
    last()
    clearTimeout(this.#warning)
    if (options.timeout !== undefined) this.limit(Math.max(1, until - performance.now()))
  }

  /**
   * Runs the checks one after the other. Rejects at the first that fails, with ERR_FDB_CHECK or the check's own FdbError; with
   * ERR_FDB_DEADLINE at the timeout; and when `serving` rejects. Then the running check is not awaited, and its signal aborts.
   */
  async #runChecks(
    { checks = [], timeout }: ReadyOptions,
    serving: Promise<void>,
    first: Check | null,
  ): Promise<void> {
    const over = new AbortController()
    let limit: Limit | undefined
    const late = new Promise<never>((_resolve, reject) => {
      if (timeout !== undefined) limit = afterReading(timeout, () => reject(lateCheck(this.#check, timeout)))
    })
    const all = async () => {
      if (first !== null) {
        this.#check = checkName(first, 0, 1)
        await runCheck(first, this.#check, over.signal)
      }
      for (const [index, check] of checks.entries()) {
        if (over.signal.aborted) return
        const name = checkName(check, index, checks.length)
        this.#check = name
        // For the error of the process that started this one.
        writeStep(`has not finished ${name}`)
        await runCheck(check, name, over.signal)
      }
    }
    try {
      await Promise.race([all(), serving, late])
    } finally {
      limit?.clear()
      over.abort()
      this.#check = null
    }
  }

  /** Resolves {@link waitForServing}, also for an unfit process, which serves reads only. */
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
    clearTimeout(this.#warning)
    this.#limit?.clear()
    this.offer.reject(why)
    for (const serving of this.#waiting.splice(0)) serving.reject(why)
  }
}

export function notReady(): FdbError {
  return new FdbError(
    'ERR_FDB_NOT_READY',
    'a change of the state was awaited before this process was ready: it is made once this process serves, so ready() would never ' +
      'be called, or its checks never pass. The change is kept: call ready() first, and await the change after it',
  )
}

async function runCheck(check: Check, name: string, signal: AbortSignal): Promise<void> {
  let passed: unknown
  try {
    passed = await check({ signal })
  } catch (cause) {
    if (FdbError.is(cause)) throw cause
    throw new FdbError('ERR_FDB_CHECK', `${name} failed: ${(cause as Error)?.message ?? cause}`, { cause })
  }
  if (passed === false) throw new FdbError('ERR_FDB_CHECK', `${name} returned false`)
}

function lateCheck(name: string | null, timeout: number): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${name ?? 'a check'} has not settled within the ${timeout} ms of ready(): limit its waiting (its signal aborts when it is too late), or give ready() more time`,
    { retryable: true },
  )
}

/** Returns `check "database"`, or `check 2 of 3` for a function without a name. */
function checkName(check: Check, index: number, count: number): string {
  return check.name === '' ? `check ${index + 1} of ${count}` : `check "${check.name}"`
}

/** After this time the application has probably forgotten ready(), or awaits something that happens only after ready(). */
const REMIND_MS = 10_000

/**
 * Warns once if this process is not ready in time, because until then it serves no client, and no other process can join. `check`: the name
 * of the running check if ready() was called. `incumbent`: the pid of the process that serves meanwhile.
 */
export function warnUnlessReady(
  logger: Logger,
  facts: () => { check: string | null; incumbent: number | null },
  afterMs = REMIND_MS,
): NodeJS.Timeout {
  return setTimeout(() => {
    const { check, incumbent } = facts()
    const meanwhile =
      incumbent === null ? 'it accepts nothing until then' : `process ${incumbent} serves until then`
    const remedy =
      check === null
        ? `ready() was not called: ${meanwhile}. Call it once the servers are attached, and await no change of the state before it`
        : `${check} has not settled: ${meanwhile}. Limit its waiting, or give ready() a timeout`
    logger.warn({ check, incumbent, afterMs }, remedy)
  }, afterMs).unref()
}
