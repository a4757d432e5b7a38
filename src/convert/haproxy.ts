import { isAbsolute, join } from 'node:path'
import { FdbError } from '../errors.js'
import { type Action, CLOSED, Draft, type ListenerDraft, type RouteDraft, refuses } from './draft.js'
import { upstreamOf } from './haproxy-backend.js'
import {
  ALWAYS,
  both,
  bothSaid,
  type Condition,
  Conditions,
  heaviest,
  isOfAddresses,
  negationOf,
  type Parsed,
  SEVERAL,
  withoutUnknown,
} from './haproxy-conditions.js'
import { isOfPaths } from './haproxy-paths.js'
import { Samples } from './haproxy-samples.js'
import { clientLimits, errorPagesOf, limitsOf } from './haproxy-settings.js'
import { type HaproxySection, inOrder, parseHaproxy, type Statement } from './haproxy-syntax.js'
import { OWN, sampleText, WITHOUT } from './haproxy-values.js'
import { Variants } from './haproxy-variants.js'
import { intersection } from './matches.js'
import { FirstRules, MOST_ROUTES, reachedBy, routesInOrder } from './order.js'
import { listenerAddress, timeOf } from './values.js'

/** Translates a configuration of HAProxy. Throws ERR_FDB_CONFIG if HAProxy would not read it. */
export function fromHaproxy(text: string, file: string): Draft {
  return new Translation(parseHaproxy(text, file), file).draft
}

/** The action for requests of one kind. */
interface Rule {
  readonly parsed: Parsed
  readonly action: Action
}

/** Statements of which one with a condition can be a rule. */
const WITH_CONDITION = /^(?:http-request|http-response|tcp-request|block|redirect|use_backend|monitor-uri)$/

interface Inheriting extends HaproxySection {
  readonly defaults: readonly Statement[]
  readonly mode: string
}

class Translation {
  readonly draft = new Draft()
  readonly #sections: Inheriting[] = []
  readonly #backends = new Map<string, Inheriting>()
  readonly #used = new Set<string>()
  /** A rule takes the name of a backend from the request. */
  #choosesByName = false
  readonly #path: string
  #caBase = ''
  #crtBase = ''

