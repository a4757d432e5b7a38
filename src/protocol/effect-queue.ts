/**
 * Carries out effects one after the other, in the order in which the machine gave them: one that takes time is
 * awaited before the next begins. What fails is told, and the rest goes on: an effect that must not be skipped
 * reports its own failure to the machine as an event.
 */
export class EffectQueue<Effect> {
  readonly #perform: (effect: Effect) => void | Promise<void>
  readonly #failed: (effect: Effect, error: unknown) => void
  #waiting: Effect[] = []
  #running = false
  #idle: (() => void)[] = []

  constructor(
    perform: (effect: Effect) => void | Promise<void>,
    failed: (effect: Effect, error: unknown) => void,
  ) {
    this.#perform = perform
    this.#failed = failed
  }

  push(effects: readonly Effect[]): void {
    this.#waiting.push(...effects)
    if (!this.#running) this.#run()
  }

  /** Resolves when nothing waits any more. */
  settled(): Promise<void> {
    return this.#running ? new Promise(resolve => this.#idle.push(resolve)) : Promise.resolve()
  }

  /** Stays synchronous as long as the effects are, so that what belongs together happens in one turn. */
  #run(): void {
    this.#running = true
    for (let effect = this.#waiting.shift(); effect !== undefined; effect = this.#waiting.shift()) {
      const current = effect
      let outcome: void | Promise<void>
      try {
        outcome = this.#perform(current)
      } catch (error) {
        this.#failed(current, error)
        continue
      }
      if (outcome !== undefined) {
        outcome.catch(error => this.#failed(current, error)).then(() => this.#run())
        return
      }
    }
    this.#running = false
    const idle = this.#idle
    this.#idle = []
    for (const resolve of idle) resolve()
  }
}
