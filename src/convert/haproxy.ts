import { isAbsolute, join } from 'node:path'
import { type Action, CLOSED, Draft, type ListenerDraft, type RouteDraft, type Section } from './draft.js'
import { type Changes, changeOf, upstreamOf } from './haproxy-backend.js'
import { type Condition, Conditions, type Parsed } from './haproxy-conditions.js'
import { type HaproxySection, parseHaproxy, type Statement } from './haproxy-syntax.js'
import { OWN, sampleText, WITHOUT } from './haproxy-values.js'
import { bothChanges } from './header-changes.js'
import { intersection, routesInOrder } from './order.js'
import { listenerAddress, timeOf } from './values.js'

/** Translates a configuration of HAProxy. Throws ERR_FDB_CONFIG if HAProxy would not read it. */
export function fromHaproxy(text: string, file: string): Draft {
  return new Translation(parseHaproxy(text, file)).draft
}

interface Inheriting extends HaproxySection {
  readonly defaults: readonly Statement[]
  readonly mode: string
}

class Translation {
  readonly draft = new Draft()
  readonly #sections: Inheriting[] = []
  readonly #backends = new Map<string, Inheriting>()
  #caBase = ''
  #crtBase = ''

  constructor(sections: readonly HaproxySection[]) {
    let defaults: readonly Statement[] = []
    for (const section of sections) {
      if (section.kind === 'defaults') defaults = section.statements
      const mode =
        [...defaults, ...section.statements].findLast(({ words }) => words[0] === 'mode')?.words[1] ?? 'tcp'
      const inheriting = { ...section, defaults, mode }
      this.#sections.push(inheriting)
      if (section.kind === 'backend' || section.kind === 'listen')
        this.#backends.set(section.name, inheriting)
    }
    const rules: RouteDraft[] = []
    for (const section of this.#sections) {
      if (section.kind === 'global') this.#global(section)
      if (section.kind === 'resolvers') this.#resolvers(section)
      this.draft.said(section)
    }
    for (const section of this.#sections)
      if (section.kind === 'frontend' || section.kind === 'listen') rules.push(...this.#frontend(section))
    for (const { statements } of this.#sections) for (const each of statements) this.#rest(each)
    const ordered = routesInOrder(this.#withoutListeners(rules))
    this.draft.routes.push(...(ordered ?? rules))
    if (ordered === null)
      for (const { line } of this.draft.remarks)
        if (/^use_backend/.test(line.text)) this.draft.near(line, 'too many rules overlap: check their order')
  }

  #global({ statements }: HaproxySection): void {
    for (const statement of statements) {
      const [first, second = ''] = statement.words
      if (first === 'ca-base') this.#caBase = second
      else if (first === 'crt-base') this.#crtBase = second
      else if (first === 'maxconn') this.draft.set('limits.connections', Number(second))
      else if (first === 'nbthread' || first === 'nbproc') {
        if (second !== '1') this.draft.set('workers', Number(second))
      } else continue
      this.draft.said(statement)
    }
  }

  #resolvers({ statements }: HaproxySection): void {
    const servers = statements.filter(({ words }) => words[0] === 'nameserver')
    for (const each of servers) this.draft.said(each)
    if (servers.length > 0)
      this.draft.set('resolver.servers', servers.map(({ words }) => words[2]!.replace(/:53$/, '')) as never)
  }

  /** The rules of a frontend, in the order in which HAProxy looks at them. */
  #frontend(section: Inheriting): RouteDraft[] {
    const { draft } = this
    const all = [...section.defaults, ...section.statements]
    const binds = section.statements.filter(({ words }) => words[0] === 'bind')
    if (isOfOperators(section)) {
      for (const each of binds) draft.own(each, 'fd-broker status and top, and metrics')
      return []
    }
    const listeners = binds.flatMap(each => this.#bind(each))
    this.#limits(all)
    if (section.mode === 'http') for (const each of all) this.#errorPages(each)
    if (section.mode === 'tcp') {
      this.#forward(section, listeners)
      return []
    }
    const conditions = new Conditions()
    for (const each of section.statements) {
      if (each.words[0] !== 'acl') continue
      conditions.add(each)
      draft.said(each)
    }
    const changes = { plain: noChanges(), secure: noChanges() }
    const limit = this.#clientLimits(section.statements, conditions)
    const rules: { parsed: Parsed; action: Action; statement: Statement }[] = []
    const later: typeof rules = []
    for (const statement of section.statements) {
      const { words } = statement
      const parsed = conditions.parse(words, statement)
      const conditional = words.some(word => word === 'if' || word === 'unless')
      if (draft.has(statement) || this.#change(statement, parsed, changes, conditional, listeners)) continue
      const action = this.#answerOf(statement)
      if (action !== null)
        this.#rule(rules, statement, parsed, action, /deny|tarpit|auth/.test(words[1] ?? ''))
      else if (words[0] === 'use_backend') {
        const target = this.#toBackend(statement, words[1]!)
        if (target !== null) this.#rule(later, statement, parsed, target, false)
      } else if (words[0] === 'monitor-uri') {
        draft.said(statement)
        rules.push({
          parsed: { any: [{ when: [], path: words[1]! }], unknown: null, near: '' },
          action: { respond: {} },
          statement,
        })
      }
    }
    const last = all.findLast(({ words }) => words[0] === 'default_backend')
    const fallback =
      last !== undefined
        ? this.#toBackend(last, last.words[1]!)
        : section.kind === 'listen'
          ? this.#toBackend(section as never, section.name)
          : null
    if (last !== undefined) draft.said(last)
    const ordered = [
      ...rules,
      ...later,
      {
        parsed: { any: [{ when: [] }], unknown: null, near: '' },
        action: fallback ?? { respond: { status: 503 } },
        statement: section as never,
      },
    ]
    const routes = (own: Changes, at: readonly ListenerDraft[]) => {
      let list: RouteDraft[] = []
      for (const { parsed, action } of ordered.toReversed()) {
        const whole = withChanges(action, own, limit)
        for (const condition of parsed.any.toReversed())
          list = [...this.#before(list, condition, whole, at), ...list]
      }
      return list
    }
    return [
      ...routes(
        changes.plain,
        listeners.filter(({ tls }) => tls !== true),
      ),
      ...routes(
        changes.secure,
        listeners.filter(({ tls }) => tls === true),
      ),
    ]
  }

  /** Takes a change of headers or of the path, for all listeners or for those with or without TLS; false if the statement is none. */
  #change(
    statement: Statement,
    { any, unknown }: Parsed,
    { plain, secure }: { readonly plain: Changes; readonly secure: Changes },
    conditional: boolean,
    listeners: readonly ListenerDraft[],
  ): boolean {
    const { draft } = this
    const [only] = any
    const byTls = any.length === 1 && unknown === null && only!.secure !== undefined && alone(only!)
    if (!conditional || !byTls) {
      const taken = changeOf(draft, statement, plain, conditional)
      return taken && changeOf(draft, statement, secure, conditional)
    }
    if (listeners.some(({ tls }) => (tls === true) === only!.secure))
      return changeOf(draft, statement, only!.secure! ? secure : plain, false)
    if (!changeOf(new Draft(), statement, noChanges(), false)) return false
    draft.own(statement, only!.secure! ? 'no listener has TLS' : 'all listeners have TLS')
    return true
  }

  /** The routes of a rule before others, which get the requests that the rule excepts. */
  #before(
    others: readonly RouteDraft[],
    condition: Condition,
    action: Action,
    listeners: readonly ListenerDraft[],
  ): RouteDraft[] {
    const own = this.#routes(condition, action, listeners)
    const excepted = (condition.except ?? [])
      .flatMap(each => this.#routes(each, action, listeners))
      .flatMap(each => own.flatMap(one => intersection(one, each) ?? []))
    const passed = excepted.flatMap(each =>
      others.flatMap(({ action: other, ...match }) => {
        const both = intersection(each, match)
        return both === null ? [] : [{ ...both, action: other }]
      }),
    )
    return [...passed, ...own.flatMap(withoutStrangePrefix)]
  }

  #rule(
    rules: { parsed: Parsed; action: Action; statement: Statement }[],
    statement: Statement,
    parsed: Parsed,
    action: Action,
    guards: boolean,
  ): void {
    const { draft } = this
    if (parsed.unknown !== null) {
      const { text, negated } = parsed.unknown
      // Requests that are not on the list are refused: without the list, all are.
      if (guards && negated) {
        draft.missing(statement, `${text}: such routes answer 403 until they have a guard`)
        rules.push({ parsed, action, statement })
      } else draft.missing(statement, `no counterpart: ${text}`)
      return
    }
    if (parsed.near === '') draft.said(statement)
    else draft.near(statement, parsed.near)
    rules.push({ parsed, action, statement })
  }

  #routes(condition: Condition, action: Action, listeners: readonly ListenerDraft[]): RouteDraft[] {
    const { host = '*', path = '/', when, secure, port } = condition
    return listeners
      .filter(each => secure === undefined || secure === (each.tls === true))
      .filter(each => port === undefined || each.address.endsWith(`:${port}`))
      .map(({ name }) => ({ listener: name, host, path, when, action }))
  }

  /** Leaves the listener out where all have the same rules. */
  #withoutListeners(rules: readonly RouteDraft[]): RouteDraft[] {
    const names = [...this.draft.listeners.values()]
      .filter(each => each.forward === undefined)
      .map(({ name }) => name)
    const of = (name: string) =>
      JSON.stringify(rules.filter(each => each.listener === name).map(({ listener: _, ...each }) => each))
    if (!names.every(name => of(name) === of(names[0]!))) return [...rules]
    return rules.filter(each => each.listener === names[0]).map(({ listener: _, ...each }) => each)
  }

