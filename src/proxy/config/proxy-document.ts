/** A duration, for example `500ms`, `30s`, `2m` or `1h`. */
export type Duration = `${number}${'ms' | 's' | 'm' | 'h'}`
/** A size in bytes; `k` means 1,024. */
export type Size = number | `${number}${'' | 'k' | 'm' | 'g'}`
type Off = 'off' | false

/** The argument of `configFrom()`: a configuration as in a file. docs/proxy-config.md explains each key and its default. */
export interface ProxyDocument {
  service: string
  control?: string
  workers?:
    | number
    | 'auto'
    | Off
    | {
        count: number | 'auto'
        replace?: 'one-by-one' | 'at-once'
        stopTimeout?: string | Off
        hungTimeout?: string | Off
      }
  instanceHeader?: string | Off
  listeners: readonly ListenerDocument[]
  upstreams?: Readonly<Record<string, UpstreamDocument>>
  routes?: readonly RouteDocument[]
  resolver?: { servers?: readonly string[]; timeout?: Duration }
  tls?: {
    certificates?: readonly { cert: string; key: string; names?: readonly string[] }[]
    minVersion?: 'TLSv1.2' | 'TLSv1.3'
    rotateTicketKeys?: Duration
  }
  drain?: {
    timeout?: Duration
    move?: 'auto' | 'idle' | 'off'
    tlsTimeout?: Duration
    generations?: number
    firstWave?: Duration
    movesPerSecond?: number | Off
    lastEvent?: string
  }
  upgrade?: {
    timeout?: Duration
    probation?: Duration
    ready?: Duration
    freeze?: Duration
    prepare?: Duration
    commit?: Duration
    heartbeat?: Duration
    silence?: Duration
    health?: string | Off | HealthDocument
  }
  timeouts?: {
    handshake?: Duration
    head?: Duration
    idle?: Duration
    stall?: Duration
    tunnel?: Duration
    connect?: Duration
    response?: Duration
    request?: Duration | Off
  }
  limits?: {
    headBytes?: Size
    fields?: number
    body?: Size | Off
    connections?: number | 'auto' | Off
    connectionsPerClient?: number | Off
  }
  via?: string | Off
  trace?: boolean
  accessLog?: boolean
  stateFile?:
    | string
    | Off
    | { path: string; sync?: 'always' | 'never' | Duration; damaged?: 'refuse' | 'prefix' }
  forwarded?: ForwardedHeaders | { headers?: ForwardedHeaders; trust?: readonly string[] }
}

export type ForwardedHeaders = 'x-forwarded' | 'forwarded' | 'both' | Off

/** Exactly one of `http`, `tcp` and `command` must be set. */
export interface HealthDocument {
  http?: string
  tcp?: string
  command?: string
  host?: string
  listener?: string
  interval?: Duration
  timeout?: Duration
  passes?: number
  within?: Duration
}

export interface ListenerDocument {
  name: string
  address: string
  forward?: string
  tls?: boolean
  halfClose?: boolean
}

export interface UpstreamDocument {
  servers: readonly string[]
  health?: { failures?: number | Off; coolDown?: Duration }
  keepAlive?: { connections?: number; idle?: Duration; age?: Duration | Off }
  connections?: number | Off
  retry?: number
  timeouts?: { connect?: Duration; response?: Duration }
}

/** Either `upstream` or `respond` must be set. */
export interface RouteDocument {
  host: string
  listener?: string
  path?: string
  upstream?: string
  respond?: { status?: number; body?: string; headers?: Readonly<Record<string, string>> }
  connect?: boolean
  request?: { host?: string } & FieldsDocument
  response?: FieldsDocument
}

export interface FieldsDocument {
  set?: Readonly<Record<string, string>>
  remove?: readonly string[]
}
