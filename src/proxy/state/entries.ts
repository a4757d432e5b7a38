import { type AddressRange, addressRange } from '../../checks/address-ranges.js'
import { DocumentPlace, Problems } from '../../checks/place.js'
import { InvalidValue, integer, milliseconds, oneOf, or, text, type ValueCheck } from '../../checks/values.js'
import { formatListenerSpec, parseListenerSpec } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { accessLineShape, requestIdName } from '../config/access-line.js'
import { pageItems, pagesOf } from '../config/error-pages.js'
import { healthShape } from '../config/health.js'
import type { ListenerConfig } from '../config/listeners.js'
import type { ProxyConfig } from '../config/schema.js'
import { instanceHeaderName, viaName } from '../config/values.js'
import type { Stamp } from '../entries/difference.js'
import { canonicalPath } from '../routes/path.js'
import type { ServerCheckConfig } from '../server-checks/shape.js'
import { clientCa } from '../tls/client-ca.js'
import { upstreamAddress } from '../upstreams/address.js'
import { balanceText } from '../upstreams/balancing.js'
import type { QueueConfig } from '../upstreams/queue.js'
import type { UpstreamConfig } from '../upstreams/shape.js'
import type { StickyConfig } from '../upstreams/sticky.js'
import { type ServerTlsConfig, serverTls, tlsId } from '../upstreams/tls-shape.js'
import type { ListenerMessage, SettingMessage, UpstreamMessage } from './sections.js'

const { Upstream, Check, Listener, ServerOptions, ServerTls, Setting, StickyCookie } = fdbroker.proxy
type CheckMessage = fdbroker.proxy.Check

const time = milliseconds(1)
const amount = integer(0, Number.MAX_SAFE_INTEGER)
const count = integer(1, Number.MAX_SAFE_INTEGER)

/** Reports whether this version can use a value of the state: another version may have other limits. */
function accepts(check: ValueCheck<unknown>, value: unknown): boolean {
  return check(value, new DocumentPlace(new Problems(0))) !== undefined
}

/** The default of `balance`. */
const IN_TURN = 'round-robin'

const PROXY_VERSIONS: readonly UpstreamConfig['proxyProtocol'][] = [null, 'v1', 'v2']

/** The default of `resend`. An entry omits it. */
const DEFAULT_RESEND = 20

/** The default of `keepAlive.age`. An entry omits an age that is the default. */
const DEFAULT_AGE_MS = 3_600_000

export function upstreamMessage(config: UpstreamConfig, stamp: Stamp): UpstreamMessage {
  const { servers, balance, retry, resend, health, check, slowStart, keepAlive, connections, timeouts } =
    config
  const { proxyProtocol, queue, sticky, tls } = config
  return Upstream.create({
    servers: servers.map(({ text }) => text),
    retry,
    resendPercent: resend === DEFAULT_RESEND ? null : resend,
    failures: health.failures,
    errors: health.errors ?? 0,
    coolDownMs: health.coolDown,
    keepAliveConnections: keepAlive.connections,
    keepAliveIdleMs: keepAlive.idle,
    keepAliveAgeMs: keepAlive.age === DEFAULT_AGE_MS ? null : (keepAlive.age ?? 0),
    connectTimeoutMs: timeouts.connect,
    responseTimeoutMs: timeouts.response,
    connections,
    ...(check !== null && { check: checkMessage(check) }),
    ...(tls !== null && { tls: tlsMessage(tls) }),
    proxyProtocol: proxyProtocol === null ? 0 : proxyProtocol === 'v1' ? 1 : 2,
    queue: queue?.requests ?? 0,
    queueTimeoutMs: queue?.timeout ?? 0,
    ...(sticky !== null && { sticky: { ...sticky, maxAgeMs: sticky.maxAge ?? 0 } }),
    slowStartMs: slowStart ?? 0,
    balance: balance === IN_TURN ? '' : balance,
    ...(servers.some(({ weight = 1, backup }) => weight !== 1 || backup) && {
      options: servers.map(({ weight = 1, backup = false }) => ({ weight, backup })),
    }),
    ...stamp,
  })
}

function tlsMessage(tls: ServerTlsConfig): fdbroker.proxy.ServerTls {
  const { ca, cert, key, name, verify } = tls
  return ServerTls.create({
    ca: ca?.path ?? '',
    cert: cert?.path ?? '',
    key: key?.path ?? '',
    name: name ?? '',
    unverified: !verify,
    id: tlsId(tls),
  })
}

/** Reads the files. Returns undefined if this process cannot use them. */
function tlsOf(message: fdbroker.proxy.ServerTls.$Properties): ServerTlsConfig | undefined {
  const { ca, cert, key, name, unverified } = ServerTls.create(message)
  const given = {
    ...(ca !== '' && { ca }),
    ...(cert !== '' && { cert }),
    ...(key !== '' && { key }),
    ...(name !== '' && { name }),
    verify: !unverified,
  }
  return serverTls(given, new DocumentPlace(new Problems(0)))
}

function queueOf({ queue, queueTimeoutMs, connections }: UpstreamMessage): QueueConfig | null {
  const usable = queue > 0 && queueTimeoutMs > 0 && connections != null
  return usable ? { requests: queue, timeout: queueTimeoutMs } : null
}

