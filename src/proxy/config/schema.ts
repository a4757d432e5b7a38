/** Every key of the configuration file: its check, its default and its line in the documentation. */
import { isIP } from 'node:net'
import { FdbError, type ListenerSpec, parseListenerSpec } from '../../index.js'
import {
  absent,
  boolean,
  type Check,
  type Checked,
  type Fields,
  group,
  integer,
  isMap,
  list,
  map,
  named,
  oneOf,
  optional,
  orOff,
  refine,
  required,
  type Shape,
  text,
} from '../check/check.js'
import { headerName } from '../check/http.js'
import type { Place } from '../check/place.js'
import { duration, size } from '../check/quantity.js'
import { shown, Wrong } from '../check/wrong.js'
import { noUpstream, type RouteRule, routeList, routeShape } from '../routes/rule.js'
import { canonicalName } from '../tls/server-name.js'
import { takesRequests, upstreamAddress } from '../upstreams/address.js'
import { readCertificateFiles } from './certificate-files.js'
import type {
  AddressRange,
  ForwardedConfig,
  ListenerConfig,
  ProxyConfig,
  StateFileConfig,
  UpgradeConfig,
  UpstreamConfig,
} from './config.js'

const KiB = 1024
const GiB = 2 ** 30

function name(given: string): string | Wrong {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(given)) return given
  return new Wrong(
    `${shown(given)} is no name (1 to 64 letters, digits, ".", "_" and "-", a letter or digit first)`,
  )
}

function viaName(given: string): string | Wrong {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/.test(given)
    ? given
    : new Wrong(`${shown(given)} is no name for Via (a token, at most 128 characters)`)
}

function controlPath(given: string): string | Wrong {
  const bytes = Buffer.byteLength(given)
  if (!given.startsWith('/') || given.endsWith('/') || given.includes('\0')) {
    return new Wrong(`${shown(given)} is no absolute path of a socket (/run/edge/upgrade.sock)`)
  }
  return bytes <= 106
    ? given
    : new Wrong(`the path has ${bytes} bytes, a control socket's at most 106; use a shorter folder`)
}

function listenerAddress(given: string): ListenerSpec | Wrong {
  try {
    const spec = parseListenerSpec(given)
    return spec.kind === 'udp'
      ? new Wrong(`${shown(given)} is a UDP address; the proxy listens on tcp:// and unix:`)
      : spec
  } catch (error) {
    if (!FdbError.is(error)) throw error
    return new Wrong(
      `${shown(given)} is no listener address: ${error.message.replace(/^.*? has a wrong /s, 'wrong ')}`,
    )
  }
}

function addressRange(given: string): AddressRange | Wrong {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(given) ?? []
  const version = isIP(address)
  const most = version === 4 ? 32 : 128
  const prefix = bits === undefined ? most : Number(bits)
  if (version === 0 || prefix > most)
    return new Wrong(`${shown(given)} is no address or network (10.0.0.1, 10.0.0.0/8, fd00::/8)`)
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}

/** No two items of a list have the same `key`; wrong items are not compared. */
function unique<T>(item: Check<T>, what: string, key: (value: T) => string, at?: string): () => Check<T> {
  return () => {
    const seen = new Map<string, number>()
    return (value, place) => {
      const checked = item(value, place)
      if (checked === undefined) return undefined
      const index = Number(place.path.at(-1))
      const before = seen.get(key(checked))
      if (before === undefined) seen.set(key(checked), index)
      else {
        const where = at === undefined ? place : place.at(at)
        return where.wrong(`${what} ${shown(key(checked))} is given twice, first in item [${before}]`)
      }
      return checked
    }
  }
}

/** A list whose item check remembers what it saw: a new one for each reading. */
function fresh<T>(item: () => Check<T>, limits: { least?: number; most?: number }): Check<T[]> {
  return (value, place) => list(item(), limits)(value, place)
}

const listenerShape = {
  name: required(text('a name', name), 'the listener’s name, by which the next version finds it'),
  address: required(
    text('a listener address', listenerAddress),
    '`tcp://127.0.0.1:8080`, `tcp://[::1]:80`, `tcp://*:80`, `unix:/run/app.sock?mode=0660`',
  ),
  forward: absent(
    text('the name of an upstream', name => name),
    undefined,
    'it is no HTTP: each connection goes as it is to a server of this upstream',
  ),
  tls: optional(boolean, false, 'whether its clients speak TLS, with the certificates under `tls`'),
  halfClose: optional(
    boolean,
    false,
    'whether a client that ends its direction while it waits still gets its answers; otherwise it counts as gone',
  ),
}
const listeners = (upstreamNames: ReadonlySet<string>) => (): Check<ListenerConfig> => {
  const listener = refine(map(listenerShape), (given, place): ListenerConfig | undefined => {
    const { name, address: spec, forward = null, tls, halfClose } = given
    if (forward !== null && halfClose)
      return place
        .at('halfClose')
        .wrong('whole connections may always be ended one side at a time; leave it out')
    if (forward === null || upstreamNames.has(forward)) return { name, spec, forward, tls, halfClose }
    return place.at('forward').wrong(noUpstream(forward, upstreamNames))
  })
  const names = unique(listener, 'the name', each => each.name, 'name')()
  return unique(names, 'the address', ({ spec }) => endpoint(spec), 'address')()
}

