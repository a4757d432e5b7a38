/**
 * Everything that a world's state is made of (machine states, events, effects, messages, queues of them) is kept
 * once and named by a small number, so that a whole state is a short row of numbers.
 */

export class Interner<T> {
  readonly #ids = new Map<string, number>()
  readonly #values: T[] = []

  id(value: T): number {
    const key = JSON.stringify(value)
    let id = this.#ids.get(key)
    if (id === undefined) {
      id = this.#values.length
      if (id > 0xffff)
        throw new Error('more than 65,536 distinct values: the words of a state are too narrow')
      this.#ids.set(key, id)
      this.#values.push(value)
    }
    return id
  }

  value(id: number): T {
    return this.#values[id]!
  }

  values(): readonly T[] {
    return this.#values
  }
}

/** Lists of small numbers, themselves named by small numbers; 0 is the empty list. */
export class Lists {
  readonly #ids = new Map<string, number>([['', 0]])
  readonly #items: number[][] = [[]]
  readonly #tails: number[] = [0]
  readonly #pushed = new Map<number, number>()

  of(items: readonly number[]): number {
    const key = items.join()
    let id = this.#ids.get(key)
    if (id === undefined) {
      id = this.#items.length
      if (id > 0xffff) throw new Error('more than 65,536 distinct lists: the words of a state are too narrow')
      this.#ids.set(key, id)
      this.#items.push([...items])
      this.#tails.push(-1)
    }
    return id
  }

  items(list: number): readonly number[] {
    return this.#items[list]!
  }

  head(list: number): number {
    return this.#items[list]![0]!
  }

  tail(list: number): number {
    let tail = this.#tails[list]!
    if (tail < 0) {
      tail = this.of(this.#items[list]!.slice(1))
      this.#tails[list] = tail
    }
    return tail
  }

  push(list: number, item: number): number {
    const key = list * 0x1_0000 + item
    let id = this.#pushed.get(key)
    if (id === undefined) {
      id = this.of([...this.#items[list]!, item])
      this.#pushed.set(key, id)
    }
    return id
  }
}
