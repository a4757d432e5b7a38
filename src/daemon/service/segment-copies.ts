import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import { type SegmentBundle, type SegmentSet, segmentsSince } from '../../holder/segment-set.js'
import {
  closeOnThrow,
  inspectOne,
  memoryFile,
  type OwnedFd,
  readAt,
  sizeOf,
  truncate,
  writeAllAt,
} from '../../kernel/index.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import { type FoundRecord, recordsOf } from '../../state/reader.js'
import { Segment } from '../../state/segment.js'

/** Limit of the time spent copying per turn of the event loop. */
const TURN_MS = 3
const PIECE_BYTES = 256 * 1024
/** A copy has only records that processes with the default limits accept. */
const OPTIONS = { live: true, limits: DEFAULT_LIMITS, unparsed: true } as const
const PAGE = Buffer.alloc(4096)

interface Copy {
  /** A duplicate: the original may be sealed, merged and closed before the copy is complete. */
  readonly source: Segment
  readonly segment: Segment
  /** Reads the records up to the size that the segment had when it began; null when it has reached that. */
  records: Generator<FoundRecord | undefined, void> | null
  /** Whether the segment was sealed when {@link records} began. */
  sealed: boolean
  /** File offset after the last whole record. */
  whole: number
  /** File offset after the last copied byte. */
  end: number
}

/**
 * Copies of a service's segments for other users. A process that has a copy can neither change nor seal the segment, and cannot prevent the segment's
 * seal by holding pages of it. A copy has only complete records, and is sealed after its segment. Copies take no more memory than segments: pages of
 * zeros take none.
 */
export class SegmentCopies {
  readonly #segmentSet: SegmentSet
  readonly #most: () => number
  readonly #copies = new Map<string, Copy>()
  /** The copies of all segments, once each is complete. */
  #complete: readonly Segment[] = []
  #closed = false

  /** `most`: limit of the bytes of all copies. */
  constructor(segmentSet: SegmentSet, most: () => number = () => Number.POSITIVE_INFINITY) {
    this.#segmentSet = segmentSet
    this.#most = most
  }

  /**
   * Copies the records that the segments have now, for a few milliseconds per turn of the event loop. Resolves with whether there were new ones. Also
   * completes and seals the copy of a segment that was sealed and has left the set since the last call, because readers wait for the seal. Rejects with
   * ERR_FDB_STATE_LIMIT if a record or the whole state is too large.
   */
  async refresh(): Promise<boolean> {
    let copied = false
    // A segment may grow as fast as it is copied: each is read to the size that it had, and once more only if it was sealed since.
    const done = new Set<Copy>()
    for (;;) {
      const sources = this.#segmentSet.all
      for (const source of sources) this.#open(source)
      this.#demandSize()
      const copies = [...this.#copies.values()]
      const until = performance.now() + TURN_MS
      let piece: 'end' | 'more' | 'nothing' = 'nothing'
      for (const copy of copies) {
        if (done.has(copy) && !copy.source.sealed) continue
        piece = copyUntil(copy, until)
        if (piece !== 'more') {
          done.add(copy)
          // A follower may use pages of the copy.
          if (copy.sealed) await copy.segment.sealAside()
          if (this.#closed) return false
        }
        copied ||= piece !== 'nothing'
        if (performance.now() >= until && copy !== copies.at(-1)) piece = 'more'
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

  #demandSize(): void {
    const most = this.#most()
    let bytes = 0
    for (const { source } of this.#copies.values()) bytes += source.size()
    if (bytes <= most) return
    throw new FdbError(
      'ERR_FDB_STATE_LIMIT',
      `the state has ${bytes} bytes; processes of other users can follow at most ${most} (limits.state of the daemon's configuration): delete entries, or raise the limit`,
      { details: { got: bytes, most } },
    )
  }

  /** Creates an empty copy of a segment, unless there is one. Throws the kernel's errors. */
  #open(from: Segment): void {
    const key = segmentKey(from)
    if (this.#copies.has(key)) return
    const { epoch, start } = from
    const source = from.share()
    closeOnThrow([source], () => {
      const fd = memoryFile(`fdb-state-${epoch}-copy`, `copy of state segment ${epoch}`)
      closeOnThrow([fd], () => {
        const header = Buffer.alloc(start)
        readAt(source.fd, header, 0, start, 0)
        writeAllAt(fd, header, 0)
      })
      const segment = Segment.open(fd)
      const at = segment.start
      this.#copies.set(key, { source, segment, records: null, sealed: false, whole: at, end: at })
    })
  }

  #publish(sources: readonly Segment[]): void {
    const keys = new Set(sources.map(segmentKey))
    this.#complete = sources.map(source => this.#copies.get(segmentKey(source))!.segment)
    for (const [key, copy] of this.#copies) {
      if (keys.has(key)) continue
      closeBoth(copy)
      this.#copies.delete(key)
    }
  }
}

/** Copies new records until this time. Returns 'end' if the copy is complete now, 'nothing' if it was before. Throws the kernel's errors. */
function copyUntil(copy: Copy, until: number): 'end' | 'more' | 'nothing' {
  const { segment, source } = copy
  if (segment.sealed) return 'nothing'
  if (copy.records === null) {
    copy.sealed = source.sealed
    copy.records = recordsOf(source, { ...OPTIONS, from: copy.whole })
  }
  let any = false
  for (let done = false; !done || copy.end < copy.whole; ) {
    if (performance.now() >= until) return 'more'
    if (!done) {
      const next = copy.records.next()
      done = next.done ?? false
      copy.whole = next.value?.next ?? copy.whole
      if (!done && copy.whole - copy.end < PIECE_BYTES) continue
    }
    if (copy.end === copy.whole) continue
    any = true
    copyPiece(copy)
  }
  copy.records = null
  return any || copy.sealed ? 'end' : 'nothing'
}

/** Copies about {@link PIECE_BYTES}. */
function copyPiece(copy: Copy): void {
  const bytes = Buffer.allocUnsafe(Math.min(PIECE_BYTES, copy.whole - copy.end))
  const got = readAt(copy.source.fd, bytes, 0, bytes.length, copy.end)
  if (got === 0)
    throw new FdbError(
      'ERR_FDB_STATE_DAMAGED',
      'a segment became shorter: only a faulty member cuts records off',
    )
  writeSparsely(copy.segment.fd, bytes.subarray(0, got), copy.end)
  copy.end += got
}

/** Writes behind the end of the file, but leaves out pages of zeros. */
function writeSparsely(fd: OwnedFd, bytes: Buffer, position: number): void {
  const skips = (at: number) => bytes.compare(PAGE, 0, PAGE.length, at, at + PAGE.length) === 0
  let from = 0
  // Pages of the file, of which the first and the last may be incomplete here.
  for (
    let at = (PAGE.length - (position % PAGE.length)) % PAGE.length;
    at + PAGE.length <= bytes.length;
    at += PAGE.length
  ) {
    if (!skips(at)) continue
    if (at > from) writeAllAt(fd, bytes.subarray(from, at), position + from)
    from = at + PAGE.length
  }
  if (from < bytes.length) writeAllAt(fd, bytes.subarray(from), position + from)
  else if (sizeOf(fd) < position + bytes.length) truncate(fd, position + bytes.length)
}

function closeBoth({ segment, source }: Copy): void {
  segment.close()
  source.close()
}

/** Identifies a segment. The inode distinguishes it from one of a previous service of the same name, whose epochs are the same. */
function segmentKey({ epoch, fd, kind }: Segment): string {
  return `${kind} ${epoch} ${inspectOne(fd).ino}`
}
