import { didYouMean } from '../base/check-option.js'
import { aDuration, durationMs } from '../base/duration.js'

/** Returns the normalised value, or reports a problem at `place` and returns undefined. */
export type ValueCheck<T> = (value: unknown, place: ConfigPlace) => T | undefined

export type Checked<C> = C extends ValueCheck<infer T> ? T : never

/** Checks a string that `read` converts to a value. */
export function text<T>(what: string, read: (text: string) => T | InvalidValue): ValueCheck<T> {
  return (value, place) => {
    if (typeof value !== 'string') {
      const quote =
        typeof value === 'number' || typeof value === 'boolean' ? `; put it in quotes, "${value}"` : ''
      return place.wrong(`${shown(value)} is ${kindOf(value)}, not ${what}${quote}`)
    }
    const result = read(value)
    return result instanceof InvalidValue ? place.wrong(result.why) : result
  }
}

export function oneOf<const T extends string>(...words: T[]): ValueCheck<T> {
  return (value, place) => {
    const found = words.find(word => word === value)
    if (found !== undefined) return found
    const hint = typeof value === 'string' ? didYouMean(value, words) : ''
    return place.wrong(`${shown(value)} is none of ${words.map(word => `"${word}"`).join(', ')}${hint}`)
  }
}

export const boolean: ValueCheck<boolean> = (value, place) =>
  typeof value === 'boolean' ? value : place.wrong(`${shown(value)} is neither true nor false`)

/** Checks a whole number. `word` is a text that the caller also allows; the message mentions it. */
export function integer(least: number, most: number, word?: string): ValueCheck<number> {
  const other = word === undefined ? '' : `, nor "${word}"`
  return (value, place) =>
    typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most
      ? value
      : place.wrong(`${shown(value)} is no whole number from ${least} to ${most}${other}`)
}

/** Also accepts `off` and `false`; returns null for them. */
export function orOff<T>(check: ValueCheck<T>): ValueCheck<T | null> {
  return (value, place) => (value === 'off' || value === false ? null : check(value, place))
}