  /** The answer that a statement gives itself; null if it gives none. */
  #answerOf(statement: Statement): Action | null {
    const { words } = statement
    const [first, second = ''] = words
    const rest = first === 'redirect' ? words.slice(1) : words.slice(2)
    const after = (name: string) => (rest.includes(name) ? rest[rest.indexOf(name) + 1] : undefined)
    if (
      first === 'block' ||
      (first === 'http-request' && /^(?:deny|tarpit|reject|silent-drop)$/.test(second))
    )
      return { respond: { status: Number(after('deny_status') ?? after('status') ?? 403) } }
    if (first === 'http-request' && second === 'auth') return CLOSED
    if (first === 'http-request' && second === 'return') {
      const body = after('string') ?? after('lf-string')
      const type = after('content-type')
      return {
        respond: {
          status: Number(after('status') ?? 200),
          ...(body !== undefined && { body }),
          ...(type !== undefined && { headers: { 'Content-Type': type } }),
        },
      }
    }
    if (first !== 'redirect' && !(first === 'http-request' && second === 'redirect')) return null
    const status = Number(after('code') ?? 302)
    const [scheme, prefix, location] = [after('scheme'), after('prefix'), after('location')]
    const to =
      scheme !== undefined
        ? `${scheme}://$host$request_uri`
        : prefix !== undefined
          ? `${sampleText(prefix) ?? ''}$request_uri`
          : sampleText(location ?? '/')
    if (to === null) return null
    return { respond: { status, headers: { Location: to.startsWith('/') ? `$scheme://$host${to}` : to } } }
  }

  #toBackend(statement: Statement, name: string): Action | null {
    const backend = this.#backends.get(name)
    if (backend === undefined || name.includes('%')) {
      this.draft.missing(statement, 'there is no such backend')
      return null
    }
    const answer = this.#answerOfBackend(backend)
    if (answer !== null) return answer
    if (!this.draft.upstreams.has(name))
      this.draft.upstreams.set(
        name,
        upstreamOf(this.draft, backend, backend.defaults, backend.mode, this.#caBase),
      )
    const changes = { request: {} as Section, response: {} as Section }
    if (backend.kind === 'backend')
      for (const each of backend.statements)
        changeOf(
          this.draft,
          each,
          changes,
          each.words.some(word => word === 'if' || word === 'unless'),
        )
    this.#queue(backend)
    return withChanges({ upstream: name }, changes, {})
  }

  /** The answer of a backend without servers; null if it has any. */
  #answerOfBackend({ statements }: Inheriting): Action | null {
    if (statements.some(({ words }) => /^server(?:-template)?$/.test(words[0]!))) return null
    for (const each of statements) {
      const action = each.words.some(word => word === 'if' || word === 'unless') ? null : this.#answerOf(each)
      if (action === null) continue
      this.draft.said(each)
      return action
    }
    return { respond: { status: 503 } }
  }

  /** Requests wait for servers at their limit, as long as for a connection. */
  #queue({ name, defaults, statements }: Inheriting): void {
    const upstream = this.draft.upstreams.get(name)!
    if (upstream.connections === undefined || upstream.queue !== undefined) return
    const all = [...defaults, ...statements]
    const of = (what: string) => all.findLast(({ words }) => words[0] === 'timeout' && words[1] === what)
    const limit = of('queue') ?? of('connect')
    if (limit?.words[1] === 'queue') this.draft.said(limit)
    const timeout = timeOf(limit?.words[2] ?? '', 'ms')
    upstream.queue = { requests: 10_000, ...(timeout !== null && { timeout }) }
  }

  #forward(section: Inheriting, listeners: readonly ListenerDraft[]): void {
    const target = section.statements.find(({ words }) => words[0] === 'default_backend')
    const name = target?.words[1] ?? section.name
    for (const each of section.statements.filter(({ words }) => words[0] === 'use_backend'))
      this.draft.missing(each, 'a listener that forwards has one upstream')
    if (this.#toBackend(target ?? (section as never), name) === null) return
    if (target !== undefined) this.draft.said(target)
    for (const listener of listeners) listener.forward = name
  }

  #bind(statement: Statement): ListenerDraft[] {
    const [, addresses = '', ...options] = statement.words
    const { draft } = this
    const value = (name: string) => (options.includes(name) ? options[options.indexOf(name) + 1] : undefined)
    draft.said(statement)
    return addresses.split(',').flatMap(text => {
      const address = listenerAddress(
        text
          .replace(/^ipv[46]@/, '')
          .replace(/^:::/, '[::]:')
          .replace(/^unix@/, ''),
      )
      if (address === null) {
        draft.missing(statement, 'a listener has an IP address and a port, or a path')
        return []
      }
      const listener = draft.listener(address)
      if (options.includes('ssl')) listener.tls = true
      if (/\bh2\b/.test(value('alpn') ?? '')) listener.http2 = true
      if (options.includes('accept-proxy')) {
        listener.proxyProtocol = []
        draft.near(statement, 'name the load balancers in proxyProtocol')
      }
      for (const [at, option] of options.entries())
        if (option === 'crt') this.#certificate(statement, options[at + 1]!)
      const ca = value('ca-file')
      if (ca !== undefined && (value('verify') ?? 'none') !== 'none')
        listener.clientCa = { file: this.#file(ca, this.#caBase), required: value('verify') === 'required' }
      if (options.includes('crt-list')) draft.missing(statement, 'name each certificate in tls.certificates')
      return [listener]
    })
  }

  #certificate(statement: Statement, path: string): void {
    const file = this.#file(path, this.#crtBase)
    if (/\.(?:pem|crt|cer|combined)$/.test(file)) this.draft.certificate(file, file, [])
    else this.draft.missing(statement, 'name each certificate of the folder in tls.certificates')
  }

  #file(path: string, base: string): string {
    return isAbsolute(path) || base === '' ? path : join(base, path)
  }

  #limits(all: readonly Statement[]): void {
    const { draft } = this
    const keys: Readonly<Record<string, string>> = {
      client: 'timeouts.stall',
      'http-request': 'timeouts.head',
      'http-keep-alive': 'timeouts.idle',
      tunnel: 'timeouts.tunnel',
    }
    for (const statement of all) {
      const [first, second = '', text = ''] = statement.words
      const key = first === 'timeout' ? keys[second] : undefined
      const time = timeOf(text, 'ms')
      if (key !== undefined && time !== null) {
        if ((draft.get(key) ?? time) === time) draft.said(statement)
        else draft.near(statement, `there is one ${key} for all`)
        draft.set(key, time)
      } else if (first === 'option' && /^(?:httplog|tcplog)$/.test(second)) {
        draft.near(statement, 'JSON lines on stdout, or in the file of --access-log-file')
        draft.set('accessLog', true)
      } else if (first === 'maxconn' && draft.get('limits.connections') === undefined) {
        draft.near(statement, 'for all listeners')
        draft.set('limits.connections', Number(second))
      } else if (first === 'maxconn') draft.near(statement, 'for all listeners: limits.connections')
    }
  }

  /** `track-sc0 src`, and refusals above a rate of requests, or a number of connections. */
  #clientLimits(statements: readonly Statement[], conditions: Conditions): Action {
    const { draft } = this
    const find = (pattern: RegExp) => statements.find(({ text }) => pattern.test(text))
    const table = find(/^stick-table /)
    const track = find(/^(?:http-request|tcp-request \w+) track-sc[012] src\b/)
    const [, per] = /http_req_rate\((\w+)\)/.exec(table?.text ?? '') ?? []
    const rates: number[] = []
    for (const each of statements) {
      if (!/^(?:http-request (?:deny|reject|tarpit)|tcp-request \w+ reject)\b/.test(each.text)) continue
      const test = conditions.only(each.words)
      const [, kind, most] =
        /^(?:src|sc[012]?)_(http_req_rate|conn_cur)(?:\([^)]*\))? gt (\d+)$/.exec(test ?? '') ?? []
      const counted = table !== undefined && (test?.startsWith('src') === true || track !== undefined)
      if (kind === undefined || !counted) continue
      if (kind === 'conn_cur') {
        draft.near(each, 'for all listeners, of each process')
        const known = draft.get('limits.connectionsPerClient') as number | undefined
        draft.set('limits.connectionsPerClient', Math.min(Number(most), known ?? Infinity))
      } else if (per !== undefined) {
        draft.near(each, 'a bucket, answered with 429: the lowest rate')
        rates.push(Number(most))
      } else continue
      for (const one of [table, track]) if (one !== undefined) draft.said(one)
    }
    if (rates.length === 0) return {}
    return {
      rateLimit: { requests: Math.min(...rates), per: timeOf(per!, 'ms'), by: 'address', name: 'clients' },
    }
  }

  /** Pages for errors: of a section, or of the section for errors that it names. */
  #errorPages(statement: Statement): void {
    const { draft } = this
    const [first, second = '', path] = statement.words
    if (first === 'errorfiles') {
      const pages = this.#sections.find(({ kind, name }) => kind === 'http-errors' && name === second)
      for (const each of pages?.statements ?? []) this.#errorPages(each)
      draft.near(statement, 'for errors of the proxy itself')
    } else if (first === 'errorfile' && /^[45]\d\d$/.test(second) && path?.startsWith('/') === true) {
      const pages = (draft.get('errorPages') ?? {}) as Section
      draft.near(statement, 'for errors of the proxy itself')
      draft.set('errorPages', { ...pages, [second]: path })
    }
  }

  #rest(statement: Statement): void {
    const { draft } = this
    if (draft.has(statement)) return
    const own = OWN.find(([pattern]) => pattern.test(statement.text))
    const without = WITHOUT.find(([pattern]) => pattern.test(statement.text))
    if (statement.words[0] === 'mode') draft.said(statement)
    else if (
      /^(?:timeout|balance|acl|cookie|option httpchk|option tcp-check|http-check|server|default-server|default_backend)\b/.test(
        statement.text,
      )
    )
      draft.own(statement, 'nothing uses it')
    else if (
      /^errorfile/.test(statement.text) &&
      [...draft.listeners.values()].every(each => each.forward !== undefined)
    )
      draft.own(statement, 'no listener speaks HTTP')
    else if (own !== undefined) draft.own(statement, own[1])
    else draft.missing(statement, without?.[1] ?? 'no counterpart')
  }
}

