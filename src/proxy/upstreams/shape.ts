/** Every key of an upstream in the configuration file. */
import { isMap, type Place } from '../../checks/place.js'
import { absent, group, map, optional, required, type WithDefaults } from '../../checks/shape.js'
import {
  boolean,
  type Checked,
  duration,
  fresh,
  integer,
  name,
  named,
  oneOf,
  orOff,
  refine,
  text,
  unique,
  type ValueCheck,
  type Written,
} from '../../checks/values.js'
import { checkShape, serverCheck } from '../server-checks/shape.js'
import { kindOf, ofOneKind, type ServerConfig, upstreamAddress, usesTls } from './address.js'
import { balanceText } from './balancing.js'
import { queue, queueShape } from './queue.js'
import { sticky, stickyShape } from './sticky.js'
import { serverTls, serverTlsShape } from './tls-shape.js'

const serverHealthShape = {
  failures: optional(
    orOff(integer(1, 1000)),
    3,
    'failures in a row after which a server is skipped; `off`: never',
  ),
  errors: optional(
    orOff(integer(1, 1000)),
    'off',
    'answers with a status of 500 or more in a row after which a server is skipped; `off`: never',
  ),
  coolDown: optional(duration(1), '10s', 'how long a server is skipped; then one request tries it'),
}
const keepAliveShape = {
  connections: optional(integer(0, 100_000), 4096, 'idle connections kept for each server'),
  idle: optional(
    duration(1),
    '4s',
    'how long idle connections are kept: less than the server’s own limit (Node: 5 s)',
  ),
  age: optional(orOff(duration(1)), '1h', 'a connection of this age is not kept; `off`: no limit'),
}
const ownTimeoutShape = {
  connect: absent(duration(1), undefined, 'overrides `timeouts.connect`'),
  response: absent(duration(1), undefined, 'overrides `timeouts.response`'),
}

export const MOST_SERVERS = 1000
export const MOST_WEIGHT = 1000

const address = text('an upstream address', upstreamAddress)
const serverShape = {
  address: required(address, 'address of the server'),
  weight: optional(
    integer(1, MOST_WEIGHT),
    1,
    'share of the requests, relative to the other servers, at most 1000',
  ),
  backup: optional(boolean, false, '[gets requests only while no other server is usable](#backup-servers)'),
}
const serverMap = map(serverShape)

/** `http://a:1` is short for `{ address: http://a:1 }`. */
const server: ValueCheck<ServerConfig, string | Written<typeof serverMap>> = (value, place) => {
  if (!isMap(value)) return address(value, place)
  const given = serverMap(value, place)
  if (given === undefined) return undefined
  const { address: of, weight, backup } = given
  return weight === 1 && !backup ? of : { ...of, ...(weight !== 1 && { weight }), ...(backup && { backup }) }
}

export const upstreamShape = {
  servers: required(
    fresh(
      unique(server, 'the server', server => server.text),
      { least: 1, most: MOST_SERVERS },
    ),
    '`http://HOST:PORT`, `unix:/path`, or `tcp://HOST:PORT` and `udp://HOST:PORT` (for `forward` only), with TLS `https://` and `tls://`, at least one; used in turn; or maps:',
    serverShape,
  ),
  balance: optional(
    text('a way to balance', balanceText),
    'round-robin',
    '[how servers share the requests](#balancing): `round-robin`, `random`, `two-choices`, `least-connections`, `hash:address`, `hash:header:NAME`, `hash:cookie:NAME`',
  ),
  sticky: optional(
    sticky,
    'off',
    '[a cookie](#sticky-sessions) leads the later requests of a client to the same server: its name, or a map',
    stickyShape,
  ),
  tls: absent(
    serverTls,
    null,
    '[TLS with the servers](tls.md#tls-to-servers) that are `https://` or `tls://`',
    serverTlsShape,
  ),
  proxyProtocol: optional(
    orOff(oneOf('v1', 'v2')),
    'off',
    '[PROXY header](#proxy-protocol) with the client’s address at the begin of each connection to a server: `v1`, `v2`',
  ),
  health: group(serverHealthShape, 'when a server is considered down'),
  check: optional(
    serverCheck,
    'off',
    'active check of each server: `http:/PATH`, `tcp` (it accepts a connection), or a map',
    checkShape,
  ),
  slowStart: optional(
    orOff(duration(1)),
    'off',
    'time in which the share of a server that [passes its checks again](#active-checks) rises to its whole weight',
  ),
  keepAlive: group(keepAliveShape, 'idle connections to servers'),
  connections: optional(
    orOff(integer(1, 1_000_000)),
    'off',
    'limit of connections to each server, of all workers and versions together; beyond: another server, `queue`, or 503',
  ),
  queue: optional(
    queue,
    'off',
    '[requests that wait](#a-queue-before-503) while all servers are at their limit of `connections`: how many, or a map',
    queueShape,
  ),
  retry: optional(
    integer(0, 10),
    2,
    'how many other servers to try while nothing was sent; those at their limit of `connections` do not count',
  ),
  resend: optional(
    integer(0, 100),
    20,
    'most of 100 requests that another server gets because theirs [has died](#servers-that-fail), besides 10 a second; 0: none',
  ),
  timeouts: group(ownTimeoutShape, 'timeouts of this upstream'),
}
const upstreamMap = map(upstreamShape)
export interface UpstreamDocument extends Written<typeof upstreamMap> {}
type Fields = Checked<typeof upstreamMap>
export type UpstreamFields = Checked<typeof upstreamMap> & { name: string }

