import { type Check, list } from './check.js'
import { shown } from './wrong.js'

/** No two items of a list have the same `key`; wrong items are not compared. */
export function unique<T>(
  item: Check<T>,
  what: string,
  key: (value: T) => string,
  at?: string,
): () => Check<T> {
  return () => {
    const seen = new Map<string, number>()
    return (value, place) => {
      const checked = item(value, place)
      if (checked === undefined) return undefined
      const index = Number(place.step)
      const before = seen.get(key(checked))
      if (before === undefined) seen.set(key(checked), index)
      else {
        const where = at === undefined ? place : place.at(at)
        return where.wrong(`${what} ${shown(key(checked))} is given twice, first in item [${before}]`)
      }
      return checked
    }
  }
}

/** A list whose item check remembers what it saw: a new one for each reading. */
export function fresh<T>(item: () => Check<T>, limits: { least?: number; most?: number }): Check<T[]> {
  return (value, place) => list(item(), limits)(value, place)
}
