import { type AddressRange, addressRange } from '../../checks/address-ranges.js'
import { isFolder } from '../../checks/files.js'
import { shortJson } from '../../checks/place.js'
import { absent, map, optional, required } from '../../checks/shape.js'
import {
  boolean,
  duration,
  InvalidValue,
  list,
  name,
  refine,
  text,
  unique,
  type ValueCheck,
  type Written,
} from '../../checks/values.js'
import { FdbError, formatListenerSpec, type ListenerSpec, parseListenerSpec } from '../../index.js'
import { noUpstream } from '../routes/rule.js'
import { type ClientCa, clientCa, clientCaShape } from '../tls/client-ca.js'

export interface ListenerConfig {
  name: string
  spec: ListenerSpec
  /** The upstream to which the listener forwards whole TCP connections; null for an HTTP listener. */
  forward: string | null
  tls: boolean
  /** A client that sends FIN still gets its responses. */
  halfClose: boolean
  /** Clients may use HTTP/2. */
  http2: boolean
  http2WebSockets: boolean
  /** The clients whose connections begin with a header of the PROXY protocol. */
  proxyProtocol: AddressRange[]
  /** Clients are asked for certificates. */
  clientCa: ClientCa | null
  /** The upstream of a client of ACME, which answers an authority itself (TLS-ALPN-01); null: the proxy refuses its connections. */
  acme: string | null
  /** A flow of datagrams ends after this silence, in milliseconds; null: after `timeouts.tunnel`. */
  idle: number | null
}

/** Returns the names of the listeners that take requests. */
export function requestListeners(listeners: readonly ListenerConfig[]): ReadonlySet<string> {
  return new Set(listeners.filter(({ forward }) => forward === null).map(({ name }) => name))
}

/** Reads the address of a listener for connections. */
export function streamAddress(given: string): ListenerSpec | InvalidValue {
  const spec = listenerAddress(given)
  return !(spec instanceof InvalidValue) && spec.kind === 'udp'
    ? new InvalidValue(`${shortJson(given)} is a UDP address; write tcp:// or unix:`)
    : spec
}

function listenerAddress(given: string): ListenerSpec | InvalidValue {
  try {
    return parseListenerSpec(given)
  } catch (error) {
    if (!FdbError.is(error)) throw error
    return new InvalidValue(
      `${shortJson(given)} is not a listener address: ${error.message.replace(/^.*? has an invalid /s, 'invalid ')}`,
    )
  }
}

export const listenerShape = {
  name: required(text('a name', name), 'name by which the next version finds the listener'),
  address: required(
    text('a listener address', listenerAddress),
    '`tcp://127.0.0.1:8080`, `tcp://[::1]:80`, `tcp://*:80`, `unix:/run/app.sock?mode=0660`, or `udp://127.0.0.1:53` (with `forward` only)',
  ),
  forward: absent(
    text('the name of an upstream', name => name),
    undefined,
    'not HTTP: passes each connection, or the [datagrams](#datagrams) of each client, to a server of this upstream',
  ),
  idle: absent(
    duration(1),
    null,
    'overrides `timeouts.tunnel` for the flows of a `udp://` listener, which end after this silence',
  ),
  tls: optional(boolean, false, 'whether clients speak TLS, with the certificates under `tls`'),
  clientCa: absent(
    clientCa,
    null,
    'file with the CAs of [certificates that clients must show](tls.md#certificates-of-clients), PEM, or a map',
    clientCaShape,
  ),
  acme: absent(
    text('the name of an upstream', name => name),
    null,
    'upstream of an ACME client: gets the connections of an authority that [proves names by TLS-ALPN-01](tls.md#by-tls-alpn-01), undecrypted',
  ),
  halfClose: optional(
    boolean,
    false,
    'whether a client that has closed its sending direction still gets its answers',
  ),
  http2: optional(
    boolean,
    false,
    'whether clients may use [HTTP/2](proxy.md#http2), without TLS by prior knowledge',
  ),
  http2WebSockets: optional(
    boolean,
    false,
    'whether WebSockets may be [streams of HTTP/2](proxy.md#http2), which do not move',
  ),
  proxyProtocol: optional(
    list(text('an address', addressRange)),
    [],
    'load balancers (`10.0.0.0/8`) whose connections begin with a [PROXY header](#proxy-protocol), v1 or v2',
  ),
}
const listenerMap = map(listenerShape)
export interface ListenerDocument extends Written<typeof listenerMap> {}

