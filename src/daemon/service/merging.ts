import type { Logger } from '../../base/logger.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { Segment } from '../../state/segment.js'
import { StateLog } from '../../state/state-log.js'

const MERGE_CHECK_MS = 1_000
/** Fewer bytes of sealed segments are merged only if they are in many segments: their records are read fast. */
const LEAST_BYTES = 64 * 1024
const MANY_SEGMENTS = 8
/** A service of another user gets at most this much memory and time of the daemon. */
const MOST_FOREIGN_BYTES = 64 * 1024 * 1024

interface MergingDeps {
  readonly service: string
  readonly segmentSet: SegmentSet
  readonly logger: Logger
  /** Whether no handoff needs the segments, and the serving member leaves the merging to the daemon. */
  mayMerge(): boolean
  isForeign(): boolean
}

/**
 * Merges the sealed segments of a service whose serving member does not merge them, as those in Python and Go. Without that each next process would read
 * every change since the start of the service.
 */
export class Merging {
  readonly #deps: MergingDeps
  readonly #timer: NodeJS.Timeout
  /** The log of the running merge. */
  #log: StateLog | null = null
  /** The last segment of a merge that failed: it is not tried again before there is a newer one. */
  #failed: Segment | null = null

  constructor(deps: MergingDeps) {
    this.#deps = deps
    this.#timer = setInterval(() => this.#check(), MERGE_CHECK_MS).unref()
  }

  close(): void {
    clearInterval(this.#timer)
    this.#log?.close()
  }

  #check(): void {
    const { mayMerge, segmentSet } = this.#deps
    if (this.#log !== null || !mayMerge()) return
    const sealed = segmentSet.all.filter(segment => segment.sealed)
    if (sealed.at(-1) !== this.#failed && this.#paysOff(sealed)) void this.#merge(sealed)
  }

  /** The snapshot is written again only if there is a good part of its size to merge. */
  #paysOff(sealed: readonly Segment[]): boolean {
    const sizeOf = (segments: readonly Segment[]) =>
      segments.reduce((sum, segment) => sum + segment.size(), 0)
    const epochs = sealed.filter(segment => segment.kind === 'epoch' && segment.size() > segment.start)
    const fresh = sizeOf(epochs)
    const all = sizeOf(sealed)
    if (epochs.length === 0 || (this.#deps.isForeign() && all > MOST_FOREIGN_BYTES)) return false
    return epochs.length >= MANY_SEGMENTS || (fresh >= LEAST_BYTES && 2 * fresh >= all - fresh)
  }

  async #merge(sealed: readonly Segment[]): Promise<void> {
    const { logger, mayMerge, segmentSet, service } = this.#deps
    const log = new StateLog({ logger })
    this.#log = log
    try {
      for (const segment of sealed) await log.adopt(segment.share())
      const [snapshot] = await log.compact()
      const all = segmentSet.all
      // A handoff, or the member, may have changed the set meanwhile: the next check tries again.
      if (snapshot?.kind !== 'snapshot' || !mayMerge() || sealed.some(segment => !all.includes(segment)))
        return
      segmentSet.replaceUpTo(snapshot.share())
    } catch (error) {
      this.#failed = sealed.at(-1) ?? null
      logger.warn({ err: error, service }, 'the daemon could not merge the segments of a service')
    } finally {
      this.#log = null
      log.close()
    }
  }
}
