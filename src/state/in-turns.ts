import { Slice } from './slices.js'

/** What an iterator gives, in turns of the event loop bounded in time; for each it costs less than an async generator. */
export class InTurns<T> implements AsyncIterableIterator<T, undefined, undefined> {
  readonly #all: IterableIterator<T>
  readonly #sliceMs: number
  #slice: Slice | null = null

  constructor(all: IterableIterator<T>, sliceMs: number) {
    this.#all = all
    this.#sliceMs = sliceMs
  }

  async #later(): Promise<IteratorResult<T, undefined>> {
    await this.#slice!.next()
    return this.#all.next()
  }

  next(): Promise<IteratorResult<T, undefined>> {
    this.#slice ??= new Slice(this.#sliceMs)
    if (this.#slice.over) return this.#later()
    try {
      return Promise.resolve(this.#all.next())
    } catch (error) {
      return Promise.reject(error)
    }
  }

  return(): Promise<IteratorResult<T, undefined>> {
    this.#all.return?.()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}
