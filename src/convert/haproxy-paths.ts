/** Changes of paths by rules of HAProxy, as `stripPrefix` and `addPrefix` of the proxy. */
import type { Draft, Section } from './draft.js'
import { ALWAYS, type Parsed } from './haproxy-conditions.js'
import type { Statement } from './haproxy-syntax.js'
import { pathChangeOf } from './path-change.js'

const CHANGES = /^(?:(?:set|replace)-path|replace-uri)$/

interface PathChange {
  readonly stripPrefix?: string
  readonly addPrefix?: string
  /** Which paths are changed. */
  readonly paths: Parsed
  /** A difference to what HAProxy does; empty if there is none. */
  readonly near: string
}

/** Whether a statement changes the path of requests. */
export const isOfPaths = ({ words }: Statement) => words[0] === 'http-request' && CHANGES.test(words[1] ?? '')

/** Returns the paths that a statement changes: all, unless it replaces the begin. */
export function pathsOf(statement: Statement): Parsed {
  return isOfPaths(statement) ? (changeIn(statement)?.paths ?? ALWAYS) : ALWAYS
}

/** Puts a change of the path into the changes of requests that {@link pathsOf} tells. */
export function changePath(draft: Draft, statement: Statement, request: Section): void {
  const change = changeIn(statement)
  if (change === null) {
    draft.missing(statement, 'paths are changed by stripPrefix and addPrefix')
    return
  }
  const { stripPrefix, addPrefix, near } = change
  if (near === '') draft.said(statement)
  else draft.near(statement, near)
  if (stripPrefix !== undefined) request.stripPrefix = stripPrefix
  if (addPrefix !== undefined) request.addPrefix = addPrefix
}

/** Reads `set-path /v1%[path]`, `replace-path ^/api/(.*) /\1`, and the like; null for other changes. */
function changeIn({ words }: Statement): PathChange | null {
  const [, what, pattern = '', ...rest] = words
  const end = rest.findIndex(word => word === 'if' || word === 'unless')
  const text = (end < 0 ? rest : rest.slice(0, end)).join(' ')
  const [, before] = /^((?:\/[\w.~-]+)+)%\[path\]$/.exec(pattern) ?? []
  if (what === 'set-path') return before === undefined ? null : { addPrefix: before, paths: ALWAYS, near: '' }
  const found = /\\[12]$/.test(text) ? pathChangeOf(pattern, text) : null
  if (found === null) return null
  const { strip, add, isBelow, isOpen, isAnchored } = found
  const where = isBelow ? { when: [`path=${strip}/*`] } : { path: strip, when: [] }
  const near = [
    ...(isAnchored ? [] : ['only at the begin of the path']),
    ...(isOpen ? [`by whole segments: ${strip}x stays`] : []),
    ...found.near,
  ].join(', ')
  return {
    stripPrefix: strip,
    ...(add !== '' && { addPrefix: add }),
    paths: { any: [where], near: '' },
    near,
  }
}
