// @ts-check
const GROWTH = Math.log(1.02)

/** Times in ms, in buckets 2 % apart; the maximum is exact. Constant memory. */
export class Histogram {
  #buckets = new Float64Array(1024)
  count = 0
  max = 0

  /** @param {number} ms */
  add(ms) {
    const index = Math.floor(Math.log(Math.max(ms, 0.001) * 1000) / GROWTH)
    const last = this.#buckets.length - 1
    const at = Math.min(Math.max(index, 0), last)
    this.#buckets[at] = (this.#buckets[at] ?? 0) + 1
    this.count++
    if (ms > this.max) this.max = ms
  }

  /** @param {number} share for example 0.99 */
  quantile(share) {
    let left = Math.ceil(this.count * share)
    for (let index = 0; index < this.#buckets.length; index++) {
      left -= this.#buckets[index] ?? 0
      if (left <= 0) return Math.min(Math.exp((index + 1) * GROWTH) / 1000, this.max)
    }
    return this.max
  }
}
