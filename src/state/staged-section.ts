import type { Digest } from './digest.js'
import type { SectionStore } from './section-store.js'
import type { Layer } from './slot-map.js'

/** What a bulk does to one section, once it counts. */
export interface StagedSection {
  readonly section: SectionStore
  readonly layer: Layer
  /** What was there before does not count. */
  readonly cleared: boolean
  /** Entries of the section then, and bytes of their encoded changes. */
  size: number
  bytes: number
  /** To be added to the section's digest. */
  digest: Digest
}
