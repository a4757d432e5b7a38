import { parse, TomlError } from 'smol-toml'
import { FdbError } from '../errors.js'
import { type Action, CLOSED, Draft, type RouteDraft, type Section, type SourceLine } from './draft.js'
import { MOST_ROUTES, routesInOrder } from './order.js'
import { patternsOf } from './patterns.js'
import { listenerAddress, onePerAddress, serverEntry, timeText } from './values.js'

type Table = Record<string, unknown>

const UNIT = 'the unit of the service manager says it'
/** Keys that the proxy needs no counterpart for, and why. */
const OWN: Readonly<Record<string, string>> = {
  saved_state: 'routes made at run time are state: stateFile keeps them',
  automatic_state_save: 'the state is kept always',
  log_level: 'fd-broker proxy --log-level',
  log_target: 'the log goes to stderr, or to --log-file',
  log_colored: 'the log has colours on a terminal',
  command_socket: 'control, by the name of the service',
  command_buffer_size: 'there are no such buffers',
  max_command_buffer_size: 'there are no such buffers',
  buffer_size: 'limits.headBytes',
  min_buffers: 'there are no such buffers',
  max_buffers: 'there are no such buffers',
  worker_automatic_restart: 'workers are always started again',
  worker_timeout: 'workers.hungTimeout',
  handle_process_affinity: UNIT,
  pid_file_path: UNIT,
  ctl_command_timeout: '--timeout of a command',
  zombie_check_interval: 'timeouts end such connections',
  accept_queue_timeout: 'the kernel has the queue',
  activate_listeners: 'listeners are always active',
  disable_cluster_metrics: 'metrics',
  metrics: 'metrics',
  tls_provider: 'Node speaks TLS',
  cipher_list: 'Node chooses ciphers',
  cipher_suites: 'Node chooses ciphers',
  signature_algorithms: 'Node chooses ciphers',
  groups_list: 'Node chooses curves',
  public_address: 'the PROXY header says it',
  tags: 'only for the log',
  sticky_id: 'the cookie follows from the address',
}
/** Keys of a frontend that have a counterpart, or need none. */
const OF_FRONTENDS = new Set([
  ...['address', 'hostname', 'path', 'path_type', 'method', 'certificate', 'key', 'certificate_chain'],
  ...['tags', 'position', 'tls_versions', 'sticky_session', 'redirect', 'redirect_scheme'],
  'header_predicates',
])
const ISSUERS = 'the file of the certificate must have its issuers too'
const TIMES: Readonly<Record<string, string>> = {
  front_timeout: 'timeouts.idle',
  back_timeout: 'timeouts.response',
  connect_timeout: 'timeouts.connect',
  request_timeout: 'timeouts.head',
}
const BALANCE: Readonly<Record<string, string>> = {
  round_robin: 'round-robin',
  roundrobin: 'round-robin',
  random: 'random',
  least_loaded: 'least-connections',
  power_of_two: 'two-choices',
}

/** Translates a configuration of sozu. Throws ERR_FDB_CONFIG with file and line if it is no TOML. */
export function fromSozu(text: string, file: string): Draft {
  return new Translation(file, parsed(text, file)).draft
}

function parsed(text: string, file: string): Table {
  try {
    return parse(text) as Table
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const [why] = error.message.replace('Invalid TOML document: ', '').split('\n')
    throw new FdbError('ERR_FDB_CONFIG', `${file}:${error.line}: ${why}`)
  }
}

class Translation {
  readonly draft = new Draft()
  readonly #file: string
  /** Names of listeners for https by host: clusters that redirect answer on the others. */
  readonly #secure = new Set<string>()
  /** The rules of each listener. */
  readonly #rules = new Map<string, Rule[]>()

