/** The result of an effect. */
export type Outcome = { readonly done: true } | { readonly done: false; readonly error: unknown }

interface Waiting<Effect> {
  readonly effect: Effect
  /** Counts the steps: what one step asked for belongs together. */
  readonly step: number
}

/**
 * Carries out effects one after the other, in the order of the machine, and awaits each before the next begins. The machine hears the
 * outcome of each before the next begins, so that it never takes an effect for done that was not. An effect that is of no use after a
 * failed one of the same step is left out (`needs`).
 */
export class EffectQueue<Effect> {
  readonly #perform: (effect: Effect) => void | Promise<void>
  readonly #outcome: (effect: Effect, outcome: Outcome) => void
  /** Whether the second is of no use without the first, of the same step. */
  readonly #needs: (failed: Effect, later: Effect) => boolean
  #waiting: Waiting<Effect>[] = []
  #steps = 0
  #running = false
  #idle: (() => void)[] = []

  constructor(parts: {
    perform: (effect: Effect) => void | Promise<void>
    outcome: (effect: Effect, outcome: Outcome) => void
    needs: (failed: Effect, later: Effect) => boolean
  }) {
    this.#perform = parts.perform
    this.#outcome = parts.outcome
    this.#needs = parts.needs
  }

  /** The effects of one step. */
  push(effects: readonly Effect[]): void {
    const step = this.#steps++
    for (const effect of effects) this.#waiting.push({ effect, step })
    if (!this.#running) this.#run()
  }

  /** Resolves when nothing waits any more. */
  settled(): Promise<void> {
    return this.#running ? new Promise(resolve => this.#idle.push(resolve)) : Promise.resolve()
  }

  /** Stays synchronous as long as the effects are, so that what belongs together happens in one turn. */
  #run(): void {
    this.#running = true
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const current = next
      let under: void | Promise<void>
      try {
        under = this.#perform(current.effect)
      } catch (error) {
        this.#failed(current, error)
        continue
      }
      if (under !== undefined) {
        under
          .then(
            () => this.#outcome(current.effect, { done: true }),
            error => this.#failed(current, error),
          )
          .then(() => this.#run())
        return
      }
      this.#outcome(current.effect, { done: true })
    }
    this.#running = false
    const idle = this.#idle
    this.#idle = []
    for (const resolve of idle) resolve()
  }

  #failed({ effect, step }: Waiting<Effect>, error: unknown): void {
    this.#waiting = this.#waiting.filter(later => later.step !== step || !this.#needs(effect, later.effect))
    this.#outcome(effect, { done: false, error })
  }
}