/** Returns a function that creates a check of one list's items. */
export const listeners = (upstreamNames: ReadonlySet<string>) => () => {
  const listener = refine(listenerMap, (given, place): ListenerConfig | undefined => {
    const { address: spec, forward = null, ...rest } = given
    const { tls, clientCa, acme, halfClose, http2, http2WebSockets, proxyProtocol, idle } = rest
    if (spec.kind === 'udp') {
      if (forward === null) return place.at('address').wrong('datagrams are only passed on: add "forward"')
      for (const key of ['tls', 'halfClose', 'http2'] as const)
        if (given[key])
          return place.at(key).wrong('a udp:// listener passes on datagrams as they are; leave it out')
      if (clientCa !== null || proxyProtocol.length > 0)
        return place
          .at(clientCa === null ? 'proxyProtocol' : 'clientCa')
          .wrong('a udp:// listener has no connections; leave it out')
    } else if (idle !== null)
      return place.at('idle').wrong('it is valid only for udp:// listeners; write timeouts.tunnel')
    if (forward !== null && halfClose)
      return place
        .at('halfClose')
        .wrong('whole connections may always be ended one side at a time; leave it out')
    if (forward !== null && http2)
      return place.at('http2').wrong('whole connections are passed on whatever they speak; leave it out')
    if (http2WebSockets && !http2)
      return place.at('http2WebSockets').wrong('clients do not use HTTP/2; add "http2: true"')
    if (clientCa !== null && !tls)
      return place.at('clientCa').wrong('clients without TLS show no certificate; add "tls: true"')
    if (acme !== null && !tls)
      return place.at('acme').wrong('an authority asks where clients speak TLS; add "tls: true"')
    if (acme !== null && !upstreamNames.has(acme))
      return place.at('acme').wrong(noUpstream(acme, upstreamNames))
    if (spec.kind === 'unix' && !spec.abstract && isFolder(spec.path))
      return place.at('address').wrong(`${shortJson(spec.path)} is a folder; write the path of a socket`)
    if (forward === null || upstreamNames.has(forward)) return { ...rest, spec, forward }
    return place.at('forward').wrong(noUpstream(forward, upstreamNames))
  })
  const names = unique(listener, 'the name', each => each.name, 'name')()
  return apart(unique(names, 'the address', ({ spec }) => endpoint(spec), 'address')())
}

/** Also reports a listener whose address overlaps with that of an earlier one. */
function apart<W>(listener: ValueCheck<ListenerConfig, W>): ValueCheck<ListenerConfig, W> {
  const before: ListenerConfig[] = []
  return (value, place) => {
    const given = listener(value, place)
    if (given === undefined) return undefined
    const other = before.find(({ spec }) => overlap(spec, given.spec))
    before.push(given)
    if (other === undefined) return given
    return place
      .at('address')
      .wrong(
        `it overlaps with ${formatListenerSpec(other.spec)} of the listener "${other.name}": the kernel gives a port to one of them only; write addresses that do not include each other`,
      )
  }
}

/** Counts the listeners with port 0, so that they have different endpoints: the kernel gives each of them another port. */
let anyPort = 0
function endpoint(spec: ListenerSpec): string {
  if (spec.kind === 'unix') return `unix:${spec.abstract ? '@' : ''}${spec.path}`
  return spec.port === 0 ? `any ${++anyPort}` : `${spec.kind}://${spec.host}:${spec.port}`
}

/** Reports whether the kernel refuses to bind both addresses, because every connection to one of them would fit the other too. */
export function overlap(one: ListenerSpec, other: ListenerSpec): boolean {
  if (one.kind !== other.kind || one.kind === 'unix' || one.port === 0 || one.port !== other.port)
    return false
  if (one.reusePort && other.reusePort) return false
  return covers(one, other) || covers(other, one)
}

/** Whether a wildcard address includes the other address. */
function covers({ host, ipv6Only }: ListenerSpec, other: ListenerSpec): boolean {
  const isV6 = other.host.includes(':')
  if (host === '0.0.0.0') return !isV6 || (other.host === '::' && !other.ipv6Only)
  return host === '::' && (isV6 || !ipv6Only)
}