  constructor(sections: readonly HaproxySection[], file: string) {
    this.#path = file
    let last: readonly Statement[] = []
    const named = new Map<string, readonly Statement[]>()
    for (const section of sections) {
      const from = /\sfrom\s+(\S+)$/.exec(section.text)?.[1]
      const inherited = from === undefined ? null : (named.get(from) ?? [])
      if (section.kind === 'defaults') {
        last = [...(inherited ?? []), ...section.statements]
        named.set(section.name, last)
      }
      const defaults = inherited ?? last
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
      if (section.kind === 'frontend' || section.kind === 'listen')
        for (const each of this.#frontend(section)) rules.push(each)
    for (const section of this.#sections)
      for (const each of section.statements) {
        const isUsed = section.kind !== 'backend' || this.#choosesByName || this.#used.has(section.name)
        if (isUsed) this.#rest(each)
        else this.draft.own(each, 'nothing uses the backend')
      }
    const ordered = routesInOrder(this.#withoutListeners(rules))
    if (ordered === null) throw overlapError(file)
    this.draft.routes.push(...ordered)
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
    limitsOf(draft, all)
    if (section.mode === 'http') for (const each of all) errorPagesOf(draft, each, this.#sections)
    if (section.mode === 'tcp') {
      this.#forward(section, listeners)
      return []
    }
    const samples = new Samples()
    const conditions = this.#conditionsOf(all, samples)
    const variants = new Variants()
    const { limit, limits } = clientLimits(draft, section.statements, conditions)
    const rules: Rule[] = []
    const later: Rule[] = []
    for (const { statement, parsed } of this.#reached(
      all,
      conditions,
      samples,
      variants,
      listeners,
      limits,
    )) {
      const { words } = statement
      const action = this.#answerOf(statement)
      if (action !== null) rules.push(...this.#rule(statement, parsed, action))
      else if (words[0] === 'use_backend')
        later.push(...this.#toBackend(statement, words[1]!, parsed, section, samples))
      else if (words[0] === 'monitor-uri') {
        draft.said(statement)
        const path = words[1]!
        const when = [`path=${path}`, '!path=*/']
        rules.push({ parsed: { any: [{ when, path, exact: true }], near: '' }, action: { respond: {} } })
      }
    }
    const last = all.findLast(({ words }) => words[0] === 'default_backend')
    const fallback =
      last !== undefined
        ? this.#toBackend(last, last.words[1]!, ALWAYS, section, samples)
        : section.kind === 'listen'
          ? this.#toBackend(section as never, section.name, ALWAYS, section, samples)
          : []
    const rest = fallback.length > 0 ? fallback : [{ parsed: ALWAYS, action: { respond: { status: 503 } } }]
    const ordered = [...rules, ...later, ...rest]
    const routes = (kind: 'plain' | 'secure') => {
      const at = listeners.filter(({ tls }) => (tls === true) === (kind === 'secure'))
      const list = new FirstRules()
      const changed = ordered.flatMap(({ parsed, action }) =>
        variants.of(action, kind, limit).map(each => ({ ...each, parsed: this.#both(parsed, each.parsed) })),
      )
      for (const { parsed, action } of changed.toReversed())
        for (const condition of parsed.any.toReversed()) {
          list.putBefore(this.#before(list, condition, action, at))
          if (list.size > MOST_ROUTES) throw overlapError(this.#path)
        }
      return list.all
    }
    return [...routes('plain'), ...routes('secure')]
  }

  /** Yields the rules of a section that answer or lead requests, with the requests that get there, and takes note of what those before them change. */
  *#reached(
    statements: readonly Statement[],
    conditions: Conditions,
    samples: Samples,
    variants: Variants,
    listeners: readonly ListenerDraft[] | null,
    limits: ReadonlySet<Statement> = new Set(),
  ): Generator<{ readonly statement: Statement; readonly parsed: Parsed }> {
    const { draft } = this
    let left = ALWAYS
    for (const statement of inOrder(statements)) {
      const { words } = statement
      if (limits.has(statement) || !WITH_CONDITION.test(words[0]!)) continue
      const own = conditions.parse(words, statement)
      if (isAllowance(statement)) {
        // Alternatives that cannot be said allow no request.
        const kept = this.#kept(statement, own, false)
        if (kept !== null) left = both(left, negationOf(kept))
        continue
      }
      const parsed = words[0] === 'http-request' && left !== ALWAYS ? both(left, own) : own
      const conditional = words.some(word => word === 'if' || word === 'unless') || parsed !== own
      const isChanged = samples.tellsChanged(statement)
      const isAgain = isOfPaths(statement) && samples.isChanged('path')
      if (samples.take(statement)) draft.said(statement)
      if (isAgain) {
        draft.missing(statement, 'an earlier rule changes the path')
        continue
      }
      if (isChanged) draft.near(statement, 'its value has the request as the client sent it')
      if (!variants.take(draft, statement, parsed, conditional, listeners)) yield { statement, parsed }
    }
  }

  /** The named conditions of a section. */
  #conditionsOf(statements: readonly Statement[], samples: Samples): Conditions {
    const conditions = new Conditions(samples)
    for (const each of statements) {
      if (each.words[0] !== 'acl') continue
      conditions.add(each)
      this.draft.said(each)
    }
    return conditions
  }

  /** The routes of a rule before others, which get the requests that the rule excepts, and those below an exact path. */
  #before(
    others: FirstRules,
    condition: Condition,
    action: Action,
    listeners: readonly ListenerDraft[],
  ): RouteDraft[] {
    const own = this.#routes(condition, action, listeners)
    const within = (each: Condition) =>
      this.#routes(each, action, listeners).flatMap(one =>
        own.flatMap(other => {
          const match = intersection(one, other)
          return match === null ? [] : [{ ...match, action }]
        }),
      )
    const { except = [] } = condition
    if (except.length === 0) return own
    const all = others.all
    const passed = (each: Condition) => within(each).flatMap(one => reachedBy(one, all))
    return [...except.flatMap(passed), ...own]
  }

  /** The rule for a statement that answers itself; none if its condition cannot be said. */
  #rule(statement: Statement, parsed: Parsed, action: Action): Rule[] {
    const asks = /^http-request auth\b/.test(statement.text)
    const kept = this.#kept(statement, parsed, refuses(action), asks)
    return kept === null ? [] : [{ parsed: kept, action }]
  }

  /**
   * Returns the alternatives that can be said, and says what becomes of the statement; null if there are none. If it `refuses` requests that are not on a list,
   * all are refused without the list; `always`: whatever cannot be said.
   */
  #kept(statement: Statement, { any, near }: Parsed, refuses: boolean, always = false): Parsed | null {
    const { draft } = this
    const closes = (each: Condition) => {
      const unknown = heaviest(each)
      return refuses && (always || unknown?.negated === true || unknown?.wide === true)
    }
    const lost = any.filter(({ unknown }) => unknown !== undefined)
    const passing = textsOf(lost.filter(each => !closes(each)))
    const closing = textsOf(lost.filter(closes))
    if (lost.length > 0 && lost.every(each => closes(each) && heaviest(each)!.wide === true))
      draft.near(statement, `${closing}: more requests are refused`)
    else if (lost.length > 0)
      draft.missing(
        statement,
        [
          ...(closing === '' ? [] : [`${closing}: such routes answer 403 until they have a guard`]),
          ...(passing === '' ? [] : [`no counterpart: ${passing}`]),
        ].join('; '),
      )
    else if (near === '') draft.said(statement)
    else if (refuses && PASSES.includes(near)) draft.missing(statement, `${near}: some requests pass`)
    else draft.near(statement, near)
    const kept = any
      .filter(each => each.unknown === undefined || closes(each))
      .map(({ unknown: _, ...each }): Condition => each)
    return kept.length > 0 ? { any: kept, near } : null
  }

  #routes(condition: Condition, action: Action, listeners: readonly ListenerDraft[]): RouteDraft[] {
    const { host = '*', path = folderOf(condition.when), when, secure, port } = condition
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
      rejects(statement) ||
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
    if (to === null) {
      this.draft.missing(statement, 'the proxy has no such variable')
      return null
    }
    const option = rest.find(word => REDIRECT_OPTIONS.test(word))
    if (option !== undefined) this.draft.near(statement, `without ${option}`)
    return { respond: { status, headers: { Location: to } } }
  }

  /** The rules for requests that a statement gives to a backend: first the backend's own ones, unless it is the section itself. */
  #toBackend(
    statement: Statement,
    name: string,
    parsed: Parsed,
    section: Inheriting,
    samples: Samples,
  ): Rule[] {
    const backend = this.#backends.get(name)
    if (backend === undefined || name.includes('%')) {
      this.#choosesByName ||= name.includes('%')
      this.draft.missing(
        statement,
        name.includes('%')
          ? 'write a route for each backend: what they refuse passes, because no route takes a name from the request'
          : 'there is no such backend',
      )
      return []
    }
    const servers = this.#serversOf(backend)
    const all =
      backend === section
        ? [{ parsed: ALWAYS, action: servers }]
        : this.#rulesOf(backend, samples.copy(), servers)
    const kept = this.#kept(
      statement,
      parsed,
      all.every(({ action }) => refuses(action)),
    )
    const answers = refuses(servers) ? all.slice(0, -1) : all
    const refused = answers
      .filter(({ action }) => refuses(action))
      .map(({ parsed: of, action }) => ({ parsed: this.#both(withoutUnknown(parsed, kept), of), action }))
    if (kept === null) return refused
    return [...refused, ...all.map(({ parsed: of, action }) => ({ parsed: this.#both(kept, of), action }))]
  }

  /** The condition of a rule within another one. */
  #both(parsed: Parsed, within: Parsed): Parsed {
    const both = bothSaid(parsed, within)
    if (both === null) throw overlapError(this.#path)
    return both
  }

  /** The rules of a backend: those that answer themselves, then its servers with the changes of headers and paths. */
  #rulesOf({ defaults, statements }: Inheriting, samples: Samples, servers: Action): Rule[] {
    const all = [...defaults, ...statements]
    const conditions = this.#conditionsOf(all, samples)
    const variants = new Variants()
    const answers: Rule[] = []
    for (const { statement, parsed } of this.#reached(all, conditions, samples, variants, null)) {
      const action = this.#answerOf(statement)
      if (action !== null) answers.push(...this.#rule(statement, parsed, action))
    }
    return [...answers, ...variants.of(servers, 'plain', {})]
  }

  /** The action for requests that no rule of a backend answers. */
  #serversOf(backend: Inheriting): Action {
    const { name, statements } = backend
    this.#used.add(name)
    if (!statements.some(({ words }) => /^server(?:-template)?$/.test(words[0]!)))
      return { respond: { status: 503 } }
    if (!this.draft.upstreams.has(name)) {
      const made = upstreamOf(this.draft, backend, backend.defaults, backend.mode, this.#caBase)
      // All of its servers are left out.
      if ((made.servers as unknown[]).length === 0) return { respond: { status: 503 } }
      this.draft.upstreams.set(name, made)
    }
    this.#queue(backend)
    return { upstream: name }
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
    const backend = this.#backends.get(name)
    if (backend === undefined) {
      this.draft.missing(target ?? (section as never), 'there is no such backend')
      return
    }
    const guards = [
      ...this.#guardsOf([...section.defaults, ...section.statements]),
      ...(backend === section ? [] : this.#guardsOf([...backend.defaults, ...backend.statements])),
    ]
    if (guards.length > 0) {
      const binds = section.statements.filter(({ words }) => words[0] === 'bind')
      for (const each of [...guards, ...binds])
        this.draft.missing(each, 'the listener is left out: it cannot refuse connections')
      for (const listener of listeners) this.draft.leaveOut(listener)
      return
    }
    this.#serversOf(backend)
    if (target !== undefined) this.draft.said(target)
    for (const listener of listeners)
      if (this.draft.upstreams.has(name)) listener.forward = name
      else this.draft.leaveOut(listener)
  }

  /** The statements that refuse connections that are not on a list. */
  #guardsOf(statements: readonly Statement[]): Statement[] {
    const conditions = this.#conditionsOf(statements, new Samples())
    return statements.filter(
      each =>
        rejects(each) &&
        conditions.parse(each.words, each).any.some(each => heaviest(each)?.negated ?? !isOfAddresses(each)),
    )
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
        if (option === 'crt') this.#certificate(statement, options[at + 1] ?? '')
      const [ca, revoked] = [value('ca-file'), value('crl-file')]
      if (ca !== undefined && (value('verify') ?? 'none') !== 'none')
        listener.clientCa = {
          file: this.#file(ca, this.#caBase),
          required: value('verify') === 'required',
          ...(revoked !== undefined && { revoked: [this.#file(revoked, this.#caBase)] }),
        }
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

/** Whether a section only shows HAProxy's own figures. */
function isOfOperators({ statements }: HaproxySection): boolean {
  const has = (pattern: RegExp) => statements.some(({ text }) => pattern.test(text))
  return (
    has(/^(?:stats (?:enable|uri)|http-request use-service prometheus)/) &&
    !has(/^(?:server|default_backend|use_backend)\b/)
  )
}

function overlapError(file: string): FdbError {
  return new FdbError(
    'ERR_FDB_CONFIG',
    `${file}: the rules overlap in more than ${MOST_ROUTES} ways, and the first that matches wins there: write routes for fewer hosts, paths and conditions`,
  )
}

/** The longest path that the paths of a pattern among the conditions are below. */
function folderOf(when: readonly string[]): string {
  const folders = when.map(each => /^path=((?:\/[^/*]+)*)\/[^/]*\*/.exec(each)?.[1] ?? '')
  return folders.reduce((one, other) => (one.length < other.length ? other : one), '') || '/'
}

/** The parts that cannot be said. */
const textsOf = (conditions: readonly Condition[]) =>
  [...new Set(conditions.flatMap(({ unknown }) => unknown!.map(({ text }) => text)))].join(' or ')

/** Differences by which a refusal concerns fewer requests. */
const PASSES: readonly string[] = ['upper and lower case differ', SEVERAL]

const REDIRECT_OPTIONS = /^(?:drop-query|append-slash|ignore-empty|(?:set|clear)-cookie)$/

/** Whether a statement ends the rules about requests of its section. */
const isAllowance = ({ words }: Statement) => words[0] === 'http-request' && words[1] === 'allow'

/** Whether a statement closes connections. */
const rejects = ({ words: [first, second = '', third] }: Statement) =>
  first === 'tcp-request' && /^(?:connection|content|session)$/.test(second) && third === 'reject'
