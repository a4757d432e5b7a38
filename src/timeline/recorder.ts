import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ClientSample,
  type StatusSample,
  type Timeline,
  TimelineBuilder,
  type TimelineOutcome,
  type TimelineStep,
} from './timeline.js'

/** The older version has reported by then how many connections it has. */
const REPORTED_MS = 1_000

interface TimelineSource {
  /** The place of the service, until a status has its name. */
  readonly service: string
  /** The pause between two questions, in milliseconds. */
  readonly everyMs: number
  /** Before the upgrade, and after the last connection has left the older versions: the page shows that time too. */
  readonly aroundMs: number
  /** Resolves with undefined if no process answers. Never rejects. */
  status(): Promise<StatusSample | undefined>
  /** Returns the last span of time of the clients' view, if a load is measured. */
  clients?(): ClientSample | null
}

/** Asks a service for its status over and over, for the page of an upgrade. */
export class TimelineRecorder implements Disposable {
  readonly #source: TimelineSource
  readonly #builder: TimelineBuilder
  readonly #clients: ClientSample[] = []
  readonly #stop = new AbortController()
  readonly #asking: Promise<void>

  /** Resolves when the upgrade can begin. */
  static async start(source: TimelineSource): Promise<TimelineRecorder> {
    const recorder = new TimelineRecorder(source)
    await sleep(source.aroundMs)
    return recorder
  }

  private constructor(source: TimelineSource) {
    this.#source = source
    this.#builder = new TimelineBuilder(source.service, Date.now() + source.aroundMs)
    this.#asking = this.#ask()
  }

  [Symbol.dispose](): void {
    this.#stop.abort()
  }

  step(step: TimelineStep): void {
    this.#builder.step(step)
  }

  /** Records until no older version has a connection, at most for `mostMs`. */
  async finish(outcome: TimelineOutcome, mostMs: number): Promise<Timeline> {
    const { aroundMs, everyMs } = this.#source
    const until = performance.now() + mostMs
    if (outcome.ok) await sleep(Math.min(REPORTED_MS, mostMs))
    while (outcome.ok && this.#builder.draining !== 0 && performance.now() < until) await sleep(everyMs)
    await sleep(aroundMs)
    this.#stop.abort()
    await this.#asking
    return this.#builder.build(outcome, Date.now(), this.#clients)
  }

  async #ask(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      const status = await this.#source.status()
      if (status !== undefined && !signal.aborted) this.#builder.sample(Date.now(), status)
      const span = this.#source.clients?.() ?? null
      if (span !== null && span.at !== this.#clients.at(-1)?.at) this.#clients.push(span)
      await sleep(this.#source.everyMs, undefined, { signal }).catch(() => {})
    }
  }
}