/** Checks a list. Checks every item, so that all wrong items are reported. */
export function list<T>(
  item: ValueCheck<T>,
  limits: { least?: number; most?: number } = {},
): ValueCheck<T[]> {
  const { least = 0, most = Number.POSITIVE_INFINITY } = limits
  return (value, place) => {
    if (!Array.isArray(value)) {
      const remedy =
        typeof value === 'string' && value.length < SHOWN
          ? `; write ${JSON.stringify(value.trim().split(/\s+/)).replaceAll('","', '", "')}`
          : ''
      return place.wrong(`${shown(value)} is ${kindOf(value)}, not a list${remedy}`)
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

/** Checks a map from names to values of one kind. Returns its pairs. */
export function named<T>(
  name: (text: string) => InvalidValue | string,
  item: ValueCheck<T>,
): ValueCheck<[string, T][]> {
  return (value, place) => {
    if (!isMap(value)) {
      const what = `${shown(value)} is ${kindOf(value)}, not a map of names to values`
      return place.wrong(`${what}${isOpaque(value) ? '; give a plain object' : ''}`)
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

export interface Field<T> {
  check: ValueCheck<T>
  /** The value of a missing key, and the same as written in a file; undefined if the key is required. */
  byDefault: { written: unknown; value: T } | undefined
  /** Description for the documentation. */
  about: string
  /** The fields of a nested map, for documentation and tests. */
  fields: Shape | undefined
}

export type Shape = Readonly<Record<string, Field<unknown>>>
export type ShapeValues<S extends Shape> = { [K in keyof S]: S[K] extends Field<infer T> ? T : never }

export function required<T>(check: ValueCheck<T>, about: string, fields?: Shape): Field<T> {
  return { check, byDefault: undefined, about, fields }
}

/** Defines an optional key. `check` reads the default `written` like a value of a file. */
export function optional<T>(check: ValueCheck<T>, written: unknown, about: string, fields?: Shape): Field<T> {
  let byDefault: { written: unknown; value: T } | undefined
  const unexpected = {
    at: () => unexpected,
    wrong: refuseDefault,
    wrongKey: refuseDefault,
  } as unknown as ConfigPlace
  const field: Field<T> = {
    check,
    about,
    fields,
    // Computed on first use, because checks may be defined after the shapes that use them.
    get byDefault() {
      byDefault ??= { written, value: check(written, unexpected) as T }
      return byDefault
    },
  }
  return field
}

/** Defines an optional key whose default is `value`, which no file can express. */
export function absent<T, A>(check: ValueCheck<T>, value: A, about: string, fields?: Shape): Field<T | A> {
  return { check, byDefault: { written: undefined, value }, about, fields }
}

/** Defines a nested map that may be missing, because all its fields have defaults. */
export function group<S extends Shape>(shape: S, about: string): Field<ShapeValues<S>> {
  return optional(map(shape), {}, about, shape)
}

/** Checks a map with known keys. Unknown keys are errors. */
export function map<S extends Shape>(shape: S): ValueCheck<ShapeValues<S>> {
  const known = Object.keys(shape)
  return (value, place) => {
    if (!isMap(value)) {
      if (value === null && place.path.length === 0)
        return place.wrong(`the file is empty; its keys are: ${known.join(', ')}`)
      const hint =
        value === null ? ' (nothing follows the colon)' : isOpaque(value) ? ' (give a plain object)' : ''
      return place.wrong(
        `${shown(value)} is ${kindOf(value)}, not a map${hint}; its keys are: ${known.join(', ')}`,
      )
    }
    let whole = true
    for (const key of Object.keys(value)) {
      if (Object.hasOwn(shape, key)) continue
      whole = false
      if (place.problems.full) {
        place.problems.count++
        continue
      }
      const merge = key === '<<' ? ' (YAML merge keys are not supported)' : didYouMean(key, known)
      place.at(key).wrongKey(`unknown key${merge}; the keys here are: ${known.join(', ')}`)
    }
    const result: Record<string, unknown> = {}
    for (const key of known) {
      const field = shape[key]!
      if (!Object.hasOwn(value, key)) {
        const { byDefault } = field
        if (byDefault) result[key] = byDefault.value
        else {
          place.wrong(`the key "${key}" is missing`)
          whole = false
        }
        continue
      }
      const checked = field.check(value[key], place.at(key))
      if (checked === undefined) whole = false
      else result[key] = checked
    }
    return whole ? (result as ShapeValues<S>) : undefined
  }
}

/** Checks a map that may be given as the value of `key` alone: `4` for `{ count: 4 }`. */
export function shortFor<S extends Shape>(key: keyof S & string, shape: S): ValueCheck<ShapeValues<S>> {
  const whole = map(shape)
  return (value, place) => {
    if (isMap(value)) return whole(value, place)
    return shape[key]!.check(value, place) === undefined ? undefined : whole({ [key]: value }, place)
  }
}

export function refine<T, U>(
  check: ValueCheck<T>,
  rule: (value: T, place: ConfigPlace) => U | undefined,
): ValueCheck<U> {
  return (value, place) => {
    const checked = check(value, place)
    return checked === undefined ? undefined : rule(checked, place)
  }
}

/** Returns false also for a `Map`, a `Date` and the like: `Object.entries()` does not show what they hold. */
export function isMap(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  return Object.getPrototypeOf(value) === Object.prototype || /^(?:Object|Module)$/.test(classOf(value))
}

/** Whether only a program can give this value, not a file. */
function isOpaque(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !isMap(value)
}

function classOf(value: object): string {
  return Object.prototype.toString.call(value).slice('[object '.length, -1)
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return 'empty'
  if (Array.isArray(value)) return 'a list'
  if (isMap(value)) return 'a map'
  return isOpaque(value) ? `an object of class ${classOf(value as object)}` : `a ${typeof value}`
}

function refuseDefault(message: string): undefined {
  throw new TypeError(`a default is wrong: ${message}`)
}

export type Path = readonly (string | number)[]

interface Problem {
  path: Path
  /** Whether the key is wrong, not its value. */
  atKey: boolean
  message: string
}

/** Formats a path as `upstreams.app.servers[1]`, with unusual names in brackets: `upstreams["a b"]`. */
export function formatPath(path: Path): string {
  let text = ''
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`
    else if (/^[A-Za-z_][\w-]*$/.test(step)) text += text === '' ? step : `.${step}`
    else text += `[${JSON.stringify(step)}]`
  }
  return text
}

/** The problems of a document. Keeps the first `most`, and only counts further ones. */
export class Problems {
  readonly most: number
  readonly list: Problem[] = []
  count = 0

  constructor(most: number) {
    this.most = most
  }

  /** Whether further problems are only counted, so that their messages do not matter. */
  get full(): boolean {
    return this.count >= this.most
  }

  add(problem: Problem): void {
    this.count++
    if (this.list.length < this.most) this.list.push(problem)
  }
}

/** The place of a value in the document. Checks report their problems here. */
export class ConfigPlace {
  readonly problems: Problems
  readonly #within: ConfigPlace | null
  readonly #step: string | number

  constructor(problems: Problems, within: ConfigPlace | null = null, step: string | number = '') {
    this.problems = problems
    this.#within = within
    this.#step = step
  }

  /** Computed on demand, because most places have no problem. */
  get path(): Path {
    return this.#within === null ? [] : [...this.#within.path, this.#step]
  }

  get step(): string | number {
    return this.#step
  }

  at(step: string | number): ConfigPlace {
    return new ConfigPlace(this.problems, this, step)
  }

  /** Reports a problem. Returns undefined, the result of a failed check. */
  wrong(message: string): undefined {
    this.problems.add({ path: this.path, atKey: false, message })
  }

  wrongKey(message: string): undefined {
    this.problems.add({ path: this.path, atKey: true, message })
  }
}

/** The result of parsing an invalid value: what is wrong, and what to write instead. */
export class InvalidValue {
  readonly why: string

  constructor(why: string) {
    this.why = why
  }
}

const SHOWN = 80

/** Formats a value for messages: JSON, cut after 80 characters. */
export function shown(value: unknown): string {
  const text = jsonOf(value)
  return text.length <= SHOWN ? text : `${text.slice(0, SHOWN)}…`
}

function jsonOf(value: unknown): string {
  if (typeof value === 'number') return String(value)
  try {
    return JSON.stringify(value) ?? (value === undefined ? 'nothing' : String(value))
  } catch {
    // The value is cyclic or nested too deeply.
    return Array.isArray(value) ? '[…]' : '{…}'
  }
}

const SIZES = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 } as const

/** Checks a duration with {@link durationMs}. Returns whole milliseconds. */
export function duration(least: number): ValueCheck<number> {
  const read = text(
    'a duration',
    given => durationMs(given, least) ?? new InvalidValue(`${shown(given)} is not ${aDuration(least)}`),
  )
  return (value, place) =>
    typeof value === 'number'
      ? place.wrong(`${value} has no unit; write ${value}s or ${value}ms`)
      : read(value, place)
}

/** Checks a size (`512`, `16k`, `1m`, `2g`; k is 1,024). Returns bytes. */
export function size(least: number, most: number): ValueCheck<number> {
  const read = text('a size', given => {
    const [, number, unit = ''] = /^(\d+)([kmg]?)$/i.exec(given) ?? []
    if (number === undefined) return new InvalidValue(`${shown(given)} is no size (512, 16k, 1m, 2g)`)
    const bytes = Number(number) * SIZES[unit.toLowerCase() as keyof typeof SIZES]
    return bytes >= least && bytes <= most
      ? bytes
      : new InvalidValue(`${shown(given)} is ${bytes} bytes, outside of ${least} to ${most}`)
  })
  return (value, place) =>
    read(typeof value === 'number' && Number.isInteger(value) && value >= 0 ? String(value) : value, place)
}

export function name(given: string): string | InvalidValue {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(given)) return given
  return new InvalidValue(
    `${shown(given)} is no name (1 to 64 letters, digits, ".", "_" and "-", a letter or digit first)`,
  )
}

export const absolutePath = text('a path', given =>
  given.startsWith('/') && !given.endsWith('/') && !given.includes('\0')
    ? given
    : new InvalidValue(`${shown(given)} is no absolute path of a file`),
)

/** Returns a function for {@link fresh} that creates a check of one list's items. The check also reports two valid items with the same `key`. */
export function unique<T>(
  item: ValueCheck<T>,
  what: string,
  key: (value: T) => string,
  at?: string,
): () => ValueCheck<T> {
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

/** Checks a list whose item check has state: calls `item` to create a check for each list. */
export function fresh<T>(
  item: () => ValueCheck<T>,
  limits: { least?: number; most?: number },
): ValueCheck<T[]> {
  return (value, place) => list(item(), limits)(value, place)
}