/** Port 0 is a new port each time: two of them do not collide. */
let anyPort = 0
function endpoint(spec: ListenerSpec): string {
  if (spec.kind === 'unix') return `unix:${spec.abstract ? '@' : ''}${spec.path}`
  return spec.port === 0 ? `any ${++anyPort}` : `tcp://${spec.host}:${spec.port}`
}

const healthShape = {
  failures: optional(
    orOff(integer(1, 1000)),
    3,
    'failures in a row after which a server is passed over; `off`: never',
  ),
  coolDown: optional(duration(1), '10s', 'for how long; after it one failure more passes it over again'),
}
const keepAliveShape = {
  connections: optional(integer(0, 100_000), 128, 'idle connections kept for each server'),
  idle: optional(duration(1), '4s', 'for how long; choose less than the server’s own limit (Node’s is 5 s)'),
}
const ownTimeoutShape = {
  connect: absent(duration(1), undefined, 'in place of `timeouts.connect`, for this upstream'),
  response: absent(duration(1), undefined, 'in place of `timeouts.response`, for this upstream'),
}
export const upstreamShape = {
  servers: required(
    fresh(
      unique(text('an upstream address', upstreamAddress), 'the server', server => server.text),
      { least: 1, most: 1000 },
    ),
    '`http://HOST:PORT` or `unix:/path`, or `tcp://HOST:PORT` (for `forward` only), at least one; taken in turn',
  ),
  health: group(healthShape, 'what makes a server count as down'),
  keepAlive: group(keepAliveShape, 'connections kept open for the next request'),
  connections: optional(
    orOff(integer(1, 1_000_000)),
    'off',
    'to each server, used and idle; with all in use another server is tried, or 503',
  ),
  retry: optional(integer(0, 10), 2, 'other servers that are tried where nothing was sent yet'),
  timeouts: group(ownTimeoutShape, 'timeouts of this upstream'),
}
type Upstream = Fields<typeof upstreamShape> & { name: string }

/** `[["app", …]]` to `[{ name: "app", … }]`. */
const upstreams = refine(named(name, refine(map(upstreamShape), ofOneKind)), (pairs): Upstream[] =>
  pairs.map(([name, upstream]) => ({ name, ...upstream })),
)

function ofOneKind<T extends Fields<typeof upstreamShape>>(given: T, place: Place): T | undefined {
  if (takesRequests(given.servers) || given.servers.every(({ text }) => !text.startsWith('http:')))
    return given
  return place.at('servers').wrong('http:// and tcp:// do not go together; make two upstreams of them')
}

function filePath(given: string): string | Wrong {
  return given.startsWith('/') && !given.endsWith('/') && !given.includes('\0')
    ? given
    : new Wrong(`${shown(given)} is no absolute path of a file`)
}

const absolutePath = text('a path', filePath)

const certificateShape = {
  cert: required(absolutePath, 'file with the certificate and those of its issuers, PEM'),
  key: required(absolutePath, 'file with its private key, PEM'),
  names: absent(
    list(text('a name', canonicalName), { least: 1 }),
    null,
    'hosts that it is for (`app.example.com`, `*.example.com`), in place of those in the certificate',
  ),
}
const tlsShape = {
  certificates: optional(
    list(refine(map(certificateShape), readCertificateFiles), { most: 1000 }),
    [],
    'by the name that a client asks for; the first is the default',
    certificateShape,
  ),
  minVersion: optional(oneOf('TLSv1.2', 'TLSv1.3'), 'TLSv1.2', 'older clients are refused'),
  rotateTicketKeys: optional(
    duration(1000),
    '12h',
    'new keys for session tickets; each client then needs one full handshake',
  ),
}

const MOST_EVENT = 4096

