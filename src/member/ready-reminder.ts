import type { Logger } from '../base/logger.js'

/** A process that has joined and is not ready for so long has most likely been forgotten, or waits for itself. */
export const REMIND_MS = 10_000

/** Warns once of a process that does not come to `ready()`: until it does, nobody is served by it, and others wait for it. */
export class ReadyReminder {
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
