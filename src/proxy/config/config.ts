import type { HandoffTimes, ListenerSpec, StateFileOptions } from '../../index.js'
import type { RouteRule } from '../routes/rule.js'
import type { TlsConfig } from '../tls/material.js'
import type { UpstreamConfig } from '../upstreams/upstream.js'

/** The checked configuration with all defaults, as plain data for a worker thread. Times are in milliseconds, sizes in bytes; null means `off`. */
export interface ProxyConfig {
  service: string
  /** Absolute path of the control socket; null: the service's default. */
  control: string | null
  /** Null if the proxy uses one process. Only `fd-broker proxy` starts workers; `startProxy()` always uses one process. */
  workers: WorkersConfig | null
  /** Name of a response header with the pid. */
  instanceHeader: string | null
  listeners: ListenerConfig[]
  upstreams: UpstreamConfig[]
  /** Hosts and paths are canonical, each pair of them is unique, and each upstream exists. */
  routes: RouteRule[]
  resolver: ResolverConfig
  tls: TlsConfig
  drain: {
    timeout: number
    tlsTimeout: number
    generations: number
    move: 'auto' | 'idle' | 'off'
    firstWave: number
    movesPerSecond: number | null
    lastEvent: string
  }
  upgrade: UpgradeConfig
  timeouts: TimeoutConfig
  limits: LimitConfig
  accessLog: boolean
  /** `auto`: derived from service, control and host name; null: no Via. */
  via: string | null
  trace: boolean
  /** Null if the state must not survive a reboot. */
  stateFile: StateFileConfig | null
  forwarded: ForwardedConfig
}

export interface ListenerConfig {
  name: string
  spec: ListenerSpec
  /** The upstream to which the listener forwards whole TCP connections; null for an HTTP listener. */
  forward: string | null
  tls: boolean
  /** A client that sends FIN still gets its responses. */
  halfClose: boolean
}

/** Returns the names of the listeners that take requests. */
export function requestListeners(listeners: readonly ListenerConfig[]): ReadonlySet<string> {
  return new Set(listeners.filter(({ forward }) => forward === null).map(({ name }) => name))
}

/** `timeout` limits the whole upgrade; the other times limit its steps, see `join({ upgrade })`. The proxy has nothing to quiesce. */
export interface UpgradeConfig extends Omit<HandoffTimes, 'quiesce'> {
  timeout: number
  health: HealthConfig | null
}

/** The health check of a new version, before the commit and in probation. Exactly one of `http`, `tcp` and `command` is set. */
export interface HealthConfig {
  http: string | null
  tcp: string | null
  command: string | null
  /** The check's Host header; null for `localhost`. */
  host: string | null
  /** The listener to check; null for the first HTTP listener. */
  listener: string | null
  interval: number
  timeout: number
  passes: number
  within: number
}

export interface WorkersConfig {
  count: number | 'auto'
  replace: 'one-by-one' | 'at-once'
  /** How long a worker may take to stop serving before it is killed; null for no limit. */
  stopTimeout: number | null
  /** How long a worker may be silent before it is replaced; null for no limit. */
  hungTimeout: number | null
}

export interface StateFileConfig extends Required<StateFileOptions> {}

export interface ResolverConfig {
  /** Addresses of name servers; if empty, those of /etc/resolv.conf are used. */
  servers: string[]
  /** Time limit for the lookup of one name. */
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
  /** `auto`: limited by the descriptors of the process. */
  connections: number | null | 'auto'
  connectionsPerClient: number | null
}

export interface ForwardedConfig {
  headers: 'off' | 'x-forwarded' | 'forwarded' | 'both'
  /** Clients whose forwarding headers the proxy keeps and extends. The proxy replaces the headers of all other clients. */
  trust: AddressRange[]
}

/** A range for `net.BlockList`. */
export interface AddressRange {
  address: string
  prefix: number
  family: 'ipv4' | 'ipv6'
}