function stickyOf(message: fdbroker.proxy.StickyCookie.$Properties): StickyConfig {
  const { cookie, maxAgeMs, secure } = StickyCookie.create(message)
  return { cookie, maxAge: maxAgeMs || null, secure }
}

function checkMessage(check: ServerCheckConfig): CheckMessage {
  const { http, status, host, port, interval, timeout, rise, fall } = check
  return Check.create({
    http: http ?? '',
    status: status ?? 0,
    host: host ?? '',
    port: port ?? 0,
    intervalMs: interval,
    timeoutMs: timeout,
    rise,
    fall,
  })
}

/** Returns undefined for a check that this version cannot use. */
function checkOf(message: fdbroker.proxy.Check.$Properties): ServerCheckConfig | undefined {
  const { http, status, host, port, intervalMs, timeoutMs, rise, fall } = Check.create(message)
  if (![intervalMs, timeoutMs].every(ms => accepts(time, ms)) || rise < 1 || fall < 1) return undefined
  return {
    http: http || null,
    status: status || null,
    host: host || null,
    port: port || null,
    interval: intervalMs,
    timeout: timeoutMs,
    rise,
    fall,
  }
}

/** Returns null for an upstream that this version cannot use. */
export function upstreamOf(name: string, message: UpstreamMessage): UpstreamConfig | null {
  const servers: UpstreamConfig['servers'] = []
  for (const [index, text] of message.servers.entries()) {
    const server = upstreamAddress(text)
    if (server instanceof InvalidValue) return null
    const { weight, backup } = ServerOptions.create(message.options[index])
    servers.push({ ...server, ...(weight > 1 && { weight }), ...(backup && { backup }) })
  }
  const { retry, failures = null, coolDownMs, keepAliveConnections, keepAliveIdleMs } = message
  const { connectTimeoutMs, responseTimeoutMs, connections = null } = message
  const { keepAliveAgeMs } = message
  const check = message.check ? checkOf(message.check) : null
  const tls = message.tls ? tlsOf(message.tls) : null
  const possible =
    check !== undefined &&
    tls !== undefined &&
    servers.length > 0 &&
    failures !== 0 &&
    connections !== 0 &&
    [coolDownMs, connectTimeoutMs, responseTimeoutMs].every(ms => accepts(time, ms))
  if (!possible) return null
  return {
    name,
    servers,
    connections,
    retry,
    resend: Math.min(message.resendPercent ?? DEFAULT_RESEND, 100),
    health: { failures, errors: message.errors || null, coolDown: coolDownMs },
    check,
    tls,
    proxyProtocol: PROXY_VERSIONS[message.proxyProtocol] ?? null,
    queue: queueOf(message),
    sticky: message.sticky ? stickyOf(message.sticky) : null,
    slowStart: message.slowStartMs || null,
    // A way that only newer versions know is not used.
    balance: balanceText(message.balance) === message.balance ? message.balance : IN_TURN,
    keepAlive: {
      connections: keepAliveConnections,
      idle: keepAliveIdleMs,
      age: keepAliveAgeMs === 0 ? null : (keepAliveAgeMs ?? DEFAULT_AGE_MS),
    },
    timeouts: { connect: connectTimeoutMs, response: responseTimeoutMs },
  }
}

/** Returns null for a listener that this version cannot use. */
export function listenerOf(name: string, message: ListenerMessage): ListenerConfig | null {
  const { address, forward, tls, acme, halfClose, http2, http2WebSockets, proxyProtocol, idleMs } = message
  try {
    const spec = parseListenerSpec(address)
    const given = {
      file: message.clientCa,
      required: !message.clientMayLackCertificate,
      revoked: message.clientCaRevoked,
    }
    const ca = given.file === '' ? null : clientCa(given, new DocumentPlace(new Problems(0)))
    // Clients without a certificate must not be served because this process cannot read the CAs.
    if (ca === undefined) return null
    return {
      name,
      spec,
      forward: forward || null,
      tls,
      acme: acme || null,
      halfClose,
      http2: http2 ?? false,
      http2WebSockets,
      proxyProtocol: rangesOf(proxyProtocol),
      clientCa: ca,
      idle: idleMs || null,
    }
  } catch {
    return null
  }
}

export function listenerMessage(config: ListenerConfig, stamp: Stamp): ListenerMessage {
  const { spec, forward, tls, acme, halfClose, http2, http2WebSockets, proxyProtocol, clientCa, idle } =
    config
  return Listener.create({
    address: formatListenerSpec(spec),
    forward: forward ?? '',
    tls,
    acme: acme ?? '',
    halfClose,
    // Unset by default: with it each upgrade from a release without HTTP/2 would write, and report, a change of every listener.
    http2: http2 || null,
    http2WebSockets,
    proxyProtocol: proxyProtocol.map(rangeText),
    clientCa: clientCa?.path ?? '',
    clientCaId: clientCa?.contents ?? '',
    clientCaRevoked: clientCa?.revoked.map(({ path }) => path) ?? [],
    clientMayLackCertificate: clientCa?.required === false,
    idleMs: idle ?? 0,
    ...stamp,
  })
}

