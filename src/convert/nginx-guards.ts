/** Directives that keep requests out, as far as the proxy cannot say it. */
import { type Action, refuses } from './draft.js'
import type { Directive } from './nginx-syntax.js'
import type { Levels } from './nginx-values.js'

/** `auth_ldap`, `auth_pam` and the like, but not their settings, as `auth_jwt_key_file`. */
const MODULE =
  /^(?:auth_(?!basic$|request$|delay$|http$)[a-z]+|access_by_lua(?:_block|_file)?|js_access|secure_link|valid_referers)$/

/** Whether a block, or one in it, has a guard, or refuses requests. */
export function hasGuards(block: readonly Directive[]): boolean {
  return block.some(
    ({ name, args, block: inner }) =>
      /^(?:deny|auth_basic|auth_request|internal|limit_except)$/.test(name) ||
      MODULE.test(name) ||
      (name === 'return' && /^4\d\d$/.test(args[0] ?? '')) ||
      (inner !== null && hasGuards(inner)),
  )
}

/** The guards of modules at the innermost level that has one of the name. */
export function moduleGuards(levels: Levels): Directive[] {
  const found = new Map<string, readonly Directive[]>()
  for (const level of levels)
    for (const { name } of level)
      if (MODULE.test(name) && !found.has(name))
        found.set(
          name,
          level.filter(each => each.name === name),
        )
  return [...found.values()].flat().filter(({ args }) => args[0] !== 'off')
}

/** Whether an action does not let each request pass. */
export const isGuarded = (action: Action) => action.forwardAuth !== undefined || refuses(action)

/** Parts of the request that a list of bad ones is about; the host is not a secret. */
const OF_REQUESTS =
  /^(?:https?|(?:http|arg|cookie)_\w+|(?:query_|)args?|query_string|(?:request_|document_)?uri|request_(?:filename|body|method)|remote_addr|scheme|server_(?:name|port))$/
const HOSTS = /^(?:http_)?host$/

/**
 * Whether an `if` that refuses requests, and whose condition cannot be said, is about all requests but those on a list: without the list it must refuse all of
 * them. The default of a `map` or `geo` tells what concerns requests that are on no list.
 */
export function refusesOthers(condition: string, action: Action, http: readonly Directive[]): boolean {
  if (!refuses(action)) return false
  const [, name, operator, value = ''] =
    /^\(\s*\$\{?(\w+)\}?\s*(?:(!?[=~]\*?)\s*(.*?))?\s*\)$/s.exec(condition) ?? []
  // A test of a file, as for maintenance.
  if (name === undefined || HOSTS.test(name)) return false
  const table = http.find(each => /^(?:map|geo)$/.test(each.name) && each.args.at(-1) === `$${name}`)
  if (table === undefined) return !OF_REQUESTS.test(name) || operator?.startsWith('!') === true
  const other = table.block?.find(each => each.name === 'default')?.args[0] ?? ''
  return other.includes('$') || holds(other, operator, value)
}

function holds(text: string, operator: string | undefined, value: string): boolean {
  if (operator === undefined) return text !== '' && text !== '0'
  const not = operator.startsWith('!')
  if (operator.endsWith('=')) return (text === value) !== not
  try {
    return new RegExp(value, operator.endsWith('*') ? 'i' : '').test(text) !== not
  } catch {
    return true
  }
}
