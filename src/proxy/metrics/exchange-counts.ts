import { METRICS, observe } from '../../metrics/definitions.js'
import type { Totals } from '../../metrics/totals.js'
import type { Drop, ExchangeReport, Http2Bound } from '../../relay/index.js'
import { RATE_LIMITED } from '../routes/rate-limit.js'

const BOUNDS = METRICS.duration.buckets!
const NO_ANSWER = 5
const AUTHORIZATION_BOUNDS = METRICS.authorizationTime.buckets!
/** The reason of an authorization that has no end, because its request has none. */
const CANCELLED = 'cancelled'

interface ListenerCounts {
  readonly requests: Float64Array
  readonly duration: Float64Array
  readonly sentBytes: Float64Array
}

interface ServerCounts {
  readonly requests: Float64Array
  readonly failures: Float64Array
}

/** The requests of this process in the last seconds. */
export interface RecentRequests {
  readonly perSecond: number
  /** Answers of class 5xx, and requests without an answer. */
  readonly failed: number
  /** The bound below which 99 % of the latencies are; null: there was none, or the bound is above the largest one. */
  readonly p99Ms: number | null
}

/** {@link RecentRequests} are those of at least this time. */
const RECENT_MS = 900
const SERVER_ERROR = 4

/** Counts the requests of this process, and its checks of servers. A request costs two look-ups and a few additions. */
export class ExchangeCounts {
  readonly #totals: Pick<Totals, 'numbers' | 'onFlush'>
  /** The numbers since `#since`, of all listeners. */
  readonly #span = {
    requests: new Float64Array(NO_ANSWER + 1),
    duration: new Float64Array(BOUNDS.length + 1),
  }
  #since = performance.now()
  /** Null in the first second. */
  recent: RecentRequests | null = null
  readonly #listeners = new Map<string, ListenerCounts>()
  readonly #servers = new Map<string, ServerCounts>()

  constructor(totals: Pick<Totals, 'numbers' | 'onFlush'>) {
    this.#totals = totals
    totals.onFlush(() => this.#look())
  }

  add(report: ExchangeReport): void {
    const { subject, listener, status, method, destination, serverFailed, bytesSent } = report
    if (subject === 'authorization') {
      this.#addAuthorization(report)
      return
    }
    const own = this.#listeners.get(listener) ?? this.#addListener(listener)
    own.sentBytes[0]! += bytesSent
    if (subject === 'tcp' || subject === 'udp') {
      this.#totals.numbers('forwarded', listener)[0]! += 1
      return
    }
    const code = columnOf(status)
    own.requests[code]! += 1
    if (status === 429 && report.reason === RATE_LIMITED) this.#totals.numbers('limited', listener)[0]! += 1
    if (report.http2) this.#totals.numbers('http2Requests', listener)[0]! += 1
    if (status !== 101 && method !== 'CONNECT') observe(own.duration, BOUNDS, report.milliseconds / 1_000)
    this.#addToServer(destination, code, serverFailed)
  }

  #addAuthorization({
    listener,
    status,
    reason,
    milliseconds,
    destination,
    serverFailed,
  }: ExchangeReport): void {
    const { values } = METRICS.authorizations.columns!
    const failure = reason?.endsWith('-timeout') ? 'late' : reason === CANCELLED ? CANCELLED : 'failed'
    const result = reason !== undefined ? failure : status < 300 ? 'passed' : 'refused'
    this.#totals.numbers('authorizations', listener)[values.indexOf(result)]! += 1
    observe(this.#totals.numbers('authorizationTime', listener), AUTHORIZATION_BOUNDS, milliseconds / 1_000)
    this.#addToServer(destination, columnOf(status), serverFailed)
  }

  #addToServer(destination: string | undefined, code: number, failed: boolean): void {
    if (destination === undefined) return
    const server = this.#servers.get(destination) ?? this.#addServer(destination)
    server.requests[code]! += 1
    if (failed) server.failures[0]! += 1
  }

  addCheck(server: string, passed: boolean): void {
    this.#totals.numbers('serverChecks', server)[passed ? 0 : 1]! += 1
  }

  addHttp2Bound(listener: string, bound: Http2Bound): void {
    this.#totals.numbers('http2Bounds', listener)[METRICS.http2Bounds.columns!.values.indexOf(bound)]! += 1
  }

  addDrop(listener: string, why: Drop): void {
    this.#totals.numbers('dropped', listener)[METRICS.dropped.columns!.values.indexOf(why)]! += 1
  }

  addQueued(upstream: string, how: 'served' | 'late' | 'full'): void {
    this.#totals.numbers('queued', upstream)[how === 'served' ? 0 : how === 'late' ? 1 : 2]! += 1
  }

  /** Called before the counts begin again at 0. */
  #look(): void {
    const { requests, duration } = this.#span
    for (const counts of this.#listeners.values()) {
      for (let i = 0; i < requests.length; i++) requests[i]! += counts.requests[i]!
      for (let i = 0; i < duration.length; i++) duration[i]! += counts.duration[i]!
    }
    const ms = performance.now() - this.#since
    if (ms < RECENT_MS) return
    const failed = requests[SERVER_ERROR]! + requests[NO_ANSWER]!
    this.recent = { perSecond: (sum(requests) * 1_000) / ms, failed, p99Ms: quantileMs(duration, 0.99) }
    requests.fill(0)
    duration.fill(0)
    this.#since = performance.now()
  }

  #addListener(listener: string): ListenerCounts {
    const counts = {
      requests: this.#totals.numbers('requests', listener),
      duration: this.#totals.numbers('duration', listener),
      sentBytes: this.#totals.numbers('sentBytes', listener),
    }
    this.#listeners.set(listener, counts)
    return counts
  }

  #addServer(server: string): ServerCounts {
    const counts = {
      requests: this.#totals.numbers('upstreamRequests', server),
      failures: this.#totals.numbers('upstreamFailures', server),
    }
    this.#servers.set(server, counts)
    return counts
  }
}

function columnOf(status: number): number {
  return status >= 100 && status < 600 ? Math.trunc(status / 100) - 1 : NO_ANSWER
}

const sum = (numbers: Float64Array) => numbers.reduce((all, number) => all + number, 0)

/** Returns the smallest bound of a bucket below which this share of the values is; null if there is none. */
function quantileMs(counts: Float64Array, share: number): number | null {
  const wanted = share * sum(counts)
  let below = 0
  const bucket = counts.findIndex(count => (below += count) >= wanted && below > 0)
  const bound = BOUNDS[bucket]
  return bound === undefined ? null : bound * 1_000
}
