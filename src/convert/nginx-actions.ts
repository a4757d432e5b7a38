import type { Action, Draft, Section } from './draft.js'
import { CLOSED, put, refuses } from './draft.js'
import { removeHeader, setHeader } from './header-changes.js'
import { accessOf, addressIsOfHeader } from './nginx-access.js'
import { type Authorization, authorizationOf, isSpelling } from './nginx-auth.js'
import { hasGuards } from './nginx-guards.js'
import type { LocationPath } from './nginx-location.js'
import type { Branch } from './nginx-places.js'
import type { Rates } from './nginx-rates.js'
import { rewriteOf } from './nginx-rewrite.js'
import { isProxied, type Server } from './nginx-settings.js'
import type { Directive } from './nginx-syntax.js'
import { type Scheme, serverOf, serversOf } from './nginx-upstream.js'
import {
  effective,
  effectiveOne,
  fileOf,
  isSaid,
  type Levels,
  takesUnderscores,
  withVariables,
} from './nginx-values.js'
import { FRAMING, millisecondsOf, timeOf } from './values.js'

/** The answers to which nginx adds headers unless it is told `always`. */
const WITH_HEADERS = /^(?:20[0146]|30[1234678])$/
const REDIRECTS = new Set(['301', '302', '303', '307', '308'])

const passes = (levels: Levels) => levels[0]!.some(({ name }) => name === 'proxy_pass')

/** The service, and what it is asked. */
function questionIn(forwardAuth: unknown): string | undefined {
  const { upstream, path } = (forwardAuth ?? {}) as { upstream?: string; path?: string }
  return upstream && `${upstream} ${path}`
}

/** Requests that the guards of a location treat alike. */
interface Kind {
  readonly when: readonly string[]
  readonly isClosed: boolean
  readonly needsPassword: boolean
  /** Whether a service is asked about them, if there is one. */
  readonly asks: boolean
}

const portsOf = ({ entries }: Server) => [
  ...new Set(entries.flatMap(({ listener }) => /:(\d+)$/.exec(listener.address)?.[1] ?? [])),
]

const ONE_LINE = 'a header has one line: the last of these'

/** Headers that the proxy itself removes, in each spelling. */
const REMOVED =
  /^(?:x-real-ip|x-forwarded-(?:port|prefix|server)|x-original-(?:url|host)|x-rewrite-url|proxy)$/i
const MOST_HYPHENS = 4

/** Removes the headers that servers may take for those that are changed: nginx ignores names with `_`. */
function removeLookalikes(request: Section): void {
  const { set = {}, remove = [] } = request as { set?: object; remove?: string[] }
  const own = new Set([...Object.keys(set), ...remove].map(name => name.toLowerCase()))
  const others = [...own].flatMap(name => (REMOVED.test(name) ? [] : lookalikes(name)))
  for (const name of new Set(others)) if (!own.has(name)) removeHeader(request, name)
}

function lookalikes(name: string): string[] {
  const [first = '', ...rest] = name.split('-')
  if (rest.length > MOST_HYPHENS) return [name.replaceAll('-', '_')]
  const all = rest.reduce(
    (begins, part) => begins.flatMap(each => [`${each}-${part}`, `${each}_${part}`]),
    [first],
  )
  return all.filter(each => each !== name)
}

/** The location around directives. */
export interface Around extends LocationPath {
  /** The named locations on the way here, by `try_files`. */
  readonly led?: readonly string[]
  /** The service that the location before those asks. */
  readonly service?: Authorization
}

/** Translates the directives of a location into actions of routes. */
export class Actions {
  readonly #draft: Draft
  readonly #http: readonly Directive[]
  readonly #upstreams: ReadonlyMap<string, Directive>
  readonly #rates: Rates

  constructor(
    draft: Draft,
    http: readonly Directive[],
    upstreams: ReadonlyMap<string, Directive>,
    rates: Rates,
  ) {
    this.#draft = draft
    this.#http = http
    this.#upstreams = upstreams
    this.#rates = rates
  }

