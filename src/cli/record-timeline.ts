import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { STATUS_ANSWER_MS } from '../operator/status-report.js'
import { timelinePage } from '../timeline/page.js'
import { TimelineBuilder, type TimelineOutcome, type TimelineStep } from '../timeline/timeline.js'
import { askStatus, type ServiceAddress } from './status-answer.js'

/** The pause between two questions, in milliseconds: a version that drains reports each 250 ms. */
const EVERY_MS = 100
/** Before the upgrade, so that the page shows what was before. */
const BEFORE_MS = 500
/** The older version has reported by then how many connections it has. */
const REPORTED_MS = 1_000
/** After the last connection has left the older versions. */
const AFTER_MS = 500

/** Asks the service for its status over and over, and writes a page that shows the upgrade. */
export class TimelineRecorder implements Disposable {
  readonly #address: ServiceAddress
  readonly #path: string
  readonly #builder: TimelineBuilder
  readonly #stop = new AbortController()
  readonly #asking: Promise<void>

  /** Rejects with ERR_FDB_OPTION if the page cannot be written to `path`: before the upgrade, not after it. */
  static async start(path: string, address: ServiceAddress): Promise<TimelineRecorder> {
    writePage(path, '')
    const recorder = new TimelineRecorder(path, address)
    await sleep(BEFORE_MS)
    return recorder
  }

  private constructor(path: string, address: ServiceAddress) {
    this.#path = path
    this.#address = address
    this.#builder = new TimelineBuilder(address.service || address.control, Date.now() + BEFORE_MS)
    this.#asking = this.#ask()
  }

  [Symbol.dispose](): void {
    this.#stop.abort()
  }

  step(step: TimelineStep): void {
    this.#builder.step(step)
  }

  /** Records until no older version has a connection, at most for `mostMs`; then writes the page. */
  async finish(outcome: TimelineOutcome, mostMs: number): Promise<void> {
    const until = performance.now() + mostMs
    if (outcome.ok) await sleep(Math.min(REPORTED_MS, mostMs))
    while (outcome.ok && this.#builder.draining !== 0 && performance.now() < until) await sleep(EVERY_MS)
    await sleep(AFTER_MS)
    this.#stop.abort()
    await this.#asking
    const shell = readFileSync(join(import.meta.dirname, 'timeline.html'), 'utf8')
    writePage(this.#path, timelinePage(shell, this.#builder.build(outcome, Date.now())))
  }

  async #ask(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      const status = await askStatus(this.#address, STATUS_ANSWER_MS)
      if (status !== undefined && !signal.aborted) this.#builder.sample(Date.now(), status)
      await sleep(EVERY_MS, undefined, { signal }).catch(() => {})
    }
  }
}

function writePage(path: string, text: string): void {
  try {
    writeFileSync(path, text)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new FdbError('ERR_FDB_OPTION', `--timeline: the page cannot be written to ${path}: ${why}`)
  }
}
