import type { Logger } from '../index.js'

const EVERY_MS = 1_000

/** Warnings that may come in floods: each kind at once, and then at most once a second, with how often it came. */
export class Complaints {
  readonly #logger: Pick<Logger, 'warn'>
  /** By kind: how to tell what came since it was told last. */
  readonly #waiting = new Map<string, { count: number; facts: object }>()

  constructor(logger: Pick<Logger, 'warn'>) {
    this.#logger = logger
  }

  say(kind: string, facts: object, message: string): void {
    const waiting = this.#waiting.get(kind)
    if (waiting !== undefined) {
      waiting.count++
      waiting.facts = facts
      return
    }
    this.#logger.warn({ ...facts, count: 1 }, message)
    this.#waiting.set(kind, { count: 0, facts })
    setTimeout(() => this.#tell(kind, message), EVERY_MS).unref()
  }

  shortage(shortage: string, server: string): void {
    this.say(
      shortage,
      { shortage, server },
      'this process could not connect to a server for want of its own means',
    )
  }

  #tell(kind: string, message: string): void {
    const { count, facts } = this.#waiting.get(kind)!
    if (count === 0) {
      this.#waiting.delete(kind)
      return
    }
    this.#logger.warn({ ...facts, count }, message)
    this.#waiting.set(kind, { count: 0, facts })
    setTimeout(() => this.#tell(kind, message), EVERY_MS).unref()
  }
}
