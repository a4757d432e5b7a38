/** Counts by key. Keeps no key whose count is 0. */
export class CountByKey<K> extends Map<K, number> {
  of(key: K): number {
    return this.get(key) ?? 0
  }

  /** Returns the new count. */
  add(key: K, by = 1): number {
    const count = this.of(key) + by
    if (count > 0) this.set(key, count)
    else this.delete(key)
    return count
  }
}
