import type { HandoffTimes, ListenerSpec, StateFileOptions } from '../../index.js'
import type { RouteRule } from '../routes/rule.js'
import type { TlsConfig } from '../tls/material.js'
import type { UpstreamConfig } from '../upstreams/upstream.js'

export type { CertificateConfig, TlsConfig } from '../tls/material.js'
export type { UpstreamConfig } from '../upstreams/upstream.js'

/** The checked configuration with all defaults: plain data, which may be sent to a worker. Times in milliseconds, sizes in bytes; null is `off`. */
export interface ProxyConfig {
  service: string
  /** Absolute path of the control socket; null: the service's default. */
  control: string | null
  /** Null: this process serves. For `fd-broker proxy` only: `startProxy()` always uses one process. */
  workers: WorkersConfig | null
  /** Response header with the pid. */
  instanceHeader: string | null
  listeners: ListenerConfig[]
  upstreams: UpstreamConfig[]
  /** Hosts and paths are canonical, each pair is unique, each upstream exists. */
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
  /** null: the state ends with a reboot. */
  stateFile: StateFileConfig | null
  forwarded: ForwardedConfig
}

export interface ListenerConfig {
  name: string
  spec: ListenerSpec
  /** The upstream of whole connections; null: the listener takes HTTP requests. */
  forward: string | null
  tls: boolean
  /** A client that sends FIN still gets its answers. */
  halfClose: boolean
}

/** `timeout` limits the whole upgrade, the others its steps, for `join({ upgrade })`. A proxy has nothing to quiesce. */
export interface UpgradeConfig extends Omit<HandoffTimes, 'quiesce'> {
  timeout: number
  /** null: no check. */
  health: HealthConfig | null
}

/** The check by which a version proves its health, before the commit and in probation. */
export interface HealthConfig {
  /** One of these three. */
  http: string | null
  tcp: string | null
  command: string | null
  /** null: `localhost`. */
  host: string | null
  /** null: the first one for requests. */
  listener: string | null
  interval: number
  timeout: number
  passes: number
  within: number
}

export interface WorkersConfig {
  count: number | 'auto'
  replace: 'one-by-one' | 'at-once'
  /** Null: no limit. */
  stopTimeout: number | null
  /** Null: never. */
  hungTimeout: number | null
}

export interface StateFileConfig extends Required<StateFileOptions> {}

export interface ResolverConfig {
  /** Empty: those of /etc/resolv.conf. */
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
  /** `auto`: as many as the process has descriptors for. */
  connections: number | null | 'auto'
  connectionsPerClient: number | null
}

export interface ForwardedConfig {
  headers: 'off' | 'x-forwarded' | 'forwarded' | 'both'
  /** Clients whose forwarding headers are kept and extended; those of all others are replaced. */
  trust: AddressRange[]
}

/** For `net.BlockList`. */
export interface AddressRange {
  address: string
  prefix: number
  family: 'ipv4' | 'ipv6'
}
