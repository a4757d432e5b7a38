import type { FdbError } from '../errors.js'

/**
 * A change that waits for what may never come while somebody waits for the change: to be awaited then rejects, in the next turn, with the
 * remedy. The change itself waits on, and a later `await` is told what became of it.
 */
export class ToldToWait<T> extends Promise<T> {
  #premature: (() => FdbError | null) | undefined

  /** `premature`: why awaiting it now would never end; null: it may be awaited. */
  static of<T>(change: Promise<T>, premature: () => FdbError | null): Promise<T> {
    const told = new ToldToWait<T>((resolve, reject) => void change.then(resolve, reject))
    told.#premature = premature
    return told
  }

  // What then(), catch() and finally() give are promises like all others.
  static override get [Symbol.species](): PromiseConstructor {
    return Promise
  }

  // biome-ignore lint/suspicious/noThenProperty: `await` calls it, which is what is to be noticed.
  override then<R = T, E = never>(
    fulfilled?: ((value: T) => R | PromiseLike<R>) | null,
    rejected?: ((reason: unknown) => E | PromiseLike<E>) | null,
  ): Promise<R | E> {
    const premature = this.#premature
    if (premature === undefined || premature() === null) return super.then(fulfilled, rejected)
    // A change that is refused for what it is says so itself, in this turn; and ready() may be called yet in this turn.
    const told = new Promise<never>((_resolve, reject) =>
      setImmediate(() => {
        const why = premature()
        if (why !== null) reject(why)
      }),
    )
    return Promise.race([super.then(), told]).then(fulfilled, rejected)
  }
}
