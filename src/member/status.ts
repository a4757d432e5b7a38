import type { Failure, HandoffRecord } from '../holder/timeline.js'
import type { SectionDigest } from '../state/state-log.js'
import type { DrainReport } from './draining.js'
import type { TakeoverStep } from './takeover.js'

/** What `fd-broker status --json` prints. */
export interface StatusReport {
  readonly service: string
  readonly control: string | null
  readonly hosting: 'embedded' | 'daemon' | 'none'
  readonly pid: number
  readonly generation: number
  readonly epoch: number
  /** Of this process: `serving`, `standby` … */
  readonly role: string
  /** Of the handoff: `idle` when none is under way. */
  readonly phase: string
  readonly serviceStartedAt: string
  readonly uptimeSeconds: number
  readonly processStartedAt: string
  readonly listeners: readonly {
    readonly name: string
    readonly address: string
    readonly inode: string
    readonly cookie: string | null
    readonly accepting: boolean
    readonly connections: number
  }[]
  /** Named descriptors that are no listeners. */
  readonly held: readonly string[]
  readonly connections: number
  /** Older generations that still have connections, or stand by. */
  readonly draining: readonly DrainReport[]
  readonly sections: readonly SectionDigest[]
  readonly state: {
    readonly sequence: number
    readonly digest: string
    readonly entries: number
    readonly bytes: number
    readonly segments: number
    /** Where both sides stood at the last commit, as this process read it; null for the first generation. */
    readonly takenOver: { readonly epoch: number; readonly sequence: number; readonly digest: string } | null
  }
  readonly openFds: number | null
  readonly rssBytes: number
  readonly lastFailure: Failure | null
  /** Given the listeners once and neither gone nor proved dead: it blocks the next upgrade. */
  readonly blockedBy: readonly number[]
  /** How this process took over, in milliseconds after its Hello. */
  readonly takeover: readonly TakeoverStep[]
  /** The last handoffs in which this process was the incumbent. */
  readonly handoffs: readonly HandoffRecord[]
}
