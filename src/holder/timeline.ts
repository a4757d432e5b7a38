import { type HolderPhase, isCommitted } from '../handoff/phases.js'
import type { Failure, HandoffRecord } from '../operator/status-report.js'

const KEPT = 16

/** The last handoffs of this holder, newest last, and the last failure. */
export class Timeline {
  readonly records: HandoffRecord[] = []
  lastFailure: Failure | null = null
  #quiescing: { since: number; inTime: boolean } | null = null

  startHandoff(successor: number): void {
    this.records.push({ successor, phases: [], quiesce: null, outcome: 'under way', failure: null })
    if (this.records.length > KEPT) this.records.shift()
  }

  get current(): HandoffRecord | undefined {
    return this.records.at(-1)
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

  quiesceIsLate(): void {
    if (this.#quiescing !== null) this.#quiescing.inTime = false
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
    current.outcome = isCommitted(failure.phase) ? 'reverted' : 'failed'
  }
}
