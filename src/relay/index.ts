/**
 * The data path of a reverse proxy: HTTP/1.0 and 1.1, upgrades and CONNECT, and whole TCP connections, between clients
 * and the servers that a router names. Knows neither listeners nor configuration.
 */
export {
  type ByteStream,
  type Bytes,
  type DetachedStream,
  NOBODY,
  type StreamOwner,
  type Tally,
} from './byte-stream.js'
export { ClientTally } from './client-tally.js'
export type { ClosedCount, ConnectionKind, RelayCounts } from './counts.js'
export type { Decision, ExchangeOptions, Refuse, Respond, Router, SendOn } from './decision.js'
export type {
  Destination,
  Dial,
  DialAddress,
  DialFailure,
  KeepAlive,
  NamedHost,
  Origin,
} from './destination.js'
export type { ExchangeReport, ExchangeSubject } from './exchange-facts.js'
export type { FieldRules, ForwardedOptions } from './field-rules.js'
export { ALLOW } from './gateway.js'
export { dialSocket, reopened, socketStream } from './open-stream.js'
export {
  DEFAULT_LIMITS,
  DEFAULT_TIMEOUTS,
  type RelayLimits,
  type RelayOptions,
  type RelayTimeouts,
} from './options.js'
export { Relay } from './relay.js'
export { type RelayedConnection, RelayedConnections, type RelayedOptions } from './relayed-connections.js'
export { type DescriptorRoom, descriptorRoom, type Shortage, takesSpare } from './shortage.js'
export { SocketStream } from './socket-stream.js'
export { DEFAULT_KEEP_ALIVE, type PoolOptions, UpstreamPools } from './upstream-pools.js'
