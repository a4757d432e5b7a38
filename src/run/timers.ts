import { backoffMs, LONGEST_RESTART_MS } from '../base/backoff.js'
import type { Timer } from './machine.js'

/** In the place of a timer and its version: the time between two starts. */
const REST = 'rest'

/** After SIGKILL: a process that is still there waits in the kernel. */
const KILLED_MS = 5_000
/** Of a version that an image of an earlier release has started. */
const PROBATION_MS = 10_000

/** How long each timer of a version runs, in milliseconds. */
export function timesOf(
  given: Readonly<Record<'ready' | 'healthy' | 'stop', number> & { proved: number | undefined }>,
): Record<Timer, number> {
  return { ...given, proved: given.proved ?? PROBATION_MS, kill: KILLED_MS }
}

interface Waiting {
  readonly timer: NodeJS.Timeout
  /** By the clock of {@link performance}. */
  readonly until: number
}

export interface TimerEvents {
  /** After so many milliseconds. */
  elapsed(timer: Timer, version: number, ms: number): void
  rested(): void
}

/** The machine's timers. */
export class Timers {
  readonly #waiting = new Map<string, Waiting>()
  readonly #events: TimerEvents

  constructor(events: TimerEvents) {
    this.#events = events
  }

  /** In the place of an earlier one. */
  start(timer: Timer, version: number, ms: number): void {
    this.#start(`${timer} ${version}`, ms)
  }

  /** Returns how long the rest is, milliseconds. */
  rest(delay: number, failures: number): number {
    const ms = backoffMs({ firstMs: delay, longestMs: LONGEST_RESTART_MS }, failures)
    this.#start(REST, ms)
    return ms
  }

  /** Milliseconds that are left of one; null: it does not run. */
  leftOf(timer: Timer, version: number): number | null {
    return this.left[`${timer} ${version}`] ?? null
  }

  forget(version: number): void {
    for (const name of this.#waiting.keys()) if (name.endsWith(` ${version}`)) this.#stop(name)
  }

  /** What is left of each, milliseconds: for {@link resume}. */
  get left(): Record<string, number> {
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
    const timer = setTimeout(() => this.#elapsed(name, ms), ms)
    this.#waiting.set(name, { timer, until: performance.now() + ms })
  }

  #stop(name: string): void {
    clearTimeout(this.#waiting.get(name)?.timer)
    this.#waiting.delete(name)
  }

  #elapsed(name: string, ms: number): void {
    this.#waiting.delete(name)
    const [timer, version] = name.split(' ')
    if (name === REST) this.#events.rested()
    else this.#events.elapsed(timer as Timer, Number(version), ms)
  }
}
