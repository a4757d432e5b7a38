/** Maps with known keys: each has a check, a default and a line in the documentation. */
import { isMap, OptionPlace } from './place.js'
import type { ValueCheck } from './values.js'

export interface Field<T> {
  check: ValueCheck<T>
  /** The value of a missing key, and the same as written in a file; undefined if the key is required. */
  byDefault: { written: unknown; value: T } | undefined
  /** Description for the documentation of a configuration file. */
  about: string
  /** The fields of a nested map, for documentation and tests. */
  fields: Shape | undefined
}

export type Shape = Readonly<Record<string, Field<unknown>>>
export type ShapeValues<S extends Shape> = { [K in keyof S]: S[K] extends Field<infer T> ? T : never }
/** A shape with the keys of `T`, such as the interface of a call's options. */
export type ShapeOf<T> = { readonly [Name in keyof T]-?: Field<unknown> }

export function required<T>(check: ValueCheck<T>, about = '', fields?: Shape): Field<T> {
  return { check, byDefault: undefined, about, fields }
}

/** Defines an optional key. `check` reads the default `written` like a value of a file. */
export function optional<T>(check: ValueCheck<T>, written: unknown, about = '', fields?: Shape): Field<T> {
  let byDefault: { written: unknown; value: T } | undefined
  return {
    check,
    about,
    fields,
    // Computed on first use, because checks may be defined after the shapes that use them.
    get byDefault() {
      byDefault ??= { written, value: check(written, new OptionPlace('the defaults')) as T }
      return byDefault
    },
  }
}

/** Defines an optional key whose default is `value`, which no file can express. */
export function absent<T>(check: ValueCheck<T>): Field<T | undefined>
export function absent<T, A>(check: ValueCheck<T>, value: A, about?: string, fields?: Shape): Field<T | A>
export function absent(
  check: ValueCheck<unknown>,
  value?: unknown,
  about = '',
  fields?: Shape,
): Field<unknown> {
  return { check, byDefault: { written: undefined, value }, about, fields }
}

/** Defines a nested map that may be missing, because all its fields have defaults. */
export function group<S extends Shape>(shape: S, about = ''): Field<ShapeValues<S>> {
  return optional(map(shape), {}, about, shape)
}

/** Checks a map with known keys. Unknown keys are errors; an undefined value counts as missing. */
export function map<S extends Shape>(shape: S): ValueCheck<ShapeValues<S>> {
  const known = Object.keys(shape)
  return (value, place) => {
    if (!isMap(value)) return place.noMap(value, known)
    let whole = true
    for (const key of Object.keys(value)) {
      if (Object.hasOwn(shape, key)) continue
      whole = false
      place.unknownKey(key, known)
    }
    const result: Record<string, unknown> = {}
    for (const key of known) {
      const field = shape[key]!
      const given = value[key]
      if (given === undefined) {
        const { byDefault } = field
        if (byDefault) result[key] = byDefault.value
        else {
          place.missing(key, field.check)
          whole = false
        }
        continue
      }
      const checked = field.check(given, place.at(key))
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
