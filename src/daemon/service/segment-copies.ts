import type { Epoch } from '../../handoff/messages.js'
import { type SegmentShelf, type Since, segmentsSince } from '../../holder/segment-shelf.js'
import { inspectOne, memoryFile, readAt, writeAllAt } from '../../kernel/index.js'
import { DEFAULT_LIMITS } from '../../state/limits.js'
import { recordsOf } from '../../state/reader.js'
import { Segment } from '../../state/segment.js'

/** Milliseconds of one turn of the event loop. */
const TURN_MS = 3
const PIECE_BYTES = 1024 * 1024
/** The readers of a copy judge what it holds. */
const LIMITS = { ...DEFAULT_LIMITS, segmentBytes: Number.MAX_SAFE_INTEGER, recordBytes: 2 ** 32 }

interface Copy {
  readonly segment: Segment
  /** Behind the last whole record that was copied. */
  end: number
}

/**
 * Copies of the segments of a service. A process that has one can neither change nor seal the segment itself, and pages of the copy that it holds on to
 * do not keep the segment from being sealed. A copy has whole records only, and is sealed when its segment is.
 */
export class SegmentCopies {
  readonly #shelf: SegmentShelf
  readonly #copies = new Map<string, Copy>()
  /** All of them, complete. */
  #complete: readonly Segment[] = []
  #closed = false

  constructor(shelf: SegmentShelf) {
    this.#shelf = shelf
  }

  /** Copies what the segments have by now, a few milliseconds in each turn of the event loop. Reports whether that was anything. */
  async refresh(): Promise<boolean> {
    let copied = false
    for (;;) {
      const sources = this.#shelf.all
      const begun = performance.now()
      let piece: 'end' | 'more' | 'nothing' = 'nothing'
      for (const source of sources) {
        do {
          piece = this.#copy(source)
          copied ||= piece !== 'nothing'
        } while (piece === 'more' && performance.now() - begun < TURN_MS)
        if (performance.now() - begun >= TURN_MS && source !== sources.at(-1)) piece = 'more'
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

  /** As {@link SegmentShelf.since}, of the copies. */
  since(top: Epoch, options: { readonly whole?: boolean } = {}): Since {
    return segmentsSince(this.#complete, top, options)
  }

  close(): void {
    this.#closed = true
    this.#complete = []
    for (const { segment } of this.#copies.values()) segment.close()
    this.#copies.clear()
  }

  /** A part of what a segment has and its copy has not. Throws what the kernel throws. */
  #copy(source: Segment): 'end' | 'more' | 'nothing' {
    const { sealed } = source
    const copy = this.#copyOf(source)
    if (copy.segment.sealed) return 'nothing'
    const from = copy.end
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

  #copyOf(source: Segment): Copy {
    const key = keyOf(source)
    const known = this.#copies.get(key)
    if (known !== undefined) return known
    const { epoch, start } = source
    const fd = memoryFile(`fdb-state-${epoch}-copy`, `copy of state segment ${epoch}`)
    const header = Buffer.alloc(start)
    readAt(source.fd, header, 0, start, 0)
    writeAllAt(fd, header, 0)
    const segment = Segment.open(fd)
    const copy = { segment, end: segment.start }
    this.#copies.set(key, copy)
    return copy
  }

  #publish(sources: readonly Segment[]): void {
    const keys = new Set(sources.map(keyOf))
    this.#complete = sources.map(source => this.#copies.get(keyOf(source))!.segment)
    for (const [key, { segment }] of this.#copies) {
      if (keys.has(key)) continue
      segment.close()
      this.#copies.delete(key)
    }
  }
}

/** The epochs of a service that begins again are those of the one before. */
function keyOf({ epoch, fd, kind }: Segment): string {
  return `${kind} ${epoch} ${inspectOne(fd).ino}`
}
