import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import type { Logger } from '../../base/logger.js'
import type { EventLog } from '../../events/event-log.js'
import { KEPT_EVENTS } from '../../events/events.js'
import { METRICS, observe } from '../../metrics/definitions.js'
import { exposition } from '../../metrics/exposition.js'
import { type CountedLog, type Series, Totals, type TotalsState } from '../../metrics/totals.js'
import type { WorkerPlace } from '../../os/default-control.js'
import type { Moves } from '../drain/moves.js'
import type { DrainCounts } from '../listeners/forced-closes.js'
import { countHandoffs } from './handoff-counts.js'
import { gaugesOfWorkers } from './worker-gauges.js'

/** A text waits this long for the state, which takes no changes during a handoff. */
const WAIT_MS = 5_000
const RESOLUTION_MS = 20
const STALL_MS = 10

export interface MemberMetricsDeps {
  readonly state: TotalsState
  readonly logger: Pick<Logger, 'debug'>
  readonly moves: Pick<Moves, 'counts'>
  readonly events: EventLog
  readonly gauges: () => readonly Series[]
  readonly worker: WorkerPlace | null
}

/** The part of a member that its metrics use. */
interface MeasuredMember {
  readonly hasServed: boolean
  once(event: 'serving', listener: () => void): unknown
  on(event: 'retiring', listener: () => void): unknown
}

/** The metrics of a service. Exists only in a process that was asked for them. */
export class MemberMetrics {
  readonly totals: Totals
  readonly #deps: MemberMetricsDeps
  readonly #gauges: (() => Iterable<Series>)[]
  #delay: IntervalHistogram | null = null

  constructor(deps: MemberMetricsDeps) {
    this.#deps = deps
    this.#gauges = [deps.gauges]
    this.totals = new Totals(deps.state, deps.logger)
    this.totals.onFlush(() => this.#collect())
    this.totals.countLog(handoffsOf(deps.events))
  }

  /** Starts to count when the member serves, and adds the counts when it is replaced, because the next version shows them. */
  follow(member: MeasuredMember): this {
    if (member.hasServed) this.start()
    else member.once('serving', () => this.start())
    member.on('retiring', () => this.totals.flushAside())
    return this
  }

  /** Starts to count. Call it when the member is ready. Idempotent. */
  start(): void {
    this.totals.start()
    if (this.#delay !== null) return
    this.#delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
    this.#delay.enable()
  }

  /** Adds the last counts, because this process has retired. */
  stop(): void {
    this.totals.flushAside()
    this.totals.stop()
    this.#delay?.disable()
  }

  /** Adds values that {@link text} shows as they are then. */
  addGauges(gauges: () => Iterable<Series>): void {
    this.#gauges.push(gauges)
  }

  countClosed({ closed = [] }: DrainCounts): void {
    for (const { kind, reason, count } of closed) this.totals.numbers('closed', kind, reason)[0]! += count
  }

  /** The text shows no count that the state lacks: so no later text, of any process, can be below it. `served`: the state takes changes of this process. */
  async text(served: boolean): Promise<string> {
    if (served) {
      this.start()
      this.totals.numbers('scrapes')[0]! += 1
      let timer: NodeJS.Timeout | undefined
      const waited = new Promise<void>(resolve => (timer = setTimeout(resolve, WAIT_MS)))
      const flushed = this.totals
        .flush()
        .catch(error => this.#deps.logger.debug({ err: error }, 'a text of metrics lacks the last counts'))
      await Promise.race([flushed, waited])
      clearTimeout(timer)
    }
    // Alone if the main process does not answer.
    const gauges = (await gaugesOfWorkers(this.#deps.worker).catch(() => null)) ?? this.gauges
    return await exposition([...this.totals.all(), ...gauges])
  }

  /** The gauges of this process. */
  get gauges(): Series[] {
    return this.#gauges.flatMap(gauges => [...gauges()])
  }

  #collect(): void {
    const { moves } = this.#deps
    const { moved, arrived, lost, refused } = moves.counts.report
    this.totals.follow(moved, 'moved')
    this.totals.follow(arrived, 'arrived')
    this.totals.follow(lost, 'lost')
    for (const [code, count] of Object.entries(refused)) this.totals.follow(count, 'stayed', code)
    this.#countStall()
  }

  #countStall(): void {
    if (this.#delay === null || this.#delay.count === 0) return
    const ms = this.#delay.max / 1e6 - RESOLUTION_MS
    this.#delay.reset()
    if (ms > STALL_MS) observe(this.totals.numbers('stalls'), METRICS.stalls.buckets!, ms / 1_000)
  }
}

/** The handoffs of a service, as its events tell them: also those that a daemon or a main process decides. */
function handoffsOf(events: EventLog): CountedLog {
  const { file } = events
  const kept = (last: number) => file.read(Math.max(1, last - KEPT_EVENTS + 1), last + 1)
  return {
    get id() {
      return file.id
    },
    get last() {
      return file.count
    },
    // Earlier events are of processes whose state has gone.
    start: last => kept(last).findLast(({ type }) => type === 'service.started')?.number ?? 0,
    count: (after, last, numbers) => countHandoffs(kept(last), after, numbers),
  }
}
