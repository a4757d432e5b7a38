import { type Action, CLOSED, type Draft, type ListenerDraft, put, type Section } from './draft.js'
import { removeHeader, setHeader } from './header-changes.js'
import { type Authorization, authorizationOf } from './nginx-auth.js'
import { conditionOf } from './nginx-conditions.js'
import { isGuardedBlock, moduleGuards, refusesOthers } from './nginx-guards.js'
import { leadsTo, matcherOf, pathsOf } from './nginx-location.js'
import { type Branch, Places } from './nginx-places.js'
import { Rates } from './nginx-rates.js'
import { clientCaOf, type Entry, isAlikeEverywhere, type Server, Settings } from './nginx-settings.js'
import type { Directive } from './nginx-syntax.js'
import { type Scheme, serverOf, serversOf } from './nginx-upstream.js'
import { effective, effectiveOne, fileOf, type Levels, withVariables } from './nginx-values.js'
import { routesInOrder } from './order.js'
import { FRAMING, listenerAddress, millisecondsOf, timeOf } from './values.js'

/** The answers to which nginx adds headers unless it is told `always`. */
const WITH_HEADERS = /^(?:20[0146]|30[1234678])$/
const REDIRECTS = new Set(['301', '302', '303', '307', '308'])

const passes = (levels: Levels) => levels[0]!.some(({ name }) => name === 'proxy_pass')

/** Translates an `http` block. */
export class HttpServers {
  readonly #draft: Draft
  readonly #http: readonly Directive[]
  readonly #upstreams = new Map<string, Directive>()
  readonly #rates: Rates
  #servers: Server[] = []
  #everywhere = false

  constructor(draft: Draft, http: readonly Directive[]) {
    this.#draft = draft
    this.#http = http
    this.#rates = new Rates(draft)
  }

