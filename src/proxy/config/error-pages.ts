/** Every key of `errorPages`: the bodies of the proxy's own errors. */
import { extname } from 'node:path'
import { nodeCrypto } from '../../base/lazy.js'
import { readText } from '../../checks/files.js'
import { DocumentPlace, Problems, shortJson } from '../../checks/place.js'
import { absolutePath, InvalidValue, named, refine } from '../../checks/values.js'
import type { ErrorBody } from '../../relay/index.js'

/** With a page a response has at most this many bytes more. */
const MOST_BYTES = 64 * 1024

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.htm': 'text/html; charset=utf-8',
  '.json': 'application/json',
}
const OTHER_TYPE = 'text/plain; charset=utf-8'

export interface ErrorPage {
  readonly path: string
  readonly type: string
  /** The file's bytes, each as a character. */
  readonly text: string
}

const page = refine(absolutePath, (path, place): ErrorPage | undefined => {
  const text = readText(path, place)
  if (text === undefined) return undefined
  if (text.length > MOST_BYTES)
    return place.wrong(`${shortJson(path)} has ${text.length} bytes, more than ${MOST_BYTES}`)
  const [head, , type] = HEAD.exec(text) ?? []
  if (head !== undefined) return { path, type: type ?? OTHER_TYPE, text: text.slice(head.length) }
  return { path, type: TYPES[extname(path).toLowerCase()] ?? OTHER_TYPE, text }
})

/** Matches the head of an answer, which files for other servers begin with: a status line, and headers. */
const HEAD =
  /^HTTP\/[\d.]+ \d{3}[^\r\n]*\r?\n((?:(?!content-type:)[^\r\n]+\r?\n)*)(?:content-type:[ \t]*([\x20-\x7e]+?)[ \t]*\r?\n)?(?:[^\r\n]+\r?\n)*\r?\n/i

function statuses(given: string): string | InvalidValue {
  return /^[45](?:\d\d|xx)$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is no status of an error: write 400 to 599, 4xx or 5xx`)
}

/** Pages by status, or by class of statuses: `5xx`. */
export const errorPages = named(statuses, page, 'a map of statuses to files')
export type ErrorPages = readonly (readonly [statuses: string, page: ErrorPage])[]

/** Returns the pages as a setting of the state, which changes with the contents of the files. */
export function pageItems(pages: ErrorPages): string[] {
  const digest = (text: string) => nodeCrypto().createHash('sha256').update(text, 'latin1').digest('hex')
  return pages.map(([statuses, { path, text }]) => `${statuses} ${digest(text).slice(0, 16)} ${path}`)
}

/** Reverses {@link pageItems}, and reads the files. Omits pages that this process cannot use: their errors have the reason as their body. */
export function pagesOf(items: readonly string[]): ErrorPages {
  const given = items.flatMap(item => {
    const [, statuses, path] = /^(\S+) \S+ (.+)$/.exec(item) ?? []
    return statuses === undefined ? [] : [{ [statuses]: path }]
  })
  return given.flatMap(each => errorPages(each, new DocumentPlace(new Problems(0))) ?? [])
}

const VARIABLE = /\$(status|reason|request_id)\b/g
/** Matches characters that may have a meaning in HTML or JSON. */
const PLAIN = /[^\w.:/+=-]/g

/** Returns the function that gives the body of an error, if there is a page for its status; undefined if there are no pages. */
export function errorBodies(pages: ErrorPages): ErrorBody | undefined {
  if (pages.length === 0) return undefined
  const byStatus = new Map(pages)
  return ({ status, reason, requestId }) => {
    const found = byStatus.get(`${status}`) ?? byStatus.get(`${Math.floor(status / 100)}xx`)
    if (found === undefined) return undefined
    const values: Record<string, string> = { status: `${status}`, reason, request_id: requestId }
    const text = found.text.replace(VARIABLE, (_, name: string) => values[name]!.replace(PLAIN, ''))
    return { type: found.type, body: Buffer.from(text, 'latin1') }
  }
}
