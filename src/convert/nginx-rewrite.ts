import type { Draft, Section } from './draft.js'
import type { LocationPath } from './nginx-location.js'
import type { Directive } from './nginx-syntax.js'
import { pathChangeOf } from './path-change.js'

const isPathChange = ({ name, args }: Directive) =>
  name === 'rewrite' && !/^(?:redirect|permanent)$/.test(args[2] ?? '') && !/^https?:/.test(args[1] ?? '')

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
  const change = /\$[12]$/.test(target) ? pathChangeOf(pattern, target) : null
  const isSimple = change?.isAnchored === true && flag === 'break' && others.length === 0
  if (!isSimple || (path !== change.strip && !path.startsWith(`${change.strip}/`))) {
    for (const each of [first, ...others])
      draft.missing(each, 'paths are changed by stripPrefix and addPrefix')
    return null
  }
  const { strip, add, isBelow } = change
  if (path === strip && isBelow && isExact) {
    draft.own(first, 'the location has no such path')
    return null
  }
  draft.said(first)
  const hasItself = path === strip && !text.endsWith('/')
  if (hasItself && isBelow) draft.near(first, `${strip} itself is changed too`)
  for (const each of change.near) if (hasItself || !/itself/.test(each)) draft.near(first, each)
  return { stripPrefix: strip, ...(add !== '' && { addPrefix: add }) }
}

/** Whether a rewrite leads to another location. */
export const leadsElsewhere = (directive: Directive) =>
  isPathChange(directive) && directive.args[2] !== 'break'
