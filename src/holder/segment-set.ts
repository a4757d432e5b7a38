import { type Epoch, NO_EPOCH } from '../handoff/messages.js'
import { RULES, type Rules, WITHOUT_SEALS } from '../handoff/rules.js'
import { Segment } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'

/** Segments to be sent, and what closes them when they were. */
export interface Since {
  readonly items: BundleItem[]
  release(): void
}

/**
 * The segments that this process holds, by epoch: those that hold the state, the one that is written, and those
 * that were made in advance (a successor's, a way back). Owns each of them; the state log works on dups.
 */
export class SegmentSet {
  readonly #segments = new Map<Epoch, Segment>()
  readonly #readOnly = new Set<Epoch>()
  /** The highest epoch of those that {@link prune} has dropped. */
  #pruned: Epoch = NO_EPOCH
  /** A callback after each change, before it is used. */
  changed: () => void = () => {}

  /** The segments in order of epoch; a snapshot before what came after it. */
  get all(): Segment[] {
    return [...this.#segments.values()].sort((a, b) => a.epoch - b.epoch)
  }

  /** Those of a handoff over these segments. */
  get rules(): Rules {
    for (const segment of this.#segments.values()) if (!segment.sealable) return WITHOUT_SEALS
    return RULES
  }

  get(epoch: Epoch): Segment | undefined {
    return this.#segments.get(epoch)
  }

  /** Takes a segment; of two of the same epoch the writable one stays. */
  put(segment: Segment, writable: boolean): void {
    const present = this.#segments.get(segment.epoch)
    if (present === undefined || (writable && present.kind === segment.kind)) {
      present?.close()
      this.#segments.set(segment.epoch, segment)
      if (writable) this.#readOnly.delete(segment.epoch)
      else this.#readOnly.add(segment.epoch)
      this.changed()
    } else segment.close()
  }

  /** Whether the segment came with the right to write (and to seal). */
  isWritable(epoch: Epoch): boolean {
    return this.#segments.has(epoch) && !this.#readOnly.has(epoch)
  }

  make(epochs: readonly Epoch[]): Segment[] {
    return epochs.map(epoch => {
      const segment = Segment.create(epoch)
      this.put(segment, true)
      return segment
    })
  }

  /** The highest epoch that is here; 0: none. */
  get top(): Epoch {
    return Math.max(0, ...this.all.map(segment => segment.epoch))
  }

  /** Also of one that was dropped as nothing had been written before it was sealed: a word that names it is of the past. */
  isSealed(epoch: Epoch): boolean {
    return this.#segments.get(epoch)?.sealed ?? epoch <= this.#pruned
  }

  /** The segment of this epoch has so many bytes, and as many as all others: it is worth to be compacted. */
  hasGrown(epoch: Epoch, bytes: number): boolean {
    const segment = this.#segments.get(epoch)
    if (segment === undefined) return false
    const size = segment.size()
    if (size < bytes) return false
    return size >= this.all.reduce((sum, other) => (other === segment ? sum : sum + other.size()), 0)
  }

  /** Whether something was written to the segment. */
  holdsAnything(epoch: Epoch): boolean {
    const segment = this.#segments.get(epoch)
    return segment !== undefined && segment.size() > segment.start
  }

  isReleased(epoch: Epoch): boolean {
    return this.#segments.get(epoch)?.released ?? false
  }

  seal(from: Epoch, below: Epoch): void {
    for (const segment of this.#segments.values()) {
      if (segment.epoch >= from && segment.epoch < below && !segment.sealed) segment.seal()
    }
  }

  mark(epoch: Epoch): void {
    this.#segments.get(epoch)?.markReleased()
  }

  /** The segments below belong to no state. */
  dropBelow(epoch: Epoch): void {
    for (const segment of this.all) if (segment.epoch < epoch) this.#drop(segment)
  }

  /** A compacted segment has taken the place of all up to its epoch. */
  replaceUpTo(snapshot: Segment): void {
    const merged = this.all.filter(segment => segment.epoch <= snapshot.epoch)
    for (const { epoch } of merged) {
      this.#segments.delete(epoch)
      this.#readOnly.delete(epoch)
    }
    this.#segments.set(snapshot.epoch, snapshot)
    // A mirror of the set is never without both.
    this.changed()
    for (const segment of merged) segment.close()
  }

  /** Drops segments that cannot be needed any more: other than `current`, sealed and empty. */
  prune(current: Epoch): void {
    for (const segment of this.all) {
      if (
        segment.epoch !== current &&
        segment.kind === 'epoch' &&
        segment.sealed &&
        segment.size() <= segment.start
      ) {
        this.#drop(segment)
        this.#pruned = Math.max(this.#pruned, segment.epoch)
      }
    }
  }

  /** The items for a joiner: the state read-only (a writable dup could seal it), the two new ones to share. */
  offer(current: Epoch, shared: readonly Epoch[]): Since {
    const writable = this.all.filter(({ epoch }) => shared.includes(epoch))
    const { items, release } = readOnly(
      this.all.filter(({ epoch }) => !shared.includes(epoch) && epoch <= current),
    )
    const own = writable.map(({ epoch, fd }) => ({ role: 'segment', epoch, writable: true, fd }) as const)
    return { items: [...items, ...own], release }
  }

  /**
   * Segments that were made after `top`, read-only, for a generation that drains: it answers from the state until its last connection ends.
   * If a missing segment has been merged, none: it could not tell what is missing; or, with `whole`, all that there are, for one that
   * starts again.
   */
  since(top: Epoch, { whole = false } = {}): Since {
    return segmentsSince(this.all, top, { whole })
  }

  close(): void {
    for (const segment of this.all) this.#drop(segment)
  }

  #drop(segment: Segment): void {
    this.#segments.delete(segment.epoch)
    this.#readOnly.delete(segment.epoch)
    segment.close()
    this.changed()
  }
}

/** The answer of {@link SegmentSet.since} from `all`, read-only. */
export function segmentsSince(all: readonly Segment[], top: Epoch, { whole = false } = {}): Since {
  const newer = all.filter(segment => segment.epoch > top)
  return readOnly(whole || !newer.some(({ kind }) => kind === 'snapshot') ? newer : [])
}

/** Read-only descriptors of the segments. */
function readOnly(segments: readonly Segment[]): Since {
  const own: Segment[] = []
  const release = () => {
    for (const segment of own) segment.close()
  }
  try {
    for (const segment of segments) own.push(segment.readOnly())
  } catch (error) {
    release()
    throw error
  }
  return { items: own.map(({ epoch, fd }) => ({ role: 'segment', epoch, writable: false, fd })), release }
}
