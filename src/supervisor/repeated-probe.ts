import { askAgain, type Question } from '../probing/question.js'
import { NOTHING, type Probe, type ProbeEvents } from './probe.js'
import type { Asking } from './settings.js'

/** Between two questions to a version that is not ready yet. */
const ASK_MS = 100
/** To one that was, and is on trial. */
const AGAIN_MS = 250

/** Asks until the answer was yes so often in a row; then goes on asking, and one no is a failure. */
export class Repeated implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds = NOTHING.fds
  readonly env = NOTHING.env
  readonly #questionTo: (pid: number) => Question
  readonly #asking: Asking
  readonly #over = new AbortController()
  /** Why it was not ready when it was asked last. */
  #last: string | null = null

  /** `questionTo`: what is asked of the version with this process. */
  constructor(questionTo: (pid: number) => Question, asking: Asking) {
    this.#questionTo = questionTo
    this.#asking = asking
  }

  get complaint(): string | null {
    return this.#last
  }

  begin(pid: number, events: ProbeEvents): void {
    const { interval, timeout, passes } = this.#asking
    let passed = 0
    const pace = () => ({ timeout, interval: interval ?? (passed < passes ? ASK_MS : AGAIN_MS) })
    void askAgain(this.#questionTo(pid), pace, this.#over.signal, why => {
      this.#last = why
      if (why === null) {
        passed++
        if (passed === passes) events.ready()
      } else if (passed < passes) passed = 0
      else {
        this.settle()
        events.failed(why)
      }
    })
  }

  settle(): void {
    this.#over.abort()
  }

  [Symbol.dispose](): void {
    this.settle()
  }
}
