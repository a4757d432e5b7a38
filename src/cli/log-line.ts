import { inspect } from 'node:util'

/** Levels of a log, as pino numbers them. */
export const LEVELS: Readonly<Record<string, number>> = {
  trace: 10,
  debug: 20,
  info: 30,
  warn: 40,
  error: 50,
  fatal: 60,
  silent: Number.POSITIVE_INFINITY,
}

/** Formats a line as pino does, with which it shares its readers. Facts that JSON lacks are omitted. */
export function logLine(level: number, facts: object, message: string): string {
  let line = `{"level":${level},"time":${Date.now()}`
  for (const [key, value] of Object.entries(facts)) {
    const text = jsonOf(key === 'err' && isError(value) ? errorFacts(value) : value)
    if (text !== undefined) line += `,${JSON.stringify(key)}:${text}`
  }
  return `${line},"msg":${JSON.stringify(message)}}\n`
}

/** Returns undefined for a value that JSON lacks. */
function jsonOf(value: unknown): string | undefined {
  if (typeof value === 'bigint') return String(value)
  try {
    return JSON.stringify(value)
  } catch {
    // An object that contains itself, or a bigint.
    return JSON.stringify(inspect(value))
  }
}

function isError(value: unknown): value is Error {
  return typeof (value as Error | null)?.message === 'string'
}

/** Returns an error as an object of its type, message, stack and own properties. Message and stack include those of its causes. */
function errorFacts(error: Error): Record<string, unknown> {
  const chain = causesOf(error)
  const type = typeof error.constructor === 'function' ? error.constructor.name : error.name
  const facts: Record<string, unknown> = {
    type,
    message: chain.map(({ message }) => message).join(': '),
    stack: chain.map(({ stack = '' }) => stack).join('\ncaused by: '),
  }
  const { errors } = error as Partial<AggregateError>
  if (Array.isArray(errors))
    facts.aggregateErrors = errors.map(each => (isError(each) ? errorFacts(each) : each))
  for (const [key, value] of Object.entries(error)) {
    if (Object.hasOwn(facts, key) || (key === 'cause' && isError(value))) continue
    facts[key] = isError(value) ? errorFacts(value) : value
  }
  return facts
}

/** Returns the error and its causes, each of them once. */
function causesOf(error: Error): Error[] {
  const chain = new Set<Error>()
  for (let each: unknown = error; isError(each) && !chain.has(each); each = each.cause) chain.add(each)
  return [...chain]
}