  translate(): void {
    for (const directive of this.#http) {
      if (directive.name === 'upstream') this.#upstreams.set(directive.args[0]!, directive)
      else if (directive.name === 'limit_req_zone') this.#rates.zone(directive)
      else if (directive.name === 'map') this.#map(directive)
    }
    const blocks = this.#http.filter(({ name }) => name === 'server')
    this.#servers = blocks.map(each => this.#server(each))
    this.#chooseDefaults(blocks)
    const sets = new Set(
      this.#servers.map(server => JSON.stringify(server.entries.map(each => each.listener.name).sort())),
    )
    this.#everywhere = sets.size <= 1 && this.#servers.every(each => isAlikeEverywhere(each))
    for (const server of this.#servers) this.#routes(server)
    const settings = new Settings(this.#draft, this.#http)
    for (const server of this.#servers) settings.take(server)
  }

  #server(directive: Directive): Server {
    const block = directive.block ?? []
    this.#draft.said(directive)
    const names: string[] = []
    for (const each of block.filter(({ name }) => name === 'server_name')) {
      this.#draft.said(each)
      for (const name of each.args) names.push(...this.#hostsOf(each, name))
    }
    return { block, names: [...new Set(names)], entries: this.#entries(directive) }
  }

  #hostsOf(directive: Directive, name: string): string[] {
    if (name === '' || name === '_') return []
    if (name.startsWith('~') || name.endsWith('*') || name.includes('$')) {
      this.#draft.missing(directive, `hosts are names, or *. and a name: not ${name}`)
      return []
    }
    return name.startsWith('.')
      ? [name.slice(1).toLowerCase(), `*${name.toLowerCase()}`]
      : [name.toLowerCase()]
  }

  #entries(server: Directive): Entry[] {
    const listens = (server.block ?? []).filter(({ name }) => name === 'listen')
    const draft = this.#draft
    const entries = new Map<string, Entry>()
    for (const each of listens.length > 0 ? listens : [null]) {
      const [text = '80', ...options] = each?.args ?? []
      const address = listenerAddress(text, '80')
      if (address === null) {
        draft.missing(each!, 'a listener has an IP address and a port, or a path')
        continue
      }
      if (options.includes('quic')) {
        draft.missing(each!, 'no HTTP/3')
        continue
      }
      if (each !== null) draft.said(each)
      const listener = draft.listener(address)
      const legacy = server.block!.find(({ name, args }) => name === 'ssl' && args[0] === 'on')
      if (legacy !== undefined) draft.said(legacy)
      const secure = options.includes('ssl') || legacy !== undefined
      if (secure) listener.tls = true
      const http2 = server.block!.find(({ name }) => name === 'http2')
      if (http2 !== undefined) draft.said(http2)
      if (options.includes('http2') || http2?.args[0] === 'on') listener.http2 = true
      if (options.includes('proxy_protocol')) this.#proxyProtocol(server, each!, listener)
      const isDefault = options.includes('default_server') || options.includes('default')
      const known = entries.get(address)
      entries.set(address, { listener, secure, isDefault: isDefault || known?.isDefault === true })
    }
    return [...entries.values()]
  }

  #proxyProtocol(server: Directive, listen: Directive, listener: ListenerDraft): void {
    const from = effective([server.block!, this.#http], 'set_real_ip_from')
    for (const each of from) this.#draft.said(each)
    const header = effectiveOne([server.block!, this.#http], 'real_ip_header')
    if (header !== undefined) this.#draft.said(header)
    if (from.length === 0) this.#draft.near(listen, 'name the load balancers in proxyProtocol')
    listener.proxyProtocol = from.map(each => each.args[0]!)
  }

  /** nginx takes the first server of an address for hosts that no server has, unless one says that it is the default. */
  #chooseDefaults(blocks: readonly Directive[]): void {
    const seen = new Map<ListenerDraft, Entry>()
    for (const { entries } of this.#servers)
      for (const entry of entries)
        if (!seen.has(entry.listener) || entry.isDefault) seen.set(entry.listener, entry)
    for (const entry of seen.values()) entry.isDefault = true
    for (const directive of blocks)
      if (directive.block === null) this.#draft.missing(directive, 'it has no block')
  }

  #map(directive: Directive): void {
    if (/^\$http_upgrade$/.test(directive.args[0] ?? ''))
      this.#draft.own(directive, 'the proxy passes upgrades on')
    else this.#draft.missing(directive, 'there are no variables of your own')
    for (const each of directive.block ?? []) this.#draft.own(each, 'part of the map')
  }

  #routes(server: Server): void {
    const { block } = server
    const levels: Levels = [block, this.#http]
    const branches: Branch[] = []
    const hosts = new Map<string, Action>()
    let plain: Action | null = null
    let whole = this.#returnOf(block, levels, server)
    for (const each of block.filter(({ name }) => name === 'if')) {
      const condition = each.args.join(' ')
      const action = this.#returnOf(each.block ?? [], [each.block ?? [], ...levels], server)
      const [, variable, operator, value] = /^\(\s*\$(\w+)\s*(!?=)\s*"?([^"]*?)"?\s*\)$/.exec(condition) ?? []
      const when = action === null ? null : conditionOf(condition)
      if (action === null) this.#draft.missing(each, 'only a return is possible within an if')
      else if (variable === 'host' && operator === '=') hosts.set(value!.toLowerCase(), action)
      else if (/^(?:scheme(?:=http|!=https)|https(?:=|!=on))$/.test(`${variable}${operator}${value}`))
        plain = action
      else if (when !== null) branches.push({ when, action })
      else {
        if (this.#lost(each, action)) whole = CLOSED
        continue
      }
      if (action !== null) this.#draft.said(each)
    }
    if (this.#hasOtherCa(server)) whole = CLOSED
    const add = (path: string, action: Action, also: readonly Branch[] = []) => {
      for (const { listener, host, secure } of this.#places(server, [...hosts.keys()])) {
        const moved = hosts.get(host)
        const match = { ...(listener !== null && { listener }), host, path }
        if (moved !== undefined || (plain !== null && !secure)) {
          if (path === '/') this.#draft.routes.push({ ...match, when: [], action: moved ?? plain! })
          continue
        }
        const rules = [...branches, ...also].map(each => ({
          ...match,
          when: [each.when],
          action: each.action,
        }))
        const all = [...rules, { ...match, when: [], action }]
        this.#draft.routes.push(...(routesInOrder(all) ?? all))
      }
    }
    if (whole !== null) add('/', whole)
    else {
      const found = new Places()
      for (const location of block.filter(({ name }) => name === 'location'))
        this.#location(server, location, levels, found)
      const files = () => this.#target(server, '/', levels) ?? { respond: { status: 404 } }
      for (const [path, { action, also }] of found.all(files)) add(path, action, also)
    }
  }

  /** Says that the condition of an `if` has no counterpart. Returns whether its routes must be closed without it. */
  #lost(directive: Directive, action: Action): boolean {
    const closes = refusesOthers(directive.args.join(' '), action, this.#http)
    this.#draft.missing(
      directive,
      closes
        ? 'the route answers 403 until it has a guard: conditions are about method, header, parameter or cookie'
        : 'conditions are about method, header, parameter or cookie',
    )
    return closes
  }

  /** Whether another server of the listener has asked for certificates of another CA. */
  #hasOtherCa(server: Server): boolean {
    const own = clientCaOf(server.block, this.#http)
    const other = this.#servers
      .slice(0, this.#servers.indexOf(server))
      .filter(({ entries }) =>
        entries.some(
          ({ listener, secure }) => secure && server.entries.some(each => each.listener === listener),
        ),
      )
      .map(({ block }) => clientCaOf(block, this.#http))
      .find(ca => ca !== null && own !== null && ca.file !== own.file)
    if (other === undefined) return false
    this.#draft.missing(
      own!.directive,
      'a listener has one file of CAs: the routes of this server answer 403',
    )
    return true
  }

  /** The hosts of a server, by listener if that matters. */
  #places(
    { names, entries }: Server,
    moved: readonly string[],
  ): { listener: string | null; host: string; secure: boolean }[] {
    return (this.#everywhere ? entries.slice(0, 1) : entries).flatMap(({ listener, isDefault, secure }) =>
      [...new Set([...this.#hosts(names, isDefault, listener), ...moved])].map(host => ({
        listener: this.#everywhere ? null : listener.name,
        host,
        secure,
      })),
    )
  }

  /** The hosts of a server at a listener. The default one needs no names, but those that a wildcard of another server would take. */
  #hosts(names: readonly string[], isDefault: boolean, listener: ListenerDraft): readonly string[] {
    if (!isDefault) return names
    const wild = this.#servers
      .filter(({ entries }) => entries.some(each => each.listener === listener))
      .flatMap(each => each.names.filter(name => name.startsWith('*.') && !names.includes(name)))
    return [...names.filter(name => wild.some(each => name.endsWith(each.slice(1)))), '*']
  }

  #location(server: Server, location: Directive, outer: Levels, found: Places): void {
    const block = location.block ?? []
    const levels = [block, ...outer]
    const { modifier, text } = matcherOf(location)
    // Only a `try_files` leads there.
    if (text.startsWith('@')) return
    const paths = pathsOf(this.#draft, location)
    for (const each of block.filter(({ name }) => name === 'location'))
      this.#location(server, each, levels, found)
    if (paths.length === 0) {
      // Plain locations may have its requests.
      if (modifier.startsWith('~') && isGuardedBlock(block))
        found.add({ text, modifier, paths, action: CLOSED, also: [] })
      return
    }
    const branches: Branch[] = []
    let isClosed = false
    for (const each of block.filter(({ name }) => name === 'if')) {
      const action = this.#returnOf(each.block ?? [], [each.block ?? [], ...levels], server)
      const when = action === null ? null : conditionOf(each.args.join(' '))
      if (action === null) this.#draft.missing(each, 'only a return is possible within an if')
      else if (when === null) isClosed = this.#lost(each, action) || isClosed
      else {
        this.#draft.said(each)
        branches.push({ when, action })
      }
    }
    for (const path of paths) {
      const action = isClosed
        ? this.#closed(levels)
        : (this.#internal(block) ?? this.#target(server, path, levels))
      if (action === null) {
        this.#draft.missing(
          location,
          'its files need a server; until then these requests go to the location around it',
        )
        return
      }
      if (modifier === '=' && leadsTo(action, `${path}/`)) {
        const why = `${path} is served as ${path}/, without a redirect`
        for (const each of [location, ...block.filter(({ name }) => name === 'return')])
          this.#draft.near(each, why)
        continue
      }
      found.add({ text, modifier, paths: [path], action, also: branches })
    }
  }

  /** The action of a location; null if it only serves files. `tried`: a `try_files` has led to it. */
  #target(server: Server, path: string, levels: Levels, tried = false): Action | null {
    const draft = this.#draft
    const guard = this.#guard(levels)
    const back = this.#returnOf(levels[0]!, levels, server)
    const limit = this.#rates.at(levels)
    if (guard) return this.#closed(levels)
    if (back !== null) return { ...back, ...limit }
    const authorization = authorizationOf(draft, server.block, this.#http, levels)
    const named = tried ? null : this.#named(server, levels)
    if (authorization === 'unknown' && (named !== null || passes(levels))) return this.#closed(levels)
    if (named !== null) {
      const action = this.#target(server, path, named, true)
      return action && { ...limit, ...this.#asked(authorization), ...action }
    }
    const pass = levels[0]!.find(({ name }) => name === 'proxy_pass')
    // Without a server for its files, the location around it must not get requests that a service decides about.
    if (pass === undefined) return authorization === null ? null : this.#closed(levels)
    const target = serverOf(pass)
    if (target === null) {
      draft.missing(pass, 'servers cannot be chosen by a variable: 502 until there is an upstream')
      return { respond: { status: 502 } }
    }
    draft.said(pass)
    const { scheme, authority, uri } = target
    const upstream = this.#upstream(scheme, authority, levels)
    const asked = authorization === 'unknown' ? null : authorization
    const request = this.#requestOf(server, authority, scheme, levels, asked)
    if (uri !== '') {
      const [strip, prefix] = [path.replace(/\/$/, ''), uri.replace(/\/$/, '')]
      if (strip !== '' && strip !== prefix) request.stripPrefix = strip
      if (prefix !== '' && strip !== prefix) request.addPrefix = prefix
    }
    const response = this.#responseOf(server, levels)
    return {
      upstream,
      ...this.#asked(authorization),
      ...limit,
      ...(Object.keys(request).length > 0 && { request }),
      ...(Object.keys(response).length > 0 && { response }),
    }
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

  /** The answer to clients of a location that only nginx itself uses; null for others. */
  #internal(block: readonly Directive[]): Action | null {
    const directive = block.find(({ name }) => name === 'internal')
    if (directive === undefined) return null
    this.#draft.said(directive)
    return { respond: { status: 404 } }
  }

  #closed(levels: Levels): Action {
    for (const each of levels[0]!)
      if (each.name === 'proxy_pass') this.#draft.missing(each, 'its route answers 403 until it has a guard')
    return CLOSED
  }

  /** The levels of the named location that gets what `try_files` does not find; null if there is none. */
  #named(server: Server, levels: Levels): Levels | null {
    const name = levels[0]!.find(each => each.name === 'try_files')?.args.at(-1)
    if (name?.startsWith('@') !== true) return null
    const location = server.block.find(each => each.name === 'location' && each.args[0] === name)
    if (location === undefined || location.block === null) return null
    this.#draft.near(location, 'for files too')
    for (const each of levels[0]!)
      if (each.name === 'proxy_pass') this.#draft.near(each, `by ${name}, for files too`)
    return [location.block, ...levels.slice(-2)]
  }

  /** Reports whether requests are guarded by what the proxy cannot say. */
  #guard(levels: Levels): boolean {
    const basic = effectiveOne(levels, 'auth_basic')
    const files = effective(levels, 'auth_basic_user_file')
    const access = [...effective(levels, 'deny'), ...effective(levels, 'allow')]
    const closing = moduleGuards(levels)
    if (access.some(({ name }) => name === 'deny')) closing.push(...access)
    if (basic !== undefined && basic.args[0] !== 'off') {
      closing.push(basic, ...files)
      for (const each of [basic, ...files])
        this.#draft.missing(
          each,
          'give the route basicAuth, with the SHA-256 of the passwords; until then it answers 403',
        )
    }
    for (const each of closing) this.#draft.missing(each, 'the route answers 403 until it has a guard')
    return closing.length > 0
  }

  #upstream(scheme: Scheme, authority: string, levels: Levels): string {
    const block = this.#upstreams.get(authority)
    const plain = authority.replaceAll(/[^\w.-]+/g, '-').replaceAll(/^-|-$/g, '')
    const name = this.#draft.upstreamName(
      scheme === 'https' ? `${plain}-tls` : plain,
      `${scheme} ${authority}`,
    )
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
    for (const directive of effective(levels, 'proxy_set_header')) {
      const [name = '', text = ''] = directive.args
      const key = name.toLowerCase()
      if (key === 'host') host = this.#hostHeader(directive, text, host, server)
      else if (key === 'upgrade' || key === 'connection')
        this.#draft.own(directive, 'the proxy passes upgrades on')
      else if (/^x-forwarded-(?:for|proto|host)$/.test(key) || FRAMING.test(key))
        this.#draft.own(directive, 'the proxy says it always')
      else if (text.replaceAll(/[{}]/g, '').toLowerCase() === `$http_${key.replaceAll('-', '_')}`)
        this.#draft.own(directive, 'the proxy passes it on')
      else if (authorization?.takes(directive) === true) continue
      else if (text === '') {
        this.#draft.said(directive)
        removeHeader(request, name)
      } else if (/^\$\{?request_id\}?$/.test(text)) {
        this.#draft.said(directive)
        this.#draft.set('tracing.requestId', name)
      } else if (!this.#header(request, directive, name, text, server))
        // Clients must not say in its place what nginx says.
        removeHeader(request, name)
    }
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
  #header(into: Section, directive: Directive, name: string, text: string, server: Server): boolean {
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
    setHeader(into, name, value.value)
    return true
  }