/** How the keys of an upstream fit together. The first rule that fails is reported. */
const RULES: readonly ((given: Fields, place: Place) => Fields | undefined)[] = [
  serversMatch,
  hasNoConnections,
  slowStartHasCheck,
  tlsIsUsed,
  headerBeforeTls,
  stickyTakesRequests,
  queueHasLimit,
  checksPort,
  countsAnswers,
]

/** Turns `[["app", …]]` into `[{ name: "app", … }]`. */
export const upstreams = refine(
  named(
    name,
    refine(upstreamMap, (given, place) =>
      RULES.every(rule => rule(given, place) !== undefined) ? given : undefined,
    ),
  ),
  (pairs): UpstreamFields[] => pairs.map(([name, upstream]) => ({ name, ...upstream })),
)

function slowStartHasCheck(given: Fields, place: Place): Fields | undefined {
  if (given.slowStart === null || given.check !== null) return given
  return place.at('slowStart').wrong('it is valid only with "check"; leave it out')
}

function stickyTakesRequests(given: Fields, place: Place): Fields | undefined {
  if (given.sticky === null || kindOf(given.servers) === 'requests') return given
  return place.at('sticky').wrong('servers that take whole connections get no cookies; leave it out')
}

function headerBeforeTls(given: Fields, place: Place): Fields | undefined {
  if (given.proxyProtocol === null || !given.servers.some(usesTls)) return given
  return place.at('proxyProtocol').wrong('it is not possible with https:// and tls:// servers; leave it out')
}

function queueHasLimit(given: Fields, place: Place): Fields | undefined {
  if (given.queue === null || given.connections !== null) return given
  return place.at('queue').wrong('it is valid only with a limit of "connections"; leave it out')
}

function checksPort(given: Fields, place: Place): Fields | undefined {
  if (given.check === null || given.check.port === null) return given
  if (given.servers.every(({ kind }) => kind === 'tcp')) return given
  return place.at('check').at('port').wrong('unix: servers have no ports; leave it out')
}

function countsAnswers(given: Fields, place: Place): Fields | undefined {
  if (given.health.errors === null || kindOf(given.servers) === 'requests') return given
  return place
    .at('health')
    .at('errors')
    .wrong('only servers that take requests answer with a status; leave it out')
}

function tlsIsUsed(given: Fields, place: Place): Fields | undefined {
  if (given.tls === null || given.servers.some(usesTls)) return given
  return place.at('tls').wrong('no server uses TLS: write https:// or tls:// for their addresses')
}

function serversMatch(given: Fields, place: Place): Fields | undefined {
  if (ofOneKind(given.servers.map(({ text }) => text))) return given
  return place
    .at('servers')
    .wrong(
      'http:// and tcp:// do not go together, nor do https:// and tls://, nor udp:// and others; make two upstreams of them',
    )
}

/** Datagrams need none of the keys for connections. */
function hasNoConnections(given: Fields, place: Place): Fields | undefined {
  if (kindOf(given.servers) !== 'datagrams') return given
  for (const key of ['connections', 'proxyProtocol'] as const)
    if (given[key] !== null) return place.at(key).wrong('udp:// servers have no connections; leave it out')
  if (given.check !== null && given.check.http !== null)
    return place.at('check').wrong('udp:// servers answer no requests; write "tcp", or leave it out')
  return given
}

/** The checked settings with all defaults. Times in milliseconds. */
export interface UpstreamConfig extends Omit<UpstreamFields, 'timeouts'> {
  timeouts: WithDefaults<UpstreamFields['timeouts']>
}

/** Returns the upstream with the timeouts of all upstreams instead of those that it leaves out. */
export function withTimeouts(
  upstream: UpstreamFields,
  timeouts: Pick<UpstreamConfig['timeouts'], 'connect' | 'response'>,
): UpstreamConfig {
  const { connect = timeouts.connect, response = timeouts.response } = upstream.timeouts
  return { ...upstream, timeouts: { connect, response } }
}