/** Keys that are not written as one setting for each value: they have their own section or form, are secret, or concern only the main process. */
const NO_SETTINGS: ReadonlySet<string> = new Set<keyof ProxyConfig>([
  'listeners',
  'upstreams',
  'routes',
  'tls',
  'workers',
  'forwarded',
  'upgrade',
  'metrics',
  'source',
  'errorPages',
])

const HEALTH = 'upgrade.health.'

/** Reports whether the setting is absent unless the operator has set it. */
export function isOptional(path: string): boolean {
  return path.startsWith(HEALTH) && Object.hasOwn(healthShape, path.slice(HEALTH.length))
}

export function settingMessages(config: ProxyConfig, stamp: Stamp): Map<string, SettingMessage> {
  const settings = new Map<string, SettingMessage>()
  const add = (path: string, value: unknown): void => {
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      for (const [key, below] of Object.entries(value)) add(`${path}.${key}`, below)
    } else settings.set(path, settingMessage(value, stamp))
  }
  for (const [key, value] of Object.entries(config)) if (!NO_SETTINGS.has(key)) add(key, value)
  const { health, ...upgrade } = config.upgrade
  add('upgrade', upgrade)
  for (const [key, value] of Object.entries(health ?? {})) if (value !== null) add(`${HEALTH}${key}`, value)
  const { minVersion, rotateTicketKeys } = config.tls
  add('tls.minVersion', minVersion)
  add('tls.rotateTicketKeys', rotateTicketKeys)
  const { headers, trust } = config.forwarded
  add('forwarded.headers', headers)
  add('forwarded.trust', trust.map(rangeText))
  add('errorPages', pageItems(config.errorPages))
  return settings
}

export function settingMessage(value: unknown, stamp: Stamp): SettingMessage {
  if (typeof value === 'number') return Setting.create({ number: value, ...stamp })
  if (typeof value === 'boolean') return Setting.create({ flag: value, ...stamp })
  if (typeof value === 'string') return Setting.create({ text: value, ...stamp })
  if (Array.isArray(value)) return Setting.create({ list: { items: value.map(String) }, ...stamp })
  return Setting.create(stamp)
}

/** A setting without a check must have the type of this version's value. */
const SETTING_CHECKS: ReadonlyMap<string, ValueCheck<unknown>> = new Map<string, ValueCheck<unknown>>([
  ['instanceHeader', or(text('a header name', instanceHeaderName), null)],
  ['via', or(text('a name for Via', viaName), null)],
  ['ready', or(text('a path', canonicalPath), null)],
  ...['handshake', 'head', 'idle', 'stall', 'tunnel', 'connect', 'response'].map(
    name => [`timeouts.${name}`, time] as const,
  ),
  ['timeouts.request', or(time, null)],
  ['limits.headBytes', count],
  ['limits.fields', count],
  ['limits.body', or(amount, null)],
  ['limits.connections', or(count, 'auto', null)],
  ['limits.connectionsPerClient', or(count, null)],
  ['tls.minVersion', oneOf('TLSv1.2', 'TLSv1.3')],
  ['tls.rotateTicketKeys', time],
  ['forwarded.headers', oneOf('off', 'x-forwarded', 'forwarded', 'both')],
  ['accessLine.format', accessLineShape.format.check],
  ['accessLine.fields', accessLineShape.fields.check],
  ['tracing.requestId', or(text('a header name', requestIdName), null)],
])

/** Settings that a follower never takes from the state. */
const OWN_SETTINGS: ReadonlySet<string> = new Set([
  'service',
  'control',
  'drain',
  'hooks',
  'upgrade',
  'stateFile',
  'resolver',
])

/** Changes the setting in `config`, unless a follower never takes it from the state or this version cannot use its value. */
export function applySetting(config: ProxyConfig, path: string, setting: SettingMessage): void {
  const names = path.split('.')
  const last = names.pop()!
  let at = config as unknown as Record<string, unknown>
  if (OWN_SETTINGS.has(names[0] ?? last)) return
  for (const name of names) {
    const below = Object.hasOwn(at, name) ? at[name] : null
    if (typeof below !== 'object' || below === null) return
    at = below as Record<string, unknown>
  }
  if (!Object.hasOwn(at, last)) return
  const { number, flag, text, list } = setting
  if (path === 'forwarded.trust') at[last] = rangesOf(list?.items ?? [])
  else if (path === 'errorPages') at[last] = pagesOf(list?.items ?? [])
  else {
    const value = number ?? flag ?? text ?? list?.items ?? null
    const check = SETTING_CHECKS.get(path)
    if (check === undefined ? typeof value === typeof at[last] : accepts(check, value)) at[last] = value
  }
}

function rangeText({ address, prefix }: AddressRange): string {
  return `${address}/${prefix}`
}

/** Omits ranges that this version cannot read: their clients are not trusted. */
function rangesOf(items: readonly string[]): AddressRange[] {
  return items.flatMap(item => {
    const range = addressRange(item)
    return range instanceof InvalidValue ? [] : [range]
  })
}
