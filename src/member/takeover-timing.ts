import type { TakeoverStep } from '../operator/status-report.js'

/** When this process came to what, as it took over. */
export class TakeoverTiming {
  readonly #begun = performance.now()
  readonly #steps: TakeoverStep[] = []

  /** The first time counts. */
  note(step: TakeoverStep['step']): void {
    if (this.#steps.some(one => one.step === step)) return
    this.#steps.push({ step, ms: Math.round((performance.now() - this.#begun) * 10) / 10 })
  }

  get steps(): readonly TakeoverStep[] {
    return this.#steps
  }
}
