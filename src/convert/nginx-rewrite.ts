import type { Draft, Section } from './draft.js'
import type { LocationPath } from './nginx-location.js'
import type { Directive } from './nginx-syntax.js'

const isPathChange = ({ name, args }: Directive) =>
  name === 'rewrite' && !/^(?:redirect|permanent)$/.test(args[2] ?? '') && !/^https?:/.test(args[1] ?? '')

/** A pattern that takes the paths below another one, but not that itself. */
const NEEDS_SLASH = /(?:\/\(\.\*\)|\(\/\.\*\))\$?$/

/** Whether a rewrite changes the path for the servers of its location. */
export const isOfServers = (directive: Directive) => isPathChange(directive) && directive.args[2] === 'break'

/** Returns the changes of paths by `rewrite ^/a/(.*)$ /b/$1 break;` of a location; null if it has none, or none that can be said. */
export function rewriteOf(
  draft: Draft,
  block: readonly Directive[],
  { text, path, isExact }: LocationPath,
): Section | null {
  const [first, ...others] = block.filter(isPathChange)
  if (first === undefined) return null
  const [pattern = '', target = '', flag] = first.args
  const [, strip] =
    /^\^((?:\/[\w~-]+)+)(?:\/\(\.\*\)|\/\?\(\.\*\)|\(\/\.\*\)|\(\/\|\$\)\(\.\*\)|\(\.\*\))\$?$/.exec(
      pattern,
    ) ?? []
  const [, add, number] = /^((?:\/[\w.~-]+)*)\/?\$([12])$/.exec(target) ?? []
  const isLast = number === (pattern.includes('(/|$)') ? '2' : '1')
  const isSimple =
    strip !== undefined && add !== undefined && isLast && flag === 'break' && others.length === 0
  if (!isSimple || (path !== strip && !path.startsWith(`${strip}/`))) {
    for (const each of [first, ...others])
      draft.missing(each, 'paths are changed by stripPrefix and addPrefix')
    return null
  }
  if (path === strip && NEEDS_SLASH.test(pattern)) {
    if (isExact) {
      draft.own(first, 'the location has no such path')
      return null
    }
    if (text.endsWith('/')) draft.said(first)
    else draft.near(first, `${strip} itself is changed too`)
  } else draft.said(first)
  return { stripPrefix: strip, ...(add !== '' && { addPrefix: add }) }
}

/** Whether a rewrite leads to another location. */
export const leadsElsewhere = (directive: Directive) =>
  isPathChange(directive) && directive.args[2] !== 'break'
