import { InOrder } from '../../base/in-order.js'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import { copyAll, type SegmentSet } from '../../holder/segment-set.js'
import type { StateFileSettings } from '../../state/file/files.js'
import { loadStateFile } from '../../state/file/load.js'
import type { FileEnd } from '../../state/file/records.js'
import type { StateFile } from '../../state/file/state-file.js'
import { Segment } from '../../state/segment.js'
import type { StateLog } from '../../state/state-log.js'
import type { BundleItem } from '../../wire/bundle.js'

/** Sealed segments that together have at most this size are compacted after each handoff. Larger ones are compacted if they number {@link COMPACT_SEGMENTS}. */
const COMPACT_ALWAYS_BYTES = 64 * 1024 * 1024
const COMPACT_SEGMENTS = 8
/** Above this size the sealed segments are also compacted if less than half of their bytes are live. */
const COMPACT_GARBAGE_BYTES = 128 * 1024

/** Reads the segments of the segment set into the state log during a handoff. Owns neither set nor log. */
export class SegmentLoader {
  readonly #log: StateLog
  readonly #segmentSet: SegmentSet
  readonly #logger: Logger
  readonly #order = new InOrder()

  constructor(log: StateLog, segmentSet: SegmentSet, logger: Logger) {
    this.#log = log
    this.#segmentSet = segmentSet
    this.#logger = logger
  }

  /** Starts the state of a first process in `epoch`, with the entries of the state file if there is one. */
  async startFirst(epoch: Epoch, settings: StateFileSettings | null, file: StateFile | null): Promise<void> {
    const segment = this.#segmentSet.get(epoch)!.share()
    let end: FileEnd | null = null
    const onRead = (read: FileEnd) => {
      end = read
    }
    try {
      if (settings !== null) await loadStateFile(settings, segment, this.#log.limits, this.#logger, onRead)
    } catch (error) {
      segment.close()
      throw error
    }
    if (segment.end > segment.start) await this.#log.adopt(segment)
    if (end !== null) file?.begin({ end, log: { epoch, end: segment.end, sequence: this.#log.sequence } })
    this.#log.startWriting(segment)
  }

  /** Reads the state up to `source`, the incumbent's segment. */
  async read(source: Epoch): Promise<void> {
    for (const segment of this.#segmentSet.all)
      if (segment.epoch <= source) await this.#log.adopt(segment.share())
  }

  /**
   * Reads every acknowledged change of the segments below this epoch. `seal`: seals them first, if this process has its own holder, because
   * the segment of a dead process must be sealed before later ones can be read.
   */
  carry(below: Epoch, seal: boolean): Promise<void> {
    return this.#order.run(() => this.#carry(below, seal))
  }

  async #carry(below: Epoch, seal: boolean): Promise<void> {
    if (seal) for (const segment of this.#segmentSet.all) if (segment.epoch < below) segment.sealForDead()
    const isEmpty = (segment: Segment) => segment.sealed && segment.size() <= segment.start
    await this.#adoptNewer(segment => segment.epoch < below && !isEmpty(segment))
    await this.#log.catchUp()
  }

  /** Follows the records of the process that serves, in segments below this epoch. Called again when newer segments have arrived. */
  follow(below: Epoch = Number.POSITIVE_INFINITY): Promise<void> {
    return this.#order.run(() => this.#followOn(below))
  }

  async #followOn(below: Epoch): Promise<void> {
    await this.#adoptNewer(({ epoch }) => epoch < below)
    this.#log.follow()
  }

  /** Reads segments that come after those of the log. If a snapshot is the first of them, the log may lack segments that were merged: it is read again as a whole. */
  async #adoptNewer(isWanted: (segment: Segment) => boolean): Promise<void> {
    const newer = this.#segmentSet.all.filter(segment => segment.epoch > this.#newest && isWanted(segment))
    if (newer[0]?.kind === 'snapshot' && this.#log.segments.length > 0) {
      await this.#log.rebuild(copyAll(newer, segment => segment.share()))
      return
    }
    for (const segment of newer) if (segment.epoch > this.#newest) await this.#log.adopt(segment.share())
  }

  /** Adds segments that are newer than the known ones, and closes the other items. A snapshot replaces all earlier segments. `over`: closes all. */
  take(items: readonly BundleItem[], over: boolean): void {
    for (const { role, epoch = 0, fd } of items) {
      try {
        if (over || role !== 'segment' || epoch <= this.#segmentSet.top) {
          fd.close()
          continue
        }
        const segment = Segment.open(fd)
        if (segment.kind === 'snapshot') this.#segmentSet.replaceUpTo(segment)
        else this.#segmentSet.put(segment, false)
      } catch (error) {
        this.#logger.warn(
          { err: error },
          'a segment with newer state cannot be opened: this process may answer from older state',
        )
      }
    }
  }

  /** Returns copies of the segments that come after `epoch`, for the log, which owns them; none if a snapshot is the first of them. */
  after(epoch: Epoch): Segment[] {
    const next = this.#segmentSet.all.filter(segment => segment.epoch > epoch)
    return next[0]?.kind === 'snapshot' ? [] : copyAll(next, segment => segment.share())
  }

  write(epoch: Epoch): void {
    // A process that has followed the log may also have the segment for a rollback, which was made with this one.
    const held = this.#log.backTo(epoch)
    if (held !== undefined) {
      this.#log.startWriting(held)
      return
    }
    const segment = this.#segmentSet.get(epoch)
    if (segment === undefined)
      throw new FdbError(
        'ERR_FDB_INTERNAL',
        `the segment of epoch ${epoch}, to which this process must write, is missing`,
      )
    this.#log.startWriting(segment.share())
  }

  /**
   * Merges the segments of earlier generations into a snapshot, whose memory the kernel then accounts to this process. Passes the snapshot,
   * which the log owns, to `give`. `from`: the fewest sealed segments that are merged. `needed`: merges in any case.
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
      this.#logger.warn({ err: error }, 'the state could not be compacted; the next handoff tries again')
    }
  }

  get #newest(): Epoch {
    return Math.max(-1, ...this.#log.segments.map(segment => segment.epoch))
  }
}
