import { askAgain, type Question } from '../probing/question.js'
import { NOTHING, type Probe, type ProbeEvents } from './probe.js'
import type { Asking } from './settings.js'

/** Between two questions to a version that is not ready yet. */
const ASK_MS = 100
/** To one that was, and is on trial or in probation. */
const AGAIN_MS = 250
/** To one that has proved itself. */
const SELDOM_MS = 5_000
/** A version that has proved itself may be busy: so many bad answers in a row are a failure. */
const PATIENCE = 3

/** Asks until the answer was yes so often in a row; then goes on asking, as long as the version serves, and tells each change. */
export class Repeated implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds = NOTHING.fds
  readonly env = NOTHING.env
  readonly #questionTo: (pid: number) => Question
  readonly #asking: Asking
  readonly #over = new AbortController()
  /** Why it was not ready when it was asked last. */
  #last: string | null = null
  #isOpen = false
  #isReady = false
  #serves = false
  #isProved = false

  /** `questionTo`: what is asked of the version with this process. */
  constructor(questionTo: (pid: number) => Question, asking: Asking) {
    this.#questionTo = questionTo
    this.#asking = asking
  }

  get complaint(): string | null {
    return this.#last
  }

  get isOpen(): boolean {
    return this.#isOpen
  }

  begin(pid: number, events: ProbeEvents): void {
    const { interval, timeout, passes } = this.#asking
    const often = () => (this.#isProved ? SELDOM_MS : this.#isReady ? AGAIN_MS : ASK_MS)
    let [passed, failed, sick] = [0, 0, false]
    const { asked, ask } = this.#questionTo(pid)
    const question: Question = {
      asked,
      ask: signal => {
        this.#isOpen = true
        return ask(signal)
      },
    }
    void askAgain(
      question,
      () => ({ timeout, interval: interval ?? often() }),
      this.#over.signal,
      why => {
        this.#isOpen = false
        this.#last = why
        passed = why === null ? passed + 1 : 0
        failed = why === null ? 0 : failed + 1
        if (!this.#isReady) {
          if (passed < passes) return
          this.#isReady = true
          events.ready()
        } else if (why !== null && !sick && failed >= (this.#isProved ? PATIENCE : 1)) {
          sick = true
          // Until it serves one no is the end of it.
          if (!this.#serves) this.settle()
          events.failed(why)
        } else if (sick && passed >= passes) {
          sick = false
          events.recovered()
        }
      },
    )
  }

  serves(): void {
    this.#isReady = true
    this.#serves = true
  }

  proved(): void {
    this.#isProved = true
  }

  settle(): void {
    this.#over.abort()
  }

  [Symbol.dispose](): void {
    this.settle()
  }
}
