import type { Registry } from '../holder/registry.js'
import type { SegmentSet } from '../holder/segment-set.js'
import type { TakeoverStep } from '../operator/status-report.js'
import { Pending } from '../wire/pending.js'
import type { CannotServe } from './cannot-serve.js'
import type { Listener } from './listener.js'
import type { Machine } from './machine.js'
import type { Settings } from './options.js'
import type { Shutdown } from './shutdown.js'

/** The facts and callbacks that all parts of a member's driver share. */
export interface MemberContext {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly changes: Changes
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  /** Names that this version has asked for. */
  readonly wanted: Set<string>
  readonly listeners: readonly Listener[]
  readonly timing: TakeoverTiming
  readonly unfitness: CannotServe
}

/** Tells of everything that changes what `status` shows. */
export class Changes {
  readonly #listeners = new Set<() => void>()

  /** Called after each change. Returns how to stop that. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  notify(): void {
    for (const listener of [...this.#listeners]) listener()
  }

  /** Resolves when `holds` answers true (it is asked after each change), or after `timeoutMs`. */
  async until(holds: () => boolean, timeoutMs: number): Promise<void> {
    if (holds()) return
    const stop = this.watch(() => {
      if (holds()) waiting.resolve()
    })
    const waiting = new Pending<void>({ onSettled: stop })
    waiting.limit(timeoutMs, () => waiting.resolve())
    await waiting.answer
  }
}

/** When this process came to what, as it took over. */
export class TakeoverTiming {
  readonly #begun = performance.now()
  readonly #steps: TakeoverStep[] = []

  /** The first time counts. */
  record(step: TakeoverStep['step']): void {
    if (this.#steps.some(one => one.step === step)) return
    this.#steps.push({ step, ms: Math.round((performance.now() - this.#begun) * 10) / 10 })
  }

  get steps(): readonly TakeoverStep[] {
    return this.#steps
  }
}
