/** Every key of the configuration file: its check, its default and its line in the documentation. */

import { isIP } from 'node:net'
import {
  absent,
  absolutePath,
  boolean,
  type Check,
  type Checked,
  duration,
  type Fields,
  fresh,
  group,
  integer,
  isMap,
  list,
  map,
  name,
  named,
  oneOf,
  optional,
  orOff,
  type Place,
  refine,
  required,
  type Shape,
  shortFor,
  shown,
  size,
  text,
  unique,
  Wrong,
} from '../../config/check.js'
import { FdbError, type ListenerSpec, parseListenerSpec } from '../../index.js'
import { headerName, noUpstream, type RouteRule, routeList, routeShape } from '../routes/rule.js'
import { canonicalName } from '../tls/material.js'
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
  WorkersConfig,
} from './config.js'
import { health, healthInTime, healthListener, healthShape } from './health.js'

const KiB = 1024
const GiB = 2 ** 30

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

const certificateShape = {
  cert: required(absolutePath, 'file with the certificate and its issuers, PEM'),
  key: required(absolutePath, 'file with its private key, PEM'),
  names: absent(
    list(text('a name', canonicalName), { least: 1 }),
    null,
    'hosts (`app.example.com`, `*.example.com`) instead of those in the certificate',
  ),
}
const tlsShape = {
  certificates: optional(
    list(refine(map(certificateShape), readCertificateFiles), { most: 1000 }),
    [],
    'by the name that a client requests; the first is the default',
    certificateShape,
  ),
  minVersion: optional(oneOf('TLSv1.2', 'TLSv1.3'), 'TLSv1.2', 'older clients are refused'),
  rotateTicketKeys: optional(duration(1000), '12h', 'interval of new [ticket keys](tls.md)'),
}

const MOST_EVENT = 4096

const drainShape = {
  timeout: optional(duration(0), '30s', 'connections of the old process that are left then are closed'),
  move: optional(
    oneOf('auto', 'idle', 'off'),
    'auto',
    'connections go on in the new process: `auto` at any byte, `idle` between two requests, `off` none',
  ),
  tlsTimeout: optional(
    duration(0),
    '1h',
    'the same over TLS, where connections cannot move; at least `drain.timeout`',
  ),
  firstWave: optional(
    duration(0),
    '250ms',
    'a few connections move first, the rest after this time ([waves](connections.md)); `0s`: all at once',
  ),
  movesPerSecond: optional(orOff(integer(1, 1_000_000)), 'off', 'connections that move in a second, at most'),
  lastEvent: optional(
    text('the text of an event', given =>
      Buffer.byteLength(given) <= MOST_EVENT
        ? given
        : new Wrong(`it has ${Buffer.byteLength(given)} bytes, more than ${MOST_EVENT}`),
    ),
    '',
    'last lines of a `text/event-stream` that has not ended by then, such as `event: bye`',
  ),
}

const upgradeShape = {
  timeout: optional(duration(1), '30s', 'for the whole upgrade'),
  probation: optional(
    duration(0),
    '10s',
    'time that the old process stands by; `0s`: until the first sign of health',
  ),
  ready: optional(duration(1), '30s', 'from the offer until the new process is ready'),
  freeze: optional(duration(1), '1s', 'for the old process to stop writing'),
  prepare: optional(duration(1), '10s', 'for the new process to read the last changes'),
  commit: optional(duration(1), '10s', 'from the commit until the new process serves'),
  heartbeat: optional(duration(1), '250ms', 'between two signs of health'),
  silence: optional(
    duration(1),
    '3s',
    'silence in probation, or bad health, after which the old process takes over again',
  ),
  health: optional(
    health,
    'off',
    'question to the new process before the commit and in probation; `http:/PATH`, `tcp:HOST:PORT`, `command:TEXT`, or a map with',
    healthShape,
  ),
} satisfies Record<keyof UpgradeConfig, unknown>
const upgrade = refine(map(upgradeShape), (given, place): UpgradeConfig | undefined => {
  if (given.silence > 2 * given.heartbeat) return healthInTime(given, place) ? given : undefined
  return place
    .at('silence')
    .wrong(
      `${given.silence} ms are not more than two heartbeats (upgrade.heartbeat is ${given.heartbeat} ms)`,
    )
})

