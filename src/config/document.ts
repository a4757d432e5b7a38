import { readFileSync } from 'node:fs'
import type { Event, YAMLException } from 'js-yaml'
import { jsonObject } from '../base/json.js'
import { jsYaml } from '../base/lazy.js'
import { isFolder, isNoFile } from '../checks/files.js'
import { DocumentPlace, formatPath, type Path, Problems } from '../checks/place.js'
import type { ValueCheck } from '../checks/values.js'
import { FdbError } from '../errors.js'
import { Places } from './places.js'

export interface TextPosition {
  line: number
  column: number
}

export interface SyntaxProblem extends TextPosition {
  message: string
}

/** A YAML 1.2 document (JSON is one too). */
export class ConfigDocument {
  readonly syntax: SyntaxProblem[] = []
  readonly value: unknown
  readonly #text: string
  #events: readonly Event[] | null = null

  constructor(text: string) {
    this.#text = text
    const json = parseJson(text)
    if (json !== undefined) {
      this.value = json
      return
    }
    try {
      this.value = yamlValue(text)
    } catch (error) {
      if (!isSyntaxError(error)) throw error
      const { offset, message } = explain(error, text)
      this.syntax.push({ ...positionAt(text, offset), message })
    }
  }

  /**
   * Returns the position of the value at a path, or with `atKey` of its key. If the document lacks the path, returns the position of the map or
   * list in which it is missing.
   */
  position(path: Path, atKey: boolean): TextPosition {
    this.#events ??= jsYaml().parseEvents(this.#text, {})
    return positionAt(this.#text, new Places(this.#text, this.#events).offsetOf(path, atKey))
  }
}

function positionAt(text: string, offset: number): TextPosition {
  const before = text.slice(0, offset)
  const lineStart = before.lastIndexOf('\n') + 1
  let line = 1
  for (let at = before.indexOf('\n'); at >= 0; at = before.indexOf('\n', at + 1)) line++
  return { line, column: offset - lineStart + 1 }
}

/** Parses YAML 1.2. Returns null for an empty text. Throws a `YAMLException`. */
export function yamlValue(text: string): unknown {
  const { constructFromEvents, CORE_SCHEMA, EVENT_ID, parseEvents, YAMLException } = jsYaml()
  const events = parseEvents(text, {})
  const documents = events.filter(({ type }) => type === EVENT_ID.DOCUMENT)
  if (documents.length > 1) YAMLException.throwAt(text, secondDocument(text, documents[0]), SECOND_DOCUMENT)
  const [value = null] = constructFromEvents(events, { source: text, schema: CORE_SCHEMA })
  if (events.some(({ type }) => type === EVENT_ID.ALIAS) && sizeOf(value) > MAX_SIZE)
    YAMLException.throwAt(text, 0, 'its aliases repeat too much; write the values out')
  return value
}

const SECOND_DOCUMENT = 'a second document begins here; the configuration is one document'

/** Only the markers `---` and `...` end a document; no value has a line that begins with one of them. */
function secondDocument(text: string, first: Event | undefined): number {
  const marks = [...text.matchAll(/^(?:---|\.\.\.)(?=\s|$)/gm)]
  const begins = first !== undefined && 'explicitStart' in first && first.explicitStart
  return marks[begins ? 1 : 0]?.index ?? 0
}

const MAX_SIZE = 10_000_000

/** Returns the number of values if each alias were written out. A value inside of itself counts once. */
function sizeOf(value: unknown, known = new Map<unknown, number>()): number {
  if (typeof value !== 'object' || value === null) return 1
  const before = known.get(value)
  if (before !== undefined) return before
  known.set(value, 1)
  let size = 1
  for (const each of Object.values(value)) size += sizeOf(each, known)
  known.set(value, size)
  return size
}

function isSyntaxError(error: unknown): error is YAMLException {
  return error instanceof jsYaml().YAMLException
}

/** Explains an error of the parser. Returns its place too. */
function explain({ reason, mark }: YAMLException, text: string): { offset: number; message: string } {
  const offset = mark?.position ?? 0
  const isAt = (sign: string) => text.startsWith(sign, offset)
  const [, name] = /^unidentified alias "(.*)"$/s.exec(reason) ?? []
  if (name !== undefined) {
    const message = `*${name} refers to nothing; put a value that begins with * in quotes, "*${name}"`
    return { offset: offset - 1, message }
  }
  const [, message] = EXPLANATIONS.find(([pattern]) => pattern.test(reason)) ?? []
  if (/^name of an alias/.test(reason))
    return { offset: offset - 1, message: 'put a value that begins with * in quotes, "*"' }
  if (reason === 'duplicated mapping key') {
    const quoted = /["']/.test(text.charAt(offset - 1))
    return { offset: quoted ? offset - 1 : offset, message: 'this key is given twice in the same map' }
  }
  if (/^unknown \w+ tag /.test(reason)) {
    const [tag = ''] = /^[^\s,[\]{}]+/.exec(text.slice(offset)) ?? []
    return { offset, message: `unresolved tag: ${tag}` }
  }
  if (isAt('@') || isAt('`'))
    return { offset, message: `put a value that begins with ${text.charAt(offset)} in quotes` }
  return { offset, message: message ?? reason }
}

const EXPLANATIONS: readonly (readonly [RegExp, string])[] = [
  [/^tab characters/, 'tabs are not allowed as indentation; use spaces'],
  [/^nesting exceeded/, 'this is nested too deeply to be read'],
  [/within a double quoted scalar$/, 'missing closing "quote'],
  [/within a single quoted scalar$/, "missing closing 'quote"],
  [/within a flow collection$/, 'a [ or { is not closed'],
  [/^deficient indentation/, 'this is indented too little, or a [ or { before it is not closed'],
  [
    /^bad indentation/,
    'this does not continue the map or list: correct the indentation, or put a text with ": " in quotes',
  ],
  [/complex keys/, 'a key must be a text'],
]

const MOST_LEVELS = 100

/** Parses a JSON object or array. Returns undefined for other texts, if an object has a key twice, and for more levels than {@link yamlValue} reads. */
export function parseJson(text: string): unknown {
  const value = jsonObject(text)
  if (value === undefined) return undefined
  // JSON.parse() keeps the last of duplicate keys, so that the value then has fewer keys than the text.
  const keys = keysIn(value, MOST_LEVELS)
  return keys === signsOfKeys(text) || keys === keysInText(text) ? value : undefined
}

/** Returns the number of all keys; NaN for more than `levels` levels. */
function keysIn(value: object, levels: number): number {
  if (levels === 0) return Number.NaN
  const values: unknown[] = Array.isArray(value) ? value : Object.values(value)
  let keys = values === value ? 0 : values.length
  for (const each of values) if (typeof each === 'object' && each !== null) keys += keysIn(each, levels - 1)
  return keys
}

/** Returns at least the number of keys in a JSON text: texts may have this sign too. */
function signsOfKeys(json: string): number {
  return json.match(/"[\t\n\r ]*:/g)?.length ?? 0
}

const QUOTE = 0x22
const COLON = 0x3a
const BACKSLASH = 0x5c

/** Returns the number of keys in a JSON text, which is that of the colons outside of texts. */
function keysInText(json: string): number {
  let colons = 0
  let inString = false
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at)
    if (code === QUOTE) inString = !inString
    else if (inString) at += code === BACKSLASH ? 1 : 0
    else if (code === COLON) colons++
  }
  return colons
}

const MOST = 20

/** An item of `details.problems` of ERR_FDB_CONFIG. */
export interface ConfigProblem {
  /** Starts at 1. */
  line: number
  column: number
  /** `upstreams.app.servers[1]`; empty for the document or its syntax. */
  key: string
  message: string
}

/** Reads and checks a configuration file (YAML or JSON) synchronously. Throws ERR_FDB_CONFIG. */
export function readDocument<T>(file: string, check: ValueCheck<T>): T {
  let bytes: Buffer
  try {
    // Synchronous, because a starting process has no clients to block, and an asynchronous read would wait for a thread of Node.
    bytes = readFileSync(file)
  } catch (error) {
    return unreadable(file)(error)
  }
  return documentOf(bytes, file, check)
}

/**
 * Throws ERR_FDB_CONFIG for a FIFO, a socket and a device. A process that serves must not read them: it may wait for their end for ever, and cannot
 * even exit meanwhile, because Node then waits for the thread that reads. At the start they are fine (`--config <(COMMAND)`).
 */
export function requireFile(file: string): void {
  if (isNoFile(file) && !isFolder(file)) unreadable(file)(new Error('it is not a regular file'))
}

/** Returns a function that throws ERR_FDB_CONFIG for an error of reading `file`. */
export function unreadable(file: string): (error: unknown) => never {
  return error => {
    const why = error instanceof Error ? error.message : String(error)
    throw new FdbError(
      'ERR_FDB_CONFIG',
      `${file} cannot be read (${why}); give the path of a YAML or JSON file`,
      { cause: error, details: { file } },
    )
  }
}

/** Like {@link readDocument}, for a file whose contents the caller has read. */
export function documentOf<T>(bytes: Buffer, file: string, check: ValueCheck<T>): T {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new FdbError('ERR_FDB_CONFIG', `${file} is not UTF-8; save it as UTF-8`, {
      cause: error,
      details: { file },
    })
  }
  return parseDocument(text, file, check)
}

