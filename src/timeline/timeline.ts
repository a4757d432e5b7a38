/** One upgrade, as its page shows it. All times are milliseconds since 1970. */
export interface Timeline {
  readonly service: string
  readonly startedAt: number
  readonly endedAt: number
  /** The phase of each process over time; the versions from old to new. */
  readonly processes: readonly TimelineProcess[]
  /** The times of the samples, and the connections of each process at these times; null: it has not started yet, has ended, or was not reported. */
  readonly times: readonly number[]
  readonly connections: readonly { readonly pid: number; readonly counts: readonly (number | null)[] }[]
  /** The clients' view, if a load was measured: a point for each span of time. */
  readonly clients: readonly ClientSample[]
  /** Connections that have moved to the new version, and those that older versions closed. */
  readonly moved: number
  readonly closed: number
  readonly outcome: TimelineOutcome
}

export interface TimelineProcess {
  readonly pid: number
  readonly generation: number | null
  readonly spans: readonly TimelineSpan[]
}

export interface TimelineSpan {
  readonly phase: string
  readonly from: number
  readonly to: number
}

export interface ClientSample {
  readonly at: number
  readonly perSecond: number
  readonly p99Ms: number
  readonly failed: number
}

export interface TimelineOutcome {
  readonly ok: boolean
  readonly text: string
}

/** The parts of a status that a timeline uses. */
export interface StatusSample {
  readonly service?: string
  readonly pid?: number | null
  readonly generation?: number
  readonly role?: string
  readonly phase?: string
  readonly connections?: number
  readonly moves?: { readonly arrived: number }
  readonly processStartedAt?: string
  /** The steps in which the process took over, in milliseconds after it joined. */
  readonly takeover?: readonly { readonly step: string; readonly ms: number }[]
  readonly closed?: readonly { readonly count: number }[]
  readonly draining?: readonly {
    readonly pid?: number
    readonly generation?: number
    readonly phase?: string
    readonly connections?: number
  }[]
}

/** The step that a command reports: the phase that the next version, process `pid`, has reached. */
export interface TimelineStep {
  readonly phase: string
  readonly at: number
  readonly pid: number
}

/** A phase of the process that serves, in the words of the page. */
const SERVES = 'serves'
const ON_PROBATION = 'serves, on probation'

interface Lane {
  generation: number | null
  readonly changes: { readonly phase: string; readonly at: number }[]
  /** When the process was last seen. */
  last: number
}

/** Collects the steps and samples of one upgrade. */
export class TimelineBuilder {
  /** Until a status names the service: where the command looks for it. */
  #service: string
  readonly #startedAt: number
  readonly #lanes = new Map<number, Lane>()
  readonly #times: number[] = []
  readonly #samples: ReadonlyMap<number, number>[] = []
  #serving = 0
  #moved = 0
  #closed = 0

  constructor(service: string, startedAt: number) {
    this.#service = service
    this.#startedAt = startedAt
  }

  /** The connections of processes that no longer serve; undefined before the first sample. */
  get draining(): number | undefined {
    const last = this.#samples.at(-1)
    if (last === undefined) return undefined
    return [...last].reduce((sum, [pid, count]) => (pid === this.#serving ? sum : sum + count), 0)
  }

  step({ phase, at, pid }: TimelineStep): void {
    if (phase !== 'serving') {
      this.#change(pid, null, phase, at)
      return
    }
    for (const [older, { changes }] of this.#lanes)
      if (older !== pid && changes.at(-1)?.phase === SERVES) this.#change(older, null, 'standby', at)
    // The next status tells whether it still is on probation.
    this.#change(pid, null, ON_PROBATION, at)
  }

  sample(at: number, status: StatusSample): void {
    const {
      closed = [],
      connections = 0,
      draining = [],
      generation = null,
      moves,
      phase,
      pid,
      service,
    } = status
    const counts = new Map<number, number>()
    this.#service = service ?? this.#service
    if (pid != null && pid > 0) {
      if (this.#times.length > 0 && !this.#lanes.has(pid)) this.#takeover(pid, generation, at, status)
      this.#serving = pid
      this.#change(pid, generation, phase === 'probation' ? ON_PROBATION : SERVES, at)
      counts.set(pid, connections)
    }
    for (const {
      connections: left = 0,
      generation: older = null,
      phase: state = 'draining',
      pid: of = 0,
    } of draining) {
      // The process has not reported yet.
      if (state === 'unknown') continue
      this.#change(of, older, state, at)
      counts.set(of, left)
    }
    this.#moved = moves?.arrived ?? this.#moved
    this.#closed = closed.reduce((sum, { count }) => sum + count, 0)
    this.#times.push(at)
    this.#samples.push(counts)
  }

  build(outcome: TimelineOutcome, endedAt: number, clients: readonly ClientSample[] = []): Timeline {
    const pids = [...this.#lanes.keys()]
    return {
      service: this.#service,
      startedAt: this.#startedAt,
      endedAt,
      processes: [...this.#lanes]
        .map(([pid, lane]) => ({ pid, generation: lane.generation, spans: spansOf(lane) }))
        .sort((a, b) => a.spans[0]!.from - b.spans[0]!.from),
      times: this.#times,
      connections: pids.map(pid => ({ pid, counts: this.#countsOf(pid) })),
      clients,
      moved: this.#moved,
      closed: this.#closed,
      outcome,
    }
  }

  /** A process has no connection right before its first report and after its last one; between two, it may not be reported for a moment. */
  #countsOf(pid: number): (number | null)[] {
    const counts = this.#samples.map(sample => sample.get(pid) ?? null)
    const [first, last] = [counts.findIndex(isNumber), counts.findLastIndex(isNumber)]
    return counts.map((count, i) => (first >= 0 && (i === first - 1 || i === last + 1) ? 0 : count))
  }

  /** Adds the steps of a process that no command has started, and that serves since shortly before `at`. */
  #takeover(
    pid: number,
    generation: number | null,
    at: number,
    { processStartedAt, takeover }: StatusSample,
  ): void {
    const serving = takeover?.find(({ step }) => step === 'serving')
    if (takeover === undefined || serving === undefined || processStartedAt === undefined) return
    const joined = at - serving.ms
    this.#change(pid, generation, 'starts', Math.min(joined, Date.parse(processStartedAt)))
    this.#change(pid, generation, 'joins', joined)
    for (const { step, ms } of takeover) if (ms < serving.ms) this.#change(pid, generation, step, joined + ms)
  }

  #change(pid: number, generation: number | null, phase: string, at: number): void {
    const lane = this.#lanes.get(pid) ?? { generation, changes: [], last: at }
    this.#lanes.set(pid, lane)
    lane.generation = generation ?? lane.generation
    lane.last = Math.max(lane.last, at)
    // A status that was asked for before a step arrives after it.
    if (at < (lane.changes.at(-1)?.at ?? 0)) return
    if (lane.changes.at(-1)?.phase !== phase) lane.changes.push({ phase, at })
  }
}

function isNumber(count: number | null): boolean {
  return count !== null
}

function spansOf({ changes, last }: Lane): TimelineSpan[] {
  return changes.map(({ phase, at }, index) => ({
    phase,
    from: at,
    to: changes[index + 1]?.at ?? last,
  }))
}