const drainShape = {
  timeout: optional(
    duration(0),
    '30s',
    'connections of the old process that have neither moved nor ended by then are closed',
  ),
  move: optional(
    oneOf('auto', 'idle', 'off'),
    'auto',
    'connections go on in the new process: `auto` at any byte, `idle` only between two requests, `off` none',
  ),
  tlsTimeout: optional(
    duration(0),
    '1h',
    'the same for connections over TLS, which cannot move (not less than `drain.timeout`); they are told to go by their next answer',
  ),
  firstWave: optional(
    duration(0),
    '250ms',
    'a few connections of each kind move first, the rest when the new process has been healthy with them for so long, and has answered over them if it was asked; `0s`: all at once',
  ),
  movesPerSecond: optional(
    orOff(integer(1, 1_000_000)),
    'off',
    'connections that move in a second, at most; `off`: no bound',
  ),
  lastEvent: optional(
    text('the text of an event', given =>
      Buffer.byteLength(given) <= MOST_EVENT
        ? given
        : new Wrong(`it has ${Buffer.byteLength(given)} bytes, more than ${MOST_EVENT}`),
    ),
    '',
    'the last lines of a `text/event-stream` that has not ended by then, such as `event: bye`; it ends between two events',
  ),
}

const upgradeShape = {
  timeout: optional(duration(1), '30s', 'for the whole upgrade, until the new process serves'),
  probation: optional(
    duration(0),
    '10s',
    'how long the old process stands by; `0s`: until the first sign of health',
  ),
  ready: optional(duration(1), '30s', 'from the offer until the new process is ready'),
  freeze: optional(duration(1), '1s', 'for the old process to stop writing'),
  prepare: optional(duration(1), '10s', 'for the new process to read the last changes'),
  commit: optional(duration(1), '10s', 'from the commit until the new process serves'),
  heartbeat: optional(duration(1), '250ms', 'between two signs of health'),
  silence: optional(duration(1), '3s', 'silence in probation that brings the old process back'),
} satisfies Record<keyof UpgradeConfig, unknown>
const upgrade = refine(map(upgradeShape), (given, place): UpgradeConfig | undefined =>
  given.silence > 2 * given.heartbeat
    ? given
    : place
        .at('silence')
        .wrong(
          `${given.silence} ms are not more than two heartbeats (upgrade.heartbeat is ${given.heartbeat} ms)`,
        ),
)

const timeoutShape = {
  handshake: optional(duration(1), '10s', 'for a TLS handshake, however much moves'),
  head: optional(duration(1), '10s', 'for a request’s head, from its first byte (408)'),
  idle: optional(
    duration(1),
    '60s',
    'a client’s connection between two requests, and one on which nothing moves',
  ),
  tunnel: absent(
    duration(1),
    undefined,
    'in place of `timeouts.idle`, for WebSockets and other upgrades, CONNECT, and connections of `forward`',
  ),
  connect: optional(duration(1), '3s', 'for a connection to a server (504, or another server)'),
  response: optional(duration(1), '60s', 'from the end of a request until the head of its answer (504)'),
  request: optional(
    orOff(duration(1)),
    'off',
    'from a request’s head to the end of its answer (408, 504, or cut short); not for tunnels',
  ),
}

function orAuto<T>(check: Check<T>): Check<T | 'auto'> {
  return (value, place) => (value === 'auto' ? 'auto' : check(value, place))
}

const limitShape = {
  headBytes: optional(size(KiB, 1024 * KiB), '16k', 'a request’s head (431), and an answer’s (502)'),
  fields: optional(integer(1, 10_000), 100, 'header fields of a head (431, 502)'),
  body: optional(orOff(size(0, 1024 * GiB)), 'off', 'a request’s body (413)'),
  connections: optional(
    orAuto(orOff(integer(1, 10_000_000))),
    'auto',
    'clients at a time; more are accepted and answered 503 (`forward`: closed); `auto`: half of the descriptors that RLIMIT_NOFILE leaves',
  ),
  connectionsPerClient: optional(
    orOff(integer(1, 10_000_000)),
    'off',
    'the same for each client address that is not in `forwarded.trust`; for connections that begin with it',
  ),
}

const headers = oneOf('off', 'x-forwarded', 'forwarded', 'both')
export const forwardedShape = {
  headers: optional(
    (value, place) => headers(value === false ? 'off' : value, place),
    'x-forwarded',
    '`off`, `x-forwarded` (`X-Forwarded-For`, `-Host`, `-Proto`), `forwarded` (RFC 7239) or `both`',
  ),
  trust: optional(
    list(text('an address', addressRange)),
    [],
    'clients (`10.0.0.0/8`) whose own headers are kept and appended to; those of all others are replaced',
  ),
}
const forwardedMap = map(forwardedShape)
/** `forwarded: both` is short for `forwarded: { headers: both }`. */
const forwarded: Check<ForwardedConfig> = (value, place) =>
  isMap(value) ? forwardedMap(value, place) : asForwarded(headers(value === false ? 'off' : value, place))

function asForwarded(headers: ForwardedConfig['headers'] | undefined): ForwardedConfig | undefined {
  return headers && { headers, trust: [] }
}

