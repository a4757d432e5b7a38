/** Every key of the configuration file: its check, its default and its line in the documentation. */

import { isIP } from 'node:net'
import { defaultText } from '../../base/default-times.js'
import { addressRange } from '../../checks/address-ranges.js'
import { isFolder, isNoFile } from '../../checks/files.js'
import { hooksShape } from '../../checks/hooks.js'
import { isMap, type Place, shortJson } from '../../checks/place.js'
import {
  absent,
  group,
  map,
  optional,
  required,
  type Shape,
  shortFor,
  type WithDefaults,
} from '../../checks/shape.js'
import {
  absolutePath,
  boolean,
  type Checked,
  duration,
  fresh,
  InvalidValue,
  integer,
  list,
  type Off,
  oneOf,
  or,
  orOff,
  refine,
  size,
  text,
  type ValueCheck,
  type Written,
} from '../../checks/values.js'
import { formatListenerSpec, type HandoffTimes } from '../../index.js'
import { canonicalPath } from '../routes/path.js'
import { routeShape, routesCheck } from '../routes/rule.js'
import { canonicalName } from '../tls/material.js'
import { kindOf, usesTls } from '../upstreams/address.js'
import { type UpstreamConfig, upstreamShape, upstreams, withTimeouts } from '../upstreams/shape.js'
import { accessLine, accessLineShape, tracingShape } from './access-line.js'
import { readCertificateFiles } from './certificate-files.js'
import { errorPages } from './error-pages.js'
import { health, healthInTime, healthListener, healthShape } from './health.js'
import { listenerShape, listeners, overlap, streamAddress } from './listeners.js'
import { source, sourceShape } from './source.js'
import { instanceHeaderName, viaName } from './values.js'

const KiB = 1024
const GiB = 2 ** 30

function controlPath(given: string): string | InvalidValue {
  const bytes = Buffer.byteLength(given)
  if (!given.startsWith('/') || given.endsWith('/') || given.includes('\0')) {
    return new InvalidValue(
      `${shortJson(given)} is not an absolute path of a socket (/run/edge/upgrade.sock)`,
    )
  }
  if (isFolder(given)) return new InvalidValue(`${shortJson(given)} is a folder; write the path of a socket`)
  return bytes <= 106
    ? given
    : new InvalidValue(`the path has ${bytes} bytes, a control socket's at most 106; use a shorter folder`)
}

const certificateShape = {
  cert: required(absolutePath, 'file with the certificate and its issuers, PEM'),
  key: required(absolutePath, 'file with its private key, PEM'),
  names: absent(
    list(text('a name', canonicalName), { least: 1 }),
    null,
    'host names (`app.example.com`, `*.example.com`) instead of the certificate’s',
  ),
}
const tlsShape = {
  certificates: optional(
    list(refine(map(certificateShape), readCertificateFiles), { most: 1000 }),
    [],
    'chosen by the requested host name; the first is the default',
    certificateShape,
  ),
  minVersion: optional(
    oneOf('TLSv1.2', 'TLSv1.3'),
    'TLSv1.2',
    'lowest TLS version; older clients are refused',
  ),
  move: optional(
    oneOf('off', 'on'),
    'off',
    'whether connections with TLS 1.3 [move](tls.md#connections-of-the-proxy-that-move); [what it means for keys](../.github/SECURITY.md#keys-of-tls-connections-that-move)',
  ),
  rotateTicketKeys: optional(duration(1000), '12h', 'interval of new [ticket keys](tls.md)'),
}

const MAX_EVENT_BYTES = 4096

const metricsAddress = text('a listener address', streamAddress)

const drainShape = {
  timeout: optional(duration(0), defaultText('drain'), 'connections still open after this time are closed'),
  move: optional(
    oneOf('auto', 'idle', 'off'),
    'auto',
    'which connections move: `auto`: all, at any byte; `idle`: only between two requests; `off`: none',
  ),
  tlsTimeout: optional(
    duration(0),
    defaultText('drainTls'),
    'replaces `drain.timeout` for TLS connections, few of which move; not shorter than it',
  ),
  generations: optional(
    integer(1, 255),
    16,
    'most older versions that drain at the same time; one more, and the oldest closes its connections within `drain.timeout`, at most 10 s',
  ),
  firstWave: optional(
    duration(0),
    defaultText('firstWave'),
    'a few connections move first, the others after this time ([waves](connections.md)); `0s`: all at once',
  ),
  movesPerSecond: optional(orOff(integer(1, 1_000_000)), 'off', 'limit of connections that move in a second'),
  lastEvent: optional(
    text('the text of an event', given =>
      Buffer.byteLength(given) <= MAX_EVENT_BYTES
        ? given
        : new InvalidValue(`it has ${Buffer.byteLength(given)} bytes, more than ${MAX_EVENT_BYTES}`),
    ),
    '',
    'last lines sent on a `text/event-stream` still open at `drain.timeout`, such as `event: bye`',
  ),
}

