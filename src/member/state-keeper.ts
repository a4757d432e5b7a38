import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Epoch } from '../handoff/messages.js'
import type { SegmentSet } from '../holder/segment-set.js'
import type { StateFileSettings } from '../state/file/files.js'
import { loadStateFile } from '../state/file/load.js'
import type { Segment } from '../state/segment.js'
import type { StateLog } from '../state/state-log.js'

/** Below this the whole state is compacted after each handoff; above, when enough has come together. */
const COMPACT_ALWAYS_BYTES = 64 * 1024 * 1024
const COMPACT_SEGMENTS = 8
/** Compaction is worth it also where less than half of it counts still. */
const COMPACT_GARBAGE_BYTES = 128 * 1024

/** Brings the segments on the segment set into the state log, as a handoff goes. Owns neither. */
export class StateKeeper {
  readonly #log: StateLog
  readonly #segmentSet: SegmentSet
  readonly #logger: Logger
  /** One segment after the other, also when more arrive meanwhile. */
  #following: Promise<void> = Promise.resolve()

  constructor(log: StateLog, segmentSet: SegmentSet, logger: Logger) {
    this.#log = log
    this.#segmentSet = segmentSet
    this.#logger = logger
  }

  /** There is no state to take over: this epoch starts with the state file, if there is one. */
  async startFirst(epoch: Epoch, file: StateFileSettings | null): Promise<void> {
    const segment = this.#segmentSet.get(epoch)!.dup()
    try {
      if (file !== null) await loadStateFile(file, segment, this.#log.limits, this.#logger)
    } catch (error) {
      segment.close()
      throw error
    }
    if (segment.end > segment.start) await this.#log.adopt(segment)
    this.#log.startWriting(segment)
  }

  /** The state as of the offer. */
  async read(source: Epoch): Promise<void> {
    for (const segment of this.#segmentSet.all)
      if (segment.epoch <= source) await this.#log.adopt(segment.dup())
  }

  /**
   * Carries over every acknowledged change of the segments below this epoch. `heir`: their writer has lost the right, by the seal or by its
   * death; after a death the seal must still be set, or the segments that follow could not be read.
   */
  async carry(below: Epoch, heir: boolean): Promise<void> {
    if (heir) for (const segment of this.#segmentSet.all) if (segment.epoch < below) segment.sealForDead()
    const newest = this.#newest
    for (const segment of this.#segmentSet.all) {
      if (segment.epoch >= below || segment.epoch <= newest) continue
      if (segment.sealed && segment.size() <= segment.start) continue
      await this.#log.adopt(segment.dup())
    }
    await this.#log.catchUp()
  }

  /** Lets the connections that stay here see what the process that serves writes. Called again when newer segments have arrived. */
  follow(): Promise<void> {
    const next = this.#following.then(() => this.#followOn())
    this.#following = next.catch(() => {})
    return next
  }

  async #followOn(): Promise<void> {
    for (const segment of this.#segmentSet.all) {
      if (segment.kind === 'epoch' && segment.epoch > this.#newest) await this.#log.adopt(segment.dup())
    }
    this.#log.follow()
  }

  write(epoch: Epoch): void {
    const last = this.#log.segments.at(-1)
    if (last?.epoch === epoch) {
      this.#log.startWriting(last)
      return
    }
    const segment = this.#segmentSet.get(epoch)
    if (segment === undefined)
      throw new FdbError('ERR_FDB_INTERNAL', `no segment of epoch ${epoch} to write in`)
    this.#log.startWriting(segment.dup())
  }

  /**
   * Merges what earlier generations wrote into one segment, and moves its memory to this process's account. `give`: what
   * to do with the merged segment, which is the log's. `from`: so many segments are worth it.
   */
  async compact(
    give: (snapshot: Segment) => void | Promise<void>,
    { needed = false, from = 2 }: { needed?: boolean; from?: number } = {},
  ): Promise<void> {
    const sealed = this.#segmentSet.all.filter(segment => segment.sealed)
    const bytes = sealed.reduce((sum, segment) => sum + segment.size(), 0)
    const several =
      sealed.length >= from && (bytes <= COMPACT_ALWAYS_BYTES || sealed.length >= COMPACT_SEGMENTS)
    const garbage = bytes > COMPACT_GARBAGE_BYTES && bytes > 2 * this.#log.stats().liveBytes
    if (!several && !garbage && !needed) return
    try {
      const [snapshot] = await this.#log.compact()
      if (snapshot?.kind === 'snapshot') await give(snapshot)
    } catch (error) {
      this.#logger.warn(
        { err: error },
        'the state could not be compacted; it is tried again after the next handoff',
      )
    }
  }

  get #newest(): Epoch {
    return Math.max(-1, ...this.#log.segments.map(segment => segment.epoch))
  }
}
