import { FdbError } from '../errors.js'
import { type Action, CLOSED, type Draft, type ListenerDraft, type RouteDraft, refuses } from './draft.js'
import { Actions, type Around } from './nginx-actions.js'
import { type Conditions, conditionsOf, NO_SLASH } from './nginx-conditions.js'
import { hasGuards, refusesOthers } from './nginx-guards.js'
import { matcherOf } from './nginx-location.js'
import { type Branch, type Located, type Rule, rulesOf } from './nginx-places.js'
import { Rates } from './nginx-rates.js'
import { isOfServers, leadsElsewhere } from './nginx-rewrite.js'
import {
  clientCaOf,
  type Entry,
  isAlikeEverywhere,
  isProxied,
  type Server,
  Settings,
} from './nginx-settings.js'
import type { Directive } from './nginx-syntax.js'
import { effective, effectiveOne, type Levels, takesUnderscores } from './nginx-values.js'
import { MOST_ROUTES, routesInOrder } from './order.js'
import { patternsOf } from './patterns.js'
import { listenerAddress } from './values.js'

/** Translates an `http` block. */
export class HttpServers {
  readonly #draft: Draft
  readonly #http: readonly Directive[]
  readonly #upstreams = new Map<string, Directive>()
  readonly #rates: Rates
  readonly #actions: Actions
  /** The hosts that have a server, by listener: as for nginx the first one counts. */
  readonly #taken = new Set<string>()
  #servers: Server[] = []
  #everywhere = false

  constructor(draft: Draft, http: readonly Directive[]) {
    this.#draft = draft
    this.#http = http
    this.#rates = new Rates(draft)
    this.#actions = new Actions(draft, http, this.#upstreams, this.#rates)
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
    const entries = this.#entries(directive)
    for (const each of block.filter(({ name }) => name === 'server_name')) {
      this.#draft.said(each)
      for (const name of each.args) {
        const hosts = this.#hostsOf(each, name)
        for (const { listener, names } of entries)
          if (this.#areFree(hosts, listener)) for (const host of hosts) names.add(host)
          else if (!hosts.every(host => names.has(host)))
            this.#draft.missing(each, `another server has the name ${name}: nginx ignores it here`)
      }
    }
    return { block, names: [...new Set(entries.flatMap(({ names }) => [...names]))], entries }
  }

  /** Takes these hosts at a listener, until another server has one of them. */
  #areFree(hosts: readonly string[], listener: ListenerDraft): boolean {
    return hosts.every(host => {
      const key = `${listener.name} ${host}`
      return !this.#taken.has(key) && this.#taken.add(key)
    })
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
      if (options.includes('ssl') || legacy !== undefined) listener.tls = true
      const http2 = server.block!.find(({ name }) => name === 'http2')
      if (http2 !== undefined) draft.said(http2)
      if (options.includes('http2') || http2?.args[0] === 'on') listener.http2 = true
      if (options.includes('proxy_protocol')) this.#proxyProtocol(server, each!, listener)
      const isDefault = options.includes('default_server') || options.includes('default')
      const known = entries.get(address)
      entries.set(address, {
        listener,
        names: new Set(),
        isDefault: isDefault || known?.isDefault === true,
      })
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
    const { branches, final } = this.#first(server, levels)
    const whole = this.#hasOtherCa(server) ? CLOSED : final
    const rules: readonly Rule[] =
      whole !== null ? [{ path: '/', when: [], action: whole }] : this.#locations(server, levels)
    const moved = branches.flatMap(({ of }) => (of === undefined || of === 'plain' ? [] : [of.host]))
    const ordered = new Map<First | undefined, RouteDraft[]>()
    for (const { listener, host, secure } of this.#places(server, moved)) {
      const isHere = ({ of }: First) => of === undefined || (of === 'plain' ? !secure : of.host === host)
      const here = branches.filter(isHere)
      // The return answers all requests of the place: nginx comes to nothing behind it.
      const last = here.find(({ of }) => of !== undefined)
      const first = here.slice(0, last === undefined ? undefined : here.indexOf(last) + 1)
      const all = [
        ...first.map(({ when, action }) => ({ when, action, path: '/' })),
        ...(last === undefined ? rules : []),
      ]
      const own = ordered.get(last) ?? this.#inOrder(all)
      ordered.set(last, own)
      const place = { ...(listener !== null && { listener }), host }
      this.#draft.routes.push(...own.map(each => ({ ...each, ...place })))
    }
  }

