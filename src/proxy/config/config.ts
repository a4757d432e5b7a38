import type { HandoffTimes, ListenerSpec, StateFileOptions } from '../../index.js'
import type { RouteRule } from '../routes/rule.js'
import type { TlsConfig } from '../tls/material.js'
import type { UpstreamConfig } from '../upstreams/upstream.js'

export type { CertificateConfig, TlsConfig } from '../tls/material.js'
export type { UpstreamConfig } from '../upstreams/upstream.js'

/**
 * The configuration as it was checked, with every default filled in: plain data, which may be sent to a worker.
 * All times in milliseconds, all sizes in bytes; null is `off`.
 */
export interface ProxyConfig {
  service: string
  /** Absolute path of the control socket; null: where that of the service is by default. */
  control: string | null
  /** Null: this process serves itself. For `fd-broker proxy`: `startProxy()` always uses one process. */
  workers: WorkersConfig | null
  /** Response header that carries the pid. */
  instanceHeader: string | null
  listeners: ListenerConfig[]
  upstreams: UpstreamConfig[]
  /** Hosts and paths are canonical, each pair is there once, each upstream exists. */
  routes: RouteRule[]
  resolver: ResolverConfig
  tls: TlsConfig
  drain: {
    timeout: number
    tlsTimeout: number
    move: 'auto' | 'idle' | 'off'
    firstWave: number
    movesPerSecond: number | null
    lastEvent: string
  }
  upgrade: UpgradeConfig
  timeouts: TimeoutConfig
  limits: LimitConfig
  accessLog: boolean
  /** `auto`: from service, control and host name; null: no Via. */
  via: string | null
  trace: boolean
  /** null: the state does not outlive a reboot. */
  stateFile: StateFileConfig | null
  forwarded: ForwardedConfig
}

export interface ListenerConfig {
  name: string
  spec: ListenerSpec
  /** The upstream that whole connections go to; null: it takes HTTP requests. */
  forward: string | null
  tls: boolean
  /** A client that ends its direction still gets its answers. */
  halfClose: boolean
}

/** `timeout` is for the whole upgrade; the others are the limits of its steps, for `join({ upgrade })`. A proxy has nothing to quiesce. */
export interface UpgradeConfig extends Omit<HandoffTimes, 'quiesce'> {
  timeout: number
  /** null: a version is taken at its word. */
  health: HealthConfig | null
}

/** By what a version proves that it is well, before the commit and in probation. */
export interface HealthConfig {
  /** One of these three. */
  http: string | null
  tcp: string | null
  command: string | null
  /** null: `localhost`. */
  host: string | null
  /** null: the first that takes requests. */
  listener: string | null
  interval: number
  timeout: number
  passes: number
  within: number
}

export interface WorkersConfig {
  count: number | 'auto'
  replace: 'one-by-one' | 'at-once'
  /** Null: for ever. */
  stopTimeout: number | null
  /** Null: never. */
  hungTimeout: number | null
}

export interface StateFileConfig extends Required<StateFileOptions> {}

export interface ResolverConfig {
  /** None: those of /etc/resolv.conf. */
  servers: string[]
  /** For one name. */
  timeout: number
}

export interface TimeoutConfig {
  handshake: number
  head: number
  idle: number
  stall: number
  tunnel: number
  connect: number
  response: number
  request: number | null
}

export interface LimitConfig {
  headBytes: number
  fields: number
  body: number | null
  /** `auto`: as many as the descriptors of the process allow. */
  connections: number | null | 'auto'
  connectionsPerClient: number | null
}

export interface ForwardedConfig {
  headers: 'off' | 'x-forwarded' | 'forwarded' | 'both'
  /** Clients whose own forwarding headers are kept and appended to; those of all others are replaced. */
  trust: AddressRange[]
}

/** For `net.BlockList`. */
export interface AddressRange {
  address: string
  prefix: number
  family: 'ipv4' | 'ipv6'
}
