/** The most work that moves were in one turn of the event loop: an upper bound, the lesser of the clock's and the processor's time. */
export class TurnWork {
  #longestMs = 0
  #turn = -1
  #spentMs = 0
  #running = false
  #begun = 0
  #cpu = process.cpuUsage()

  /** In milliseconds, rounded to hundredths. */
  get longestMs(): number {
    return Math.round(this.#longestMs * 100) / 100
  }

  /** Work for moves. Several of them in one turn count together; one within another counts once. */
  run<T>(work: () => T): T {
    if (this.#running) return work()
    this.#running = true
    this.#begun = performance.now()
    this.#cpu = process.cpuUsage()
    try {
      return work()
    } finally {
      this.#running = false
      this.#add(this.#worked)
    }
  }

  /** The rest of this turn's time for moves, of at most `ms` milliseconds. */
  budget(ms: number): TurnBudget {
    return new TurnBudget(ms - (this.#running ? this.#worked : 0) - this.#spent)
  }

  get #worked(): number {
    return Math.min(performance.now() - this.#begun, cpuMs(this.#cpu))
  }

  get #spent(): number {
    const turn = performance.nodeTiming.uvMetricsInfo.loopCount
    if (turn !== this.#turn) this.#spentMs = 0
    this.#turn = turn
    return this.#spentMs
  }

  #add(ms: number): void {
    this.#spentMs = this.#spent + ms
    if (this.#spentMs > this.#longestMs) this.#longestMs = this.#spentMs
  }
}

/** A part of one turn, used up when both the clock and the processor's time say so: a busy machine gives this process little of the clock. */
export class TurnBudget {
  readonly #ms: number
  readonly #begun = performance.now()
  readonly #cpu = process.cpuUsage()

  constructor(ms: number) {
    this.#ms = ms
  }

  get usedUp(): boolean {
    if (performance.now() - this.#begun < this.#ms) return false
    return cpuMs(this.#cpu) >= this.#ms
  }
}

function cpuMs(since: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1000
}

/** The results of moving a process's connections. */
export interface MoveReport {
  /** Went on in another process. */
  readonly moved: number
  /** Came from another process. */
  readonly arrived: number
  /** Stay here until they end, by the code of the other process's refusal. */
  readonly refused: Readonly<Record<string, number>>
  /** Given up by one side and not to be had by the other: closed. */
  readonly lost: number
  /** The present wave: the first few, or, when the next process has shown that it serves those, the rest; null: nothing moves. */
  readonly wave: 'first' | 'rest' | null
  /** The most work that giving connections away was in one turn of the event loop, in milliseconds. */
  readonly longestGivingMs: number
  /** The same for taking them. */
  readonly longestTakingMs: number
}

export class MoveCounts {
  moved = 0
  arrived = 0
  lost = 0
  wave: MoveReport['wave'] = null
  readonly giving = new TurnWork()
  readonly taking = new TurnWork()
  readonly #refused = new Map<string, number>()

  refuse(code: string): void {
    this.#refused.set(code, (this.#refused.get(code) ?? 0) + 1)
  }

  get report(): MoveReport {
    const { moved, arrived, lost, wave, giving, taking } = this
    return {
      moved,
      arrived,
      lost,
      wave,
      refused: Object.fromEntries(this.#refused),
      longestGivingMs: giving.longestMs,
      longestTakingMs: taking.longestMs,
    }
  }
}