export const stateFileShape = {
  path: required(absolutePath, 'absolute path; its folder must be there; of one service alone'),
  sync: optional(
    alwaysOr(duration(1)),
    '1s',
    '`always`, `never`, or how often what was written is brought to the disk',
  ),
  damaged: optional(
    oneOf('refuse', 'prefix'),
    'refuse',
    'what a start does with a damaged file: nothing, or it takes what stands before the damage',
  ),
}
const stateFileMap = map(stateFileShape)
/** `stateFile: /path` is short for `stateFile: { path: /path }`. */
const stateFile: Check<StateFileConfig | null> = (value, place) => {
  if (value === 'off' || value === false) return null
  if (isMap(value)) return stateFileMap(value, place)
  const path = absolutePath(value, place)
  return path === undefined ? undefined : stateFileMap({ path }, place)
}

function alwaysOr(check: Check<number>): Check<number | 'always' | 'never'> {
  return (value, place) => (value === 'always' || value === 'never' ? value : check(value, place))
}

export function configShape(upstreamNames: ReadonlySet<string>) {
  return {
    service: required(
      text('a name', given =>
        /^[\x21-\x7e]{1,128}$/.test(given)
          ? given
          : new Wrong(`${shown(given)} is no service name (1 to 128 visible characters)`),
      ),
      'names what is served; a control socket of another service refuses',
    ),
    control: required(text('a path', controlPath), 'absolute path of the control socket, at most 106 bytes'),
    instanceHeader: optional(
      orOff(text('a header name', headerName)),
      'off',
      'response header that carries the process’s pid',
    ),
    listeners: required(
      fresh(listeners(upstreamNames), { least: 1, most: 1000 }),
      'where it listens',
      listenerShape,
    ),
    upstreams: optional(upstreams, {}, 'groups of servers by name', upstreamShape),
    routes: optional(routeList(upstreamNames), [], 'what goes where', routeShape),
    tls: group(tlsShape, 'TLS with clients'),
    drain: group(drainShape, 'leaving'),
    upgrade: optional(upgrade, {}, 'the handoff to the next version', upgradeShape),
    timeouts: group(timeoutShape, 'waits'),
    limits: group(limitShape, 'bounds'),
    via: optional(
      orOff(text('a name for Via', viaName)),
      'auto',
      'how it calls itself in `Via`; `auto`: after service, control socket and host, the same for every generation; `off`: no `Via`',
    ),
    trace: optional(boolean, false, 'whether TRACE requests are passed on; otherwise 405'),
    accessLog: optional(boolean, false, 'one line for each request, as JSON on standard output'),
    stateFile: optional(
      stateFile,
      'off',
      'a file with the routes of run time, for after a reboot; its path, or a map with',
      stateFileShape,
    ),
    forwarded: optional(forwarded, {}, 'what upstreams are told about the client', forwardedShape),
  } satisfies Shape
}

/** Checks a whole document. */
export const checkConfig: Check<ProxyConfig> = (value, place) => {
  const names = isMap(value) && isMap(value.upstreams) ? Object.keys(value.upstreams) : []
  const given = map(configShape(new Set(names)))(value, place)
  if (given === undefined || !routesTakeRequests(given, place) || !hasCertificate(given, place))
    return undefined
  const { idle, tunnel = idle } = given.timeouts
  return {
    ...given,
    timeouts: { ...given.timeouts, tunnel },
    upstreams: given.upstreams.map(each => settle(each, given.timeouts)),
  }
}

function hasCertificate(
  { listeners, tls }: { listeners: ListenerConfig[]; tls: { certificates: unknown[] } },
  place: Place,
): boolean {
  const secure = listeners.findIndex(({ tls }) => tls)
  if (secure < 0 || tls.certificates.length > 0) return true
  const at = place.at('listeners').at(secure).at('tls')
  at.wrong('TLS needs a certificate: give one under "tls.certificates"')
  return false
}

function routesTakeRequests(
  { routes, upstreams }: { routes: RouteRule[]; upstreams: Upstream[] },
  place: Place,
): boolean {
  const tcp = new Set(upstreams.filter(({ servers }) => !takesRequests(servers)).map(({ name }) => name))
  if (tcp.size === 0) return true
  const { count } = place.problems
  for (const [index, { target }] of routes.entries()) {
    if (target.kind !== 'upstream' || !tcp.has(target.upstream)) continue
    const at = place.at('routes').at(index).at('upstream')
    at.wrong(
      `${shown(target.upstream)} has tcp:// servers, which take no requests: write http://, or "forward"`,
    )
  }
  return place.problems.count === count
}

function settle(upstream: Upstream, timeouts: Checked<typeof timeoutsOf>): UpstreamConfig {
  const { connect = timeouts.connect, response = timeouts.response } = upstream.timeouts
  return { ...upstream, timeouts: { connect, response } }
}

const timeoutsOf = map(timeoutShape)