/**
 * Checks a configuration. Throws ERR_FDB_CONFIG with one line per problem (at most 20), `FILE:LINE:COLUMN: KEY: what is wrong`, and the
 * problems in `details.problems` as {@link ConfigProblem}.
 */
export function parseDocument<T>(text: string, file: string, check: ValueCheck<T>): T {
  const document = new ConfigDocument(text)
  if (document.syntax.length > 0) {
    const problems = document.syntax.slice(0, MOST).map(problem => ({ ...problem, key: '' }))
    throw problemsError(file, problems, document.syntax.length)
  }
  const problems = new Problems(MOST)
  const config = check(document.value, new DocumentPlace(problems))
  if (config !== undefined && problems.count === 0) return config
  const located = problems.list.map(({ path, atKey, message }) => ({
    ...document.position(path, atKey),
    key: formatPath(path),
    message,
  }))
  throw problemsError(file, located, problems.count)
}

/** Checks a configuration object of a program. Throws ERR_FDB_CONFIG with one line per problem (at most 20), `KEY: what is wrong`. */
export function checkMade<T>(document: unknown, check: ValueCheck<T>): T {
  const problems = new Problems(MOST)
  const config = check(document, new DocumentPlace(problems))
  if (config !== undefined && problems.count === 0) return config
  const found = problems.list.map(({ path, message }) => ({ key: formatPath(path), message }))
  const lines = found.map(({ key, message }) => (key === '' ? message : `${key}: ${message}`))
  if (problems.count > found.length)
    lines.push(`and ${problems.count - found.length} more; correct these first`)
  throw new FdbError('ERR_FDB_CONFIG', lines.join('\n'), {
    details: { problems: found, count: problems.count },
  })
}

function problemsError(file: string, found: ConfigProblem[], count: number): FdbError {
  const problems = found.toSorted((a, b) => a.line - b.line || a.column - b.column)
  const lines = problems.map(
    ({ line, column, key, message }) =>
      `${file}:${line}:${column}: ${key === '' ? '' : `${key}: `}${message}`,
  )
  if (count > found.length) lines.push(`${file}: and ${count - found.length} more; correct these first`)
  return new FdbError('ERR_FDB_CONFIG', lines.join('\n'), { details: { file, problems, count } })
}
