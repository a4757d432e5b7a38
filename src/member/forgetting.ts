import { Backoff, IN_BACKGROUND } from '../base/backoff.js'

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
  /** A handoff delays the rewrite. */
  readonly #backoff = new Backoff(IN_BACKGROUND)

  constructor(state: ForgettingState) {
    this.#state = state
  }

  /** Some secrets may be stale now. */
  readonly notice = (): void => {
    if (this.#timer !== undefined) return
    this.#timer = setTimeout(() => this.#try(), this.#backoff.next()).unref()
  }

  #try(): void {
    this.#timer = undefined
    if (!this.#state.stale()) {
      this.#backoff.reset()
      return
    }
    if (this.#state.possible()) this.#state.rewrite()
    this.notice()
  }

  close(): void {
    clearTimeout(this.#timer)
    // Nothing is noticed any more.
    this.#timer ??= setTimeout(() => {}, 0).unref()
  }
}
