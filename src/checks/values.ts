/** Checks of values, for configuration documents and the options of calls. */
import { aDuration, durationMs, LONGEST_MS } from '../base/duration.js'
import { isMap, isOpaque, kindOf, type Place, SHOWN, shortJson } from './place.js'
import { didYouMean } from './spelling.js'

/** Returns the normalised value, or reports a problem at `place` and returns undefined. `W`: the type of the value as a program writes it. */
export type ValueCheck<T, W = unknown> = ((value: unknown, place: Place) => T | undefined) & {
  readonly written?: W
}

export type Checked<C> = C extends ValueCheck<infer T> ? T : never
/** The value as a program writes it. */
export type Written<C> = C extends ValueCheck<unknown, infer W> ? W : never

/** A duration, for example `500ms`, `30s`, `2m` or `1h`. */
export type Duration = `${number}ms` | `${number}s` | `${number}m` | `${number}h`
/** A size in bytes; `k` means 1,024. */
export type Size = number | `${number}${'' | 'k' | 'm' | 'g'}`
export type Off = 'off' | false

/** The result of parsing an invalid value: what is wrong, and what to write instead. */
export class InvalidValue {
  readonly why: string

  constructor(why: string) {
    this.why = why
  }
}

/** Accepts every value, for one that is checked where it is used. */
export function unchecked<T>(): ValueCheck<T> {
  return value => value as T
}

/** Accepts values for which `holds` returns true. */
export function predicate<T>(
  wanted: string,
  holds: (value: unknown) => boolean,
  fault?: string,
): ValueCheck<T, T> {
  return (value, place) => (holds(value) ? (value as T) : place.refuse(value, wanted, fault))
}

export function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every(text => typeof text === 'string')
}

/** A command line with its program; without one the command would stay as it is. */
export const commandLine = predicate<readonly string[]>(
  'a command as a list of texts, at least one',
  value => isTexts(value) && value.length > 0,
)

/** Checks a string that `read` converts to a value. */
export function text<T>(what: string, read: (text: string) => T | InvalidValue): ValueCheck<T, string> {
  return (value, place) => {
    if (typeof value !== 'string') {
      const quote =
        typeof value === 'number' || typeof value === 'boolean' ? `; put it in quotes, "${value}"` : ''
      return place.refuse(value, what, `is ${kindOf(value)}, not ${what}${quote}`)
    }
    const result = read(value)
    return result instanceof InvalidValue ? place.wrong(result.why) : result
  }
}

export function oneOf<const T extends string>(...words: T[]): ValueCheck<T, T> {
  const texts = words.map(word => `"${word}"`)
  const wanted = `${texts.slice(0, -1).join(', ')} or ${texts.at(-1)}`
  return (value, place) => {
    const found = words.find(word => word === value)
    if (found !== undefined) return found
    const hint = typeof value === 'string' ? didYouMean(value, words) : ''
    return place.refuse(value, wanted, `is none of ${texts.join(', ')}${hint}`)
  }
}

export const boolean = predicate<boolean>(
  'true or false',
  value => typeof value === 'boolean',
  'is neither true nor false',
)

/** Checks a whole number. `word` is a text that the caller also allows; the message mentions it. */
export function integer(least: number, most: number, word?: string): ValueCheck<number, number> {
  const other = word === undefined ? '' : `, nor "${word}"`
  return predicate(
    `a whole number from ${least} to ${most}${word === undefined ? '' : `, or "${word}"`}`,
    value => typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most,
    `is no whole number from ${least} to ${most}${other}`,
  )
}

/** Also accepts `off` and `false`; returns null for them. */
export function orOff<T, W>(check: ValueCheck<T, W>): ValueCheck<T | null, W | Off> {
  return (value, place) => (value === 'off' || value === false ? null : check(value, place))
}

/** Accepts one of `words`, or a value that `check` accepts. */
export function or<const A extends string | false | null, T, W>(
  check: ValueCheck<T, W>,
  ...words: A[]
): ValueCheck<T | A, W | A> {
  return (value, place) => (words.includes(value as A) ? (value as A) : check(value, place))
}

export function refine<T, U, W>(
  check: ValueCheck<T, W>,
  rule: (value: T, place: Place) => U | undefined,
): ValueCheck<U, W> {
  return (value, place) => {
    const checked = check(value, place)
    return checked === undefined ? undefined : rule(checked, place)
  }
}

