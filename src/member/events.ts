import { errorMonitor } from 'node:events'
import type { Logger } from '../base/logger.js'
import { didYouMean } from '../base/suggest.js'
import { FdbError } from '../errors.js'

/** Events of EventEmitter itself; `events.once()` listens to `error` too. */
const OWN: ReadonlySet<string | symbol> = new Set(['error', errorMonitor, 'newListener', 'removeListener'])

/** Throws ERR_FDB_EVENT for an event that never comes: one that is misspelt would be waited for in vain. */
export function checkEvent(event: string | symbol, known: readonly string[]): void {
  if (OWN.has(event) || (typeof event === 'string' && known.includes(event))) return
  const hint = typeof event === 'string' ? didYouMean(event, known) : ''
  throw new FdbError(
    'ERR_FDB_EVENT',
    `a member has no event "${String(event)}"${hint}: it has ${known.join(', ')}`,
    { details: { event: String(event) } },
  )
}

/**
 * Tells the application's listeners, each of them whatever the others do: what one throws (or rejects with) is logged and
 * counted, and undoes nothing.
 */
export class ToldListeners {
  readonly #emitter: NodeJS.EventEmitter
  readonly #logger: Logger
  /** Exceptions so far. */
  failures = 0

  constructor(emitter: NodeJS.EventEmitter, logger: Logger) {
    this.#emitter = emitter
    this.#logger = logger
  }

  tell(event: string, args: readonly unknown[]): void {
    // With their wrappers: one that wants to hear it once takes itself off.
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
