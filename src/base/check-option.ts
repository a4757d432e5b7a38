/** What a caller passes is checked at the call: nothing is guessed, and nothing misspelt is passed over. */
import { inspect } from 'node:util'
import { FdbError } from '../errors.js'
import { didYouMean } from './suggest.js'
import { LONGEST_MS } from './time.js'

/** The names that options of a type may have: the compiler sees to it that they are all there. */
export type Keys<T> = Record<keyof T, true>

/**
 * Throws ERR_FDB_OPTION unless `given` is an object with no other keys than `known` has. `what`: the call it is given to, or the
 * option that it is.
 */
export function checkKeys(what: string, given: unknown, known: Readonly<Record<string, true>>): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new FdbError(
      'ERR_FDB_OPTION',
      `the options of ${what} are ${shown(given)}; give an object with any of ${Object.keys(known).join(', ')}`,
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
  return new FdbError('ERR_FDB_OPTION', `option "${name}" is ${shown(value)}; give ${wanted}`, {
    details: { option: name },
  })
}

/** Throws ERR_FDB_OPTION unless a timer can wait for so long: Node takes what is longer for one millisecond. */
export function checkMs(name: string, value: unknown, least: number): void {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < least || value > LONGEST_MS) {
    throw wrongOption(name, value, `milliseconds, ${least} to ${LONGEST_MS}`)
  }
}

/** Throws ERR_FDB_OPTION unless it is a function, or not given. */
export function checkFunction(name: string, value: unknown, wanted: string): void {
  if (value !== undefined && typeof value !== 'function') throw wrongOption(name, value, wanted)
}

/** Throws ERR_FDB_OPTION unless it is an AbortSignal, or not given. Not only this realm's. */
export function checkSignal(value: unknown): void {
  if (value === undefined) return
  const { aborted, addEventListener } = (value ?? {}) as Partial<AbortSignal>
  if (typeof aborted !== 'boolean' || typeof addEventListener !== 'function')
    throw wrongOption('signal', value, 'an AbortSignal')
}

/** In a line of an error. */
export function shown(value: unknown): string {
  if (typeof value === 'function') return value.name === '' ? 'a function' : `the function ${value.name}()`
  const text =
    typeof value === 'string'
      ? JSON.stringify(value)
      : inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY })
  return text.length <= 100 ? text : `${text.slice(0, 99)}…`
}