  constructor(file: string, top: Table) {
    this.#file = file
    for (const [key, value] of Object.entries(top)) {
      if (key === 'listeners')
        for (const [at, each] of tables(value).entries()) this.#listener(`listeners[${at}]`, each)
      else if (key === 'clusters' || key === 'applications') continue
      else if (key === 'worker_count') {
        this.draft.said(this.#line(key, value))
        if (value !== 1) this.draft.set('workers', Number(value))
      } else if (key === 'max_connections') {
        this.draft.near(this.#line(key, value), 'of each process')
        this.draft.set('limits.connections', Number(value))
      } else if (key === 'access_logs_target') {
        this.draft.near(this.#line(key, value), 'JSON lines on stdout, or in the file of --access-log-file')
        this.draft.set('accessLog', true)
      } else this.#common(key, key, value)
    }
    // Clusters are applications in older releases.
    for (const kind of ['clusters', 'applications'])
      for (const [name, cluster] of Object.entries((top[kind] ?? {}) as Record<string, Table>))
        this.#cluster(kind, name, cluster)
    for (const rules of [...this.#rules.values()].flatMap(inLists)) {
      const ordered = routesInOrder(rules.toSorted(byPrecedence).map(({ route }) => route))
      if (ordered === null)
        throw new FdbError(
          'ERR_FDB_CONFIG',
          `${file}: the paths of a host overlap in more than ${MOST_ROUTES} ways: write fewer expressions`,
        )
      this.draft.routes.push(...ordered)
    }
  }

  #line(place: string, value: unknown): SourceLine {
    return { file: this.#file, place, text: `${place} = ${JSON.stringify(value) ?? ''}` }
  }

  /** Keys that stand in several places. */
  #common(key: string, place: string, value: unknown): void {
    const line = this.#line(place, value)
    const time = Object.hasOwn(TIMES, key) ? TIMES[key] : undefined
    if (time !== undefined) this.draft.setForAll(line, time, timeText(Number(value) * 1_000))
    else if (Object.hasOwn(OWN, key)) this.draft.own(line, OWN[key]!)
    else
      this.draft.missing(
        line,
        /^(?:answer|error|http_answers)/.test(key)
          ? 'give errorPages a body without a head'
          : 'no counterpart',
      )
  }

  #listener(place: string, table: Table): void {
    const address = listenerAddress(String(table.address))
    const line = this.#line(`${place}.address`, table.address)
    if (address === null) {
      this.draft.missing(line, 'a listener has an IP address and a port')
      return
    }
    const listener = this.draft.listener(address)
    this.draft.said(line)
    for (const [key, value] of Object.entries(table)) {
      const each = this.#line(`${place}.${key}`, value)
      if (key === 'address') continue
      if (key === 'protocol') {
        this.draft.said(each)
        if (value === 'https') listener.tls = true
      } else if (key === 'expect_proxy') {
        if (value === true) listener.proxyProtocol = []
        this.draft.near(each, 'name the load balancers in proxyProtocol')
      } else if (key === 'tls_versions') {
        this.draft.said(each)
        if (Array.isArray(value) && value.every(version => /^TLS_?v1[._]?3$/i.test(String(version))))
          this.draft.set('tls.minVersion', 'TLSv1.3')
      } else if (key === 'certificate_chain') this.draft.near(each, ISSUERS)
      else if (key === 'sticky_name') this.draft.said(each)
      else if (key === 'certificate' || key === 'key') this.draft.said(each)
      else if (key === 'alpn_protocols') {
        this.draft.said(each)
        if (Array.isArray(value) && value.includes('h2')) listener.http2 = true
      } else this.#common(key, `${place}.${key}`, value)
    }
    if (typeof table.certificate === 'string' && typeof table.key === 'string')
      this.draft.certificate(table.certificate, table.key, [])
    if (listener.tls === true) this.#secure.add(listener.name)
  }

  #cluster(kind: string, name: string, cluster: Table): void {
    const place = `${kind}.${name}`
    const tcp = cluster.protocol === 'tcp'
    const upstream: Section = { servers: [] }
    for (const [key, value] of Object.entries(cluster)) {
      const line = this.#line(`${place}.${key}`, value)
      if (key === 'protocol' || key === 'https_redirect') this.draft.said(line)
      else if (key === 'backends')
        for (const [at, each] of tables(value).entries())
          this.#backend(`${place}.backends[${at}]`, each, upstream, tcp)
      else if (key === 'frontends') continue
      else if (key === 'load_balancing') {
        const way = String(value).toLowerCase()
        const balance = Object.hasOwn(BALANCE, way) ? BALANCE[way] : undefined
        if (balance === undefined) this.draft.missing(line, 'no such way')
        else {
          this.draft.said(line)
          if (balance !== 'round-robin') upstream.balance = balance
        }
      } else if (key === 'sticky_session') {
        this.draft.said(line)
        if (value === true) upstream.sticky = { cookie: 'SOZUBALANCEID' }
      } else if (key === 'send_proxy') {
        this.draft.said(line)
        if (value === true) upstream.proxyProtocol = 'v2'
      } else if (key === 'health_check') this.#check(`${place}.health_check`, value as Table, upstream)
      else this.#common(key, `${place}.${key}`, value)
    }
    upstream.servers = onePerAddress(upstream.servers as unknown[])
    this.draft.upstreams.set(name, upstream)
    for (const [at, each] of tables(cluster.frontends).entries())
      this.#frontend(`${place}.frontends[${at}]`, each, name, tcp, cluster.https_redirect === true)
  }

  #check(place: string, table: Table, upstream: Section): void {
    const check: Section = {}
    for (const [key, value] of Object.entries(table)) {
      const line = this.#line(`${place}.${key}`, value)
      if (key === 'uri' || key === 'path') check.http = value
      else if (key === 'interval' || key === 'timeout') check[key] = timeText(Number(value) * 1_000)
      else if (key === 'healthy_threshold') check.rise = value
      else if (key === 'unhealthy_threshold') check.fall = value
      else if (key === 'expected_status') {
        if (value !== 0) check.status = value
      } else {
        this.draft.missing(line, 'no counterpart')
        continue
      }
      this.draft.said(line)
    }
    upstream.check = check
  }

