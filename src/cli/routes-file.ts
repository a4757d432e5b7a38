import { readFile } from 'node:fs/promises'
import { text as readAll } from 'node:stream/consumers'
import { jsonValue } from '../base/json.js'
import { isMap } from '../config/check.js'
import { ConfigDocument } from '../config/document.js'
import { FdbError } from '../errors.js'

/**
 * Reads routes without checking them, which the proxy does: a YAML or JSON list, a map with the list under `routes`, or JSON lines. `-` is
 * standard input. Rejects with ERR_FDB_ROUTES.
 */
export async function readRoutes(file: string): Promise<unknown[]> {
  const name = file === '-' ? 'standard input' : file
  let text: string
  try {
    text = file === '-' ? await readAll(process.stdin) : await readFile(file, 'utf8')
  } catch (cause) {
    throw new FdbError('ERR_FDB_ROUTES', `${name} cannot be read (${(cause as Error).message})`, { cause })
  }
  const given = json(text) ?? jsonLines(text) ?? yaml(text, name)
  const list = isMap(given) && 'routes' in given ? given.routes : given
  if (Array.isArray(list)) return list
  throw new FdbError('ERR_FDB_ROUTES', `${name} is not a list of routes: give a list, or JSON lines`)
}

function json(text: string): unknown {
  if (!/^\s*[[{]/.test(text)) return undefined
  const value = jsonValue(text)
  // The file is a single JSON line.
  return isMap(value) && !('routes' in value) ? [value] : value
}

function jsonLines(text: string): unknown[] | undefined {
  if (!/^\s*\{.*\}[ \t\r]*(\n|$)/.test(text)) return undefined
  try {
    return text
      .split('\n')
      .filter(line => line.trim() !== '')
      .map(line => JSON.parse(line) as unknown)
  } catch {
    return undefined
  }
}

function yaml(text: string, name: string): unknown {
  const document = new ConfigDocument(text)
  const [problem] = document.syntax
  if (problem === undefined) return document.value
  throw new FdbError('ERR_FDB_ROUTES', `${name}:${problem.line}:${problem.column}: ${problem.message}`)
}