/** Checks a list. Checks every item, so that all wrong items are reported. */
export function list<T, W>(
  item: ValueCheck<T, W>,
  limits: { least?: number; most?: number } = {},
): ValueCheck<T[], readonly W[]> {
  const { least = 0, most = Number.POSITIVE_INFINITY } = limits
  return (value, place) => {
    if (!Array.isArray(value)) {
      const remedy =
        typeof value === 'string' && value.length < SHOWN
          ? `; write ${JSON.stringify(value.trim().split(/\s+/)).replaceAll('","', '", "')}`
          : ''
      return place.refuse(value, 'a list', `is ${kindOf(value)}, not a list${remedy}`)
    }
    if (value.length < least) return place.wrong(`the list is empty; give at least ${least}`)
    if (value.length > most)
      return place.wrong(`the list has ${value.length} items, at most ${most} are allowed`)
    const items: T[] = []
    for (const [at, each] of value.entries()) {
      const checked = item(each, place.at(at))
      if (checked !== undefined) items.push(checked)
    }
    return items.length === value.length ? items : undefined
  }
}

/** Returns a function for {@link fresh} that creates a check of one list's items. The check also reports two valid items with the same `key`. */
export function unique<T, W>(
  item: ValueCheck<T, W>,
  what: string,
  key: (value: T) => string,
  at?: string,
): () => ValueCheck<T, W> {
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
        return where.wrong(`${what} ${shortJson(key(checked))} is given twice, first in item [${before}]`)
      }
      return checked
    }
  }
}

/** Checks a list whose item check has state: calls `item` to create a check for each list. */
export function fresh<T, W>(
  item: () => ValueCheck<T, W>,
  limits: { least?: number; most?: number },
): ValueCheck<T[], readonly W[]> {
  return (value, place) => list(item(), limits)(value, place)
}

/** Checks a map from names to values of one kind. Returns its pairs. */
export function named<T, W>(
  name: (text: string) => InvalidValue | string,
  item: ValueCheck<T, W>,
  wanted = 'a map of names to values',
): ValueCheck<[string, T][], Readonly<Record<string, W>>> {
  return (value, place) => {
    if (!isMap(value)) {
      const hint = isOpaque(value) ? '; give a plain object' : ''
      return place.refuse(value, wanted, `is ${kindOf(value)}, not ${wanted}${hint}`)
    }
    const pairs: [string, T][] = []
    let whole = true
    for (const [key, each] of Object.entries(value)) {
      const at = place.at(key)
      const checkedName = name(key)
      if (checkedName instanceof InvalidValue) at.wrongKey(checkedName.why)
      const checked = item(each, at)
      if (checked === undefined || checkedName instanceof InvalidValue) whole = false
      else pairs.push([checkedName, checked])
    }
    return whole ? pairs : undefined
  }
}

/** Checks milliseconds that a timer of Node can wait for: a longer delay than {@link LONGEST_MS} would count as 1 ms. */
export function milliseconds(least: number): ValueCheck<number, number> {
  return predicate(
    `milliseconds, ${least} to ${LONGEST_MS}`,
    value => typeof value === 'number' && value >= least && value <= LONGEST_MS,
  )
}

const SIZES = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 } as const

/** Checks a duration with {@link durationMs}. Returns whole milliseconds. */
export function duration(least: number): ValueCheck<number, Duration> {
  const wanted = aDuration(least)
  return (value, place) => {
    if (typeof value === 'string') return durationMs(value, least) ?? place.refuse(value, wanted)
    const hint = `has no unit; write ${value}s or ${value}ms`
    return place.refuse(
      value,
      wanted,
      typeof value === 'number' ? hint : `is ${kindOf(value)}, not a duration`,
    )
  }
}

/** Checks a size (`512`, `16k`, `1m`, `2g`; k is 1,024). Returns bytes. */
export function size(least: number, most: number): ValueCheck<number, Size> {
  const read = text('a size', given => {
    const [, number, unit = ''] = /^(\d+)([kmg]?)$/i.exec(given) ?? []
    if (number === undefined) return new InvalidValue(`${shortJson(given)} is no size (512, 16k, 1m, 2g)`)
    const bytes = Number(number) * SIZES[unit.toLowerCase() as keyof typeof SIZES]
    return bytes >= least && bytes <= most
      ? bytes
      : new InvalidValue(`${shortJson(given)} is ${bytes} bytes, outside of ${least} to ${most}`)
  })
  return (value, place) =>
    read(typeof value === 'number' && Number.isInteger(value) && value >= 0 ? String(value) : value, place)
}

export function name(given: string): string | InvalidValue {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(given)) return given
  return new InvalidValue(
    `${shortJson(given)} is no name (1 to 64 letters, digits, ".", "_" and "-", a letter or digit first)`,
  )
}

export const absolutePath = text('a path', given =>
  given.startsWith('/') && !given.endsWith('/') && !given.includes('\0')
    ? given
    : new InvalidValue(`${shortJson(given)} is no absolute path of a file`),
)
