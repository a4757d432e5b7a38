import type { FdbErrorCode } from '../errors.js'
import type { HolderPhase } from '../protocol/holder-machine.js'

/** One phase that was entered. */
export interface PhaseEntry {
  readonly phase: HolderPhase
  /** Milliseconds since 1970. */
  readonly at: number
}

export interface Failure {
  /** Stable code of the reason. */
  readonly code: FdbErrorCode
  /** In which phase of the handoff. */
  readonly phase: string
  /** Milliseconds since 1970. */
  readonly at: number
  readonly message: string
}

/** One handoff as it went. */
export interface HandoffRecord {
  readonly successor: number
  readonly phases: PhaseEntry[]
  /**
   * How long the incumbent took to end what must run in one process only; `inTime`: it had ended when the handoff went on.
   * null: it was not asked, as it is of a release that does not know of it.
   */
  quiesce: { readonly ms: number; readonly inTime: boolean } | null
  outcome: 'under way' | 'serving' | 'released' | 'failed' | 'reverted'
  failure: Failure | null
}

const KEPT = 16

/** The last handoffs of this holder, newest last, and the last failure. */
export class Timeline {
  readonly records: HandoffRecord[] = []
  lastFailure: Failure | null = null
  #quiescing: { since: number; inTime: boolean } | null = null

  begin(successor: number): void {
    this.records.push({ successor, phases: [], quiesce: null, outcome: 'under way', failure: null })
    if (this.records.length > KEPT) this.records.shift()
  }

  get current(): HandoffRecord | undefined {
    return this.records[this.records.length - 1]
  }

  enter(phase: HolderPhase): void {
    const { current } = this
    if (current === undefined) return
    current.phases.push({ phase, at: Date.now() })
    this.#noteQuiesce(current, phase)
    if (phase === 'probation') current.outcome = 'serving'
    else if (phase === 'released') current.outcome = 'released'
    else if (phase === 'idle' && current.outcome === 'serving') current.outcome = 'released'
    else if (phase === 'idle' && current.outcome === 'under way') current.outcome = 'serving'
  }

  /** Nobody waits any longer. */
  quiesceIsLate(): void {
    if (this.#quiescing !== null) this.#quiescing.inTime = false
  }

  /** The incumbent does not know of it. */
  quiesceIsUnknown(): void {
    this.#quiescing = null
  }

  #noteQuiesce(current: HandoffRecord, phase: HolderPhase): void {
    const quiescing = this.#quiescing
    this.#quiescing = phase === 'quiescing' ? { since: performance.now(), inTime: true } : null
    if (quiescing === null) return
    const ms = Math.round((performance.now() - quiescing.since) * 10) / 10
    current.quiesce = { ms, inTime: quiescing.inTime && phase !== 'idle' }
  }

  fail(failure: Failure): void {
    this.lastFailure = failure
    const { current } = this
    if (current === undefined) return
    current.failure = failure
    current.outcome = failure.phase === 'probation' || failure.phase === 'committing' ? 'reverted' : 'failed'
  }
}
