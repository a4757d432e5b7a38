/** `auth_request`, as `forwardAuth` of a route. */
import type { Draft } from './draft.js'
import { locationsFor, matcherOf } from './nginx-location.js'
import type { Directive } from './nginx-syntax.js'
import { type Scheme, serverOf } from './nginx-upstream.js'
import { effective, effectiveOne, isSaid, type Levels } from './nginx-values.js'
import { FRAMING } from './values.js'

/** The service that is asked about requests. */
export interface Authorization {
  readonly scheme: Scheme
  readonly authority: string
  readonly levels: Levels
  /** Path and query of the question. */
  readonly path: string
  /** The headers of its answer that requests get: those of which {@link takes} has been told. */
  readonly headers: readonly string[]
  /** Whether a `proxy_set_header` passes a header of the answer on, under its name. */
  takes(directive: Directive): boolean
}

const LOGIN = 'clients get the 401 or 403 of the service: let forwardAuth.path lead to one that redirects'

/** Returns the service for requests at these levels; null if none is asked, `unknown` if it cannot be said. */
export function authorizationOf(
  draft: Draft,
  server: readonly Directive[],
  http: readonly Directive[],
  levels: Levels,
): Authorization | null | 'unknown' {
  const directive = effectiveOne(levels, 'auth_request')
  const uri = directive?.args[0] ?? 'off'
  if (directive === undefined || uri === 'off') return null
  const locations = uri.includes('$') ? null : locationsFor(server, uri.replace(/\?.*/, ''))
  const location = locations?.at(-1)
  const pass = location?.block?.find(({ name }) => name === 'proxy_pass')
  const target = pass === undefined ? null : serverOf(pass)
  if (location === undefined || pass === undefined || target === null) {
    draft.missing(directive, 'the route answers 403 until it has a guard: the service is not known')
    return 'unknown'
  }
  draft.near(directive, 'the client gets each answer of the service other than 2xx as it is')
  draft.said(pass)
  for (const each of effective(levels, 'error_page'))
    if (each.args.some(code => code === '401' || code === '403')) draft.missing(each, LOGIN)
  const block = location.block!
  for (const each of block) questionOf(draft, each)
  const { text } = matcherOf(location)
  const headers: string[] = []
  return {
    scheme: target.scheme,
    authority: target.authority,
    levels: [...locations!.toReversed().map(each => each.block!), server, http],
    path: target.uri === '' ? uri : `${target.uri}${uri.slice(text.length)}`,
    headers,
    takes: each => takes(draft, each, levels, headers),
  }
}

const TOLD = /^(?:x-forwarded-(?:for|proto|host|uri|method)|host|x-real-ip)$/

/** Says what becomes of the settings of a question. */
function questionOf(draft: Draft, directive: Directive): void {
  const { name, args } = directive
  const [header = '', text = ''] = args
  const key = header.toLowerCase()
  if (name === 'proxy_pass_request_body') draft.own(directive, 'the question has no body')
  if (name !== 'proxy_set_header') return
  if (FRAMING.test(key) || key.startsWith('x-forwarded-') || text === '')
    draft.own(directive, 'the proxy says it always')
  else if (TOLD.test(key)) draft.near(directive, 'the service is told by X-Forwarded-Host and -For')
  else draft.missing(directive, 'the service gets the headers of the client, X-Forwarded-Uri and -Method')
}

/** `proxy_set_header X-User $user`, after `auth_request_set $user $upstream_http_x_user`. */
function takes(draft: Draft, directive: Directive, levels: Levels, headers: string[]): boolean {
  const [name = '', text = ''] = directive.args
  const variable = /^\$\{?(\w+)\}?$/.exec(text)?.[1]
  const set = effective(levels, 'auth_request_set').findLast(({ args }) => args[0] === `$${variable}`)
  if (set === undefined || isSaid(name)) return false
  const answered = /^\$\{?upstream_http_(\w+)\}?$/.exec(set.args[1] ?? '')?.[1]
  if (answered !== name.toLowerCase().replaceAll('-', '_')) {
    draft.missing(set, 'headers keep the name that the service gives them')
    return false
  }
  draft.said(set)
  draft.said(directive)
  if (!headers.some(each => isSpelling(each, name))) headers.push(name)
  return true
}

/** Whether both are spellings of one header: the proxy reads `_` as `-`. */
export const isSpelling = (one: string, other: string) => spelled(one) === spelled(other)

const spelled = (name: string) => name.toLowerCase().replaceAll('_', '-')
