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
  ...['tags', 'position', 'tls_versions', 'sticky_session'],
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
  /** The routes of each host of a listener. */
  readonly #rules = new Map<string, { readonly rank: number; readonly route: RouteDraft }[]>()

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
    for (const rules of this.#rules.values()) {
      const sorted = rules.toSorted((a, b) => a.rank - b.rank).map(({ route }) => route)
      const ordered = routesInOrder(sorted)
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
    if (time !== undefined) {
      const text = timeText(Number(value) * 1_000)
      if ((this.draft.get(time) ?? text) === text) this.draft.said(line)
      else this.draft.near(line, `there is one ${time} for all`)
      this.draft.set(time, text)
    } else if (Object.hasOwn(OWN, key)) this.draft.own(line, OWN[key]!)
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
    const moved = redirect && !this.#secure.has(listener.name) && listener.tls !== true
    for (const key of Object.keys(table))
      if (!OF_FRONTENDS.has(key))
        this.draft.missing(this.#line(`${place}.${key}`, table[key]), 'no counterpart')
    const isGuarded = table.required_auth === true || /^unauthorized$/i.test(String(table.redirect))
    const action: Action = isGuarded
      ? CLOSED
      : moved
        ? { respond: { status: 301, headers: { Location: 'https://$host$request_uri' } } }
        : { upstream }
    const method = table.method === undefined ? [] : [`method=${String(table.method)}`]
    const key = `${listener.name} ${host}`
    const rules = this.#rules.get(key) ?? []
    this.#rules.set(key, rules)
    for (const { rank, path, when } of this.#places(line, table, isGuarded))
      rules.push({
        rank: rank - method.length,
        route: { listener: listener.name, host, path, when: [...when, ...method].sort(), action },
      })
  }

  /** The paths of a frontend. For sozu those of `EQUALS` and `REGEX` come first, then the longest. */
  #places(line: SourceLine, table: Table, isGuarded: boolean): Place[] {
    const given = String(table.path ?? '/')
    const type = String(table.path_type ?? 'PREFIX').toUpperCase()
    if (type === 'REGEX') {
      const patterns = patternsOf(given)
      if (patterns.every(({ exact }) => exact)) this.draft.said(line)
      else if (isGuarded) this.draft.near(line, 'more paths are refused')
      else this.draft.missing(line, 'no condition of the proxy says the expression')
      return patterns
        .filter(({ exact }) => exact || isGuarded)
        .map(({ glob, withoutSlash }) => ({
          rank: 0,
          path: '/',
          when: [...(glob === '*' ? [] : [`path=${glob}`]), ...(withoutSlash ? ['!path=*/'] : [])],
        }))
    }
    const path = given === '' || given === '/' ? '/' : given.replace(/\/+$/, '')
    if (!/^\/[^\s%;*?#]*$/.test(path)) {
      this.draft.missing(line, 'paths are names, or * for a segment')
      return []
    }
    if (type !== 'PREFIX')
      return [{ rank: 0, path, when: [`path=${given}`, ...(given.endsWith('/') ? [] : ['!path=*/'])] }]
    const rank = 1_000 - 2 * path.length
    if (path === '/' || given.endsWith('/')) return [{ rank, path, when: [] }]
    this.draft.near(
      line,
      isGuarded ? `${path}x is refused too` : `by whole segments: ${path}x is another path`,
    )
    const begin = path.replace(/\/[^/]*$/, '') || '/'
    return [{ rank, path, when: [] }, ...(isGuarded ? [{ rank, path: begin, when: [`path=${path}*`] }] : [])]
  }
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