  #fixed({ names, entries }: Server): Record<string, string> {
    const ports = new Set(entries.map(({ listener }) => /\d+$/.exec(listener.address)?.[0]))
    const [port] = ports
    return {
      ...(names[0] !== undefined && { server_name: names[0] }),
      ...(ports.size === 1 && port !== undefined && { server_port: port }),
    }
  }

  #responseOf(server: Server, levels: Levels): Section {
    const response: Section = {}
    for (const directive of effective(levels, 'add_header')) {
      const [name = '', text = ''] = directive.args
      this.#header(response, directive, name, text, server)
      if (directive.args[2] !== 'always') this.#draft.near(directive, 'errors of servers have it too')
    }
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

  /** The answer of a `return`, or of a `rewrite` that redirects, at the innermost level. */
  #returnOf(block: readonly Directive[], levels: Levels, server: Server): Action | null {
    const directive = block.find(({ name }) => name === 'return')
    if (directive === undefined) return this.#rewriteOf(block, server)
    const [first = '', ...rest] = directive.args
    const code = /^\d{3}$/.test(first) ? first : '302'
    const text = (/^\d{3}$/.test(first) ? rest : directive.args).join(' ')
    this.#draft.said(directive)
    if (code === '444') {
      this.#draft.near(directive, 'the proxy answers before it closes a connection')
      return CLOSED
    }
    const changes: Section = {}
    for (const each of effective(levels, 'add_header'))
      if (each.args[2] === 'always' || WITH_HEADERS.test(code))
        this.#header(changes, each, each.args[0]!, each.args[1] ?? '', server)
    const headers = (changes.set ?? {}) as Section
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

  #redirect(directive: Directive, status: number, text: string, headers: Section, server: Server): Action {
    const value = withVariables(text, this.#fixed(server))
    if (value === null) this.#draft.missing(directive, 'the proxy has no such variable')
    else if (value.near && !/\$http_host/.test(text))
      this.#draft.near(directive, 'a variable differs: see the page')
    const target = value?.value ?? '/'
    const location = target.startsWith('/') ? `$scheme://$host${target}` : target
    return { respond: { status, headers: { ...headers, Location: location } } }
  }

  /** `rewrite ^ URL permanent`, and patterns that take the whole path. */
  #rewriteOf(block: readonly Directive[], server: Server): Action | null {
    const directive = block.find(({ name }) => name === 'rewrite')
    const [pattern = '', target = '', flag] = directive?.args ?? []
    if (directive === undefined) return null
    const whole = /^\^(?:\/?\(\.\*\)\$?|\/\(\.\*\)\$?|\(\.\*\)\$?)?$/.test(pattern)
    const status = flag === 'permanent' ? 301 : flag === 'redirect' || /^https?:/.test(target) ? 302 : null
    const slash = pattern.startsWith('^/')
    const url = target.replace(slash ? /\/\$1\??$/ : /\$1\??$/, '$request_uri')
    if (!whole || status === null || /\$\d/.test(url)) {
      this.#draft.missing(directive, 'paths are changed by stripPrefix and addPrefix')
      return null
    }
    this.#draft.said(directive)
    return this.#redirect(directive, status, url, {}, server)
  }
}