const upgradeShape = {
  timeout: optional(
    duration(1),
    defaultText('proxyUpgrade'),
    'limit for an upgrade by USR2, and for a next version from its join on; until then the `--timeout` (60s) of `fd-broker upgrade` holds',
  ),
  probation: optional(
    duration(0),
    defaultText('probation'),
    'how long the old process stands by; `0s`: until the new one’s first sign of health',
  ),
  ready: optional(
    duration(1),
    defaultText('proxyReady'),
    'limit from the offer until the new process is ready',
  ),
  freeze: optional(duration(1), defaultText('freeze'), 'limit for the old process to stop writing'),
  prepare: optional(
    duration(1),
    defaultText('prepare'),
    'limit for the new process to read the last changes',
  ),
  commit: optional(duration(1), defaultText('commit'), 'limit from the commit until the new process serves'),
  heartbeat: optional(duration(1), defaultText('heartbeat'), 'interval of the new process’s signs of health'),
  silence: optional(
    duration(1),
    defaultText('silence'),
    'silence or bad health in probation after which the old process takes over again',
  ),
  health: optional(
    health,
    'off',
    'check of the new process before the commit and in probation: `http:/PATH`, `tcp:HOST:PORT`, `command:TEXT`, or a map',
    healthShape,
  ),
} satisfies Record<Exclude<keyof HandoffTimes, 'quiesce'> | 'timeout' | 'health', unknown>
const upgrade = refine(map(upgradeShape), (given, place) => {
  if (given.silence > 2 * given.heartbeat) return healthInTime(given, place) ? given : undefined
  return place
    .at('silence')
    .wrong(
      `${given.silence} ms are not more than two heartbeats (upgrade.heartbeat is ${given.heartbeat} ms)`,
    )
})

const hookShape = hooksShape(duration(1), defaultText('hook'))

const timeoutShape = {
  handshake: optional(duration(1), '10s', 'limit for a TLS handshake'),
  head: optional(duration(1), '10s', 'limit for receiving a request’s head, from its first byte (408)'),
  idle: optional(duration(1), '60s', 'a client’s connection is closed after this time without a request'),
  stall: absent(duration(1), undefined, 'overrides `timeouts.idle` for a body that makes no progress'),
  tunnel: absent(
    duration(1),
    undefined,
    'overrides `timeouts.idle` for WebSockets and other upgrades, CONNECT, and connections of `forward`',
  ),
  connect: optional(duration(1), '3s', 'limit for connecting to a server (else another server, or 504)'),
  response: optional(
    duration(1),
    '60s',
    'limit from the end of a request, or the last 1xx answer, to the answer’s head (504)',
  ),
  request: optional(
    orOff(duration(1)),
    'off',
    'limit from a request’s head to the end of its answer (408, 504, or cut); not for tunnels',
  ),
}

export const limitShape = {
  headBytes: optional(
    size(KiB, 1024 * KiB),
    '16k',
    'size of a request’s head (431) and of an answer’s (502)',
  ),
  fields: optional(integer(1, 10_000), 100, 'number of headers (431, 502)'),
  body: optional(
    orOff(size(0, 1024 * GiB)),
    'off',
    'size of a request’s body as sent, chunk sizes included (413)',
  ),
  connections: optional(
    or(orOff(integer(1, 10_000_000, 'auto')), 'auto'),
    'auto',
    'open client connections of each process; further ones get 503 (`forward`: are closed); `auto`: half of the descriptors that RLIMIT_NOFILE leaves',
  ),
  connectionsPerClient: optional(
    orOff(integer(1, 10_000_000)),
    'off',
    'open connections of each client address (IPv6: /64) in each process, except those in `forwarded.trust`',
  ),
}