  /** The actions for requests that no `if` has answered: by their address, if that matters. Null if the location only serves files. */
  contents(server: Server, location: Around, levels: Levels, access: Levels = levels): Branch[] | null {
    const kinds = this.#kinds(server, access)
    const branches = kinds.map(({ when, isClosed: closed, asks }) => ({
      when,
      action: closed ? CLOSED : this.#target(server, location, levels, asks ? access : null),
    }))
    if (branches.every(({ action }) => action === null)) return null
    this.#toldClosed(kinds, levels)
    return branches.map(({ when, action }) => ({ when, action: action ?? CLOSED }))
  }

  /** The same for a location whose `try_files` leads to a named one: nginx asks for the guards of both. `inner` tells what the named one does. */
  contentsOfNamed(
    server: Server,
    around: Around,
    levels: Levels,
    access: Levels,
    inner: (led: Around) => readonly Branch[] | null,
  ): Branch[] | null {
    const kinds = this.#kinds(server, access)
    const authorization = kinds.some(({ asks }) => asks) ? this.#authorization(server, access) : null
    const limit = this.#rates.at(levels)
    let isWhole = true
    const branches = kinds.flatMap(({ when, isClosed: closed, asks }) => {
      if (closed) return [{ when, action: CLOSED }]
      const service = asks ? authorization : null
      const found = inner(service === null || service === 'unknown' ? around : { ...around, service }) ?? []
      isWhole = found.at(-1)?.when.length === 0
      return found.map(each => ({
        when: [...when, ...each.when],
        action: refuses(each.action)
          ? each.action
          : { ...limit, ...this.#askedFirst(service, each.action, access) },
      }))
    })
    this.#toldClosed(kinds, levels)
    if (isWhole) return branches
    // Files, which the location around this one must not give to requests that are kept out here.
    const isKept = authorization !== null || kinds.some(each => each.isClosed)
    if (isKept) return [...branches, { when: [], action: CLOSED }]
    return branches.length > 0 ? branches : null
  }

  /** The action for requests that a service lets pass. */
  #askedFirst(service: Authorization | null | 'unknown', action: Action, access: Levels): Action {
    if (service === null) return action
    if (service === 'unknown') return CLOSED
    const { forwardAuth } = this.#asked(service)
    const [one, other] = [forwardAuth, action.forwardAuth].map(each => questionIn(each))
    if (other === undefined || one === other) return { forwardAuth, ...action }
    this.#draft.missing(
      effectiveOne(access, 'auth_request')!,
      'the route answers 403 until it has a guard: it asks one service',
    )
    return CLOSED
  }

  /** The kinds of requests that the guards of a location tell apart. */
  #kinds(server: Server, access: Levels): Kind[] {
    const { admissions, needsPassword } = accessOf(this.#draft, access, isProxied(server))
    return admissions.map(({ when, gets }) => ({
      when,
      isClosed: gets === 'closed' || (gets === 'asked' && needsPassword),
      needsPassword,
      asks: gets === 'asked',
    }))
  }

  /** The actions for requests that a `return` answers. nginx asks for no address or password then; only redirects do without one here. */
  answered(server: Server, levels: Levels, action: Action): Branch[] {
    const { status = 200 } = (action.respond ?? {}) as { status?: number }
    const branch = { when: [], action }
    const mayStop = levels[0]!.some(({ name, args }) => name === 'rewrite' && args[2] === 'break')
    if (status >= 400 || (status >= 300 && !mayStop)) {
      for (const each of levels[0]!)
        if (/^(?:allow|deny|satisfy|auth_basic|auth_basic_user_file|auth_request)$/.test(each.name))
          this.#draft.own(each, 'nginx answers before')
      return [branch]
    }
    const { admissions, needsPassword } = accessOf(this.#draft, levels, isProxied(server))
    // The `return` of a location that may stop before it answers what its service lets pass.
    const authorization = mayStop ? this.#authorization(server, levels) : null
    const asked = authorization === 'unknown' ? CLOSED : { ...action, ...this.#asked(authorization) }
    const isOpen = admissions.length === 1 && admissions[0]!.gets === 'asked' && !needsPassword
    if (isOpen && authorization === null) return [branch]
    for (const each of levels[0]!)
      if (each.name === 'return')
        this.#draft.near(each, 'nginx answers before it asks for an address or a password')
    return admissions.map(({ when, gets }) => ({
      when,
      action: gets === 'open' ? action : gets === 'asked' && !needsPassword ? asked : CLOSED,
    }))
  }

  #toldClosed(kinds: readonly Kind[], levels: Levels): void {
    const needsPassword = kinds.some(each => each.needsPassword)
    if (!needsPassword && !kinds.every(each => each.isClosed)) return
    for (const each of levels[0]!) {
      if (each.name !== 'proxy_pass') continue
      if (needsPassword) this.#draft.missing(each, 'its route answers 403 until it has a guard')
      else this.#draft.near(each, 'no request may pass: its route answers 403')
    }
  }

  /** The action of a location; null if it only serves files. `asked`: the levels whose service is asked. */
  #target(server: Server, location: Around, levels: Levels, asked: Levels | null): Action | null {
    const draft = this.#draft
    const limit = this.#rates.at(levels)
    const authorization = asked === null ? null : this.#authorization(server, asked)
    if (authorization === 'unknown' && passes(levels)) return this.#closed(levels)
    const pass = levels[0]!.find(({ name }) => name === 'proxy_pass')
    // Without a server for its files, the location around it must not get requests that a service decides about.
    if (pass === undefined) return authorization === null ? null : this.#closed(levels)
    const instead = this.#insteadOf(server, levels)
    if (instead !== null) return { ...limit, ...instead }
    const target = serverOf(pass)
    if (target === null) {
      draft.missing(pass, 'servers cannot be chosen by a variable: 502 until there is an upstream')
      return { respond: { status: 502 } }
    }
    draft.said(pass)
    const { scheme, authority, uri } = target
    const upstream = this.#upstream(scheme, authority, levels)
    const service = authorization === 'unknown' ? null : (authorization ?? location.service ?? null)
    const request = this.#requestOf(server, authority, scheme, levels, service)
    if (uri !== '') {
      const { text, isExact, path } = location
      const [strip, prefix] = [path.replace(/\/$/, ''), uri.replace(/\/$/, '')]
      if (text.endsWith('/') !== uri.endsWith('/') || (isExact && uri.endsWith('/')))
        draft.near(
          pass,
          `the path begins with ${prefix === '' ? '/' : `${prefix}/`}, or is ${prefix === '' ? '/' : prefix}`,
        )
      if (strip !== '' && strip !== prefix) request.stripPrefix = strip
      if (prefix !== '' && strip !== prefix) request.addPrefix = prefix
    } else Object.assign(request, rewriteOf(draft, levels[0]!, location) ?? {})
    const response = this.#responseOf(server, levels)
    return {
      upstream,
      ...this.#asked(authorization),
      ...limit,
      ...(Object.keys(request).length > 0 && { request }),
      ...(Object.keys(response).length > 0 && { response }),
    }
  }

  /** The answer to requests that `try_files` leads away from the servers of a location: all but those for files. Null if they may get there. */
  #insteadOf(server: Server, levels: Levels): Action | null {
    const directive = levels[0]!.find(({ name }) => name === 'try_files')
    const last = directive?.args.at(-1) ?? '@'
    if (directive === undefined || last.startsWith('@')) return null
    const [, code] = /^=(\d{3})$/.exec(last) ?? []
    if (code !== undefined) {
      this.#draft.near(directive, 'for files too')
      return { respond: { status: Number(code) } }
    }
    if (!hasGuards(server.block)) return null
    this.#draft.missing(directive, 'it leads to another location: the route answers 403')
    return CLOSED
  }

  #authorization(server: Server, levels: Levels): Authorization | null | 'unknown' {
    return authorizationOf(this.#draft, server.block, this.#http, levels)
  }

  #asked(authorization: Authorization | null | 'unknown'): Action {
    if (authorization === null || authorization === 'unknown') return {}
    const { scheme, authority, levels, path, headers } = authorization
    return {
      forwardAuth: {
        upstream: this.#upstream(scheme, authority, levels),
        path,
        ...(headers.length > 0 && { responseHeaders: headers }),
      },
    }
  }

  #closed(levels: Levels): Action {
    for (const each of levels[0]!)
      if (each.name === 'proxy_pass') this.#draft.missing(each, 'its route answers 403 until it has a guard')
    return CLOSED
  }

  /** The named location that gets what `try_files` does not find, with its levels; null if there is none, or if it is one of those that have `led` here. */
  named(server: Server, levels: Levels, led: readonly string[]): { name: string; levels: Levels } | null {
    const name = levels[0]!.find(each => each.name === 'try_files')?.args.at(-1)
    if (name?.startsWith('@') !== true || led.includes(name)) return null
    const location = server.block.find(each => each.name === 'location' && each.args[0] === name)
    if (location === undefined || location.block === null) return null
    this.#draft.near(location, 'for files too')
    for (const each of levels[0]!)
      if (each.name === 'proxy_pass') this.#draft.near(each, `by ${name}, for files too`)
    return { name, levels: [location.block, ...levels.slice(-2)] }
  }

  #upstream(scheme: Scheme, authority: string, levels: Levels): string {
    const block = this.#upstreams.get(authority)
    const name = this.#draft.upstreamName(scheme, authority)
    let upstream = this.#draft.upstreams.get(name)
    if (upstream === undefined) {
      upstream = serversOf(this.#draft, block, authority, scheme)
      this.#draft.upstreams.set(name, upstream)
    }
    if (scheme === 'https') this.#serverTls(upstream, levels)
    this.#longest(upstream, 'connect', effectiveOne(levels, 'proxy_connect_timeout'))
    this.#longest(upstream, 'response', effectiveOne(levels, 'proxy_read_timeout'))
    const sent = effectiveOne(levels, 'proxy_send_timeout')
    if (sent !== undefined) this.#draft.near(sent, 'timeouts.stall limits bodies that make no progress')
    return name
  }

  /** An upstream has one limit: the longest of those that its locations have. */
  #longest(upstream: Section, key: string, directive: Directive | undefined): void {
    const given = directive === undefined ? null : timeOf(directive.args[0] ?? '', 's')
    if (directive === undefined || given === null) return
    const known = (upstream.timeouts as Record<string, string> | undefined)?.[key]
    if (known === undefined || known === given) this.#draft.said(directive)
    else this.#draft.near(directive, 'an upstream has one limit, the longest')
    if (known === undefined || millisecondsOf(given) > millisecondsOf(known))
      put(upstream, 'timeouts', key, given)
  }

  #serverTls(upstream: Section, levels: Levels): void {
    const draft = this.#draft
    const take = (name: string, key: string) => {
      const directive = effectiveOne(levels, name)
      if (directive === undefined || directive.args[0]!.includes('$')) return
      draft.said(directive)
      put(upstream, 'tls', key, key === 'name' ? directive.args[0] : fileOf(directive))
    }
    take('proxy_ssl_trusted_certificate', 'ca')
    take('proxy_ssl_name', 'name')
    take('proxy_ssl_certificate', 'cert')
    take('proxy_ssl_certificate_key', 'key')
    const [verify, sni] = [
      effectiveOne(levels, 'proxy_ssl_verify'),
      effectiveOne(levels, 'proxy_ssl_server_name'),
    ]
    if (verify !== undefined) draft.said(verify)
    if (sni !== undefined) draft.own(sni, 'servers are always told the name')
    if (verify?.args[0] !== 'on') put(upstream, 'tls', 'verify', false)
  }

  #requestOf(
    server: Server,
    authority: string,
    scheme: string,
    levels: Levels,
    authorization: Authorization | null,
  ): Section {
    const request: Section = {}
    let host: string | null = authority.startsWith('unix:')
      ? 'localhost'
      : authority.replace(scheme === 'https' ? /:443$/ : /:80$/, '')
    const all = effective(levels, 'proxy_set_header')
    const given = all.filter(each => authorization?.takes(each) === true)
    for (const directive of all) {
      const [name = '', text = ''] = directive.args
      const key = name.toLowerCase()
      const others = all.filter(each => each !== directive && isSpelling(each.args[0] ?? '', name))
      if (text === '' && others.some(({ args }) => args[1] !== '')) {
        this.#draft.own(directive, 'another line sets the header')
        continue
      }
      // A client could say it, or another line, in place of the service.
      const isGiven = [directive, ...others].some(each => given.includes(each))
      if (others.some(({ args }) => args[1] !== ''))
        this.#draft.near(directive, isGiven ? 'a header has one line: that of the service' : ONE_LINE)
      if (isGiven) continue
      if (key === 'host') host = this.#hostHeader(directive, text, host, server)
      else if (key === 'upgrade' || key === 'connection')
        this.#draft.own(directive, 'the proxy passes upgrades on')
      else if (isSaid(name)) this.#draft.own(directive, 'the proxy says it always')
      else if (text.replaceAll(/[{}]/g, '').toLowerCase() === `$http_${key.replaceAll('-', '_')}`)
        if (takesUnderscores(levels) && name.includes('-'))
          this.#draft.near(directive, 'a header with _ in its name stays beside it')
        else this.#draft.own(directive, 'the proxy passes it on')
      else if (text === '') {
        this.#draft.said(directive)
        removeHeader(request, name)
      } else if (/^\$\{?request_id\}?$/.test(text)) {
        this.#draft.said(directive)
        this.#draft.set('tracing.requestId', name)
      } else if (!this.#header(request, directive, name, text, server, levels))
        // Clients must not say in its place what nginx says.
        removeHeader(request, name)
    }
    if (!takesUnderscores(levels)) removeLookalikes(request)
    if (host !== null) request.host = host
    return request
  }

  /** Returns the host that servers are told; null for the client's. */
  #hostHeader(directive: Directive, text: string, authority: string | null, server: Server): string | null {
    this.#draft.said(directive)
    if (/^\$\{?(?:host|http_host)\}?(?::\$\{?server_port\}?)?$/.test(text)) return null
    if (/^\$\{?proxy_host\}?$/.test(text)) return authority
    if (/^\$\{?server_name\}?$/.test(text)) return server.names[0] ?? null
    if (!text.includes('$')) return text
    this.#draft.missing(directive, 'the host is the client’s, or a text')
    return null
  }

  /** False if the value cannot be said. */
  #header(
    into: Section,
    directive: Directive,
    name: string,
    text: string,
    server: Server,
    levels: Levels,
  ): boolean {
    if (FRAMING.test(name)) {
      this.#draft.own(directive, 'the proxy says it always')
      return true
    }
    const value = withVariables(text, this.#fixed(server))
    if (value === null) {
      this.#draft.missing(directive, 'the proxy has no such variable')
      return false
    }
    if (value.near) this.#draft.near(directive, 'a variable differs: see the page')
    else this.#draft.said(directive)
    if (/\$remote_addr\b/.test(value.value) && addressIsOfHeader(levels))
      this.#draft.near(directive, 'the client’s address is that of the connection')
    setHeader(into, name, value.value)
    return true
  }

  #fixed(server: Server): Record<string, string> {
    const [name] = server.names
    const [port, ...others] = portsOf(server)
    return {
      ...(name !== undefined && { server_name: name }),
      ...(port !== undefined && others.length === 0 && { server_port: port }),
    }
  }

  #responseOf(server: Server, levels: Levels): Section {
    const added = effective(levels, 'add_header')
    const response = this.#added(added, server, levels)
    for (const each of added)
      if (each.args[2] !== 'always') this.#draft.near(each, 'errors of servers have it too')
    for (const directive of effective(levels, 'proxy_hide_header')) {
      this.#draft.said(directive)
      removeHeader(response, directive.args[0]!)
    }
    const redirect = effectiveOne(levels, 'proxy_redirect')
    if (redirect !== undefined) {
      if (redirect.args[0] === 'off') this.#draft.own(redirect, 'Location stays as the server writes it')
      else this.#draft.missing(redirect, 'Location stays as the server writes it')
    }
    return response
  }

  /** The answer of a `return`, or of a `rewrite` that redirects. */
  returnOf(directive: Directive, levels: Levels, server: Server): Action | null {
    if (directive.name === 'rewrite') return this.#rewriteOf(directive, levels, server)
    const [first = '', ...rest] = directive.args
    const code = /^\d{3}$/.test(first) ? first : '302'
    const text = (/^\d{3}$/.test(first) ? rest : directive.args).join(' ')
    this.#draft.said(directive)
    if (code === '444') {
      this.#draft.near(directive, 'the proxy answers before it closes a connection')
      return CLOSED
    }
    const headers = this.#headersOf(levels, code, server)
    if (REDIRECTS.has(code)) return this.#redirect(directive, Number(code), text, headers, server)
    const type = effectiveOne(levels, 'default_type')
    if (text !== '' && type !== undefined && headers['Content-Type'] === undefined) {
      this.#draft.said(type)
      headers['Content-Type'] = type.args[0]!
    }
    if (text.includes('$')) this.#draft.near(directive, 'bodies have no variables')
    return {
      respond: {
        status: Number(code),
        ...(text !== '' && { body: text }),
        ...(Object.keys(headers).length > 0 && { headers }),
      },
    }
  }

  /** The headers that an answer of nginx itself has. */
  #headersOf(levels: Levels, code: string, server: Server): Section {
    const added = effective(levels, 'add_header').filter(
      each => each.args[2] === 'always' || WITH_HEADERS.test(code),
    )
    return (this.#added(added, server, levels).set ?? {}) as Section
  }

  /** The changes by `add_header`. */
  #added(directives: readonly Directive[], server: Server, levels: Levels): Section {
    const changes: Section = {}
    const nameOf = ({ args: [name = ''] }: Directive) => name.toLowerCase()
    for (const each of directives) {
      const [name = '', text = ''] = each.args
      this.#header(changes, each, name, text, server, levels)
      if (directives.some(other => other !== each && nameOf(other) === nameOf(each)))
        this.#draft.near(each, ONE_LINE)
    }
    return changes
  }

  #redirect(directive: Directive, status: number, text: string, headers: Section, server: Server): Action {
    const value = withVariables(text, this.#fixed(server))
    if (value === null) this.#draft.missing(directive, 'the proxy has no such variable')
    else if (value.near && !/\$http_host/.test(text))
      this.#draft.near(directive, 'a variable differs: see the page')
    const target = value?.value ?? '/'
    const ports = portsOf(server)
    const own = ports.every(each => /^(?:80|443)$/.test(each))
      ? ''
      : ports.length === 1
        ? `:${ports[0]}`
        : null
    // A client keeps the port of a target without host.
    const location = target.startsWith('/') && own !== null ? `$scheme://$host${own}${target}` : target
    return { respond: { status, headers: { ...headers, Location: location } } }
  }

  /** `rewrite ^ URL permanent`, and patterns that take the whole path. */
  #rewriteOf(directive: Directive, levels: Levels, server: Server): Action | null {
    const [pattern = '', target = '', flag] = directive.args
    const whole = /^\^(?:\/?\(\.\*\)\$?|\/\(\.\*\)\$?|\(\.\*\)\$?)?$/.test(pattern)
    const status = flag === 'permanent' ? 301 : flag === 'redirect' || /^https?:/.test(target) ? 302 : null
    const slash = pattern.startsWith('^/')
    const url = target.replace(slash ? /\/\$1\??$/ : /\$1\??$/, '$request_uri')
    if (!whole || status === null || /\$\d/.test(url)) return null
    this.#draft.said(directive)
    if (!target.endsWith('?') && !/\$1$/.test(target))
      this.#draft.near(directive, url.endsWith('$request_uri') ? 'with the query once' : 'without the query')
    return this.#redirect(directive, status, url, this.#headersOf(levels, String(status), server), server)
  }
}
