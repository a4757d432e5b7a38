/**
 * The data path of a reverse proxy: relays HTTP/1.0 and 1.1, upgrades, CONNECT and whole TCP connections between clients and the servers that a
 * {@link Router} chooses. Knows neither listeners nor configuration.
 */

export { TlsCarrier } from '../tls13/tls-carrier.js'
export {
  type ByteStream,
  type BytesOrText,
  NO_OWNER,
  type Passage,
  type StreamOwner,
  type Tally,
} from './byte-stream.js'
export { certificateLines, certificateOf } from './client-certificate.js'
export { ClientTally } from './client-tally.js'
export type {
  Authorization,
  Decision,
  ErrorBody,
  ExchangeOptions,
  Forward,
  RequestQueue,
  Respond,
  Router,
  Sticky,
} from './decision.js'
export type {
  ClientOrigin,
  Destination,
  DialAddress,
  KeepAlive,
  NamedHost,
  ServerFailure,
  ServerTls,
} from './destination.js'
export type { ExchangeReport } from './exchange-facts.js'
export type { FieldRules, ForwardedOptions } from './field-rules.js'
export { FrontTurn } from './front-turn.js'
export { ALLOW } from './gateway.js'
export { boundOf, type Http2Bound, RateBounds } from './http2-bounds.js'
export { lastChunk, requestText } from './http2-request.js'
export { responseFields, sendFields, trailersOf } from './http2-response.js'
export { acceptedStream, dialSocket, socketStream, streamFromFd, tlsStreamFromFd } from './open-stream.js'
export { DEFAULT_RELAY_LIMITS, type RelayOptions } from './options.js'
export { PolledStream } from './polled-stream.js'
export { type ProxyVersion, proxyHeader, readProxyHeader } from './proxy-protocol.js'
export { Relay } from './relay.js'
export { type RelayedConnection, RelayedConnections } from './relayed-connections.js'
export { SlotFile } from './server-slots.js'
export { type DescriptorRoom, descriptorRoom, shortageOf, takesSpare } from './shortage.js'
export { SocketStream } from './socket-stream.js'
export { tlsFailureOf } from './tls-failure.js'
export type { Trail, TrailOptions } from './trail.js'
export { type Drop, UdpForward, type UdpForwardOptions } from './udp-forward.js'
export { UpstreamPools } from './upstream-pools.js'
