export type Outcome = { readonly done: true } | { readonly done: false; readonly error: unknown }

interface QueuedEffect<Effect> {
  readonly effect: Effect
  /** The number of the state machine's step that returned this effect. */
  readonly step: number
}

interface EffectDriver<Effect> {
  perform(effect: Effect): void | Promise<void>
  outcome(effect: Effect, outcome: Outcome): void
  /** Whether `later` must be skipped because `failed`, an effect of the same step, has failed. */
  needs(failed: Effect, later: Effect): boolean
}

/**
 * Carries out the effects of a state machine in order. The driver gets the outcome of each effect before the next one starts. After a failure
 * the queue skips the effects of the same step that need the failed one (`needs`).
 */
export class EffectQueue<Effect> {
  readonly #driver: EffectDriver<Effect>
  #waiting: QueuedEffect<Effect>[] = []
  #steps = 0
  #running = false
  #idle: (() => void)[] = []

  constructor(driver: EffectDriver<Effect>) {
    this.#driver = driver
  }

  push(effects: readonly Effect[]): void {
    const step = this.#steps++
    for (const effect of effects) this.#waiting.push({ effect, step })
    if (!this.#running) this.#run()
  }

  /** Resolves when the queue is empty. */
  settled(): Promise<void> {
    return this.#running ? new Promise(resolve => this.#idle.push(resolve)) : Promise.resolve()
  }

  /** Carries out synchronous effects synchronously, so that those of a step happen in one turn of the event loop. */
  #run(): void {
    this.#running = true
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const current = next
      let running: void | Promise<void>
      try {
        running = this.#driver.perform(current.effect)
      } catch (error) {
        this.#failed(current, error)
        continue
      }
      if (running !== undefined) {
        running
          .then(
            () => this.#driver.outcome(current.effect, { done: true }),
            error => this.#failed(current, error),
          )
          .then(() => this.#run())
        return
      }
      this.#driver.outcome(current.effect, { done: true })
    }
    this.#running = false
    const idle = this.#idle
    this.#idle = []
    for (const resolve of idle) resolve()
  }

  #failed({ effect, step }: QueuedEffect<Effect>, error: unknown): void {
    this.#waiting = this.#waiting.filter(
      later => later.step !== step || !this.#driver.needs(effect, later.effect),
    )
    this.#driver.outcome(effect, { done: false, error })
  }
}
