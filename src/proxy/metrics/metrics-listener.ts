import type { IncomingMessage, ServerResponse } from 'node:http'
import { nodeHttp } from '../../base/lazy.js'
import type { Listener, ListenerSpec, Logger, Member } from '../../index.js'
import { CONTENT_TYPE, exposition } from '../../metrics/exposition.js'
import { type Series, Totals } from '../../metrics/totals.js'
import type { ExchangeReport } from '../../relay/index.js'
import type { ServerOut } from '../upstreams/upstream.js'
import { ExchangeCounts } from './exchange-counts.js'

/** The listener's name. A listener of the configuration cannot have it. */
export const METRICS_LISTENER = 'metrics'
const PATH = '/metrics'
/** An answer waits this long for the state, which takes no changes during a handoff. */
const WAIT_MS = 5_000

interface MetricsDeps {
  readonly member: Member
  readonly serversOut: () => readonly ServerOut[]
  readonly logger: Logger
}

/** The metrics of a proxy, and the listener that serves them. Without the key `metrics` none of it exists. */
export class MetricsListener {
  readonly #deps: MetricsDeps
  readonly #totals: Totals
  readonly #counts: ExchangeCounts
  readonly #flush = () => this.#totals.flushAside()
  #listener: Listener | null = null

  private constructor(deps: MetricsDeps) {
    this.#deps = deps
    this.#totals = new Totals(deps.member, deps.logger)
    this.#counts = new ExchangeCounts(this.#totals)
    // The next version shows what this one has counted so far.
    deps.member.on('retiring', this.#flush)
  }

  /** Listens. `reopen`: the member serves already. */
  static async open(deps: MetricsDeps, spec: ListenerSpec, reopen: boolean): Promise<MetricsListener> {
    const metrics = new MetricsListener(deps)
    await metrics.listen(spec, reopen)
    if (reopen) metrics.start()
    return metrics
  }

  async listen(spec: ListenerSpec, reopen: boolean): Promise<void> {
    const { member } = this.#deps
    const listener = reopen
      ? await member.relisten(METRICS_LISTENER, spec)
      : await member.listen(METRICS_LISTENER, spec)
    if (listener === this.#listener) return
    // A server belongs to one listener: the one before keeps its connections.
    listener.serve(nodeHttp().createServer((request, response) => void this.#answer(request, response)))
    this.#listener = listener
  }

  /** Starts to add the counts to the state. Call it when the member is ready. */
  start(): void {
    this.#totals.start()
  }

  add(report: ExchangeReport): void {
    this.#counts.add(report)
  }

  /** Adds the counts of this process to the state, before it may end. */
  flush(): void {
    this.#flush()
  }

  /** Closes the listener while the member serves. */
  close(): void {
    this.#deps.member.unlisten(METRICS_LISTENER)
    this.stop()
  }

  stop(): void {
    this.#deps.member.off('retiring', this.#flush)
    this.#flush()
    this.#totals.stop()
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '' } = request
    if (method !== 'GET' && method !== 'HEAD')
      response.writeHead(405, { allow: 'GET, HEAD' }).end('method-not-allowed\n')
    else if (url.split('?', 1)[0] !== PATH) response.writeHead(404).end(`not-found: see ${PATH}\n`)
    else {
      try {
        const text = await this.#text()
        response.writeHead(200, { 'content-type': CONTENT_TYPE, 'content-length': Buffer.byteLength(text) })
        response.end(method === 'HEAD' ? undefined : text)
      } catch (error) {
        this.#deps.logger.error(
          { err: error },
          'the metrics could not be answered because of a bug in the proxy',
        )
        response.writeHead(500).end('metrics-failed\n')
      }
    }
  }

  /** The text shows no count that is not in the state: so no later answer, of whichever process, can be below it. */
  async #text(): Promise<string> {
    this.#totals.numbers('scrapes')[0]! += 1
    let timer: NodeJS.Timeout | undefined
    const waited = new Promise<void>(resolve => (timer = setTimeout(resolve, WAIT_MS)))
    const { logger } = this.#deps
    const flushed = this.#totals
      .flush()
      .catch(error => logger.debug({ err: error }, 'metrics are answered without the last counts'))
    await Promise.race([flushed, waited])
    clearTimeout(timer)
    return await exposition(this.#all())
  }

  *#all(): Generator<Series> {
    yield* this.#totals.all()
    yield { metric: 'generation', labels: [], numbers: [this.#deps.member.generation] }
    const out = new Map<string, number>()
    for (const { upstream } of this.#deps.serversOut()) out.set(upstream, (out.get(upstream) ?? 0) + 1)
    for (const [upstream, count] of out) yield { metric: 'serversOut', labels: [upstream], numbers: [count] }
  }
}
