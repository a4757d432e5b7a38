/** Maps with known keys: each has a check, a default and a line in the documentation. */
import { isMap, OptionPlace } from './place.js'
import type { ValueCheck } from './values.js'

export interface Field<T, W = unknown> {
  check: ValueCheck<T, W>
  /** The value of a missing key, and the same as written in a file; undefined if the key is required. */
  byDefault: Default<T> | undefined
  /** Description for the documentation of a configuration file. */
  about: string
  /** The fields of a nested map, for documentation and tests. */
  fields: Shape | undefined
}

interface Default<T> {
  written: unknown
  value: T
}

export interface OptionalField<T, W = unknown> extends Field<T, W> {
  byDefault: Default<T>
}

export type Shape = Readonly<Record<string, Field<unknown>>>
/** A shape with the keys of `T`, such as the interface of a call's options. */
export type ShapeOf<T> = { readonly [Name in keyof T]-?: Field<unknown> }
/** Values whose missing ones were replaced. */
export type WithDefaults<T> = { [K in keyof T]: Exclude<T[K], undefined> }

type ValueOf<F> = F extends Field<infer T> ? T : never
type WrittenOf<F> = F extends { check: ValueCheck<unknown, infer W> } ? W : never
type IfOptional<F, K> = F extends OptionalField<unknown> ? K : never
type Keys<S extends Shape> = { [K in keyof S as Exclude<K, IfOptional<S[K], K>>]: WrittenOf<S[K]> } & {
  [K in keyof S as IfOptional<S[K], K>]?: WrittenOf<S[K]>
}

export function required<T, W>(check: ValueCheck<T, W>, about = '', fields?: Shape): Field<T, W> {
  return { check, byDefault: undefined, about, fields }
}

/** Defines an optional key. `check` reads the default `written` like a value of a file. */
export function optional<T, W>(
  check: ValueCheck<T, W>,
  written: unknown,
  about = '',
  fields?: Shape,
): OptionalField<T, W> {
  let byDefault: Default<T> | undefined
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
export function absent<T, W>(check: ValueCheck<T, W>): OptionalField<T | undefined, W>
export function absent<T, W, A>(
  check: ValueCheck<T, W>,
  value: A,
  about?: string,
  fields?: Shape,
): OptionalField<T | A, W>
export function absent(
  check: ValueCheck<unknown>,
  value?: unknown,
  about = '',
  fields?: Shape,
): OptionalField<unknown> {
  return { check, byDefault: { written: undefined, value }, about, fields }
}

/** Defines a nested map that may be missing, because all its fields have defaults. */
export function group<S extends Shape>(
  shape: S,
  about = '',
): OptionalField<{ [K in keyof S]: ValueOf<S[K]> }, { [K in keyof Keys<S>]: Keys<S>[K] }> {
  return optional(map(shape), {}, about, shape)
}

/** Checks a map with known keys. Unknown keys are errors; an undefined value counts as missing. The compiler writes out the types of the result, which have no name. */
export function map<S extends Shape>(
  shape: S,
): ValueCheck<{ [K in keyof S]: ValueOf<S[K]> }, { [K in keyof Keys<S>]: Keys<S>[K] }> {
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
    return whole ? (result as { [K in keyof S]: ValueOf<S[K]> }) : undefined
  }
}

/** Checks a map that may be given as the value of `key` alone: `4` for `{ count: 4 }`. */
export function shortFor<S extends Shape, K extends keyof S & string>(
  key: K,
  shape: S,
): ValueCheck<{ [K in keyof S]: ValueOf<S[K]> }, { [K in keyof Keys<S>]: Keys<S>[K] } | WrittenOf<S[K]>> {
  const whole = map(shape)
  return (value, place) => {
    if (isMap(value)) return whole(value, place)
    return shape[key]!.check(value, place) === undefined ? undefined : whole({ [key]: value }, place)
  }
}
