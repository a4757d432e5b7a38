import { TurnWork } from './turn-work.js'

/** What became of a process's connections in moves. */
export interface MoveReport {
  /** Went on in another process. */
  readonly moved: number
  /** Came from another process. */
  readonly arrived: number
  /** Stay here until they end, by the code of the other process's refusal. */
  readonly refused: Readonly<Record<string, number>>
  /** Given up by one side and not to be had by the other: closed. */
  readonly lost: number
  /** What goes now: a first few, or, when the next process has shown that it serves those, the rest; null: nothing goes. */
  readonly wave: 'first' | 'rest' | null
  /** The most work that giving connections away was in one turn of the event loop, in milliseconds. */
  readonly longestGivingMs: number
  /** The same for taking them. */
  readonly longestTakingMs: number
}

/** Keeps a {@link MoveReport}. */
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
