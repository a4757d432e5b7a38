/** A long list of pairs of numbers. */
export class Pairs {
  #words = new Int32Array(1 << 16)
  #length = 0

  push(a: number, b: number): void {
    if (this.#length === this.#words.length) {
      const longer = new Int32Array(this.#words.length * 2)
      longer.set(this.#words)
      this.#words = longer
    }
    this.#words[this.#length++] = a
    this.#words[this.#length++] = b
  }

  get words(): Int32Array {
    return this.#words.subarray(0, this.#length)
  }
}

/** The first of `count` states from which no path along `edges` leads to one of `ends`; -1: there is none. */
export function firstWithoutEnd(count: number, edges: Pairs, ends: readonly number[]): number {
  const { words } = edges
  const begin = new Int32Array(count + 1)
  for (let i = 1; i < words.length; i += 2) begin[words[i]! + 1]!++
  for (let i = 0; i < count; i++) begin[i + 1]! += begin[i]!
  const sources = new Int32Array(words.length / 2)
  const next = begin.slice()
  for (let i = 0; i < words.length; i += 2) sources[next[words[i + 1]!]!++] = words[i]!
  const reached = new Uint8Array(count)
  const stack = [...ends]
  for (const end of ends) reached[end] = 1
  for (let state = stack.pop(); state !== undefined; state = stack.pop()) {
    for (let i = begin[state]!; i < begin[state + 1]!; i++) {
      const source = sources[i]!
      if (reached[source] === 0) {
        reached[source] = 1
        stack.push(source)
      }
    }
  }
  return reached.indexOf(0)
}
