import type { Action, Draft } from './draft.js'
import { isGuardedBlock } from './nginx-guards.js'
import type { Directive } from './nginx-syntax.js'

/** A segment that a pattern leaves open. */
const OPEN = /^\(?(?:\?<\w+>)?(?:ANY[+*]|\[[\w-]+\]\+|\\[dw]\+|\.\+)\)?$/

/** The paths of a location as the proxy writes them; none, with a remark, if they cannot be said. */
export function pathsOf(draft: Draft, location: Directive): readonly string[] {
  const { modifier, text } = matcherOf(location)
  const lost = isGuardedBlock(location.block) ? 'its guard is lost: ' : ''
  if (modifier === '~' || modifier === '~*') {
    const paths = alternatives(text).map(plainPattern)
    if (paths.includes(null)) {
      draft.missing(location, `${lost}paths are names, or * for a segment`)
      // A guard is not lost for the others.
      return lost === '' ? [] : paths.filter(each => each !== null)
    }
    const inCapitals = modifier === '~*' ? ', not in capitals' : ''
    draft.near(location, `by the path ${paths.join(' and ')}${inCapitals}`)
    return paths as string[]
  }
  const path = withoutSlash(text)
  if (/[%;*?#\s]/.test(path) || !path.startsWith('/')) {
    draft.missing(location, `${lost}this path cannot be said`)
    return []
  }
  if (modifier === '=') {
    if (path === '/') draft.said(location)
    else draft.near(location, `takes ${path}/ too`)
  } else if (!text.endsWith('/') && lost !== '') draft.missing(location, `its guard is lost for ${path}x`)
  else if (!text.endsWith('/')) draft.near(location, `by whole segments: ${path}x is another path`)
  else if (path !== '/') draft.near(location, `takes ${path} too`)
  else draft.said(location)
  return [path]
}

/** `=` and `/x` of `location = /x`; the modifier is empty where there is none. */
export function matcherOf({ args }: Directive): { modifier: string; text: string } {
  const [first = '', second] = args
  return second === undefined ? { modifier: '', text: first } : { modifier: first, text: second }
}

const withoutSlash = (path: string) => (path === '/' ? '/' : path.replace(/\/+$/, ''))

const MOST_ALTERNATIVES = 20

/** The patterns that a pattern with groups as `(a|b)` stands for. */
function alternatives(pattern: string): readonly string[] {
  let all = [pattern]
  for (;;) {
    const next = all.flatMap(each => {
      const group = /\((?:\?:)?((?:\\[.-]|[\w.~-])+(?:\|(?:\\[.-]|[\w.~-])+)+)\)/.exec(each)
      return group === null ? [each] : group[1]!.split('|').map(one => each.replace(group[0], () => one))
    })
    if (next.length > MOST_ALTERNATIVES || next.join() === all.join()) return all
    all = next
  }
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

/** Whether an answer redirects to this path. */
export function leadsTo({ respond }: Action, path: string): boolean {
  const { headers } = (respond ?? {}) as { headers?: { Location?: string } }
  return headers?.Location?.replace(/^(?:\$scheme|https?):\/\/[^/]*/, '') === path
}