/** A prefix is removed where the path has it: a route for all paths becomes two. */
function withoutStrangePrefix(route: RouteDraft): RouteDraft[] {
  const { path, action } = route
  const request = (action.request ?? {}) as Section
  const prefix = request.stripPrefix as string | undefined
  if (prefix === undefined || path === prefix || path.startsWith(`${prefix}/`)) return [route]
  const { stripPrefix: _, addPrefix: __, ...rest } = request
  const { request: ___, ...plain } = action
  const without = { ...route, action: { ...plain, ...(Object.keys(rest).length > 0 && { request: rest }) } }
  const within = path === '/' || prefix.startsWith(`${path}/`)
  return within ? [{ ...route, path: prefix }, without] : [without]
}

/** Whether a section only shows HAProxy's own figures. */
function isOfOperators({ statements }: HaproxySection): boolean {
  const has = (pattern: RegExp) => statements.some(({ text }) => pattern.test(text))
  return (
    has(/^(?:stats (?:enable|uri)|http-request use-service prometheus)/) &&
    !has(/^(?:server|default_backend|use_backend)\b/)
  )
}

const noChanges = (): Changes => ({ request: {}, response: {} })

/** Whether a condition is about TLS only. */
const alone = ({ host, path, when, port, except }: Condition) =>
  host === undefined && path === undefined && when.length === 0 && port === undefined && except === undefined

/** Adds changes of a frontend to the action of a route. */
function withChanges(action: Action, changes: Changes, limit: Action): Action {
  const merged = (name: 'request' | 'response') => {
    const all = bothChanges(changes[name], (action[name] ?? {}) as Section)
    for (const [key, value] of Object.entries(all)) if (value === undefined) delete all[key]
    return Object.keys(all).length > 0 ? { [name]: all } : {}
  }
  if (action.respond !== undefined) return { ...action, ...limit }
  const { request: _, response: __, ...rest } = action
  return { ...rest, ...limit, ...merged('request'), ...merged('response') }
}
