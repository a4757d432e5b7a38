import type { IncomingMessage, ServerResponse } from 'node:http'
import { nodeHttp } from '../../base/lazy.js'
import type { Listener, ListenerSpec, Logger, Member } from '../../index.js'
import { CONTENT_TYPE } from '../../metrics/exposition.js'
import type { Series } from '../../metrics/totals.js'
import type { SourceStatus } from '../../sources/follow-source.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import { ExchangeCounts } from './exchange-counts.js'

/** The listener's name. A listener of the configuration cannot have it. */
export const METRICS_LISTENER = 'metrics'
const PATH = '/metrics'

/** The metrics of a proxy, and the listener that serves them. Without the key `metrics` none of it exists. */
export class MetricsListener {
  readonly #member: Member
  readonly #logger: Logger
  readonly counts: ExchangeCounts
  #listener: Listener | null = null

  constructor(
    member: Member,
    logger: Logger,
    upstreams: Pick<Upstreams, 'out' | 'queued'>,
    source: () => SourceStatus | undefined,
  ) {
    this.#member = member
    this.#logger = logger
    this.counts = new ExchangeCounts(member.counting.totals)
    member.counting.addGauges(() => [...gaugesOf(upstreams), ...gaugesOfSource(source())])
  }

  /** Listens, or moves the listener. `reopen`: the member serves already. */
  async listen(spec: ListenerSpec, reopen: boolean): Promise<void> {
    const listener = reopen
      ? await this.#member.relisten(METRICS_LISTENER, spec)
      : await this.#member.listen(METRICS_LISTENER, spec)
    if (listener === this.#listener) return
    // A server belongs to one listener: the one before keeps its connections.
    listener.serve(nodeHttp().createServer((request, response) => void this.#answer(request, response)))
    this.#listener = listener
  }

  /** Closes the listener while the member serves. */
  close(): void {
    if (this.#listener !== null) this.#member.unlisten(METRICS_LISTENER)
    this.#listener = null
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '' } = request
    if (method !== 'GET' && method !== 'HEAD')
      response.writeHead(405, { allow: 'GET, HEAD' }).end('method-not-allowed\n')
    else if (url.split('?', 1)[0] !== PATH) response.writeHead(404).end(`not-found: see ${PATH}\n`)
    else {
      try {
        const text = await this.#member.metrics()
        response.writeHead(200, { 'content-type': CONTENT_TYPE, 'content-length': Buffer.byteLength(text) })
        response.end(method === 'HEAD' ? undefined : text)
      } catch (error) {
        this.#logger.error({ err: error }, 'the metrics could not be answered because of a bug in the proxy')
        response.writeHead(500).end('metrics-failed\n')
      }
    }
  }
}

function* gaugesOfSource(status: SourceStatus | undefined): Generator<Series> {
  if (status === undefined) return
  const { source, revision, newest, refusedCount, failure } = status
  const gauge = (metric: Series['metric'], value: number): Series => ({
    metric,
    labels: [source],
    numbers: [value],
  })
  // A revision of etcd is NUMBER@CLUSTER; the ETag of an HTTP server is no number.
  const [held, known] = [revision, newest].map(text => Number.parseInt(text ?? '', 10))
  if (held) yield gauge('sourceRevision', held)
  if (known) yield gauge('sourceNewest', known)
  yield gauge('sourceRefused', refusedCount)
  yield gauge('sourceFailing', failure === null ? 0 : (Date.now() - failure.since) / 1_000)
}

function* gaugesOf({ out: servers, queued }: Pick<Upstreams, 'out' | 'queued'>): Generator<Series> {
  for (const [upstream, count] of queued)
    yield { metric: 'queueLength', labels: [upstream], numbers: [count] }
  const out = new Map<string, number>()
  for (const { upstream } of servers) out.set(upstream, (out.get(upstream) ?? 0) + 1)
  for (const [upstream, count] of out) yield { metric: 'serversOut', labels: [upstream], numbers: [count] }
}