export function configShape(upstreamNames: ReadonlySet<string>, listenerNames: ReadonlySet<string>) {
  return {
    service: required(
      text('a name', given =>
        /^[\x21-\x7e]{1,128}$/.test(given)
          ? given
          : new InvalidValue(`${shortJson(given)} is not a service name (1 to 128 visible characters)`),
      ),
      'name of the service; two services cannot use one control socket',
    ),
    control: absent(
      text('a path', controlPath),
      null,
      "absolute path of the control socket, at most 106 bytes; default: [by the service's name](operating.md)",
    ),
    instanceHeader: optional(
      orOff(text('a header name', instanceHeaderName)),
      'off',
      'name of a response header with the process’s pid',
    ),
    workers: optional(
      workers,
      'off',
      '[several processes](workers.md): their number, `auto`, or a map',
      workersShape,
    ),
    listeners: required(
      fresh(listeners(upstreamNames), { least: 1, most: 1000 }),
      'addresses to listen on',
      listenerShape,
    ),
    upstreams: optional(upstreams, {}, 'groups of servers by name', upstreamShape),
    routes: optional(
      routesCheck(upstreamNames, listenerNames),
      [],
      'which requests go to which upstream',
      routeShape,
    ),
    resolver: group(resolverShape, 'lookup of server names that `/etc/hosts` lacks'),
    tls: group(tlsShape, 'TLS with clients'),
    drain: group(drainShape, 'how an old process drains'),
    upgrade: optional(upgrade, {}, 'the handoff to the next version', upgradeShape),
    hooks: absent(
      map(hookShape),
      undefined,
      '[hooks](operating.md#hooks): commands for `sh`, or URLs that get a POST',
      hookShape,
    ),
    timeouts: group(timeoutShape, 'time limits'),
    limits: group(limitShape, 'size limits'),
    via: optional(
      orOff(text('a name for Via', viaName)),
      'auto',
      'the proxy’s name in `Via`; `auto`: made from service, control socket and host',
    ),
    trace: optional(boolean, false, 'whether TRACE requests are passed on; otherwise 405'),
    errorPages: optional(
      errorPages,
      {},
      'files that become the bodies of [the proxy’s own errors](proxy.md#error-pages), by status: `503: /etc/edge/busy.html`, or `5xx`',
    ),
    accessLog: optional(boolean, false, 'log each request as a JSON line on standard output'),
    accessLine: optional(accessLine, {}, 'lines of the [access log](proxy.md#access-log)', accessLineShape),
    tracing: group(tracingShape, 'headers by which requests are followed through several programs'),
    metrics: optional(
      orOff(metricsAddress),
      'off',
      'address that serves [metrics](proxy.md#metrics): `tcp://127.0.0.1:9100`, `unix:/run/edge.metrics?mode=0660`',
    ),
    ready: optional(
      orOff(text('a path', canonicalPath)),
      'off',
      'path for the checks of a balancer, before all routes: 200, or 503 after [`fd-broker drain`](fleet.md#before-a-reboot)',
    ),
    stateFile: optional(
      stateFile,
      'off',
      'file that keeps routes made at run time across a reboot: its path, or a map',
      stateFileShape,
    ),
    source: optional(
      source,
      'off',
      '[a store outside](sources.md#the-proxy) with routes, upstreams, certificates and limits for all machines: its URL, or a map',
      sourceShape,
    ),
    forwarded: optional(forwarded, {}, 'headers that tell upstreams about the client', forwardedShape),
  } satisfies Shape
}

function configMap(upstreamNames: ReadonlySet<string>, listenerNames: ReadonlySet<string>) {
  return map(configShape(upstreamNames, listenerNames))
}
type ConfigFields = Checked<ReturnType<typeof configMap>>

/**
 * The argument of `configFrom()`: a configuration as in a file. docs/proxy-config.md explains each key and its default.
 */
export interface ProxyDocument extends Written<ReturnType<typeof configMap>> {}

/** The checked configuration with all defaults, as plain data for a worker thread. Times are in milliseconds, sizes in bytes; null means `off`. */
export interface ProxyConfig extends Omit<ConfigFields, 'timeouts' | 'upstreams'> {
  timeouts: WithDefaults<ConfigFields['timeouts']>
  upstreams: UpstreamConfig[]
}

export const checkConfig: ValueCheck<ProxyConfig> = (value, place) => {
  const names = isMap(value) && isMap(value.upstreams) ? Object.keys(value.upstreams) : []
  const given = configMap(new Set(names), requestListenersIn(value))(value, place)
  if (given === undefined || !routesTakeRequests(given, place) || !hasCertificate(given, place))
    return undefined
  if (!upstreamsFit(given, place)) return undefined
  if (!healthListener(given, place) || !pathsDiffer(given, place) || !metricsApart(given, place))
    return undefined
  const { idle, stall = idle, tunnel = idle } = given.timeouts
  return {
    ...given,
    timeouts: { ...given.timeouts, stall, tunnel },
    upstreams: given.upstreams.map(each => withTimeouts(each, given.timeouts)),
  }
}

