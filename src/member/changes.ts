import { Pending } from '../wire/pending.js'

/** Tells of everything that changes what `status` shows. */
export class Changes {
  readonly #listeners = new Set<() => void>()

  /** Called after each change. Returns how to stop that. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  tell(): void {
    for (const listener of [...this.#listeners]) listener()
  }

  /** Resolves when `holds` answers true (it is asked after each change), or after `timeoutMs`. */
  async until(holds: () => boolean, timeoutMs: number): Promise<void> {
    if (holds()) return
    const stop = this.watch(() => {
      if (holds()) waiting.resolve()
    })
    const waiting = new Pending<void>({ over: stop })
    waiting.limit(timeoutMs, () => waiting.resolve())
    await waiting.answer
  }
}
