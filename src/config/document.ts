import { readFileSync } from 'node:fs'
import type { Document, LineCounter, Node } from 'yaml'
import { jsonObject } from '../base/json.js'
import { jsYaml, yaml } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { ConfigPlace, formatPath, type Path, Problems, type ValueCheck } from './check.js'

export interface TextPosition {
  line: number
  column: number
}

export interface SyntaxProblem extends TextPosition {
  message: string
}

/**
 * A YAML 1.2 document (JSON is one too). `js-yaml` parses it. The package `yaml` reports positions, but is eight times slower: it is loaded only
 * for invalid or unusual documents, and to find the position of a problem.
 */
export class ConfigDocument {
  readonly syntax: SyntaxProblem[]
  readonly value: unknown
  readonly #text: string
  #parsed: { readonly document: Document.Parsed; readonly lines: LineCounter } | null = null

  constructor(text: string) {
    this.#text = text
    const plain = parseJson(text) ?? yamlValue(text)
    if (plain !== undefined) {
      this.syntax = []
      this.value = plain
      return
    }
    const { document } = this.#yaml
    const { errors, warnings } = document
    this.syntax = [...errors, ...warnings].map(({ code, message, pos }) => ({
      ...this.#position(pos[0]),
      message: explain(code, message),
    }))
    if (this.syntax.length > 0) return
    try {
      this.value = document.toJS()
    } catch (error) {
      this.syntax = this.#aliasProblems(error)
    }
  }

  get #yaml() {
    if (this.#parsed !== null) return this.#parsed
    const { LineCounter, parseDocument } = yaml()
    const lines = new LineCounter()
    const options = { lineCounter: lines, prettyErrors: false, version: '1.2' } as const
    this.#parsed = { document: parseDocument(this.#text, options), lines }
    return this.#parsed
  }

  /**
   * Returns the position of the value at a path, or with `atKey` of its key. If the document lacks the path, returns the position of the map or
   * list in which it is missing.
   */
  position(path: Path, atKey: boolean): TextPosition {
    const { isAlias, isMap, isScalar, isSeq } = yaml()
    const { document } = this.#yaml
    let node: Node | null = document.contents
    let offset = node?.range?.[0] ?? 0
    for (const [depth, step] of path.entries()) {
      if (isAlias(node)) node = node.resolve(document) ?? null
      let key: Node | null = null
      let next: Node | null = null
      if (isMap(node)) {
        const pair = node.items.find(item => isScalar(item.key) && String(item.key.value) === String(step))
        key = (pair?.key as Node | undefined) ?? null
        next = (pair?.value as Node | undefined) ?? null
      } else if (isSeq(node)) next = (node.items[Number(step)] as Node | undefined) ?? null
      const at = atKey && depth === path.length - 1 ? (key ?? next) : (next ?? key)
      if (at?.range == null) break
      offset = at.range[0]
      node = next
    }
    return this.#position(offset)
  }

  #position(offset: number): TextPosition {
    const { line, col } = this.#yaml.lines.linePos(offset)
    return { line: Math.max(line, 1), column: Math.max(col, 1) }
  }

  #aliasProblems(error: unknown): SyntaxProblem[] {
    const found: SyntaxProblem[] = []
    const { document } = this.#yaml
    yaml().visit(document, {
      Alias: (_, alias) => {
        if (alias.resolve(document)) return
        const message = `*${alias.source} refers to nothing; put a value that begins with * in quotes, "*${alias.source}"`
        found.push({ ...this.#position(alias.range?.[0] ?? 0), message })
      },
    })
    if (found.length > 0) return found
    return [{ line: 1, column: 1, message: error instanceof Error ? error.message : String(error) }]
  }
}

