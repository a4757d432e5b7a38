import { networkOf } from './networks.js'
import { patternsOf } from './patterns.js'

/** The conditions for which an `if` holds: one of the lists must hold as a whole. */
export interface Conditions {
  readonly any: readonly (readonly string[])[]
  /** Whether they hold for no other requests. */
  readonly exact: boolean
  /** nginx compares the path as the client sends it. */
  readonly asSent?: true
  /** nginx may compare a header with `_` in its name, of which the proxy compares the one with `-`. */
  readonly spelled?: true
}

/** Returns the conditions of an `if`; null if there are none. `address` tells whether the client's address is that of the connection. */
export function conditionsOf(text: string, address: boolean): Conditions | null {
  const [, variable, operator, value = ''] =
    /^\(\s*\$(\w+)\s*(?:(!?[=~]\*?)\s*"?([^"]*?)"?)?\s*\)$/.exec(text) ?? []
  if (/^(?:document_|request_)?uri$/.test(variable ?? '') && /~/.test(operator ?? ''))
    return ofPath(operator!, value, variable === 'request_uri')
  if (variable === 'remote_addr' && /^!?=$/.test(operator ?? '') && address) {
    const network = networkOf(value)
    if (network === null || network.includes('/')) return null
    return { any: [[`${operator === '=' ? '' : '!'}address=${network}`]], exact: true }
  }
  const one = variable === undefined ? null : conditionOf(variable, operator, value)
  if (one === null) return null
  return { any: [[one]], exact: true, ...(/^!?header:\w*-/.test(one) && { spelled: true as const }) }
}

/** Patterns take paths with a slash at the end too. */
export const NO_SLASH = '!path=*/'
const SLASH = 'path=*/'

function ofPath(operator: string, expression: string, asSent: boolean): Conditions | null {
  // A path as sent has its query behind it.
  const patterns = patternsOf(asSent ? expression.replace(/\$$/, '(?:\\?.*)?$') : expression)
    .filter(({ glob }) => !glob.includes('%3F'))
    .map(each => ({ ...each, text: `${operator.endsWith('*') ? 'ipath' : 'path'}=${each.glob}` }))
  const exact = patterns.every(each => each.exact) && (!asSent || expression.startsWith('^'))
  const sent = asSent ? { asSent } : {}
  if (!operator.startsWith('!'))
    return {
      any: patterns.map(({ text, withoutSlash }) => (withoutSlash ? [text, NO_SLASH] : [text])),
      exact,
      ...sent,
    }
  if (!exact) return null
  const none = (all: typeof patterns) => all.map(({ text }) => `!${text}`)
  const others = patterns.filter(({ withoutSlash }) => !withoutSlash)
  const any = [none(patterns), ...(others.length < patterns.length ? [[SLASH, ...none(others)]] : [])]
  return { any, exact, ...sent }
}

/** The condition about a method, a header, a parameter or a cookie. */
function conditionOf(variable: string, operator: string | undefined, value: string): string | null {
  if (operator?.includes('*')) return null
  const not = operator?.startsWith('!') ? '!' : ''
  const exact = operator === undefined ? '' : operator.endsWith('=') ? `=${value}` : patternOf(value)
  if (variable === 'request_method' && operator?.endsWith('~') === true) {
    const methods = /^\^?\(?([A-Z]+(?:\|[A-Z]+)*)\)?\$?$/.exec(value)?.[1]
    return methods === undefined ? null : `${not}method=${methods}`
  }
  if (exact === null || value.includes('|')) return null
  if (variable === 'request_method') return exact === '' ? null : `${not}method${exact}`
  const [, kind, name] = /^(http|arg|cookie)_(\w+)$/.exec(variable) ?? []
  if (kind === undefined || variable === 'http_host') return null
  const what =
    kind === 'http'
      ? `header:${name!.replaceAll('_', '-')}`
      : `${kind === 'arg' ? 'query' : 'cookie'}:${name}`
  // `= ""` is true without the header too.
  if (exact === '=') return `${not === '' ? '!' : ''}${what}`
  return `${not}${what}${exact}`
}

/** `=TEXT` or `=BEGIN*` for a simple pattern; null for others. */
function patternOf(pattern: string): string | null {
  const [, begin, end] = /^\^([\w./:@-]*)(\$?)$/.exec(pattern) ?? []
  if (begin === undefined || begin.includes('.')) return null
  return end === '$' ? `=${begin}` : `=${begin}*`
}