  #inOrder(rules: readonly Rule[]): RouteDraft[] {
    const ordered = routesInOrder(rules.map(each => ({ ...each, host: '*', when: [...each.when].sort() })))
    if (ordered === null)
      throw new FdbError(
        'ERR_FDB_CONFIG',
        `the locations of a server overlap in more than ${MOST_ROUTES} ways: write fewer patterns`,
      )
    return ordered
  }

  /** The answers of the conditions and the `return` of a block, in their order. `around`: the location that it is the block of. */
  #first(
    server: Server,
    levels: Levels,
    around: Around | null = null,
  ): { branches: First[]; final: Action | null } {
    const branches: First[] = []
    for (const each of levels[0]!) {
      if (each.name === 'return' || each.name === 'rewrite') {
        const final = this.#actions.returnOf(each, levels, server)
        if (final !== null) return { branches, final }
        if (around !== null && isOfServers(each)) continue
        const isOfServer = around === null
        if (!leadsElsewhere(each) && !(isOfServer && each.name === 'rewrite')) {
          this.#draft.missing(each, REWRITES)
          continue
        }
        const closes = hasGuards(server.block)
        this.#draft.missing(
          each,
          closes
            ? 'it leads to another location: its paths answer 403 until they have a route'
            : 'it leads to another location',
        )
        for (const { glob, withoutSlash } of closes ? patternsOf(each.args[0] ?? '') : [])
          branches.push({ when: [`path=${glob}`, ...(withoutSlash ? [NO_SLASH] : [])], action: CLOSED })
      }
      if (each.name !== 'if') continue
      const inner = [each.block ?? [], ...levels]
      const condition = each.args.join(' ')
      const answer = each.block?.find(({ name }) => name === 'return' || name === 'rewrite')
      const isLed = answer !== undefined && leadsElsewhere(answer)
      const action =
        answer === undefined
          ? null
          : isLed && hasGuards(server.block)
            ? CLOSED
            : this.#actions.returnOf(answer, inner, server)
      if (action === null) {
        if (changesOf(each) === null) this.#draft.missing(each, 'only a return is possible within an if')
        // nginx comes to no condition and no `return` behind a `break`.
        else if (around !== null && stops(each))
          branches.push(...this.#changedBy(each, server, around, levels))
        continue
      }
      if (isLed) this.#draft.missing(answer, 'it leads to another location: the route answers 403')
      const of = around === null ? placeOf(condition) : null
      if (of !== null) {
        this.#draft.said(each)
        branches.push({ when: [], action, of })
        continue
      }
      const conditions = this.#conditions(each, server, levels)
      const isExact = conditions?.exact === true && conditions.spelled === undefined
      if (conditions === null || (!isExact && !refuses(action))) {
        if (this.#lost(each, action)) return { branches, final: CLOSED }
        continue
      }
      if (conditions.exact) this.#draft.said(each)
      else this.#draft.missing(each, 'as far as the path tells: the query is not looked at')
      this.#tellDifferences(each, conditions)
      branches.push(...conditions.any.map(when => ({ when, action })))
    }
    return { branches, final: null }
  }

  /** The conditions of an `if`. `spelled` only where nginx does not ignore headers with `_`. */
  #conditions({ args }: Directive, server: Server, levels: Levels): Conditions | null {
    const found = conditionsOf(args.join(' '), this.#knowsAddress(server, levels))
    if (found?.spelled === undefined) return found
    if (takesUnderscores(levels)) return found
    const { spelled: _, ...rest } = found
    return rest
  }

  #tellDifferences(directive: Directive, { asSent, spelled }: Conditions): void {
    if (asSent === true) this.#draft.near(directive, AS_SENT)
    if (spelled === true)
      this.#draft.missing(directive, 'a header with _ in its name is another one for the proxy')
  }

  /** Whether `$remote_addr` is the address of the connection. */
  #knowsAddress(server: Server, levels: Levels): boolean {
    return !isProxied(server) && effective(levels, 'set_real_ip_from').length === 0
  }

  #locations(server: Server, levels: Levels): readonly Rule[] {
    const located = server.block
      .filter(({ name }) => name === 'location')
      .flatMap(each => this.#location(server, each, levels))
    const files = () => {
      const contents = this.#contents(server, { text: '/', path: '/', isExact: false }, levels) ?? []
      return contents.at(-1)?.when.length === 0 ? contents : [...contents, NOT_FOUND]
    }
    return rulesOf(located, files)
  }

  #location(server: Server, location: Directive, outer: Levels): Located[] {
    const block = location.block ?? []
    const levels = [block, ...outer]
    const { modifier, text } = matcherOf(location)
    // Only a `try_files` leads there.
    if (text.startsWith('@')) return []
    const inner = block
      .filter(({ name }) => name === 'location')
      .flatMap(each => this.#location(server, each, levels))
    const path = modifier.startsWith('~') || !text.startsWith('/') ? '' : text.replace(/(.)\/+$/, '$1')
    const branches = this.#logged(
      this.#branches(server, { text, path, isExact: modifier === '=' }, levels),
      levels,
    )
    const redirects = /^(?:=|\^~)?$/.test(modifier) && block.some(({ name }) => name === 'proxy_pass')
    const isOfFiles = branches?.at(-1)?.when.length !== 0
    if (branches === null) this.#draft.missing(location, FILES)
    const tell = (how: string | null, isNear: boolean) => {
      if (how === null) this.#draft.missing(location, 'no path of the proxy says it')
      else if (isOfFiles) {
        this.#draft.missing(location, FILES)
        if (how !== '') this.#draft.near(location, how)
      } else if (how === '' || !isNear) this.#draft.said(location)
      else this.#draft.near(location, how)
    }
    return [{ text, modifier, branches, inner, redirects, tell }]
  }

  /** The same actions, without lines in the log if the location has none and others have. */
  #logged(branches: Branch[] | null, levels: Levels): Branch[] | null {
    const log = effectiveOne(levels, 'access_log')
    if (branches === null || log?.args[0] !== 'off' || !hasLog(this.#http)) return branches
    this.#draft.said(log)
    return branches.map(({ when, action }) => ({ when, action: { ...action, accessLog: false } }))
  }

  /** The actions for the requests of a location; null if those that no condition answers get files. */
  #branches(server: Server, around: Around, levels: Levels): Branch[] | null {
    const block = levels[0]!
    const internal = block.find(({ name }) => name === 'internal')
    if (internal !== undefined) {
      this.#draft.said(internal)
      // Requests for which `try_files` leads here are internal.
      if (around.led === undefined) return [NOT_FOUND]
    }
    // With other methods the conditions of the location do not count.
    const first = this.#otherMethods(server, around, levels)
    const { branches, final } = this.#first(server, levels, around)
    first.push(...branches)
    const limit = this.#rates.at(levels)
    if (final !== null) return [...first, ...this.#actions.answered(server, levels, { ...final, ...limit })]
    const contents = this.#contents(server, around, levels)
    if (contents === null) return first.length > 0 ? first : null
    return [...first, ...this.#changed(server, around, levels), ...contents]
  }

  /** The actions for requests that no condition answers, also those of a named location. Null if they get files. */
  #contents(server: Server, around: Around, levels: Levels, access: Levels = levels): Branch[] | null {
    const named = this.#actions.named(server, levels, around.led ?? [])
    if (named === null) return this.#actions.contents(server, around, levels, access)
    const led = { ...around, led: [...(around.led ?? []), named.name] }
    return this.#actions.contentsOfNamed(server, led, levels, access, each =>
      this.#branches(server, each, named.levels),
    )
  }

  /** `limit_except`: the actions for requests with other methods. */
  #otherMethods(server: Server, around: Around, levels: Levels): Branch[] {
    const limit = levels[0]!.find(({ name }) => name === 'limit_except')
    if (limit === undefined) return []
    this.#draft.said(limit)
    const methods = new Set(limit.args.includes('GET') ? [...limit.args, 'HEAD'] : limit.args)
    const files = [{ when: [], action: CLOSED }]
    const other = this.#contents(server, around, levels, [limit.block ?? [], ...levels]) ?? files
    return other.map(({ when, action }) => ({
      when: [...when, `!method=${[...methods].sort().join('|')}`],
      action,
    }))
  }

  /** Conditions that change headers or the servers: the last one that holds counts. */
  #changed(server: Server, around: Around, levels: Levels): Branch[] {
    return levels[0]!
      .toReversed()
      .flatMap(each => (stops(each) ? [] : this.#changedBy(each, server, around, levels)))
  }

  #changedBy(directive: Directive, server: Server, around: Around, levels: Levels): Branch[] {
    const changes = directive.name === 'if' ? changesOf(directive) : null
    if (changes === null) return []
    const conditions = this.#conditions(directive, server, levels)
    const contents =
      conditions === null
        ? null
        : this.#actions.contents(server, around, [withServers(changes, levels[0]!), ...levels])
    if (conditions === null || contents === null) {
      this.#draft.missing(directive, 'no condition of the proxy says it')
      return []
    }
    if (conditions.exact) this.#draft.said(directive)
    else this.#draft.near(directive, 'by the path, without the query')
    this.#tellDifferences(directive, conditions)
    return conditions.any.flatMap(when =>
      contents.map(one => ({ when: [...when, ...one.when], action: one.action })),
    )
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
          ({ listener }) => listener.tls === true && server.entries.some(each => each.listener === listener),
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

  /** The hosts of a server, by listener if that matters. `moved`: those that its conditions name. */
  #places(
    { entries }: Server,
    moved: readonly string[],
  ): { listener: string | null; host: string; secure: boolean }[] {
    return (this.#everywhere ? entries.slice(0, 1) : entries).flatMap(entry =>
      [...new Set([...this.#hosts(entry), ...moved.filter(host => this.#isOf(host, entry))])].map(host => ({
        listener: this.#everywhere ? null : entry.listener.name,
        host,
        secure: entry.listener.tls === true,
      })),
    )
  }

  /** Whether a server gets the requests for a host at a listener: it has the name, the longest wildcard, or is the default one. */
  #isOf(host: string, { listener, names, isDefault }: Entry): boolean {
    if (this.#taken.has(`${listener.name} ${host}`)) return names.has(host)
    const [longest] = this.#wildcardsAt(listener)
      .filter(name => host.endsWith(name.slice(1)))
      .sort((a, b) => b.length - a.length)
    return longest === undefined ? isDefault : names.has(longest)
  }

  /** The hosts of a server at a listener. The default one needs no names, but those that a wildcard of another server would take. */
  #hosts({ listener, names, isDefault }: Entry): readonly string[] {
    if (!isDefault) return [...names]
    const wild = this.#wildcardsAt(listener).filter(name => !names.has(name))
    return [...[...names].filter(name => wild.some(each => name.endsWith(each.slice(1)))), '*']
  }

  #wildcardsAt(listener: ListenerDraft): string[] {
    return this.#servers
      .flatMap(({ entries }) => entries.filter(each => each.listener === listener))
      .flatMap(({ names }) => [...names].filter(name => name.startsWith('*.')))
  }
}

