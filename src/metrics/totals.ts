import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { json } from '../state/codec.js'
import type { StateDraft } from '../state/draft.js'
import type { WriteOptions } from '../state/requests.js'
import { defineSection, type SectionSchema } from '../state/schema.js'
import type { Section } from '../state/section.js'
import { METRICS, type MetricName, numbersOf } from './definitions.js'

export const METRICS_SECTION = 'metrics'
const schema = defineSection<readonly number[]>({ version: 1, codec: json<readonly number[]>(), cache: 0 })

/** Counts reach the state this often; a process that is killed loses at most those since then. */
const FLUSH_MS = 1_000
/** Each process counts this many label values of a metric; it counts further ones as {@link OTHER}. */
const MOST_SERIES = 1_000
const OTHER = 'other'

/** The state in which the totals are: the part of a member that {@link Totals} uses. */
export interface TotalsState {
  section<T>(name: string, schema: SectionSchema<T>): Section<T>
  update<R>(change: (state: StateDraft) => R, options?: WriteOptions): Promise<R | undefined>
}

/** Counts that were taken and are not in the state, or may be: then `request` is the id under which they were sent. */
interface Batch {
  readonly counts: ReadonlyMap<string, Float64Array>
  readonly request: string | undefined
}

/** Returns the numbers of a series, to which the caller adds what it counts. */
export type Numbers = (metric: MetricName, ...labels: readonly string[]) => Float64Array

/** A log of the service, of which each process sees all records. */
export interface CountedLog {
  readonly id: string
  /** The number of the last record. */
  readonly last: number
  /** The number of the record, up to `last`, after which a state that has counted nothing yet begins. */
  start(last: number): number
  /** Counts the records from `after` on, up to `last`. */
  count(after: number, last: number, numbers: Numbers): void
}

/** The entry that tells up to which record a log is counted: no metric has this name. */
const COUNTED_LOG = JSON.stringify(['counted log'])

export interface Series {
  readonly metric: MetricName
  readonly labels: readonly string[]
  readonly numbers: readonly number[]
}

/**
 * The counts of all processes of a service, as entries of its state. Each process adds what it has counted, once, so that a total never falls and
 * goes on in the next version. A total in the state is the only one that is shown: every process shows the same ones.
 */
export class Totals {
  readonly #state: TotalsState
  readonly #section: Section<readonly number[]>
  readonly #logger: Pick<Logger, 'debug'>
  /** The counts of this process that are not in a batch yet, by key. */
  readonly #counts = new Map<string, Float64Array>()
  readonly #series = new Map<MetricName, number>()
  /** Counts of other parts of this process as far as they are in {@link #counts}. */
  readonly #followed = new Map<string, number>()
  readonly #collectors: (() => void)[] = []
  #log: CountedLog | null = null
  #countedTo = 0
  #unmade: Batch[] = []
  #flushes = 0
  #timer: NodeJS.Timeout | undefined

  constructor(state: TotalsState, logger: Pick<Logger, 'debug'>) {
    this.#state = state
    this.#section = state.section(METRICS_SECTION, schema)
    this.#logger = logger
  }