function explain(code: string, message: string): string {
  const [first = ''] = message.split('\n')
  switch (code) {
    case 'BAD_ALIAS':
      return 'put a value that begins with * in quotes, "*"'
    case 'MULTIPLE_DOCS':
      return 'a second document begins here; the configuration is one document'
    case 'DUPLICATE_KEY':
      return 'this key is given twice in the same map'
    case 'TAB_AS_INDENT':
      return 'tabs are not allowed as indentation; use spaces'
    case 'RESOURCE_EXHAUSTION':
      return 'this is nested too deeply to be read'
    default:
      return first.charAt(0).toLowerCase() + first.slice(1)
  }
}

const QUOTE = 0x22
const COLON = 0x3a
const BACKSLASH = 0x5c

/** Parses a JSON object or array. Returns undefined for other texts, and if an object has a key twice. */
export function parseJson(text: string): unknown {
  const value = jsonObject(text)
  // JSON.parse() keeps the last of duplicate keys, so that the value then has fewer keys than the text has colons.
  return value !== undefined && keysIn(value) === colonsIn(text) ? value : undefined
}

function keysIn(value: object): number {
  let keys = 0
  const open = [value]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const values = Object.values(next)
    if (!Array.isArray(next)) keys += values.length
    for (const each of values) if (typeof each === 'object' && each !== null) open.push(each)
  }
  return keys
}

/** Counts colons outside of strings. */
function colonsIn(json: string): number {
  let colons = 0
  let inString = false
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at)
    if (code === QUOTE) inString = !inString
    else if (inString && code === BACKSLASH) at++
    else if (!inString && code === COLON) colons++
  }
  return colons
}

/** Syntax that `js-yaml` and `yaml` may read differently, or that `yaml` warns about: an anchor, a tag, a directive, a merge key. */
const UNUSUAL = /[&!%]|^<<|[{,\s]<</m

/** Parses YAML 1.2 with `js-yaml`. Returns undefined for invalid and unusual texts, which `yaml` must parse. */
export function yamlValue(text: string): unknown {
  if (UNUSUAL.test(text)) return undefined
  const { CORE_SCHEMA, load } = jsYaml()
  try {
    return load(text, { schema: CORE_SCHEMA })
  } catch {
    return undefined
  }
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
    const why = error instanceof Error ? error.message : String(error)
    throw new FdbError(
      'ERR_FDB_CONFIG',
      `${file} cannot be read (${why}); give the path of a YAML or JSON file`,
      { cause: error, details: { file } },
    )
  }
  return documentOf(bytes, file, check)
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
    throw refusal(file, problems, document.syntax.length)
  }
  const problems = new Problems(MOST)
  const config = check(document.value, new ConfigPlace(problems))
  if (config !== undefined && problems.count === 0) return config
  const located = problems.list.map(({ path, atKey, message }) => ({
    ...document.position(path, atKey),
    key: formatPath(path),
    message,
  }))
  throw refusal(file, located, problems.count)
}

/** Checks a configuration object of a program. Throws ERR_FDB_CONFIG with one line per problem (at most 20), `KEY: what is wrong`. */
export function checkMade<T>(document: unknown, check: ValueCheck<T>): T {
  const problems = new Problems(MOST)
  const config = check(document, new ConfigPlace(problems))
  if (config !== undefined && problems.count === 0) return config
  const found = problems.list.map(({ path, message }) => ({ key: formatPath(path), message }))
  const lines = found.map(({ key, message }) => (key === '' ? message : `${key}: ${message}`))
  if (problems.count > found.length)
    lines.push(`and ${problems.count - found.length} more; correct these first`)
  throw new FdbError('ERR_FDB_CONFIG', lines.join('\n'), {
    details: { problems: found, count: problems.count },
  })
}

function refusal(file: string, found: ConfigProblem[], count: number): FdbError {
  const problems = found.toSorted((a, b) => a.line - b.line || a.column - b.column)
  const lines = problems.map(
    ({ line, column, key, message }) =>
      `${file}:${line}:${column}: ${key === '' ? '' : `${key}: `}${message}`,
  )
  if (count > found.length) lines.push(`${file}: and ${count - found.length} more; correct these first`)
  return new FdbError('ERR_FDB_CONFIG', lines.join('\n'), { details: { file, problems, count } })
}
