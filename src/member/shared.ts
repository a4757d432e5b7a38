import type { Registry } from '../holder/registry.js'
import type { SegmentShelf } from '../holder/segment-shelf.js'
import type { Changes } from './changes.js'
import type { Departure } from './departure.js'
import type { Listener } from './listener.js'
import type { Machine } from './machine.js'
import type { Settings } from './options.js'
import type { TakeoverTiming } from './takeover-timing.js'
import type { Unfitness } from './unfit.js'

/** What all parts of a member's driver know of it, and tell it by. */
export interface Shared {
  readonly settings: Settings
  readonly generation: number
  readonly serviceStartedAt: number
  readonly machine: Machine
  readonly departure: Departure
  readonly changes: Changes
  readonly registry: Registry
  readonly shelf: SegmentShelf
  /** Names that this version has asked for. */
  readonly wanted: Set<string>
  readonly listeners: readonly Listener[]
  readonly timing: TakeoverTiming
  readonly unfitness: Unfitness
}
