/** Runs one piece of work after the other, in the order of the calls. Failed work does not stop the next. */
export class InOrder {
  #last: Promise<unknown> = Promise.resolve()

  /** Work whose `signal` aborts before its turn is not begun: then rejects with the signal's reason. */
  run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const result = this.#last.then(() => {
      signal?.throwIfAborted()
      return work()
    })
    this.#last = result.catch(() => {})
    return result
  }
}
