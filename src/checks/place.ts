/** Where a checked value is, and how a problem is reported: collected for a document, thrown for the options of a call. */
import { inspect } from 'node:util'
import { FdbError } from '../errors.js'
import { didYouMean } from './spelling.js'

export type Path = readonly (string | number)[]

/** Checks report their problems here. Each report returns undefined, the result of a failed check. */
export interface Place {
  /** The key or index within the place around it. */
  readonly step: string | number
  readonly problems: { readonly count: number; readonly full: boolean }
  at(step: string | number): Place
  wrong(message: string): undefined
  /** Reports that the key is wrong, not its value. */
  wrongKey(message: string): undefined
  /** Reports a value that is not `wanted`. `fault` says in a document how it differs: `is neither true nor false`. */
  refuse(value: unknown, wanted: string, fault?: string): undefined
  /** Reports a value that is no map with the keys `known`. */
  noMap(value: unknown, known: readonly string[]): undefined
  unknownKey(key: string, known: readonly string[]): undefined
  /** Reports a required key that is missing. `check` would check its value. */
  missing(key: string, check: (value: unknown, place: Place) => unknown): undefined
}

interface Problem {
  path: Path
  /** Whether the key is wrong, not its value. */
  atKey: boolean
  message: string
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

/** A place in a configuration document. Collects problems. */
export class DocumentPlace implements Place {
  readonly problems: Problems
  readonly #within: DocumentPlace | null
  readonly #step: string | number

  constructor(problems: Problems, within: DocumentPlace | null = null, step: string | number = '') {
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

  at(step: string | number): DocumentPlace {
    return new DocumentPlace(this.problems, this, step)
  }

  wrong(message: string): undefined {
    this.problems.add({ path: this.path, atKey: false, message })
  }

  wrongKey(message: string): undefined {
    this.problems.add({ path: this.path, atKey: true, message })
  }

  refuse(value: unknown, wanted: string, fault = `is not ${wanted}`): undefined {
    return this.wrong(`${shortJson(value)} ${fault}`)
  }

  noMap(value: unknown, known: readonly string[]): undefined {
    const keys = `its keys are: ${known.join(', ')}`
    if (value === null && this.#within === null) return this.wrong(`the file is empty; ${keys}`)
    const opaque = isOpaque(value) ? ' (give a plain object)' : ''
    const hint = value === null ? ' (nothing follows the colon)' : opaque
    return this.wrong(`${shortJson(value)} is ${kindOf(value)}, not a map${hint}; ${keys}`)
  }

  unknownKey(key: string, known: readonly string[]): undefined {
    if (this.problems.full) {
      this.problems.count++
      return
    }
    const hint = key === '<<' ? ' (YAML merge keys are not supported)' : didYouMean(key, known)
    return this.at(key).wrongKey(`unknown key${hint}; the keys here are: ${known.join(', ')}`)
  }

  missing(key: string): undefined {
    return this.wrong(`the key "${key}" is missing`)
  }
}

const NONE = { count: 0, full: false } as const

/** A place in the options of a call. The first problem is thrown as ERR_FDB_OPTION. */
export class OptionPlace implements Place {
  readonly problems = NONE
  readonly #call: string
  readonly #name: string
  readonly step: string | number

  /** `call` and `name` appear in messages: `join()` has options, `drain.timeout` is one. */
  constructor(call: string, name = '', step: string | number = name) {
    this.#call = call
    this.#name = name
    this.step = step
  }

  at(step: string | number): OptionPlace {
    const within = typeof step === 'number' ? `${this.#name}[${step}]` : `${this.#name}.${step}`
    return new OptionPlace(this.#name || this.#call, this.#name === '' ? String(step) : within, step)
  }

  wrong(message: string): never {
    throw new FdbError('ERR_FDB_OPTION', `option "${this.#name}": ${message}`, {
      details: { option: this.#name },
    })
  }

  wrongKey(message: string): never {
    return this.wrong(message)
  }

  refuse(value: unknown, wanted: string): never {
    throw wrongOption(this.#name, value, wanted)
  }

  noMap(value: unknown, known: readonly string[]): never {
    const what = `the options of ${this.#name || this.#call} are ${inspected(value)}`
    throw new FdbError('ERR_FDB_OPTION', `${what}; give an object with any of ${known.join(', ')}`)
  }

  unknownKey(key: string, known: readonly string[]): never {
    throw new FdbError(
      'ERR_FDB_OPTION',
      `${this.#name || this.#call} has no option "${key}"${didYouMean(key, known)}: it has ${known.join(', ')}`,
      { details: { option: key } },
    )
  }

  missing(key: string, check: (value: unknown, place: Place) => unknown): undefined {
    check(undefined, this.at(key))
  }
}

export function wrongOption(name: string, value: unknown, wanted: string): FdbError {
  return new FdbError('ERR_FDB_OPTION', `option "${name}" is ${inspected(value)}; give ${wanted}`, {
    details: { option: name },
  })
}

/** Throws ERR_FDB_OPTION if an argument is no function. */
export function requireFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') throw wrongOption(name, value, 'a function')
}

/** Formats a value of a program for messages. */
export function inspected(value: unknown): string {
  if (typeof value === 'function') return value.name === '' ? 'a function' : `the function ${value.name}()`
  const text =
    typeof value === 'string'
      ? JSON.stringify(value)
      : inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY })
  return text.length <= 100 ? text : `${text.slice(0, 99)}…`
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

/** Returns false also for a `Map`, a `Date` and the like: `Object.entries()` does not show what they hold. */
export function isMap(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  return Object.getPrototypeOf(value) === Object.prototype || /^(?:Object|Module)$/.test(classOf(value))
}

/** Whether only a program can give this value, not a file. */
export function isOpaque(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !isMap(value)
}

function classOf(value: object): string {
  return Object.prototype.toString.call(value).slice('[object '.length, -1)
}

export function kindOf(value: unknown): string {
  if (value === null || value === undefined) return 'empty'
  if (Array.isArray(value)) return 'a list'
  if (isMap(value)) return 'a map'
  return isOpaque(value) ? `an object of class ${classOf(value as object)}` : `a ${typeof value}`
}

/** A longer text is cut in messages. */
export const SHOWN = 80

/** Formats a value of a document for messages: JSON, cut after 80 characters. */
export function shortJson(value: unknown): string {
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