  #backend(place: string, table: Table, upstream: Section, tcp: boolean): void {
    const line = this.#line(place, table)
    this.draft.said(line)
    for (const key of Object.keys(table))
      if (Object.hasOwn(OWN, key)) this.draft.own(this.#line(`${place}.${key}`, table[key]), OWN[key]!)
    const address = `${tcp ? 'tcp' : 'http'}://${String(table.address)}`
    const weight = table.weight as number | undefined
    ;(upstream.servers as unknown[]).push(serverEntry(address, weight ?? null, table.backup === true))
  }

  #frontend(place: string, table: Table, upstream: string, tcp: boolean, redirect: boolean): void {
    const line = this.#line(place, table)
    const address = listenerAddress(String(table.address))
    if (address === null) {
      this.draft.missing(line, 'a listener has an IP address and a port')
      return
    }
    const listener = this.draft.listener(address)
    this.draft.said(line)
    if (tcp) {
      listener.forward = upstream
      return
    }
    const host = String(table.hostname ?? '*').toLowerCase()
    if (!/^(?:\*|(?:\*\.)?[\w.-]+)$/.test(host)) {
      this.draft.missing(line, 'hosts are names, or *. and a name')
      return
    }
    if (typeof table.certificate === 'string' && typeof table.key === 'string')
      this.draft.certificate(table.certificate, table.key, host === '*' ? [] : [host])
    if (table.certificate_chain !== undefined) this.draft.near(line, ISSUERS)
    for (const key of Object.keys(table))
      if (!OF_FRONTENDS.has(key))
        this.draft.missing(this.#line(`${place}.${key}`, table[key]), 'no counterpart')
    const isSecure = this.#secure.has(listener.name) || listener.tls === true
    const action = this.#actionOf(place, table, upstream, redirect, isSecure)
    const isGuarded = action === CLOSED
    const position = String(table.position ?? 'TREE').toUpperCase()
    const differences = differencesOf(host, position)
    const predicates = this.#predicates(place, table, isGuarded)
    if (predicates === null) return
    const method = table.method === undefined ? [] : [`method=${String(table.method)}`]
    const rules = this.#rules.get(listener.name) ?? []
    this.#rules.set(listener.name, rules)
    for (const { rank, path, when } of this.#places(line, table, isGuarded, differences))
      rules.push({
        phase: position === 'PRE' ? 0 : position === 'POST' ? 2 : 1,
        // Rules with conditions on headers come first, and of those for whole paths the ones with a method.
        rank: rank - 2_000 * Math.min(predicates.length, 1) - (rank <= 0 ? method.length : 0),
        isGuarded,
        route: {
          listener: listener.name,
          host,
          path,
          when: [...when, ...method, ...predicates].sort(),
          action,
        },
      })
  }

  #actionOf(place: string, table: Table, upstream: string, redirect: boolean, isSecure: boolean): Action {
    const line = this.#line(`${place}.redirect`, table.redirect)
    const policy = String(table.redirect ?? 'forward').toLowerCase()
    if (table.required_auth === true) return CLOSED
    if (policy === 'permanent') {
      const scheme = String(table.redirect_scheme ?? 'use-same').toLowerCase()
      const isHttps = scheme === 'use-https' || (scheme !== 'use-http' && isSecure)
      this.draft.said(line)
      return {
        respond: { status: 301, headers: { Location: `http${isHttps ? 's' : ''}://$host$request_uri` } },
      }
    }
    if (policy === 'unauthorized') this.draft.near(line, 'answers 403')
    else if (policy !== 'forward')
      this.draft.missing(line, 'no such policy is known: the route answers 403 until you give it one')
    if (policy !== 'forward') return CLOSED
    if (table.redirect !== undefined) this.draft.said(line)
    return redirect && !isSecure
      ? { respond: { status: 301, headers: { Location: 'https://$host$request_uri' } } }
      : { upstream }
  }

