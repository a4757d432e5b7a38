import { afterReading, type Limit } from '../base/after-reading.js'
import { backoffMs, LONGEST_RESTART_MS } from '../base/backoff.js'
import type { TimerName } from './version-machine.js'

/** Name of the back-off timer, in the exec state, which releases since 0.4.0 read. */
const BACK_OFF = 'rest'

interface RunningTimer {
  readonly limit: Limit
  /** When the timer elapses, by `performance.now()`. */
  readonly until: number
}

interface TimerEvents {
  elapsed(timer: TimerName, version: number, ms: number): void
  backedOff(): void
}

/**
 * The timers of all versions, and the back-off before the next version starts. If this process was stopped meanwhile (SIGSTOP), it first hears what the
 * versions have done by then: one that was ready in time is not late.
 */
export class Timers {
  readonly #waiting = new Map<string, RunningTimer>()
  readonly #events: TimerEvents

  constructor(events: TimerEvents) {
    this.#events = events
  }

  /** Starts a timer of `ms` milliseconds; replaces a running one with the same name and version. */
  start(timer: TimerName, version: number, ms: number): void {
    this.#start(`${timer} ${version}`, ms)
  }

  /** Starts the back-off timer and returns its length in milliseconds. */
  backOff(delay: number, failures: number): number {
    const ms = backoffMs({ firstMs: delay, longestMs: LONGEST_RESTART_MS }, failures)
    this.#start(BACK_OFF, ms)
    return ms
  }

  /** Returns the remaining milliseconds; null if the timer does not run. */
  remainingOf(timer: TimerName, version: number): number | null {
    return this.remaining[`${timer} ${version}`] ?? null
  }

  forget(version: number): void {
    for (const name of this.#waiting.keys()) if (name.endsWith(` ${version}`)) this.#stop(name)
  }

  /** Remaining milliseconds of each timer, for {@link resume}. */
  get remaining(): Record<string, number> {
    const now = performance.now()
    return Object.fromEntries([...this.#waiting].map(([name, { until }]) => [name, Math.max(0, until - now)]))
  }

  resume(left: Readonly<Record<string, number>>): void {
    for (const [name, ms] of Object.entries(left)) this.#start(name, ms)
  }

  close(): void {
    for (const name of this.#waiting.keys()) this.#stop(name)
  }

  #start(name: string, ms: number): void {
    this.#stop(name)
    const limit = afterReading(ms, () => this.#elapsed(name, ms))
    this.#waiting.set(name, { limit, until: performance.now() + ms })
  }

  #stop(name: string): void {
    this.#waiting.get(name)?.limit.clear()
    this.#waiting.delete(name)
  }

  #elapsed(name: string, ms: number): void {
    this.#waiting.delete(name)
    const [timer, version] = name.split(' ')
    if (name === BACK_OFF) this.#events.backedOff()
    else this.#events.elapsed(timer as TimerName, Number(version), ms)
  }
}
