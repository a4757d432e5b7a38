import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { CountByKey } from '../../base/count-by-key.js'
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
/** A timer each 20 ms would take 2 ms of a processor in each second, also while no request comes. */
const RESOLUTION_MS = 100
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
  /** The connections when another process began to serve, without those that were closed since, and those that had moved before. */
  #drain: { readonly left: CountByKey<string>; readonly moved: CountByKey<string> } | null = null

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
    for (const { kind, reason, count } of closed) {
      this.totals.numbers('closed', kind, reason)[0]! += count
      this.#drain?.left.add(kind, -count)
    }
  }

  /** Another process serves. `remaining`: the connections of this one. */
  beginDrain(remaining: readonly DrainCounts[]): void {
    const left = new CountByKey<string>()
    for (const { closed = [] } of remaining) for (const { kind, count } of closed) left.add(kind, count)
    this.#drain = { left, moved: new CountByKey(this.#deps.moves.counts.movedKinds) }
  }

  /** The last connection has moved or ended: those that neither moved nor were closed have drained. */
  endDrain(): void {
    const { movedKinds } = this.#deps.moves.counts
    for (const [kind, count] of this.#drain?.left ?? []) {
      const drained = count - (movedKinds.of(kind) - this.#drain!.moved.of(kind))
      if (drained > 0) this.totals.numbers('drained', kind)[0]! += drained
    }
    this.#drain = null
    this.totals.flushAside()
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
    const { movedKinds, arrivedKinds, refusedKinds, lost } = moves.counts
    for (const [kind, count] of movedKinds) this.totals.follow(count, 'moved', kind)
    for (const [kind, count] of arrivedKinds) this.totals.follow(count, 'arrived', kind)
    for (const [code, kinds] of refusedKinds)
      for (const [kind, count] of kinds) this.totals.follow(count, 'stayed', kind, code)
    this.totals.follow(lost, 'lost')
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
