import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import type { Caller } from '../../holder/admission.js'
import type { Peer } from '../../holder/peer.js'
import {
  type SegmentBundle,
  type SegmentSet,
  SegmentSupply,
  segmentsSince,
} from '../../holder/segment-set.js'
import { closeOnThrow, inspectOne, memoryFile, readAt, writeAllAt } from '../../kernel/index.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import { recordsOf } from '../../state/reader.js'
import { Segment } from '../../state/segment.js'
import type { Link } from '../../wire/link.js'

/** Tells the followers of a service about new records. While there are followers, the writing member reports each append. */
export class Followers {
  readonly #links = new Set<Link>()
  readonly #writer: () => Peer | undefined
  /** The link over which the writing member was asked to report its appends. */
  #notifyingLink: Link | null = null

  constructor(writer: () => Peer | undefined) {
    this.#writer = writer
  }

  get size(): number {
    return this.#links.size
  }

  add(link: Link): void {
    this.#links.add(link)
    this.updateWriter()
  }

  remove(link: Link): void {
    if (this.#links.delete(link)) this.updateWriter()
  }

  /** Asks the writing member to report its appends, or to stop when there are no followers. Sends nothing if the member already knows. */
  updateWriter(): void {
    const link = this.size > 0 ? (this.#writer()?.link ?? null) : null
    if (link === this.#notifyingLink) return
    if (this.size === 0) this.#notifyingLink?.post({ tellAppended: { wanted: false } })
    this.#notifyingLink = link
    link?.post({ tellAppended: { wanted: true } })
  }

  /** Handles the writing member's report that it has appended. */
  notifyAll(peer: Peer): void {
    // A previous daemon asked this member for reports; this daemon has no followers and cancels them.
    if (this.size === 0) peer.link.post({ tellAppended: { wanted: false } })
    for (const link of this.#links) link.post({ appended: {} })
  }
}

/** The error for a follower of a service that does not exist yet; the follower retries. */
export function noStateError(service: string): FdbError {
  return new FdbError(
    'ERR_FDB_BUSY',
    `no member has served "${service}" at this daemon: there is no state to follow yet`,
    {
      retryable: true,
    },
  )
}

/** Interval at which the copies are refreshed even without a report of the writing member. */
const REFRESH_MS = 250

/** The followers of a service that belong to one other user. They get copies of the segments. */
export class ForeignFollowers {
  readonly #copies: SegmentCopies
  readonly #supply: SegmentSupply
  readonly #drop: (caller: Caller) => void
  /** Followers that wait for their first segments, with the highest epoch that each of them has. */
  readonly #waiting = new Map<Caller, Epoch>()
  readonly #all = new Set<Caller>()
  readonly #timer: NodeJS.Timeout
  #running = false
  #again = false
  #closed = false

  /** `drop` disconnects a follower that cannot get segments now; it connects again later. */
  constructor(segmentSet: SegmentSet, drop: (caller: Caller) => void) {
    this.#copies = new SegmentCopies(segmentSet)
    this.#supply = new SegmentSupply(this.#copies, drop)
    this.#drop = drop
    this.#timer = setInterval(() => this.refresh(), REFRESH_MS).unref()
  }

  get size(): number {
    return this.#all.size
  }

  add(caller: Caller, top: Epoch): void {
    this.#all.add(caller)
    this.#waiting.set(caller, top)
    this.refresh()
  }

  remove(caller: Caller): void {
    this.#all.delete(caller)
    this.#waiting.delete(caller)
    this.#supply.forget(caller)
  }

  /** Updates the copies, after an append or when there is a new segment. */
  refresh(): void {
    this.#again = true
    if (!this.#running) void this.#run()
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#timer)
    this.#copies.close()
  }

  async #run(): Promise<void> {
    this.#running = true
    try {
      while (this.#again && !this.#closed) {
        this.#again = false
        await this.#refresh()
      }
    } catch {
      // Memory or descriptors are exhausted, or a follower prevents the seal of a copy.
      this.#copies.close()
      for (const caller of [...this.#all]) this.#drop(caller)
    } finally {
      this.#running = false
    }
  }

  async #refresh(): Promise<void> {
    const copied = await this.#copies.refresh()
    if (this.#closed) return
    this.#supply.share()
    for (const [caller, top] of [...this.#waiting]) {
      this.#waiting.delete(caller)
      this.#supply.add(caller, top)
    }
    if (copied) for (const { link } of this.#all) link.post({ appended: {} })
  }
}

/** Limit of the time spent copying per turn of the event loop. */
const TURN_MS = 3
const PIECE_BYTES = 1024 * 1024
/** No limits while copying: the readers of a copy check its records. */
const LIMITS = { ...DEFAULT_LIMITS, segmentBytes: Number.MAX_SAFE_INTEGER, recordBytes: 2 ** 32 }

interface Copy {
  /** A duplicate: the original may be sealed, merged and closed before the copy is complete. */
  readonly source: Segment
  readonly segment: Segment
  /** File offset after the last copied record. */
  end: number
  /** The file offset at which the present {@link SegmentCopies.refresh} ends, because a segment may grow as fast as it is copied. */
  goal: number
}

/**
 * Copies of a service's segments for other users. A process that has a copy can neither change nor seal the segment, and cannot prevent the segment's
 * seal by holding pages of it. A copy has only complete records, and is sealed after its segment.
 */
export class SegmentCopies {
  readonly #segmentSet: SegmentSet
  readonly #copies = new Map<string, Copy>()
  /** The copies of all segments, once each is complete. */
  #complete: readonly Segment[] = []
  #closed = false

  constructor(segmentSet: SegmentSet) {
    this.#segmentSet = segmentSet
  }

  /**
   * Copies the records that the segments have now, for a few milliseconds per turn of the event loop. Resolves with whether there were new ones. Also completes and
   * seals the copy of a segment that was sealed and has left the set since the last call, because readers wait for the seal.
   */
  async refresh(): Promise<boolean> {
    let copied = false
    for (const copy of this.#copies.values()) copy.goal = copy.source.size()
    for (;;) {
      const sources = this.#segmentSet.all
      for (const source of sources) this.#open(source)
      const copies = [...this.#copies.values()]
      const startedAt = performance.now()
      let piece: 'end' | 'more' | 'nothing' = 'nothing'
      for (const copy of copies) {
        do {
          piece = copyPiece(copy)
          copied ||= piece !== 'nothing'
        } while (piece === 'more' && performance.now() - startedAt < TURN_MS)
        if (performance.now() - startedAt >= TURN_MS && copy !== copies.at(-1)) piece = 'more'
        if (piece === 'more') break
      }
      if (piece !== 'more') {
        this.#publish(sources)
        return copied
      }
      await new Promise(resolve => setImmediate(resolve))
      if (this.#closed) return false
    }
  }

  /** As {@link SegmentSet.since}, for the copies. */
  since(top: Epoch, options: { readonly whole?: boolean } = {}): SegmentBundle {
    return segmentsSince(this.#complete, top, options)
  }

  close(): void {
    this.#closed = true
    this.#complete = []
    for (const copy of this.#copies.values()) closeBoth(copy)
    this.#copies.clear()
  }

  /** Creates an empty copy of a segment, unless there is one. Throws the kernel's errors. */
  #open(from: Segment): void {
    const key = keyOf(from)
    if (this.#copies.has(key)) return
    const { epoch, start } = from
    const source = from.dup()
    closeOnThrow([source], () => {
      const fd = memoryFile(`fdb-state-${epoch}-copy`, `copy of state segment ${epoch}`)
      closeOnThrow([fd], () => {
        const header = Buffer.alloc(start)
        readAt(source.fd, header, 0, start, 0)
        writeAllAt(fd, header, 0)
      })
      const segment = Segment.open(fd)
      this.#copies.set(key, { source, segment, end: segment.start, goal: source.size() })
    })
  }

  #publish(sources: readonly Segment[]): void {
    const keys = new Set(sources.map(keyOf))
    this.#complete = sources.map(source => this.#copies.get(keyOf(source))!.segment)
    for (const [key, copy] of this.#copies) {
      if (keys.has(key)) continue
      closeBoth(copy)
      this.#copies.delete(key)
    }
  }
}

/** Copies about {@link PIECE_BYTES} of new records. Returns 'end' if the copy is complete now, 'nothing' if it was before. Throws the kernel's errors. */
function copyPiece(copy: Copy): 'end' | 'more' | 'nothing' {
  if (copy.segment.sealed) return 'nothing'
  const { end: from, source } = copy
  const { sealed } = source
  const goal = sealed ? source.size() : copy.goal
  const records = recordsOf(source, { from, live: true, limits: LIMITS })
  let next = records.next()
  let end = from
  while (!next.done && end - from < PIECE_BYTES && end < goal) {
    end = next.value?.next ?? end
    next = records.next()
  }
  if (end > from) {
    const bytes = Buffer.allocUnsafe(end - from)
    writeAllAt(copy.segment.fd, bytes.subarray(0, readAt(source.fd, bytes, 0, bytes.length, from)), from)
    copy.end = end
  }
  if (!next.done && end < goal) return 'more'
  if (next.done && sealed) copy.segment.seal()
  return end > from || copy.segment.sealed ? 'end' : 'nothing'
}

function closeBoth({ segment, source }: Copy): void {
  segment.close()
  source.close()
}

/** Identifies a segment. The inode distinguishes it from one of a previous service of the same name, whose epochs are the same. */
function keyOf({ epoch, fd, kind }: Segment): string {
  return `${kind} ${epoch} ${inspectOne(fd).ino}`
}
