import { type Epoch, NO_EPOCH } from '../handoff/messages.js'
import { RULES, type Rules, WITHOUT_SEALS } from '../handoff/rules.js'
import { closeOnThrow } from '../kernel/index.js'
import { Segment } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'
import { READS_SNAPSHOTS } from '../wire/link.js'
import type { Caller } from './admission.js'

export interface SegmentBundle {
  readonly items: BundleItem[]
  /** Closes the descriptors of `items`; call it after sending. */
  release(): void
}

/**
 * The segments of this process, by epoch: those that contain the state, the one in which the owner writes, and those that were made for a
 * handoff: the successor's, and the incumbent's for a rollback. Owns them; the state log shares their descriptors.
 */
export class SegmentSet {
  readonly #segments = new Map<Epoch, Segment>()
  readonly #readOnly = new Set<Epoch>()
  /** The highest epoch that {@link prune} has dropped. */
  #pruned: Epoch = NO_EPOCH
  /** Called after each change, before a new segment is used. */
  changed: () => void = () => {}

  /** The segments in order of epoch. */
  get all(): Segment[] {
    return [...this.#segments.values()].sort((a, b) => a.epoch - b.epoch)
  }

  get rules(): Rules {
    return [...this.#segments.values()].every(({ sealable }) => sealable) ? RULES : WITHOUT_SEALS
  }

  get(epoch: Epoch): Segment | undefined {
    return this.#segments.get(epoch)
  }

  /** Owns the segment. Replaces one of the same epoch only if the new one is writable and of the same kind. */
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

  /** The highest epoch, also of a pruned segment, because no epoch may be granted twice; 0 if there is none. */
  get top(): Epoch {
    return Math.max(0, this.#pruned, ...this.#segments.keys())
  }

  /** Also true for pruned segments, so that a late message naming one of them is ignored. */
  isSealed(epoch: Epoch): boolean {
    return this.#segments.get(epoch)?.sealed ?? epoch <= this.#pruned
  }

  /** Whether compaction pays off: the segment has at least `bytes`, and as many as all others together. */
  hasGrown(epoch: Epoch, bytes: number): boolean {
    const segment = this.#segments.get(epoch)
    if (segment === undefined) return false
    const size = segment.size()
    if (size < bytes) return false
    return size >= this.all.reduce((sum, other) => (other === segment ? sum : sum + other.size()), 0)
  }

  hasRecords(epoch: Epoch): boolean {
    const segment = this.#segments.get(epoch)
    return segment !== undefined && segment.size() > segment.start
  }

  isReleased(epoch: Epoch): boolean {
    return this.#segments.get(epoch)?.released ?? false
  }

  /** Whether a segment of this epoch or a later one is claimed. */
  isClaimedFrom(epoch: Epoch): boolean {
    return this.all.some(segment => segment.epoch >= epoch && segment.claimed)
  }

  seal(from: Epoch, below: Epoch): void {
    for (const segment of this.#unsealed(from, below)) segment.seal()
  }

  /** As {@link seal}, if the process that served is dead: this one may have only read-only descriptors of the dead one's segments. */
  sealForDead(from: Epoch, below: Epoch): void {
    for (const segment of this.#unsealed(from, below)) segment.sealForDead()
  }

  /** As {@link seal}, if processes of another user may use pages of the segments: the seals may wait. */
  async sealAside(from: Epoch, below: Epoch): Promise<void> {
    await Promise.all(this.#unsealed(from, below).map(segment => segment.sealAside()))
  }

  #unsealed(from: Epoch, below: Epoch): Segment[] {
    return this.all.filter(({ epoch, sealed }) => epoch >= from && epoch < below && !sealed)
  }

  mark(epoch: Epoch): void {
    this.#segments.get(epoch)?.markReleased()
  }

  dropBelow(epoch: Epoch): void {
    for (const segment of this.all) if (segment.epoch < epoch) this.#drop(segment)
  }

  /** Replaces all segments up to the epoch of `snapshot`, which contains them. */
  replaceUpTo(snapshot: Segment): void {
    const merged = this.all.filter(segment => segment.epoch <= snapshot.epoch)
    for (const { epoch } of merged) {
      this.#segments.delete(epoch)
      this.#readOnly.delete(epoch)
    }
    this.#segments.set(snapshot.epoch, snapshot)
    // Before the close: a mirror of the set (FdStoreMirror) must store the snapshot before it drops the merged segments.
    this.changed()
    for (const segment of merged) segment.close()
  }

  /** Drops the sealed segments that are empty, except the one of epoch `current`. */
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

  /** Returns the segments for a joiner: those of `shared` writable, and those up to `current` read-only, so that the joiner cannot seal them. */
  offer(current: Epoch, shared: readonly Epoch[]): SegmentBundle {
    const writable = this.all.filter(({ epoch }) => shared.includes(epoch))
    const { items, release } = openReadOnly(
      this.all.filter(({ epoch }) => !shared.includes(epoch) && epoch <= current),
    )
    const own = writable.map(({ epoch, fd }) => ({ role: 'segment', epoch, writable: true, fd }) as const)
    return { items: [...items, ...own], release }
  }

  /**
   * Returns the segments above `top`, read-only, for a process that reads the state but does not write it. If one of them is a snapshot,
   * the segments between `top` and the snapshot may have been merged into it: the process reads the whole state again from the snapshot. One that
   * cannot (not `whole`) gets no segment.
   */
  since(top: Epoch, { whole = false } = {}): SegmentBundle {
    return segmentsSince(this.all, top, { whole })
  }

  close(): void {
    for (const segment of this.all) this.#drop(segment)
    // The next segments may be those of a service that was started again.
    this.#pruned = NO_EPOCH
  }

  #drop(segment: Segment): void {
    this.#segments.delete(segment.epoch)
    this.#readOnly.delete(segment.epoch)
    segment.close()
    this.changed()
  }
}

/** See {@link SegmentSet.since}. */
export function segmentsSince(all: readonly Segment[], top: Epoch, { whole = false } = {}): SegmentBundle {
  const newer = all.filter(segment => segment.epoch > top)
  return openReadOnly(whole || !newer.some(({ kind }) => kind === 'snapshot') ? newer : [])
}

/** Draining generations of earlier releases cannot. */
function readsSnapshots({ hello, intent }: Caller): boolean {
  return intent === 'follow' || hello.capabilities?.includes(READS_SNAPSHOTS) === true
}

function openReadOnly(segments: readonly Segment[]): SegmentBundle {
  const own = copyAll(segments, segment => segment.readOnly())
  const release = () => {
    for (const segment of own) segment.close()
  }
  return { items: own.map(({ epoch, fd }) => ({ role: 'segment', epoch, writable: false, fd })), release }
}

/** Copies each segment by `copy`. If one call throws, closes the copies that are made. */
export function copyAll(segments: readonly Segment[], copy: (segment: Segment) => Segment): Segment[] {
  const copies: Segment[] = []
  return closeOnThrow(copies, () => {
    for (const segment of segments) copies.push(copy(segment))
    return copies
  })
}

/** A caller that does not take its segments within this time is dropped, and reconnects. */
const SUPPLY_MS = 5_000

/** Sends new segments to draining generations and followers, which must see changes that other processes write. */
export class SegmentSupply {
  readonly #segmentSet: Pick<SegmentSet, 'since'>
  readonly #drop: (caller: Caller) => void
  readonly #tops = new Map<Caller, Epoch>()

  /** `drop`: called for a caller to which sending failed; the caller reconnects and asks again. */
  constructor(segmentSet: Pick<SegmentSet, 'since'>, drop: (caller: Caller) => void) {
    this.#segmentSet = segmentSet
    this.#drop = drop
  }

  /** `top`: the highest epoch that the caller has. */
  add(caller: Caller, top: Epoch = caller.hello.top ?? 0): void {
    this.#tops.set(caller, top)
    this.#supply(caller)
  }

  forget(caller: Caller): void {
    this.#tops.delete(caller)
  }

  /** Sends each caller the segments that it does not have. */
  share(): void {
    for (const caller of [...this.#tops.keys()]) this.#supply(caller)
  }

  #supply(caller: Caller): void {
    const top = this.#tops.get(caller) ?? 0
    let newer: ReturnType<SegmentSet['since']>
    try {
      newer = this.#segmentSet.since(top, { whole: readsSnapshots(caller) })
    } catch {
      // This process has reached its limit of open files.
      this.#drop(caller)
      return
    }
    const { items, release } = newer
    if (items.length === 0) return
    this.#tops.set(caller, Math.max(top, ...items.map(({ epoch = 0 }) => epoch)))
    caller.link
      .sendBundle(items, SUPPLY_MS)
      .catch(() => this.#drop(caller))
      .finally(release)
  }
}
