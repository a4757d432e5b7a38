import { readFileSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { ConfigPlace, formatPath, Problems, type ValueCheck } from './check.js'
import { ConfigDocument } from './document.js'

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
