import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Unanswered } from './open-loop.js'
import { until } from './until.js'

const DOCUMENTED = new Set(
  readFileSync(fileURLToPath(new URL('../../docs/errors.md', import.meta.url)), 'utf8').match(/ERR_FDB_\w+/g),
)

/** An order, and its answer: `done`, or the code of a refusal; null before the answer. */
export interface GivenOrder {
  readonly what: string
  readonly at: number
  answer: string | null
  message: string
  answeredAt: number
}

/** A time in which something was the case: a bad file, an order to end, a fault. */
interface Cause {
  readonly why: string
  readonly from: number
  to: number
}

/** The story of a run with drawn orders: what was ordered and answered, which troubles there were, and what is wrong. */
export class OrderLedger {
  readonly story: string[] = []
  readonly wrong: string[] = []
  readonly orders: GivenOrder[] = []
  readonly #began = performance.now()
  readonly #causes: Cause[] = []
  readonly #work: Promise<void>[] = []
  #waiting = 0

  note(text: string): void {
    this.story.push(`${this.#since(performance.now())} ${text}`)
  }

  #since(at: number): string {
    return (at - this.#began).toFixed(0).padStart(6)
  }

  /** Adds a cause, which lasts until its function `over` is called. */
  begin(why: string): () => void {
    const cause: Cause = { why, from: performance.now(), to: Number.POSITIVE_INFINITY }
    this.#causes.push(cause)
    return () => {
      cause.to = Math.min(cause.to, performance.now())
    }
  }

  /** Whether one of these causes was there in a part of this time. */
  had(whys: readonly string[], from: number, to: number): boolean {
    return this.#causes.some(each => whys.includes(each.why) && each.from <= to && each.to >= from)
  }

  give(what: string, order: () => Promise<unknown>): GivenOrder {
    const given: GivenOrder = { what, at: performance.now(), answer: null, message: '', answeredAt: 0 }
    const answered = (answer: string, message: string) => {
      Object.assign(given, { answer, message, answeredAt: performance.now() })
      this.#waiting--
      this.note(`${what} of ${this.#since(given.at).trim()}: ${answer} ${message}`)
    }
    this.note(what)
    this.orders.push(given)
    this.#waiting++
    this.#work.push(
      order().then(
        () => answered('done', ''),
        ({ code = 'none', message }) => answered(code, String(message)),
      ),
    )
    return given
  }

  /** Waits for a phase, if it comes in time. */
  async reach(phase: string, is: () => Promise<boolean>, ms: number): Promise<void> {
    await until(phase, is, ms).then(
      () => this.note(`the phase is ${phase}`),
      () => {},
    )
  }

  get areAnswered(): boolean {
    return this.#waiting === 0
  }

  /** `allowed`: for the answers other than `done`, the causes of which one must have been there. An empty list: no cause is needed. */
  judgeOrders(allowed: (what: string) => Readonly<Record<string, readonly string[]>>): void {
    for (const { what, at, answer, message, answeredAt } of this.orders) {
      const text = `${what} of ${this.#since(at).trim()}: ${answer} ${message}`
      if (answer === null) this.wrong.push(`${what} of ${this.#since(at).trim()} has no answer`)
      else if (answer !== 'done') {
        const causes = allowed(what)[answer]
        if (!DOCUMENTED.has(answer)) this.wrong.push(`not a documented code: ${text}`)
        else if (causes === undefined) this.wrong.push(`not an answer to this order: ${text}`)
        else if (causes.length > 0 && !this.had(causes, at, answeredAt))
          this.wrong.push(`without a cause (${causes}): ${text}`)
      }
    }
  }

  /** `excuses`: the causes for which a kind of failure is excused. */
  judgeClients(
    failures: readonly Unanswered[],
    excuses: Readonly<Record<Unanswered['kind'], readonly string[]>>,
  ): void {
    for (const { path, sentAt, at, kind, how } of failures)
      if (!this.had(excuses[kind], sentAt, at))
        this.wrong.push(
          `${path} sent at ${this.#since(sentAt).trim()} is ${kind} at ${this.#since(at).trim()}: ${how}`,
        )
  }
}