const timeoutShape = {
  handshake: optional(duration(1), '10s', 'for a TLS handshake'),
  head: optional(duration(1), '10s', 'for a request’s head, from its first byte (408)'),
  idle: optional(duration(1), '60s', 'a client’s connection between two requests'),
  stall: absent(duration(1), undefined, 'overrides `timeouts.idle` for a body of which nothing moves'),
  tunnel: absent(
    duration(1),
    undefined,
    'overrides `timeouts.idle` for WebSockets and other upgrades, CONNECT, and connections of `forward`',
  ),
  connect: optional(duration(1), '3s', 'for a connection to a server (504, or another server)'),
  response: optional(
    duration(1),
    '60s',
    'from the end of a request, or the last interim answer (1xx), to the head of its answer (504)',
  ),
  request: optional(
    orOff(duration(1)),
    'off',
    'from a request’s head to the end of its answer (408, 504, or cut short); not for tunnels',
  ),
}

/** Accepts one of `words`, or a value that `check` accepts. */
function or<const W extends string, T>(check: Check<T>, ...words: W[]): Check<T | W> {
  return (value, place) => words.find(word => word === value) ?? check(value, place)
}

const limitShape = {
  headBytes: optional(size(KiB, 1024 * KiB), '16k', 'a request’s head (431), and an answer’s (502)'),
  fields: optional(integer(1, 10_000), 100, 'header fields of a head (431, 502)'),
  body: optional(orOff(size(0, 1024 * GiB)), 'off', 'a request’s body (413)'),
  connections: optional(
    or(orOff(integer(1, 10_000_000)), 'auto'),
    'auto',
    'clients at a time; more are answered 503 (`forward`: closed); `auto`: half of the descriptors that RLIMIT_NOFILE leaves',
  ),
  connectionsPerClient: optional(
    orOff(integer(1, 10_000_000)),
    'off',
    'the same for each client address (IPv6: /64) that is not in `forwarded.trust`',
  ),
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

const listenerShape = {
  name: required(text('a name', name), 'name by which the next version finds the listener'),
  address: required(
    text('a listener address', listenerAddress),
    '`tcp://127.0.0.1:8080`, `tcp://[::1]:80`, `tcp://*:80`, `unix:/run/app.sock?mode=0660`',
  ),
  forward: absent(
    text('the name of an upstream', name => name),
    undefined,
    'not HTTP: each connection is passed to a server of this upstream',
  ),
  tls: optional(boolean, false, 'whether clients speak TLS, with the certificates under `tls`'),
  halfClose: optional(
    boolean,
    false,
    'whether a client that ends its direction still gets its answers; otherwise it counts as gone',
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

/** Numbers the listeners with port 0: the kernel gives each of them another port, so they never conflict. */
let anyPort = 0
function endpoint(spec: ListenerSpec): string {
  if (spec.kind === 'unix') return `unix:${spec.abstract ? '@' : ''}${spec.path}`
  return spec.port === 0 ? `any ${++anyPort}` : `tcp://${spec.host}:${spec.port}`
}

const serverHealthShape = {
  failures: optional(
    orOff(integer(1, 1000)),
    3,
    'failures in a row after which a server is skipped; `off`: never',
  ),
  coolDown: optional(duration(1), '10s', 'time that it is skipped; then one request tries it'),
}
const keepAliveShape = {
  connections: optional(integer(0, 100_000), 4096, 'idle connections kept for each server'),
  idle: optional(duration(1), '4s', 'for how long; less than the server’s own limit (Node’s is 5 s)'),
  age: optional(
    orOff(duration(1)),
    '1h',
    'age after which a connection is not kept any more; `off`: no limit',
  ),
}
const ownTimeoutShape = {
  connect: absent(duration(1), undefined, 'overrides `timeouts.connect`'),
  response: absent(duration(1), undefined, 'overrides `timeouts.response`'),
}
const upstreamShape = {
  servers: required(
    fresh(
      unique(text('an upstream address', upstreamAddress), 'the server', server => server.text),
      { least: 1, most: 1000 },
    ),
    '`http://HOST:PORT`, `unix:/path`, or `tcp://HOST:PORT` (for `forward` only), at least one; used in turn',
  ),
  health: group(serverHealthShape, 'when a server counts as down'),
  keepAlive: group(keepAliveShape, 'connections kept open for the next request'),
  connections: optional(
    orOff(integer(1, 1_000_000)),
    'off',
    'connections to each server; if all are in use: another server, or 503',
  ),
  retry: optional(integer(0, 10), 2, 'other servers to try if nothing was sent yet'),
  timeouts: group(ownTimeoutShape, 'timeouts of this upstream'),
}
type UpstreamFields = Fields<typeof upstreamShape> & { name: string }

/** Turns `[["app", …]]` into `[{ name: "app", … }]`. */
const upstreams = refine(named(name, refine(map(upstreamShape), ofOneKind)), (pairs): UpstreamFields[] =>
  pairs.map(([name, upstream]) => ({ name, ...upstream })),
)

function ofOneKind<T extends Fields<typeof upstreamShape>>(given: T, place: Place): T | undefined {
  if (takesRequests(given.servers) || given.servers.every(({ text }) => !text.startsWith('http:')))
    return given
  return place.at('servers').wrong('http:// and tcp:// do not go together; make two upstreams of them')
}

export function configShape(upstreamNames: ReadonlySet<string>) {
  return {
    service: required(
      text('a name', given =>
        /^[\x21-\x7e]{1,128}$/.test(given)
          ? given
          : new Wrong(`${shown(given)} is no service name (1 to 128 visible characters)`),
      ),
      'name of the service; a control socket of another service refuses',
    ),
    control: absent(
      text('a path', controlPath),
      null,
      "absolute path of the control socket, at most 106 bytes; default: [by the service's name](systemd.md#commands)",
    ),
    instanceHeader: optional(
      orOff(text('a header name', headerName)),
      'off',
      'response header that carries the process’s pid',
    ),
    workers: optional(
      workers,
      'off',
      '[several processes](workers.md): their number, `auto`, or a map with',
      workersShape,
    ),
    listeners: required(
      fresh(listeners(upstreamNames), { least: 1, most: 1000 }),
      'addresses to listen on',
      listenerShape,
    ),
    upstreams: optional(upstreams, {}, 'groups of servers by name', upstreamShape),
    routes: optional(routeList(upstreamNames), [], 'which requests go where', routeShape),
    resolver: group(resolverShape, 'lookup of server names that `/etc/hosts` does not have'),
    tls: group(tlsShape, 'TLS with clients'),
    drain: group(drainShape, 'leaving'),
    upgrade: optional(upgrade, {}, 'the handoff to the next version', upgradeShape),
    timeouts: group(timeoutShape, 'waits'),
    limits: group(limitShape, 'bounds'),
    via: optional(
      orOff(text('a name for Via', viaName)),
      'auto',
      'name in `Via`; `auto`: from service, control socket and host; `off`: no `Via`',
    ),
    trace: optional(boolean, false, 'whether TRACE requests are passed on; otherwise 405'),
    accessLog: optional(boolean, false, 'one line for each request, as JSON on standard output'),
    stateFile: optional(
      stateFile,
      'off',
      'file that keeps the routes made at run time across a reboot; its path, or a map with',
      stateFileShape,
    ),
    forwarded: optional(forwarded, {}, 'what upstreams learn about the client', forwardedShape),
  } satisfies Shape
}

export const checkConfig: Check<ProxyConfig> = (value, place) => {
  const names = isMap(value) && isMap(value.upstreams) ? Object.keys(value.upstreams) : []
  const given = map(configShape(new Set(names)))(value, place)
  if (given === undefined || !routesTakeRequests(given, place) || !hasCertificate(given, place))
    return undefined
  if (!healthListener(given, place)) return undefined
  const { idle, stall = idle, tunnel = idle } = given.timeouts
  return {
    ...given,
    timeouts: { ...given.timeouts, stall, tunnel },
    upstreams: given.upstreams.map(each => withTimeouts(each, given.timeouts)),
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
  { routes, upstreams }: { routes: RouteRule[]; upstreams: UpstreamFields[] },
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

function withTimeouts(upstream: UpstreamFields, timeouts: Checked<typeof timeoutsOf>): UpstreamConfig {
  const { connect = timeouts.connect, response = timeouts.response } = upstream.timeouts
  return { ...upstream, timeouts: { connect, response } }
}

const timeoutsOf = map(timeoutShape)

const MOST_SERVERS = 16

function nameServer(given: string): string | Wrong {
  const [, v6, v4, port] = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(given) ?? []
  const whole = isIP(given) !== 0 || isIP(v6 ?? '') === 6 || isIP(v4 ?? '') === 4
  const possible = port === undefined || (Number(port) >= 1 && Number(port) <= 65_535)
  if (whole && possible) return given
  return new Wrong(`${shown(given)} is no address of a name server (10.0.0.2, 10.0.0.2:5353, [fd00::2]:53)`)
}

const resolverShape = {
  servers: optional(
    list(text('the address of a name server', nameServer), { most: MOST_SERVERS }),
    [],
    '`10.0.0.2`, `10.0.0.2:5353`, `[fd00::2]:53`; none: those of `/etc/resolv.conf`',
  ),
  timeout: optional(duration(1), '5s', 'for one name'),
}

const stateFileShape = {
  path: required(absolutePath, 'absolute path in an existing folder; for one service alone'),
  sync: optional(
    or(duration(1), 'always', 'never'),
    '1s',
    'when it is flushed to the disk: `always`, `never`, or this often',
  ),
  damaged: optional(
    oneOf('refuse', 'prefix'),
    'refuse',
    'at the start with a damaged file: refuse, or take what precedes the damage',
  ),
}
const stateFile: Check<StateFileConfig | null> = orOff(shortFor('path', stateFileShape))

const MOST_WORKERS = 256

const workersShape = {
  count: required(
    or(integer(1, MOST_WORKERS), 'auto'),
    `number of processes (1 to ${MOST_WORKERS}); \`auto\`: one for each processor`,
  ),
  replace: optional(
    oneOf('one-by-one', 'at-once'),
    'one-by-one',
    'how an upgrade replaces them after the first; or `at-once`',
  ),
  stopTimeout: optional(
    orOff(duration(1)),
    '30s',
    'after TERM: a worker that has not stopped serving by then is killed; `off`: wait',
  ),
  hungTimeout: optional(
    orOff(duration(2_000)),
    '10s',
    'a living worker that is silent for this long is replaced; `off`: never',
  ),
}
export const workers: Check<WorkersConfig | null> = orOff(shortFor('count', workersShape))

function addressRange(given: string): AddressRange | Wrong {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(given) ?? []
  const version = isIP(address)
  const most = version === 4 ? 32 : 128
  const prefix = bits === undefined ? most : Number(bits)
  if (version === 0 || prefix > most)
    return new Wrong(`${shown(given)} is no address or network (10.0.0.1, 10.0.0.0/8, fd00::/8)`)
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}

const headers = oneOf('off', 'x-forwarded', 'forwarded', 'both')
const forwardedShape = {
  headers: optional(
    (value, place) => headers(value === false ? 'off' : value, place),
    'x-forwarded',
    '`off`, `x-forwarded` (`X-Forwarded-For`, `-Host`, `-Proto`), `forwarded` (RFC 7239) or `both`',
  ),
  trust: optional(
    list(text('an address', addressRange)),
    [],
    'clients (`10.0.0.0/8`) whose own headers are appended to; others’ are replaced',
  ),
}
const forwarded: Check<ForwardedConfig> = shortFor('headers', forwardedShape)