/** Checks the address of `--metrics`, also as HOST:PORT or a path. Returns the configuration with it. */
export const withMetrics =
  (config: ProxyConfig): ValueCheck<ProxyConfig> =>
  (given, place) => {
    const kind = /^(tcp:|udp:|unix:)/.test(`${given}`) ? '' : `${given}`.startsWith('/') ? 'unix:' : 'tcp://'
    const metrics = metricsAddress(`${kind}${given}`, place.at('--metrics'))
    const changed = metrics && { ...config, metrics }
    return changed && pathsDiffer(changed, place) && metricsApart(changed, place) ? changed : undefined
  }

/** Checks the URL of `--source`, which replaces that of the file and keeps its other keys. */
export const withSource =
  (config: ProxyConfig): ValueCheck<ProxyConfig> =>
  (url, place) => {
    const given = source({ ...config.source, url }, place.at('--source'))
    return given ? { ...config, source: given } : undefined
  }

/** Reads the names before the listeners are checked: routes refer to them. */
function requestListenersIn(value: unknown): ReadonlySet<string> {
  const given = isMap(value) && Array.isArray(value.listeners) ? value.listeners : []
  return new Set(
    given.flatMap(each =>
      isMap(each) && typeof each.name === 'string' && each.forward === undefined ? [each.name] : [],
    ),
  )
}

/** Reports a listener that has the name or the address of the one for metrics. */
function metricsApart(
  { metrics, listeners }: Pick<ConfigFields, 'listeners' | 'metrics'>,
  place: Place,
): boolean {
  if (metrics === null) return true
  const { count } = place.problems
  for (const [index, { name, spec }] of listeners.entries()) {
    const at = place.at('listeners').at(index)
    if (name === 'metrics')
      at.at('name').wrong('"metrics" is the name of the listener for metrics; write another one')
    const isSame =
      spec.kind === 'tcp' && spec.port !== 0 && spec.port === metrics.port && spec.host === metrics.host
    if (isSame || overlap(spec, metrics))
      at.at('address').wrong(
        `it overlaps with ${formatListenerSpec(metrics)} of "metrics"; write another one`,
      )
  }
  return place.problems.count === count
}

/** Reports a path that the configuration uses for two things. */
function pathsDiffer(
  {
    control,
    stateFile,
    listeners,
    metrics,
  }: Pick<ConfigFields, 'control' | 'stateFile' | 'listeners' | 'metrics'>,
  place: Place,
): boolean {
  const { count } = place.problems
  const at = place.at('listeners')
  for (const [index, { spec }] of listeners.entries())
    if (spec.kind === 'unix' && !spec.abstract && spec.path === control)
      at.at(index)
        .at('address')
        .wrong(`${shortJson(spec.path)} is the path of the control socket too; write another one`)
  const sockets = [control, ...listeners.map(({ spec }) => spec.path)]
  if (metrics?.kind === 'unix' && sockets.includes(metrics.path))
    place.at('metrics').wrong(`${shortJson(metrics.path)} is the path of a socket too; write another one`)
  if (stateFile !== null && sockets.includes(stateFile.path))
    place.at('stateFile').wrong(`${shortJson(stateFile.path)} is the path of a socket too; write another one`)
  return place.problems.count === count
}

function hasCertificate({ listeners, tls }: Pick<ConfigFields, 'listeners' | 'tls'>, place: Place): boolean {
  const secure = listeners.findIndex(({ tls }) => tls)
  if (secure < 0 || tls.certificates.length > 0) return true
  const at = place.at('listeners').at(secure).at('tls')
  at.wrong('TLS needs a certificate: give one under "tls.certificates"')
  return false
}

/** Reports a listener whose upstream does not take its datagrams, its connections or those of an authority, and settings that do not go with datagrams. */
function upstreamsFit(
  {
    listeners,
    upstreams,
    workers,
    drain,
  }: Pick<ConfigFields, 'listeners' | 'upstreams' | 'workers' | 'drain'>,
  place: Place,
): boolean {
  const { count } = place.problems
  const datagrams = new Set(
    upstreams.filter(({ servers }) => kindOf(servers) === 'datagrams').map(({ name }) => name),
  )
  const plain = new Set(
    upstreams
      .filter(({ name, servers }) => !datagrams.has(name) && !servers.some(usesTls))
      .map(({ name }) => name),
  )
  for (const [index, { spec, forward, acme }] of listeners.entries()) {
    const at = place.at('listeners').at(index)
    const isUdp = spec.kind === 'udp'
    if (forward !== null && datagrams.has(forward) !== isUdp)
      at.at('forward').wrong(
        `${shortJson(forward)} has ${isUdp ? 'no udp:// servers' : 'udp:// servers'}; write the name of an upstream ${isUdp ? 'with' : 'without'} them`,
      )
    if (acme !== null && !plain.has(acme))
      at.at('acme').wrong(
        `${shortJson(acme)} has udp:// servers, or some with TLS; write the name of an upstream with tcp:// servers`,
      )
    if (isUdp && workers !== null)
      at.at('address').wrong(
        'the kernel would spread the datagrams of a client over the workers; leave "workers" out',
      )
    if (isUdp && drain.move === 'off')
      at.at('address').wrong(
        'flows must move, because all versions share their socket; leave "drain.move" out',
      )
  }
  return place.problems.count === count
}

