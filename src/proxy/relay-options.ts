import { hostname } from 'node:os'
import { crc32 } from 'node:zlib'
import { isIn } from '../checks/address-ranges.js'
import { type Decision, Relay, type RelayOptions, type Router, UpstreamPools } from '../relay/index.js'
import { trailOptions } from './config/access-line.js'
import { errorBodies } from './config/error-pages.js'
import type { ProxyConfig } from './config/schema.js'
import { READY, UNREADY } from './leaving.js'
import { decisionOf, type RouteAction } from './routes/action.js'
import { AMBIGUOUS_PATH, NO_ROUTE, type RouteTable } from './routes/table.js'
import { askedOf } from './tls/client-ca.js'

/** As many as the largest `retry` of an upstream (10) allows: only the upstream's own limit applies. */
const MAX_ATTEMPTS = 11

/** The settings of a listener about its clients. */
export interface ClientProtocol {
  /** See {@link ListenerConfig.halfClose}. */
  readonly halfClose: boolean
  readonly http2: boolean
  readonly http2WebSockets: boolean
  /** See {@link askedOf}. */
  readonly clientCa: string
  /** Clients of any listener are asked for certificates. */
  readonly asked: boolean
}

export const HTTP1: ClientProtocol = {
  halfClose: false,
  http2: false,
  http2WebSockets: false,
  clientCa: '',
  asked: false,
}

/** Returns these settings of the listener with this name. */
export function clientProtocol({ listeners }: ProxyConfig, name: string): ClientProtocol {
  const own = listeners.find(listener => listener.name === name)
  if (own === undefined) return HTTP1
  const { halfClose, http2, http2WebSockets, clientCa } = own
  const asked = listeners.some(each => each.clientCa)
  return { halfClose, http2, http2WebSockets, clientCa: askedOf(clientCa), asked }
}

/** Reports whether a client of any listener may use HTTP/2. */
export function mayHaveHttp2(config: ProxyConfig): boolean {
  return config.listeners.some(({ forward, http2 }) => forward === null && http2)
}

/** Returns a relay's options. Two configurations with equal {@link relaySettings} have equal options. */
export function relayOptions(
  config: ProxyConfig,
  { halfClose, http2, http2WebSockets, clientCa, asked }: ClientProtocol,
): Pick<
  RelayOptions,
  | 'timeouts'
  | 'limits'
  | 'headLimits'
  | 'forwarded'
  | 'gateway'
  | 'errorBody'
  | 'responseFields'
  | 'halfClosedClients'
  | 'http2WithoutTls'
  | 'http2WebSockets'
  | 'clientCa'
  | 'trail'
> {
  const { timeouts, limits, instanceHeader, forwarded } = config
  const { handshake: _, request, ...otherTimeouts } = timeouts
  const { headBytes, fields, body } = limits
  const options: ReturnType<typeof relayOptions> = {
    timeouts: { ...otherTimeouts, request: request ?? Number.POSITIVE_INFINITY },
    limits: {
      bodyBytes: body === null ? Number.POSITIVE_INFINITY : Math.max(1, body),
      attempts: MAX_ATTEMPTS,
    },
    http2WithoutTls: http2,
    http2WebSockets,
    clientCa,
    trail: trailOptions(config),
    errorBody: errorBodies(config.errorPages),
    halfClosedClients: halfClose ? 'serve' : 'abort',
    headLimits: { headBytes, fields, targetBytes: Math.min(headBytes, 8 * 1024) },
    gateway: { via: config.via === 'auto' ? viaName(config) : config.via, trace: config.trace },
    forwarded: {
      ...(forwarded.trust.length > 0 && { trusts: isIn(forwarded.trust) }),
      xForwarded: forwarded.headers === 'x-forwarded' || forwarded.headers === 'both',
      forwarded: forwarded.headers === 'forwarded' || forwarded.headers === 'both',
      ...(asked && { certificates: clientCa === '' ? ('elsewhere' as const) : ('here' as const) }),
    },
  }
  if (instanceHeader === null) return options
  return { ...options, responseFields: { set: { [instanceHeader]: String(process.pid) } } }
}

/** Throws ERR_FDB_RELAY_OPTION or ERR_FDB_HTTP1_LIMIT for values that no relay can have: an application may have changed the checked configuration. */
export function checkRelayOptions(config: ProxyConfig): void {
  void new Relay({ ...relayOptions(config, HTTP1), route: () => NOT_FOUND, pools: new UpstreamPools() })
}

/** Returns the same name for all generations of one proxy, and other names for other proxies. */
function viaName({ service, control }: ProxyConfig): string {
  const sum = crc32(`${hostname()}\n${service}\n${control ?? ''}`)
  return `${service.replace(/[^0-9A-Za-z.-]/g, '-')}-${sum.toString(16).padStart(8, '0')}`
}

export function relaySettings(config: ProxyConfig, protocol: ClientProtocol): string {
  const { timeouts, limits, instanceHeader, forwarded, via, trace, errorPages } = config
  const trail = trailOptions(config)
  return JSON.stringify([
    timeouts,
    limits,
    instanceHeader,
    forwarded,
    via,
    trace,
    protocol,
    trail,
    errorPages,
  ])
}

const NOT_FOUND: Decision = { kind: 'refuse', status: 404, reason: 'no-route' }
const AMBIGUOUS: Decision = { kind: 'refuse', status: 400, reason: 'path-ambiguous' }
const NO_BODY: Decision = { kind: 'refuse', status: 413, reason: 'body-too-large' }

/** Requests without a Host (HTTP/1.0) match only the routes of host `*`. */
const NO_HOST = ''
const ROOT = '/'

/** `leaves`: reports whether the machine leaves its balancer. */
export function routerOf(
  table: RouteTable<RouteAction>,
  config: () => ProxyConfig,
  leaves = () => false,
): Router {
  return (head, origin, client) => {
    if (head.resource === config().ready) return leaves() ? UNREADY : READY
    const connect = head.method === 'CONNECT'
    const host = head.authority?.host ?? NO_HOST
    const match = table.lookup(host, connect ? ROOT : head.resource, origin.listener, head, client)
    if (match === NO_ROUTE) return NOT_FOUND
    if (match === AMBIGUOUS_PATH) return AMBIGUOUS
    if (config().limits.body === 0 && (head.chunked || (head.contentLength ?? 0) > 0)) return NO_BODY
    return decisionOf(match, head, origin, client)
  }
}
