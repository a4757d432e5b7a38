/** A replaced secret is gone so long after it was replaced, where nothing is in the way. */
const SOON_MS = 1_000
/** Where a handoff is, it is tried again, seldomer and seldomer. */
const MOST_MS = 60_000

export interface ForgettingState {
  /** The log holds secrets that do not count any more. */
  stale(): boolean
  /** This process writes, and no handoff is under way. */
  possible(): boolean
  /** Goes on in a new segment, and merges those before it. */
  rewrite(): void
}

/** Sees to it that secrets that were replaced or deleted do not stay in the log, nor in the state file. */
export class Forgetting {
  readonly #state: ForgettingState
  #timer: NodeJS.Timeout | undefined
  #waitMs = SOON_MS

  constructor(state: ForgettingState) {
    this.#state = state
  }

  /** Some secrets may be stale now. */
  readonly notice = (): void => {
    if (this.#timer !== undefined) return
    this.#timer = setTimeout(() => this.#try(), this.#waitMs).unref()
  }

  #try(): void {
    this.#timer = undefined
    if (!this.#state.stale()) {
      this.#waitMs = SOON_MS
      return
    }
    if (this.#state.possible()) this.#state.rewrite()
    this.#waitMs = Math.min(this.#waitMs * 2, MOST_MS)
    this.notice()
  }

  close(): void {
    clearTimeout(this.#timer)
    // Nothing is noticed any more.
    this.#timer ??= setTimeout(() => {}, 0).unref()
  }
}
