import { CountByKey } from '../base/count-by-key.js'
import { threadCpuMs } from '../kernel/index.js'

/** Maximum milliseconds for moves in one turn of the event loop, in the sender and in the receiver. */
export const TURN_MS = 3
/** The maximum on a busy event loop: moves take up to half as long as the rest of a turn, because with few connections in each of its long turns they would take long. */
export const BUSY_TURN_MS = 9

/** Measures the work of moves in each turn of the event loop, as the lesser of elapsed time and the thread's CPU time. */
export class TurnWork {
  /** The sum of all turns, in milliseconds. */
  totalMs = 0
  #longestMs = 0
  #turn = -1
  #spentMs = 0
  #limitMs = TURN_MS
  /** When the last work ended (performance.now()), and how long the event loop had waited for events until then. */
  #endedAt = performance.now()
  #idleMs = idleMs()
  #running = false
  #startedAt = 0
  #cpuMs = 0

  /** The longest turn, in milliseconds, rounded to hundredths. */
  get longestMs(): number {
    return Math.round(this.#longestMs * 100) / 100
  }

  /** Runs and measures `work`. Calls in one turn add up; a nested call counts once. */
  run<T>(work: () => T): T {
    if (this.#running) return work()
    this.#enterTurn()
    this.#running = true
    this.#startedAt = performance.now()
    this.#cpuMs = threadCpuMs()
    try {
      return work()
    } finally {
      this.#running = false
      this.#add(this.#worked)
    }
  }

  /**
   * Returns a function that reports whether the rest of this turn's {@link TURN_MS} is used up, by both elapsed time and CPU time: on a busy machine this
   * process gets little of the elapsed time.
   */
  budget(): () => boolean {
    this.#enterTurn()
    const ms = this.#limitMs - (this.#running ? this.#worked : 0) - this.#spentMs
    const startedAt = performance.now()
    const cpuMs = threadCpuMs()
    let lookAt = ms
    return () => {
      const elapsed = performance.now() - startedAt
      if (elapsed < lookAt) return false
      const worked = threadCpuMs() - cpuMs
      // The budget is not used up earlier. Asking for CPU time is slow.
      lookAt = elapsed + ms - worked
      return worked >= ms
    }
  }

  get #worked(): number {
    return Math.min(performance.now() - this.#startedAt, threadCpuMs() - this.#cpuMs)
  }

  #enterTurn(): void {
    const turn = performance.nodeTiming.uvMetricsInfo.loopCount
    if (turn === this.#turn) return
    const others = (performance.now() - this.#endedAt - (idleMs() - this.#idleMs)) / (turn - this.#turn)
    this.#limitMs = Math.min(BUSY_TURN_MS, Math.max(TURN_MS, others / 2))
    this.#turn = turn
    this.#spentMs = 0
  }

  #add(ms: number): void {
    this.totalMs += ms
    this.#spentMs += ms
    this.#endedAt = performance.now()
    this.#idleMs = idleMs()
    if (this.#spentMs > this.#longestMs) this.#longestMs = this.#spentMs
  }
}

function idleMs(): number {
  return performance.nodeTiming.idleTime
}

/** The results of moving a process's connections. */
export interface MoveReport {
  /** Connections that continue in another process. */
  readonly moved: number
  /** Connections that came from another process. */
  readonly arrived: number
  /** Connections that the other process refused, by error code: they remain in this process until they end. */
  readonly refused: Readonly<Record<string, number>>
  /** Connections that left one process and could not be opened in the other, and are closed. */
  readonly lost: number
  /** `first`: a few connections move; `rest`: the next process has served those, and the remaining ones move; null: none move. */
  readonly wave: 'first' | 'rest' | null
  /** The longest work of sending connections in one turn of the event loop, in milliseconds. */
  readonly longestGivingMs: number
  /** The longest work of receiving connections in one turn of the event loop, in milliseconds. */
  readonly longestTakingMs: number
}

export class MoveCounts {
  /** By kind, as all of these: see {@link MovableConnections.kindOf}. */
  readonly movedKinds = new CountByKey<string>()
  readonly arrivedKinds = new CountByKey<string>()
  lost = 0
  wave: MoveReport['wave'] = null
  readonly sending = new TurnWork()
  readonly receiving = new TurnWork()
  /** By code, and then by kind. */
  readonly refusedKinds = new Map<string, CountByKey<string>>()

  get moved(): number {
    return sum(this.movedKinds)
  }

  refuse(code: string, kind: string): void {
    const kinds = this.refusedKinds.get(code) ?? new CountByKey()
    this.refusedKinds.set(code, kinds)
    kinds.add(kind)
  }

  get report(): MoveReport {
    const { moved, lost, wave, sending, receiving } = this
    return {
      moved,
      arrived: sum(this.arrivedKinds),
      lost,
      wave,
      refused: Object.fromEntries([...this.refusedKinds].map(([code, kinds]) => [code, sum(kinds)])),
      longestGivingMs: sending.longestMs,
      longestTakingMs: receiving.longestMs,
    }
  }
}

function sum(counts: ReadonlyMap<string, number>): number {
  let all = 0
  for (const count of counts.values()) all += count
  return all
}
