import { Pending } from '../../channel/pending.js'
import type { HolderPhase } from '../../protocol/holder-machine.js'

/** It is being decided who serves: whoever does may know it, and have told others, before it is heard here. */
const OPEN: ReadonlySet<HolderPhase> = new Set(['committing', 'returning', 'rebuilding'])

/** A handoff is under way, or may be taken back: who would join is refused. */
export const UNDER_WAY: ReadonlySet<HolderPhase> = new Set([
  'offering',
  'quiescing',
  'freezing',
  'preparing',
  'probation',
])

/** So many wait; what is asked besides is answered as things stand. */
const MOST = 64

/**
 * Who serves, as soon as that is decided: operators who know of it already are not told what was before. Or the end of other phases that are
 * waited for.
 */
export class Verdict {
  readonly #phase: () => HolderPhase
  readonly #phases: ReadonlySet<HolderPhase>
  readonly #waiting = new Set<Pending<void>>()

  constructor(phase: () => HolderPhase, phases: ReadonlySet<HolderPhase> = OPEN) {
    this.#phase = phase
    this.#phases = phases
  }

  get open(): boolean {
    return this.#phases.has(this.#phase())
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
