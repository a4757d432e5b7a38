/** Runs one piece of work after the other, in the order of the calls. Failed work does not stop the next. */
export class InOrder {
  #last: Promise<unknown> = Promise.resolve()

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work)
    this.#last = result.catch(() => {})
    return result
  }
}
