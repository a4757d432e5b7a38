import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import type { Caller } from '../../holder/admission.js'
import type { Peer } from '../../holder/peer.js'
import { type SegmentBundle, type SegmentSet, segmentsSince } from '../../holder/segment-set.js'
import { SegmentSupply } from '../../holder/segment-supply.js'
import { inspectOne, memoryFile, readAt, writeAllAt } from '../../kernel/index.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import { recordsOf } from '../../state/reader.js'
import { Segment } from '../../state/segment.js'
import type { Link } from '../../wire/link.js'

/** The followers of this service's state: told when it has grown. The writer says so while it is asked, which is while anybody follows. */
export class Followers {
  readonly #links = new Set<Link>()
  readonly #writer: () => Peer | undefined
  /** Over it the member that writes was asked. */
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

  /** Another member may write by now, or over another link. */
  updateWriter(): void {
    const link = this.size > 0 ? (this.#writer()?.link ?? null) : null
    if (link === this.#notifyingLink) return
    if (this.size === 0) this.#notifyingLink?.post({ tellAppended: { wanted: false } })
    this.#notifyingLink = link
    link?.post({ tellAppended: { wanted: true } })
  }

  /** The member that writes has appended. */
  notifyAll(peer: Peer): void {
    // Another daemon had asked it.
    if (this.size === 0) peer.link.post({ tellAppended: { wanted: false } })
    for (const link of this.#links) link.post({ appended: {} })
  }
}

/** The error for a follower of a service that does not exist, or not yet: it tries again. */
export function noStateYet(service: string): FdbError {
  return new FdbError(
    'ERR_FDB_BUSY',
    `nobody has come to serve "${service}" here: there is no state to follow yet`,
    {
      retryable: true,
    },
  )
}

/** The copies are brought up to date so often, where no member tells that it has appended. */
const LOOK_MS = 250

/** The processes of one other user that follow a service: they get copies of its segments. */
export class ForeignFollowers {
  readonly #copies: SegmentCopies
  readonly #supply: SegmentSupply
  readonly #drop: (caller: Caller) => void
  /** Those that wait for their first segments, with the highest epoch that each has. */
  readonly #waiting = new Map<Caller, Epoch>()
  readonly #all = new Set<Caller>()
  readonly #timer: NodeJS.Timeout
  #running = false
  #again = false
  #closed = false

  /** `drop`: it cannot be supplied now; it connects again, and asks again. */
  constructor(segmentSet: SegmentSet, drop: (caller: Caller) => void) {
    this.#copies = new SegmentCopies(segmentSet)
    this.#supply = new SegmentSupply(this.#copies, drop)
    this.#drop = drop
    this.#timer = setInterval(() => this.refresh(), LOOK_MS).unref()
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

  /** Something was appended, or a segment was made. */
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
      // No memory or no descriptor is left, or one of them keeps a copy from being sealed.
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

/** Milliseconds of one turn of the event loop. */
const TURN_MS = 3
const PIECE_BYTES = 1024 * 1024
/** The readers of a copy judge what it holds. */
const LIMITS = { ...DEFAULT_LIMITS, segmentBytes: Number.MAX_SAFE_INTEGER, recordBytes: 2 ** 32 }

interface Copy {
  /** A dup: the segment may be sealed and merged before the copy is complete. */
  readonly source: Segment
  readonly segment: Segment
  /** Behind the last whole record that was copied. */
  end: number
}

/**
 * Copies of the segments of a service. A process that has one can neither change nor seal the segment itself, and pages of the copy that it holds on to
 * do not keep the segment from being sealed. A copy has whole records only, and is sealed when its segment is.
 */
export class SegmentCopies {
  readonly #segmentSet: SegmentSet
  readonly #copies = new Map<string, Copy>()
  /** All of them, complete. */
  #complete: readonly Segment[] = []
  #closed = false

  constructor(segmentSet: SegmentSet) {
    this.#segmentSet = segmentSet
  }

  /**
   * Copies the bytes that the segments have by now, a few milliseconds in each turn of the event loop. Reports whether there were any. The copy of a
   * segment that was sealed and has left the set since is completed and sealed too: a reader of it waits for the seal.
   */
  async refresh(): Promise<boolean> {
    let copied = false
    for (;;) {
      const sources = this.#segmentSet.all
      for (const source of sources) this.#open(source)
      const copies = [...this.#copies.values()]
      const begun = performance.now()
      let piece: 'end' | 'more' | 'nothing' = 'nothing'
      for (const copy of copies) {
        do {
          piece = copyPiece(copy)
          copied ||= piece !== 'nothing'
        } while (piece === 'more' && performance.now() - begun < TURN_MS)
        if (performance.now() - begun >= TURN_MS && copy !== copies.at(-1)) piece = 'more'
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

  /** As {@link SegmentSet.since}, of the copies. */
  since(top: Epoch, options: { readonly whole?: boolean } = {}): SegmentBundle {
    return segmentsSince(this.#complete, top, options)
  }

  close(): void {
    this.#closed = true
    this.#complete = []
    for (const copy of this.#copies.values()) closeBoth(copy)
    this.#copies.clear()
  }

  /** Makes the copy of a segment, empty, unless there is one. Throws what the kernel throws. */
  #open(from: Segment): void {
    const key = keyOf(from)
    if (this.#copies.has(key)) return
    const { epoch, start } = from
    const source = from.dup()
    try {
      const fd = memoryFile(`fdb-state-${epoch}-copy`, `copy of state segment ${epoch}`)
      const header = Buffer.alloc(start)
      readAt(source.fd, header, 0, start, 0)
      writeAllAt(fd, header, 0)
      const segment = Segment.open(fd)
      this.#copies.set(key, { source, segment, end: segment.start })
    } catch (error) {
      source.close()
      throw error
    }
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

/** Copies up to {@link PIECE_BYTES} that a segment has and its copy lacks. Throws what the kernel throws. */
function copyPiece(copy: Copy): 'end' | 'more' | 'nothing' {
  if (copy.segment.sealed) return 'nothing'
  const { end: from, source } = copy
  const { sealed } = source
  const records = recordsOf(source, { from, live: true, limits: LIMITS })
  let next = records.next()
  let end = from
  while (!next.done && end - from < PIECE_BYTES) {
    end = next.value?.next ?? end
    next = records.next()
  }
  if (end > from) {
    const bytes = Buffer.allocUnsafe(end - from)
    writeAllAt(copy.segment.fd, bytes.subarray(0, readAt(source.fd, bytes, 0, bytes.length, from)), from)
    copy.end = end
  }
  if (!next.done) return 'more'
  if (sealed) copy.segment.seal()
  return end > from || sealed ? 'end' : 'nothing'
}

function closeBoth({ segment, source }: Copy): void {
  segment.close()
  source.close()
}

/** The epochs of a service that begins again are those of the one before. */
function keyOf({ epoch, fd, kind }: Segment): string {
  return `${kind} ${epoch} ${inspectOne(fd).ino}`
}
