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

/** For which causes a failure of a client is excused. */
export interface Excuses {
  /** The request was under way while one of these was there. */
  readonly during?: readonly string[]
  /** The request was sent while one of these was there: one that was sent before it must be answered. */
  readonly since?: readonly string[]
  /** The request was sent while the first of these was there, and one of the others until it failed: it waited, and no process could accept it. */
  readonly waiting?: readonly [string, ...string[]]
}

/** A client may hear this much later, on a busy machine, that its request was sent. */
const LEEWAY_MS = 60

/** An order has reached its process within this time. */
const UNDER_WAY_MS = 300

/** The story of a run with drawn orders: what was ordered and answered, which troubles there were, and what is wrong. */
export class OrderLedger {
  readonly story: string[] = []
  readonly wrong: string[] = []
  readonly orders: GivenOrder[] = []
  readonly #began = performance.now()
  readonly #causes: Cause[] = []
  readonly #work: Promise<void>[] = []
  #waiting = 0
  #given = 0

  note(text: string): void {
    this.story.push(`${this.#since(performance.now())} ${text}`)
  }

  #since(at: number): string {
    return (at - this.#began).toFixed(0).padStart(6)
  }

  /** Adds a cause, which lasts until its function `over` is called; with 0 it has never been there. */
  begin(why: string): (at?: number) => void {
    const cause: Cause = { why, from: performance.now(), to: Number.POSITIVE_INFINITY }
    this.#causes.push(cause)
    this.#given++
    return (at = performance.now()) => {
      cause.to = Math.min(cause.to, at)
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
    this.#given++
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

  /** Whether no order waits for its answer, and no cause is there. */
  get isCalm(): boolean {
    const now = performance.now()
    return this.areAnswered && this.#causes.every(({ to }) => to < now)
  }

  /** Waits for what the last order alone brings about. Anything else that is given meanwhile makes this void. */
  async promised(what: string, is: () => Promise<boolean>, ms: number): Promise<void> {
    const given = this.#given
    const isVoid = () => this.#given !== given
    await until(what, async () => isVoid() || (await is().catch(() => false)) || null, ms).then(
      () => this.note(isVoid() ? `nothing is asked of: ${what}` : `as promised: ${what}`),
      error => this.wrong.push(`promised at ${this.#since(performance.now() - ms).trim()}: ${error.message}`),
    )
  }

  /** `allowed`: for the answers other than `done`, the causes or other orders at the same time, of which one must have been there. An empty list: no cause is needed. */
  judgeOrders(allowed: (what: string) => Readonly<Record<string, readonly string[]>>): void {
    for (const order of this.orders) {
      const { what, at, answer, message, answeredAt } = order
      const text = `${what} of ${this.#since(at).trim()}: ${answer} ${message}`
      if (answer === null) this.wrong.push(`${what} of ${this.#since(at).trim()} has no answer`)
      else if (answer !== 'done') {
        const causes = allowed(what)[answer]
        if (!DOCUMENTED.has(answer)) this.wrong.push(`not a documented code: ${text}`)
        else if (causes === undefined) this.wrong.push(`not an answer to this order: ${text}`)
        else if (causes.length > 0 && !this.had(causes, at, answeredAt) && !this.#meets(order, causes))
          this.wrong.push(`without a cause (${causes}): ${text}`)
      }
    }
  }

  /** An upgrade that was under way when a rollback was given, alone, and that is done after it, was not cancelled. */
  judgeCancelled(): void {
    for (const rollback of this.orders) {
      if (rollback.what !== 'rollback' || rollback.answer !== 'done' || this.#meets(rollback, ['rollback']))
        continue
      const { at, answeredAt } = rollback
      for (const other of this.orders)
        if (other.what === 'upgrade' && other.answer === 'done')
          if (other.at + UNDER_WAY_MS < at && other.answeredAt > answeredAt)
            this.wrong.push(
              `the upgrade of ${this.#since(other.at).trim()} is done after the rollback of ${this.#since(at).trim()}`,
            )
    }
  }

  /** Whether another order of these names waited for its answer in the same time. */
  #meets(order: GivenOrder, names: readonly string[]): boolean {
    return this.orders.some(
      other =>
        other !== order &&
        names.includes(other.what) &&
        other.at <= order.answeredAt &&
        (other.answer === null || other.answeredAt >= order.at),
    )
  }

  judgeClients(
    failures: readonly Unanswered[],
    excuses: Readonly<Partial<Record<Unanswered['kind'], Excuses>>>,
  ): void {
    for (const { path, sentAt, at, kind, how } of failures) {
      const { during = [], since = [], waiting: [without, ...ends] = [''] } = excuses[kind] ?? {}
      const sentUntil = Math.min(at, sentAt + LEEWAY_MS)
      const isExcused =
        this.had(during, sentAt, at) ||
        this.had(since, sentAt, sentUntil) ||
        (this.had([without], sentAt, sentUntil) && this.had(ends, sentAt, at))
      if (!isExcused)
        this.wrong.push(
          `${path} sent at ${this.#since(sentAt).trim()} is ${kind} at ${this.#since(at).trim()}: ${how}`,
        )
    }
  }
}