  /** Returns the numbers of a series, to which the caller adds what it counts. The array stays the same one: keep it. */
  numbers(metric: MetricName, ...labels: readonly string[]): Float64Array {
    const key = keyOf(metric, labels)
    const found = this.#counts.get(key)
    if (found !== undefined) return found
    const known = this.#series.get(metric) ?? 0
    if (known >= MOST_SERIES && !labels.every(label => label === OTHER))
      return this.numbers(metric, ...labels.map(() => OTHER))
    this.#series.set(metric, known + 1)
    return numbersIn(this.#counts, metric, labels)
  }

  /** Calls `collect` before each flush, to add what the process has counted elsewhere. */
  onFlush(collect: () => void): void {
    this.#collectors.push(collect)
  }

  /** Counts the records of a log, each once over all processes: the state has the number of the last one that is counted. */
  countLog(log: CountedLog): void {
    this.#log = log
  }

  /** Counts by how much another count of this process has grown since the last call. */
  follow(count: number, metric: MetricName, ...labels: readonly string[]): void {
    const key = keyOf(metric, labels)
    const grown = count - (this.#followed.get(key) ?? 0)
    if (grown <= 0) return
    this.#followed.set(key, count)
    this.numbers(metric, ...labels)[0]! += grown
  }

  /** Starts to add the counts to the state. Call it when the member is ready: before, a change that rejects may still be made. */
  start(): void {
    this.#timer ??= setInterval(() => {
      // During a handoff the changes wait: more of them would only wait too.
      if (this.#flushes === 0) this.flushAside()
    }, FLUSH_MS).unref()
  }

  /** Ends it; {@link flush} still adds the last counts. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Like {@link flush}, in the background. Does nothing before {@link start}. */
  flushAside(): void {
    if (this.#timer === undefined) return
    this.flush().catch(error =>
      this.#logger.debug({ err: error }, 'counts of metrics could not be added to the state, and wait'),
    )
  }

  /**
   * Adds all counts of this process to the totals. Requests the change before it returns, so that a process that ends waits for it. Resolves when
   * {@link all} has the counts. Rejects with the error of the change; its counts wait for the next flush.
   */
  async flush(): Promise<void> {
    const batches = this.#unmade
    this.#unmade = []
    for (const collect of this.#collectors) collect()
    const counts = this.#take()
    if (counts.size > 0) batches.push({ counts, request: undefined })
    this.#flushes++
    try {
      await Promise.all([...batches.map(batch => this.#add(batch)), this.#addLog()])
    } finally {
      this.#flushes--
    }
  }

  /** The totals, without metrics that this version does not know. */
  *all(): Generator<Series> {
    for (const [key, numbers] of this.#section.entries({ invalid: () => {} })) {
      const series = parseKey(key)
      if (series !== null) yield { ...series, numbers }
    }
  }

  #take(): ReadonlyMap<string, Float64Array> {
    const taken = new Map<string, Float64Array>()
    for (const [key, numbers] of this.#counts) {
      if (numbers.every(number => number === 0)) continue
      taken.set(key, numbers.slice())
      numbers.fill(0)
    }
    return taken
  }

  /** A change whose answer is lost may be made twice: its position is in the state. */
  async #addLog(): Promise<void> {
    const { id = '', last = 0 } = this.#log ?? {}
    if (last === this.#countedTo) return
    await this.#state.update(state => {
      const [of, upTo = 0] = state.get(this.#section, COUNTED_LOG) ?? []
      const after = of === Number(id) ? upTo : (this.#log?.start(last) ?? 0)
      if (after >= last) return
      const counts = new Map<string, Float64Array>()
      this.#log?.count(after, last, (metric, ...labels) => numbersIn(counts, metric, labels))
      this.#put(state, counts)
      state.put(this.#section, COUNTED_LOG, [Number(id), last])
    })
    this.#countedTo = last
  }

  #put(state: StateDraft, counts: ReadonlyMap<string, Float64Array>): void {
    for (const [key, numbers] of counts)
      state.put(this.#section, key, sum(state.get(this.#section, key) ?? [], numbers))
  }

  async #add({ counts, request }: Batch): Promise<void> {
    try {
      await this.#state.update(state => this.#put(state, counts), request === undefined ? {} : { request })
    } catch (error) {
      const sent = requestOf(error) ?? request
      // A forwarded change may have been made: only the same change with the same id is made once.
      if (sent !== undefined) this.#unmade.push({ counts, request: sent })
      else this.#putBack(counts)
      throw error
    }
  }

  #putBack(counts: ReadonlyMap<string, Float64Array>): void {
    for (const [key, numbers] of counts) {
      const own = this.#counts.get(key)!
      for (let i = 0; i < numbers.length; i++) own[i]! += numbers[i]!
    }
  }
}

function numbersIn(
  counts: Map<string, Float64Array>,
  metric: MetricName,
  labels: readonly string[],
): Float64Array {
  const key = keyOf(metric, labels)
  const numbers = counts.get(key) ?? new Float64Array(numbersOf(METRICS[metric]))
  counts.set(key, numbers)
  return numbers
}

/** The id of a change that may have been made. */
function requestOf(error: unknown): string | undefined {
  if (!FdbError.is(error) || error.code !== 'ERR_FDB_DEADLINE') return undefined
  const { request } = error.details
  return typeof request === 'string' ? request : undefined
}

function sum(before: readonly number[], added: Float64Array): number[] {
  // Another version may know more numbers of the series.
  return Array.from(
    { length: Math.max(before.length, added.length) },
    (_, i) => (before[i] ?? 0) + (added[i] ?? 0),
  )
}

function keyOf(metric: MetricName, labels: readonly string[]): string {
  return JSON.stringify([METRICS[metric].name, ...labels])
}

const BY_NAME: ReadonlyMap<unknown, MetricName> = new Map(
  (Object.keys(METRICS) as MetricName[]).map(key => [METRICS[key].name, key]),
)

function parseKey(key: string): Omit<Series, 'numbers'> | null {
  try {
    const [name, ...labels] = JSON.parse(key) as string[]
    const metric = BY_NAME.get(name)
    return metric === undefined ? null : { metric, labels }
  } catch {
    // Another program has written it.
    return null
  }
}
