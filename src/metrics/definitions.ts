/** One metric. A series of it has a value for each of its labels, and one or more numbers: see {@link numbersOf}. */
export interface Definition {
  /** Without the `_total` that OpenMetrics adds to a counter. */
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly labels: readonly string[]
  /** A further label, whose values are the numbers of a series. */
  readonly columns?: { readonly label: string; readonly values: readonly string[] }
  /** The upper bounds of a histogram. */
  readonly buckets?: readonly number[]
  /** The value of a gauge for several workers. Default: the largest. */
  readonly workers?: 'sum'
}

/** The columns of counters by status; `none`: the client got no answer. */
const CODES = { label: 'code', values: ['1xx', '2xx', '3xx', '4xx', '5xx', 'none'] }

const defined = <K extends string>(metrics: Record<K, Definition>): Readonly<Record<K, Definition>> => metrics

/** All metrics. A name, a label or a bound never changes its meaning, because the numbers of earlier versions go on. */
export const METRICS = defined({
  requests: {
    name: 'fdbroker_proxy_requests',
    type: 'counter',
    help: 'Requests that have ended, by the class of their answer; none: the client got no answer',
    labels: ['listener'],
    columns: CODES,
  },
  duration: {
    name: 'fdbroker_proxy_request_duration_seconds',
    type: 'histogram',
    help: 'Time from the head of a request to the last byte of its answer; not of upgraded connections and tunnels',
    labels: ['listener'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  },
  limited: {
    name: 'fdbroker_proxy_limited_requests',
    type: 'counter',
    help: 'Requests that got 429 because of the rate limit of a route',
    labels: ['listener'],
  },
  authorizations: {
    name: 'fdbroker_proxy_authorizations',
    type: 'counter',
    help: 'Questions to services whether a request may pass, by their end; cancelled: the client has gone',
    labels: ['listener'],
    columns: { label: 'result', values: ['passed', 'refused', 'failed', 'late', 'cancelled'] },
  },
  authorizationTime: {
    name: 'fdbroker_proxy_authorization_duration_seconds',
    type: 'histogram',
    help: 'Time of these questions',
    labels: ['listener'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  },
  sentBytes: {
    name: 'fdbroker_proxy_sent_bytes',
    type: 'counter',
    help: 'Bytes written to clients',
    labels: ['listener'],
  },
  http2Requests: {
    name: 'fdbroker_proxy_http2_requests',
    type: 'counter',
    help: 'Those of the requests that came over HTTP/2',
    labels: ['listener'],
  },
  http2Bounds: {
    name: 'fdbroker_proxy_http2_ended_connections',
    type: 'counter',
    help: 'HTTP/2 connections that were ended because the client exceeded a bound',
    labels: ['listener'],
    columns: {
      label: 'bound',
      values: ['resets', 'refused', 'pings', 'settings', 'continuations', 'frames', 'flood', 'stalls'],
    },
  },
  forwarded: {
    name: 'fdbroker_proxy_forwarded_connections',
    type: 'counter',
    help: 'Whole connections, and flows of datagrams, of forward listeners that have ended',
    labels: ['listener'],
  },
  dropped: {
    name: 'fdbroker_proxy_dropped_datagrams',
    type: 'counter',
    help: 'Datagrams of udp:// listeners that were not passed on: no further flow was allowed, no server was usable, a send buffer was full, the kernel refused, the listener was closed',
    labels: ['listener'],
    columns: { label: 'reason', values: ['limit', 'no-server', 'full', 'refused', 'ended'] },
  },
  upstreamRequests: {
    name: 'fdbroker_proxy_server_requests',
    type: 'counter',
    help: 'Requests that were sent to a server and have ended, by the class of the answer to the client',
    labels: ['server'],
    columns: CODES,
  },
  upstreamFailures: {
    name: 'fdbroker_proxy_server_failures',
    type: 'counter',
    help: 'Requests for which a server sent no complete answer, or one that is not HTTP',
    labels: ['server'],
  },
  serversOut: {
    name: 'fdbroker_proxy_servers_out',
    type: 'gauge',
    help: 'Servers that get no requests for a while, because they or their checks failed',
    labels: ['upstream'],
  },
  serverChecks: {
    name: 'fdbroker_proxy_server_checks',
    type: 'counter',
    help: 'Active checks of a server',
    labels: ['server'],
    columns: { label: 'result', values: ['passed', 'failed'] },
  },
  queueLength: {
    name: 'fdbroker_proxy_waiting_requests',
    type: 'gauge',
    help: 'Requests that wait because all servers are at their limit of connections',
    labels: ['upstream'],
    workers: 'sum',
  },
  queued: {
    name: 'fdbroker_proxy_queued_requests',
    type: 'counter',
    help: 'Requests that waited for a server and got one, waited too long, or found the queue full',
    labels: ['upstream'],
    columns: { label: 'result', values: ['served', 'late', 'full'] },
  },
  sourceRevision: {
    name: 'fdbroker_proxy_source_revision',
    type: 'gauge',
    help: 'Revision of the store that the entries of the proxy have',
    labels: ['source'],
  },
  sourceNewest: {
    name: 'fdbroker_proxy_source_newest_revision',
    type: 'gauge',
    help: 'Newest revision of the store that the proxy knows of; changes of other keys raise it too',
    labels: ['source'],
  },
  sourceRefused: {
    name: 'fdbroker_proxy_source_refused_entries',
    type: 'gauge',
    help: 'Entries of the store that the proxy cannot use',
    labels: ['source'],
  },
  sourceFailing: {
    name: 'fdbroker_proxy_source_failing_seconds',
    type: 'gauge',
    help: 'Time since the proxy could read the store for the last time; 0: it can',
    labels: ['source'],
  },
  handoffs: {
    name: 'fdbroker_handoffs',
    type: 'counter',
    help: 'Handoffs that have ended; released: the next version serves; failed: before the commit; reverted: after it',
    labels: ['outcome'],
  },
  phases: {
    name: 'fdbroker_handoff_phase_seconds',
    type: 'histogram',
    help: 'Time that handoffs were in each phase',
    labels: ['phase'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
  },
  moved: {
    name: 'fdbroker_connections_moved',
    type: 'counter',
    help: 'Connections that left a process and continue in another',
    labels: ['kind'],
  },
  arrived: {
    name: 'fdbroker_connections_arrived',
    type: 'counter',
    help: 'Connections that came from another process',
    labels: ['kind'],
  },
  stayed: {
    name: 'fdbroker_connections_stayed',
    type: 'counter',
    help: 'Moves that the other process refused, by error code: the connection stays until it ends, or moves later',
    labels: ['kind', 'reason'],
  },
  drained: {
    name: 'fdbroker_connections_drained',
    type: 'counter',
    help: 'Connections of a replaced process that ended by themselves before the end of its drain',
    labels: ['kind'],
  },
  lost: {
    name: 'fdbroker_connections_lost',
    type: 'counter',
    help: 'Connections that left a process and could not be opened in the other',
    labels: [],
  },
  closed: {
    name: 'fdbroker_connections_closed',
    type: 'counter',
    help: 'Connections that were closed at the end of a drain, and why they were still open',
    labels: ['kind', 'reason'],
  },
  stalls: {
    name: 'fdbroker_loop_stall_seconds',
    type: 'histogram',
    help: 'Stalls of the event loop of more than 10 ms: the longest between two additions of counts',
    labels: [],
    buckets: [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
  },
  connections: {
    name: 'fdbroker_connections',
    type: 'gauge',
    help: 'Open connections of the process that answers; of all workers together',
    labels: ['listener'],
    workers: 'sum',
  },
  descriptors: {
    name: 'fdbroker_open_descriptors',
    type: 'gauge',
    help: 'Open descriptors of the process that answers; of all workers together',
    labels: [],
    workers: 'sum',
  },
  older: {
    name: 'fdbroker_older_generations',
    type: 'gauge',
    help: 'Older versions that stand by or drain',
    labels: [],
    workers: 'sum',
  },
  stateRecords: {
    name: 'fdbroker_state_sequence',
    type: 'gauge',
    help: 'Number of the last record of the state',
    labels: [],
  },
  stateEntries: {
    name: 'fdbroker_state_entries',
    type: 'gauge',
    help: 'Entries of the state',
    labels: [],
  },
  stateBytes: {
    name: 'fdbroker_state_bytes',
    type: 'gauge',
    help: 'Bytes of the segments of the state',
    labels: [],
  },
  stateWaiting: {
    name: 'fdbroker_state_waiting_changes',
    type: 'gauge',
    help: 'Changes of the process that answers, or of all workers, that wait for a handoff or another process',
    labels: [],
    workers: 'sum',
  },
  generation: {
    name: 'fdbroker_generation',
    type: 'gauge',
    help: 'Number of versions that have served, with the one that answers',
    labels: [],
  },
  scrapes: {
    name: 'fdbroker_scrapes',
    type: 'counter',
    help: 'Requests for these metrics',
    labels: [],
  },
})

export type MetricName = keyof typeof METRICS

/** Returns how many numbers a series has. A histogram has one for each bucket, one for all larger values, and the sum of the values. */
export function numbersOf({ columns, buckets }: Definition): number {
  return buckets === undefined ? (columns?.values.length ?? 1) : buckets.length + 2
}

/** Adds a value to the numbers of a histogram. */
export function observe(numbers: Float64Array, buckets: readonly number[], value: number): void {
  let bucket = 0
  while (bucket < buckets.length && value > buckets[bucket]!) bucket++
  numbers[bucket]! += 1
  numbers[buckets.length + 1]! += value
}
