import type { TakeoverStep } from '../../operator/status-report.js'

/** Records when this process has reached each step of its takeover. */
export class TakeoverTiming {
  readonly #startedAt = performance.now()
  readonly steps: TakeoverStep[] = []

  /** Ignores a step that is already recorded. */
  record(step: TakeoverStep['step']): void {
    if (this.steps.some(known => known.step === step)) return
    this.steps.push({ step, ms: Math.round((performance.now() - this.#startedAt) * 10) / 10 })
  }

  /** Returns how long ago this process has reached the step; null if it has not reached it. */
  sinceMs(step: TakeoverStep['step']): number | null {
    const at = this.steps.find(known => known.step === step)?.ms
    return at === undefined ? null : performance.now() - this.#startedAt - at
  }
}
