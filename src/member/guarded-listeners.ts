import type { Logger } from '../base/logger.js'

/** Calls all listeners of the application. An exception or rejection is logged and counted, and affects nothing else. */
export class GuardedListeners {
  readonly #emitter: NodeJS.EventEmitter
  readonly #logger: Logger
  failures = 0

  constructor(emitter: NodeJS.EventEmitter, logger: Logger) {
    this.#emitter = emitter
    this.#logger = logger
  }

  call(event: string, args: readonly unknown[]): void {
    // rawListeners() also returns the wrapper of a once() listener, which removes itself when called.
    for (const listener of this.#emitter.rawListeners(event)) {
      try {
        const outcome: unknown = Reflect.apply(listener, this.#emitter, args)
        if (outcome instanceof Promise) outcome.catch(error => this.failed(event, error))
      } catch (error) {
        this.failed(event, error)
      }
    }
  }

  failed(event: string, error: unknown): void {
    this.failures++
    this.#logger.error({ err: error, event }, `a listener or hook of the application for "${event}" threw`)
  }
}