  /** The conditions on headers; null if one of them cannot be said, unless more requests may be refused. */
  #predicates(place: string, table: Table, isGuarded: boolean): readonly string[] | null {
    const all = tables(table.header_predicates).map(({ name, match, value }) => {
      const kind = String(match).toLowerCase()
      if (kind === 'present') return `header:${String(name)}`
      return kind === 'exact' && /^[^\s*|][^*|]*(?<!\s)$/.test(String(value))
        ? `header:${String(name)}=${String(value)}`
        : null
    })
    if (all.length === 0) return []
    const line = this.#line(`${place}.header_predicates`, table.header_predicates)
    const known = all.filter(each => each !== null)
    if (known.length === all.length) this.draft.said(line)
    else if (isGuarded) this.draft.near(line, 'more requests are refused')
    else {
      this.draft.missing(line, 'no condition says it: the route is left out')
      return null
    }
    return known
  }

  /** The paths of a frontend. For sozu those of `EQUALS` and `REGEX` come first, then the longest. */
  #places(line: SourceLine, table: Table, isGuarded: boolean, differences: readonly string[]): Place[] {
    const given = String(table.path ?? '/')
    const type = String(table.path_type ?? 'PREFIX').toUpperCase()
    const near = (...more: readonly string[]) => {
      const all = [...differences, ...more]
      if (all.length > 0) this.draft.near(line, all.join(', '))
    }
    if (type === 'REGEX') {
      const expression = given.replace(/\((?:\?:)?\\\?\.\*\)\?(?=\$?$)/, '')
      // Before 2.3 sozu looked for the expression within the path.
      const patterns = expression.includes('\\?')
        ? ALL
        : patternsOf(isGuarded ? expression : `^(?:${expression})$`)
      const areExact = patterns.every(({ exact }) => exact)
      if (!areExact && !isGuarded) this.draft.missing(line, 'no condition of the proxy says the expression')
      else near(isGuarded ? 'more paths are refused' : 'it takes whole paths, also those with a query')
      return patterns
        .filter(({ exact }) => exact || isGuarded)
        .map(({ glob, withoutSlash }) => ({
          rank: 0,
          path: '/',
          when: [
            ...(glob === '*' ? [] : [`path=${glob}`]),
            ...(withoutSlash && !isGuarded ? ['!path=*/'] : []),
          ],
        }))
    }
    if (!/^\/[^\s%;*?#]*$/.test(given || '/') || given.includes('//')) {
      this.draft.missing(line, 'paths are names, or * for a segment')
      return []
    }
    const path = given === '' || given === '/' ? '/' : given.replace(/\/+$/, '')
    const whole = { path, when: [`path=${given || '/'}`, ...(given.endsWith('/') ? [] : ['!path=*/'])] }
    if (type !== 'PREFIX') {
      near('also with a query')
      return [{ ...whole, rank: 0 }]
    }
    near()
    const rank = 1_000 - 2 * given.length
    if (path === '/') return [{ rank, path, when: [] }]
    const places = [{ rank, path: given.replace(/\/[^/]*$/, '') || '/', when: [`path=${given}*`] }]
    // A begin that is the whole path comes before EQUALS and REGEX if it stands behind them, or in another cluster.
    return isGuarded ? [{ ...whole, rank: 0 }, ...places] : places
  }
}

const ALL = [{ glob: '*', exact: false, withoutSlash: false }]

function differencesOf(host: string, position: string): string[] {
  return [
    ...(host === '*' && position === 'TREE' ? ['for all names, not only those of one label'] : []),
    ...(host.startsWith('*.') ? ['also for names of more labels'] : []),
    ...(position === 'TREE' ? [] : ['behind all refusals of its position']),
  ]
}

interface Rule {
  /** Whether it stands before the tree of names (0), in it, or behind it (2). */
  readonly phase: number
  readonly rank: number
  readonly isGuarded: boolean
  readonly route: RouteDraft
}

/** The lists of a listener in which the order counts: the proxy itself prefers names to others. */
function inLists(rules: readonly Rule[]): Rule[][] {
  if (rules.some(({ phase }) => phase !== 1)) return [[...rules]]
  const byHost = new Map<string, Rule[]>()
  for (const each of rules) byHost.set(each.route.host, [...(byHost.get(each.route.host) ?? []), each])
  return [...byHost.values()]
}

/** Clusters have no order in sozu: of equal rules the one that refuses comes first. */
function byPrecedence(a: Rule, b: Rule): number {
  const length = ({ phase, route: { host } }: Rule) =>
    phase !== 1 || host === '*' ? 0 : host.startsWith('*.') ? host.length : 1_000
  return (
    a.phase - b.phase ||
    length(b) - length(a) ||
    (a.phase === 1 ? a.rank - b.rank : Math.min(a.rank, -1_000) - Math.min(b.rank, -1_000)) ||
    Number(b.isGuarded) - Number(a.isGuarded)
  )
}

/** The paths of a route. A lower rank comes first. */
interface Place {
  readonly rank: number
  readonly path: string
  readonly when: readonly string[]
}

function tables(value: unknown): Table[] {
  return Array.isArray(value) ? (value as Table[]) : []
}
