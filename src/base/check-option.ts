/** Checks the options of a call. A misspelt option is an error, never ignored. */
import { inspect } from 'node:util'
import { FdbError } from '../errors.js'
import { LONGEST_MS } from './duration.js'

/** Checks the value of an option. Throws ERR_FDB_OPTION; `name` is the option's name in the message. */
export type OptionCheck = (value: unknown, name: string) => void

export type OptionChecks<T> = { readonly [Name in keyof T]-?: OptionCheck }

/** Some of these values. One that is undefined counts as missing, also under `exactOptionalPropertyTypes`. */
export type Given<T> = { [Name in keyof T]?: T[Name] | undefined }

export function withoutUndefined<T>(values: Given<T>): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>
}

/** Throws ERR_FDB_OPTION for the first wrong or unknown option. `prefix` precedes option names in messages. */
export function checkOptions<T>(what: string, given: T, checks: OptionChecks<T>, prefix = ''): void {
  checkKeys(what, given, checks)
  for (const [name, check] of Object.entries<OptionCheck>(checks)) {
    const value = (given as Record<string, unknown>)[name]
    if (value !== undefined) check(value, prefix + name)
  }
}

/** Accepts every value, for an option that is checked where it is used. */
export const unchecked: OptionCheck = () => {}

/** Accepts values for which `holds` returns true. The error's message ends with "give" and `wanted`. */
export function predicate(wanted: string, holds: (value: unknown) => boolean): OptionCheck {
  return (value, name) => {
    if (!holds(value)) throw wrongOption(name, value, wanted)
  }
}

export function oneOf(...values: readonly unknown[]): OptionCheck {
  const texts = values.map(value => JSON.stringify(value))
  return predicate(`${texts.slice(0, -1).join(', ')} or ${texts.at(-1)}`, value => values.includes(value))
}

export const flag = predicate('true or false', value => typeof value === 'boolean')
export const path = (wanted = 'a path') =>
  predicate(wanted, value => typeof value === 'string' && value !== '')
export const nameUpTo = (most: number) =>
  predicate(
    `a name of 1 to ${most} characters`,
    value => typeof value === 'string' && value !== '' && value.length <= most,
  )
export const hook = (wanted = 'a function') => predicate(wanted, value => typeof value === 'function')
export const milliseconds =
  (least: number): OptionCheck =>
  (value, name) =>
    checkMs(name, value, least)
export const orOff =
  (check: OptionCheck): OptionCheck =>
  (value, name) => {
    if (value !== 'off') check(value, name)
  }
/** Accepts AbortSignals of other realms (`node:vm`) too. */
export const abortSignal = predicate('an AbortSignal', value => {
  const { aborted, addEventListener } = (value ?? {}) as Partial<AbortSignal>
  return typeof aborted === 'boolean' && typeof addEventListener === 'function'
})

/** Throws ERR_FDB_OPTION unless `given` is an object whose keys are all in `known`. `what` names the call or option in messages. */
export function checkKeys(what: string, given: unknown, known: object): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new FdbError(
      'ERR_FDB_OPTION',
      `the options of ${what} are ${inspected(given)}; give an object with any of ${Object.keys(known).join(', ')}`,
    )
  }
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(known, name)) continue
    const names = Object.keys(known)
    throw new FdbError(
      'ERR_FDB_OPTION',
      `${what} has no option "${name}"${didYouMean(name, names)}: it has ${names.join(', ')}`,
      { details: { option: name } },
    )
  }
}

export function wrongOption(name: string, value: unknown, wanted: string): FdbError {
  return new FdbError('ERR_FDB_OPTION', `option "${name}" is ${inspected(value)}; give ${wanted}`, {
    details: { option: name },
  })
}

/** Throws ERR_FDB_OPTION unless a timer of Node can wait for `value` milliseconds: a longer delay than {@link LONGEST_MS} would count as 1 ms. */
export function checkMs(name: string, value: unknown, least: number): void {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < least || value > LONGEST_MS) {
    throw wrongOption(name, value, `milliseconds, ${least} to ${LONGEST_MS}`)
  }
}

export function inspected(value: unknown): string {
  if (typeof value === 'function') return value.name === '' ? 'a function' : `the function ${value.name}()`
  const text =
    typeof value === 'string'
      ? JSON.stringify(value)
      : inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY })
  return text.length <= 100 ? text : `${text.slice(0, 99)}…`
}

/** Returns the known word that `word` is probably a misspelling of; undefined if none is close. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  const wanted = word.toLowerCase()
  let best: string | undefined
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1
  for (const candidate of known) {
    if (Math.abs(candidate.length - word.length) >= bestDistance) continue
    const distance = editDistance(wanted, candidate.toLowerCase())
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

/** Returns ` (did you mean "x"?)`, or an empty text. */
export function didYouMean(word: string, known: Iterable<string>): string {
  const found = word.length > 64 ? undefined : nearest(word, known)
  return found === undefined ? '' : ` (did you mean "${found}"?)`
}

/** Returns how many insertions, deletions, replacements and swaps of neighbours turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let least = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        least = Math.min(least, before[j - 2]! + 1)
      }
      row.push(least)
    }
    before = last
    last = row
  }
  return last[b.length]!
}
