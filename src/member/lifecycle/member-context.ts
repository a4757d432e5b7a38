import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { TakeoverStep } from '../../operator/status-report.js'
import type { ChangeNotifier } from '../../wire/pending.js'
import type { Moves } from '../drain/moves.js'
import type { Listener } from '../listeners/listener.js'
import type { Settings } from '../options/options.js'
import type { CannotServe } from './cannot-serve.js'
import type { Heartbeat } from './heartbeat.js'
import type { Hosting } from './hosting.js'
import type { Leadership } from './leadership.js'
import type { Machine } from './machine.js'
import type { Readiness } from './readiness.js'
import type { Shutdown } from './shutdown.js'

/** The objects that all parts of one member share. A part's constructor must not use them yet, except those that are made before the part. */
export interface MemberContext {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly changes: ChangeNotifier
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  readonly listeners: readonly Listener[]
  readonly timing: TakeoverTiming
  readonly cannotServe: CannotServe
  readonly readiness: Readiness
  readonly leadership: Leadership
  readonly moves: Moves
  readonly heartbeat: Heartbeat
  readonly hosting: Hosting
}

export class TakeoverTiming {
  readonly #startedAt = performance.now()
  readonly steps: TakeoverStep[] = []

  /** Ignores a step that is already recorded. */
  record(step: TakeoverStep['step']): void {
    if (this.steps.some(known => known.step === step)) return
    this.steps.push({ step, ms: Math.round((performance.now() - this.#startedAt) * 10) / 10 })
  }
}
