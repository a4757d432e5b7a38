import { type HolderPhase, isUndecided } from '../../handoff/phases.js'
import { Pending } from '../../wire/pending.js'

/** So many wait; what is asked besides is answered as things stand. */
const MOST = 64

/**
 * Who serves, as soon as that is decided: operators who know of it already are not told what was before. Or the end of other phases that are
 * waited for.
 */
export class Verdict {
  readonly #phase: () => HolderPhase
  readonly #isOpen: (phase: HolderPhase) => boolean
  readonly #waiting = new Set<Pending<void>>()

  constructor(phase: () => HolderPhase, isOpen: (phase: HolderPhase) => boolean = isUndecided) {
    this.#phase = phase
    this.#isOpen = isOpen
  }

  get open(): boolean {
    return this.#isOpen(this.#phase())
  }

  /** Resolves when it is decided, after `ms` at most. Rejects with the signal's reason. */
  async within(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    if (!this.open || this.#waiting.size >= MOST) return
    const pending = new Pending<void>({ signal, over: () => this.#waiting.delete(pending) })
    this.#waiting.add(pending)
    await pending.limit(ms, () => pending.resolve(), { unref: true }).answer
  }

  /** The phase may be another by now. */
  look(): void {
    if (!this.open) this.end()
  }

  /** Nothing is decided here any more. */
  end(): void {
    for (const pending of [...this.#waiting]) pending.resolve()
  }
}
