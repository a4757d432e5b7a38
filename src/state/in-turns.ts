import { Slice } from './slices.js'

type Step<T> = IteratorResult<T | null, undefined>

/**
 * What an iterator gives, in turns of the event loop bounded in time; for each it costs less than an async generator. Null from it is
 * nothing, but a place where it may be left.
 */
export class InTurns<T extends object> implements AsyncIterableIterator<T, undefined, undefined> {
  readonly #all: Iterator<T | null, undefined, undefined>
  readonly #sliceMs: number
  #slice: Slice | null = null

  constructor(all: Iterator<T | null, undefined, undefined>, sliceMs: number) {
    this.#all = all
    this.#sliceMs = sliceMs
  }

  next(): Promise<IteratorResult<T, undefined>> {
    this.#slice ??= new Slice(this.#sliceMs)
    try {
      while (!this.#slice.over) {
        const step = this.#all.next()
        if (gives(step)) return Promise.resolve(step)
      }
    } catch (error) {
      return Promise.reject(error)
    }
    return this.#later(this.#slice)
  }

  async #later(slice: Slice): Promise<IteratorResult<T, undefined>> {
    await slice.next()
    const step = this.#all.next()
    return gives(step) ? step : this.next()
  }

  return(): Promise<IteratorResult<T, undefined>> {
    this.#all.return?.()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

function gives<T>(step: Step<T>): step is IteratorResult<T, undefined> {
  return step.done === true || step.value !== null
}
