import type { Draft } from './draft.js'
import type { Directive } from './nginx-syntax.js'

/** A segment that a pattern leaves open. */
const OPEN = /^\(?(?:\?<\w+>)?(?:ANY[+*]|\[[\w-]+\]\+|\\[dw]\+|\.\+)\)?$/

/** The path of a location as the proxy writes it; null, with a remark, if it has none. */
export function pathOf(draft: Draft, location: Directive): string | null {
  const [first = '', second] = location.args
  const [modifier, text] = second === undefined ? ['', first] : [first, second]
  if (text.startsWith('@')) {
    draft.missing(location, 'there are no named locations')
    return null
  }
  if (modifier === '~' || modifier === '~*') {
    const path = plainPattern(text)
    if (path === null) draft.missing(location, 'paths are names, or * for a segment')
    else draft.near(location, `by the path ${path}, and all below it`)
    return path
  }
  const path = text === '/' ? '/' : text.replace(/\/+$/, '')
  if (/[%;*?#\s]/.test(path) || !path.startsWith('/')) {
    draft.missing(location, 'this path cannot be said')
    return null
  }
  if (modifier === '=' && path === '/') {
    draft.missing(location, 'a path is a begin: / takes all')
    return null
  }
  if (modifier === '=') draft.near(location, `takes what is below ${path} too`)
  else if (!text.endsWith('/')) draft.near(location, `by whole segments: ${path}x is another path`)
  else draft.said(location)
  return path
}

/** The path of a pattern that consists of whole segments from the begin on; null for others. */
function plainPattern(pattern: string): string | null {
  if (!pattern.startsWith('^/')) return null
  const body = pattern
    .slice(2)
    .replace(/\$$/, '')
    .replace(/\/?\(?\.\*\)?$/, '')
    .replace(/\(\/\|\$?\)?$/, '')
    .replace(/\/\??$/, '')
  if (body === '') return null
  const segments = body.replaceAll('[^/]', 'ANY').replaceAll('\\.', '.').replaceAll('\\-', '-').split('/')
  const path = segments.map(each => (/^[\w.~-]+$/.test(each) ? each : OPEN.test(each) ? '*' : null))
  return path.includes(null) || body.includes('.*') ? null : `/${path.join('/')}`
}