const NOT_FOUND: Branch = { when: [], action: { respond: { status: 404 } } }
const FILES = 'its files need a server; until then these requests go to the location around it'
const AS_SENT = 'paths are compared after %61 and // are read'
const REWRITES = 'paths are changed by stripPrefix and addPrefix'

/** An answer before nginx looks at locations. `of`: for all requests with a host, or without TLS. */
interface First extends Branch {
  readonly of?: { readonly host: string } | 'plain'
}

/** The requests that fulfil a condition on the host or the scheme; null for others. */
function placeOf(condition: string): NonNullable<First['of']> | null {
  const [, variable, operator, value] = /^\(\s*\$(\w+)\s*(!?=)\s*"?([^"]*?)"?\s*\)$/.exec(condition) ?? []
  if (variable === 'host' && operator === '=') return { host: value!.toLowerCase() }
  return /^(?:scheme(?:=http|!=https)|https(?:=|!=on))$/.test(`${variable}${operator}${value}`)
    ? 'plain'
    : null
}

/** Whether a block, or one in it, has a log. */
const hasLog = (block: readonly Directive[]): boolean =>
  block.some(
    ({ name, args, block: inner }) =>
      (name === 'access_log' && args[0] !== 'off') || (inner !== null && hasLog(inner)),
  )

/** The directives of an `if` that only changes headers, or chooses servers; null for others. */
function changesOf({ block }: Directive): readonly Directive[] | null {
  const isChange = block?.every(({ name }) =>
    /^(?:proxy_(?:pass|set_header|hide_header)|add_header|expires|break|access_log)$/.test(name),
  )
  return isChange === true && block!.length > 0 ? block : null
}

/** Whether an `if` that only changes headers or servers ends the rules of its location. */
const stops = (directive: Directive) => changesOf(directive)?.some(({ name }) => name === 'break') === true

/** An `if` has the rewrites of its location, and its `proxy_pass` unless it has its own. */
function withServers(changes: readonly Directive[], block: readonly Directive[]): readonly Directive[] {
  const inherited = changes.some(({ name }) => name === 'proxy_pass')
    ? /^rewrite$/
    : /^(?:rewrite|proxy_pass)$/
  return [...changes, ...block.filter(({ name }) => inherited.test(name))]
}
