import { METRICS, observe } from '../../metrics/definitions.js'
import type { Totals } from '../../metrics/totals.js'
import type { ExchangeReport } from '../../relay/index.js'

const BOUNDS = METRICS.duration.buckets!
const NO_ANSWER = 5

interface ListenerCounts {
  readonly requests: Float64Array
  readonly duration: Float64Array
  readonly sentBytes: Float64Array
}

interface ServerCounts {
  readonly requests: Float64Array
  readonly failures: Float64Array
}

/** Counts the requests of this process, and its checks of servers. A request costs two look-ups and a few additions. */
export class ExchangeCounts {
  readonly #totals: Pick<Totals, 'numbers'>
  readonly #listeners = new Map<string, ListenerCounts>()
  readonly #servers = new Map<string, ServerCounts>()

  constructor(totals: Pick<Totals, 'numbers'>) {
    this.#totals = totals
  }

  add(report: ExchangeReport): void {
    const { subject, listener, status, method, destination, serverFailed, bytesSent } = report
    const own = this.#listeners.get(listener) ?? this.#addListener(listener)
    own.sentBytes[0]! += bytesSent
    if (subject === 'tcp') {
      this.#totals.numbers('forwarded', listener)[0]! += 1
      return
    }
    const code = status >= 100 && status < 600 ? Math.trunc(status / 100) - 1 : NO_ANSWER
    own.requests[code]! += 1
    if (status !== 101 && method !== 'CONNECT') observe(own.duration, BOUNDS, report.milliseconds / 1_000)
    if (destination === undefined) return
    const server = this.#servers.get(destination) ?? this.#addServer(destination)
    server.requests[code]! += 1
    if (serverFailed) server.failures[0]! += 1
  }

  addCheck(server: string, passed: boolean): void {
    this.#totals.numbers('serverChecks', server)[passed ? 0 : 1]! += 1
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
