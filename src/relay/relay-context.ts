import type { FieldEdits } from '../http1/index.js'
import type { Router, SendOn } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeReport } from './exchange-report.js'
import type { Forwarder } from './forwarded.js'
import type { RelayLimits, RelayTimeouts } from './options.js'
import type { Readers } from './readers.js'
import type { TimerWheel } from './timer-wheel.js'
import type { UpstreamPools } from './upstream-pools.js'

/** What all connections of one relay share. */
export interface RelayContext {
  readonly route: Router
  readonly timeouts: Readonly<RelayTimeouts>
  readonly limits: Readonly<RelayLimits>
  readonly wheel: TimerWheel
  readonly readers: Readers
  readonly pools: UpstreamPools
  readonly forwarder: Forwarder
  readonly requestEdits: FieldEdits
  readonly responseEdits: FieldEdits | undefined
  /** Every answer from now on announces that its connection ends. */
  readonly draining: boolean
  readonly abortHalfClosed: boolean
  readonly routeByName: ((name: string) => SendOn | undefined) | undefined
  readonly destinationByKey: ((key: string) => Destination | undefined) | undefined
  readonly onExchange: ((report: ExchangeReport) => void) | undefined
  /** A callback threw. */
  readonly onFault: ((error: unknown) => void) | undefined
  /** The connection is gone. */
  forget(connection: object): void
}
