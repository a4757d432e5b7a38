/** Checks the options of a call. A misspelt option is an error, never ignored. */
import { type Logger, SILENT } from '../base/logger.js'
import { OptionPlace } from './place.js'
import { predicate, type ValueCheck } from './values.js'

/** Some of these values. One that is undefined counts as missing, also under `exactOptionalPropertyTypes`. */
export type Given<T> = { [Name in keyof T]?: T[Name] | undefined }

export function withoutUndefined<T>(values: Given<T>): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>
}

/** Returns the options of `call` with their defaults. Throws ERR_FDB_OPTION for the first wrong or unknown option. `within` is an option that has them. */
export function checkOptions<T>(call: string, given: unknown, check: ValueCheck<T>, within = ''): T {
  return check(given, new OptionPlace(call, within)) as T
}

export const path = (wanted = 'a path') =>
  predicate<string>(wanted, value => typeof value === 'string' && value !== '')
export const nameUpTo = (most: number) =>
  predicate<string>(
    `a name of 1 to ${most} characters`,
    value => typeof value === 'string' && value !== '' && value.length <= most,
  )
export const hook = <T>(wanted = 'a function') => predicate<T>(wanted, value => typeof value === 'function')

/** Accepts AbortSignals of other realms (`node:vm`) too. */
export const abortSignal = predicate<AbortSignal>('an AbortSignal', value => {
  const { aborted, addEventListener } = (value ?? {}) as Partial<AbortSignal>
  return typeof aborted === 'boolean' && typeof addEventListener === 'function'
})

const LEVELS = Object.keys(SILENT) as (keyof Logger)[]

/** Accepts a logger with all methods. */
export const logger: ValueCheck<Logger> = (value, place) => {
  const missing = LEVELS.filter(level => typeof (value as Partial<Logger> | null)?.[level] !== 'function')
  if (missing.length === 0) return value as Logger
  const lacks = `it lacks ${missing.join(', ')}`
  return place.refuse(
    value,
    `an object with the methods ${LEVELS.join(', ')} (${lacks}), as pino() makes; console is one too`,
  )
}