function routesTakeRequests(
  { routes, upstreams }: Pick<ConfigFields, 'routes' | 'upstreams'>,
  place: Place,
): boolean {
  const tcp = new Set(
    upstreams.filter(({ servers }) => kindOf(servers) !== 'requests').map(({ name }) => name),
  )
  if (tcp.size === 0) return true
  const { count } = place.problems
  for (const [index, { target }] of routes.entries()) {
    if (target.kind !== 'upstream' || !tcp.has(target.upstream)) continue
    const at = place.at('routes').at(index).at('upstream')
    at.wrong(
      `${shortJson(target.upstream)} has tcp:// or udp:// servers, which take no requests: write http://, or "forward"`,
    )
  }
  return place.problems.count === count
}

const MAX_SERVERS = 16

function nameServer(given: string): string | InvalidValue {
  const [, v6, v4, port] = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(given) ?? []
  const whole = isIP(given) !== 0 || isIP(v6 ?? '') === 6 || isIP(v4 ?? '') === 4
  const possible = port === undefined || (Number(port) >= 1 && Number(port) <= 65_535)
  if (whole && possible) return given
  return new InvalidValue(
    `${shortJson(given)} is not the address of a name server (10.0.0.2, 10.0.0.2:5353, [fd00::2]:53)`,
  )
}

const resolverShape = {
  servers: optional(
    list(text('the address of a name server', nameServer), { most: MAX_SERVERS }),
    [],
    'name servers: `10.0.0.2`, `10.0.0.2:5353`, `[fd00::2]:53`; default: those of `/etc/resolv.conf`',
  ),
  timeout: optional(duration(1), '5s', 'limit for one lookup'),
}

const stateFileShape = {
  path: required(
    refine(absolutePath, (path, place) =>
      isNoFile(path)
        ? place.wrong(
            `${shortJson(path)} is ${isFolder(path) ? 'a folder' : 'no regular file'}; write the path of a file`,
          )
        : path,
    ),
    'absolute path in an existing folder; only one service may use the file',
  ),
  sync: optional(
    or(duration(1), 'always', 'never'),
    '1s',
    'how often the file is written to disk; or `always`, `never`',
  ),
  damaged: optional(
    oneOf('refuse', 'prefix'),
    'refuse',
    'if the file is damaged at the start: `refuse`, or `prefix`: use the part before the damage',
  ),
}
const stateFile = orOff(shortFor('path', stateFileShape))

const MAX_WORKERS = 256

const workersShape = {
  count: required(
    or(integer(1, MAX_WORKERS, 'auto'), 'auto'),
    `number of processes (1 to ${MAX_WORKERS}); \`auto\`: one for each processor`,
  ),
  replace: optional(
    oneOf('one-by-one', 'at-once'),
    'one-by-one',
    'how an upgrade replaces the other workers after the first: `one-by-one`, `at-once`',
  ),
  stopTimeout: optional(
    orOff(duration(1)),
    defaultText('stop'),
    'a worker that still serves this long after TERM is killed; `off`: never',
  ),
  hungTimeout: optional(
    orOff(duration(2_000)),
    defaultText('hung'),
    'a living worker that is silent for this long is replaced; `off`: never',
  ),
}
export const workers = orOff(shortFor('count', workersShape))

const headerWords = oneOf('off', 'x-forwarded', 'forwarded', 'both')
const headers: ValueCheck<Checked<typeof headerWords>, ForwardedHeaders> = (value, place) =>
  headerWords(value === false ? 'off' : value, place)
export type ForwardedHeaders = Checked<typeof headerWords> | Off
const forwardedShape = {
  headers: optional(
    headers,
    'x-forwarded',
    '`off`, `x-forwarded` (`X-Forwarded-For`, `-Host`, `-Proto`), `forwarded` (RFC 7239) or `both`',
  ),
  trust: optional(
    list(text('an address', addressRange)),
    [],
    'trusted clients (`10.0.0.0/8`): the proxy appends to their forwarding headers. It overwrites those of all others',
  ),
}
const forwarded = shortFor('headers', forwardedShape)
