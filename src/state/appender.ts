import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { isLarge, recordsOfParts } from './bulk.js'
import type { LogCore } from './core.js'
import type { HeldSegment } from './history.js'
import { limitError, type StateLimits } from './limits.js'
import { encodeEnvelope, encodeSchema, scanRecord } from './records.js'
import { requestIdRefusal } from './requests.js'
import type { SectionStore } from './section-store.js'
import { FRAME_HEADER, frame, type Segment } from './segment.js'
import { runAtOnce, Slice } from './time-slices.js'
import type { PendingWrite } from './write-queue.js'

/** Maximum bytes per append of several changes. A queue of at least this size is appended at once, a shorter one at the end of the turn. */
const BATCH_BYTES = 64 * 1024
/** Maximum bytes per append of a backlog: small, because settling many tiny changes takes long. */
const BACKLOG_BYTES = 8 * 1024

export interface WriteRight {
  /** Whether this process has the right to write and is not paused. */
  mayAppend(): boolean
  /** Called when an append fails because another process has sealed the segment. */
  onFenced(): void
}

/** Appends queued changes in order: the changes of one turn in one write, a backlog in slices. Settles a change after its record is applied. */
export class Appender {
  readonly #core: LogCore
  readonly #right: WriteRight
  #scheduled = false
  /** {@link #appendBacklog} is running. */
  #backlog = false
  /** {@link WriteQueue.added} when {@link #shortenBacklog} last appended. */
  #shortenedAt = 0
  /** A large bulk is being appended, over several turns. */
  amidBulk = false
  /** An update's function is running: nothing may be appended, but sections may be read. */
  #updating = false

  constructor(core: LogCore, right: WriteRight) {
    this.#core = core
    this.#right = right
  }

  /** Appends the queue at the end of this turn, or at once if it is long. A backlog gets shorter with each change, however many the application makes. */
  schedule(): void {
    if (this.#backlog) {
      this.#shortenBacklog()
      return
    }
    if (this.#core.queue.bytes >= BATCH_BYTES) {
      this.flush()
      return
    }
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(() => {
      this.#scheduled = false
      this.flush()
    })
  }

  flush(): void {
    // Nothing to append is the usual case, as each read calls this: it must cost nothing.
    if (this.#backlog || !this.#mayAppend) return
    const { queue, history, sliceMs } = this.#core
    const until = performance.now() + sliceMs
    while (this.#mayAppend) {
      this.#appendBatch(history.writeSegment!, BATCH_BYTES)
      // A queue longer than one batch consists of changes that waited for the right to write: append them in slices.
      if (queue.bytes > BATCH_BYTES && performance.now() >= until) {
        void this.#appendBacklog()
        return
      }
    }
  }

  /** Appends the queue in slices, so that neither the appends nor the callbacks of the changes block the event loop. */
  async #appendBacklog(): Promise<void> {
    const slice = new Slice(this.#core.sliceMs)
    this.#backlog = true
    this.#shortenedAt = this.#core.queue.added
    await slice.next()
    while (this.#mayAppend) {
      this.#appendBatch(this.#core.history.writeSegment!, BACKLOG_BYTES)
      await slice.passed()
    }
    this.#backlog = false
    this.flush()
  }

  /** Appends twice the bytes of the new changes: slices alone might be slower than the application. */
  #shortenBacklog(): void {
    const { queue, history } = this.#core
    const fresh = queue.added - this.#shortenedAt
    if (fresh < BACKLOG_BYTES) return
    this.#shortenedAt = queue.added
    const least = queue.bytes - 2 * fresh
    while (this.#mayAppend && queue.bytes > least) this.#appendBatch(history.writeSegment!, BACKLOG_BYTES)
  }

  get #mayAppend(): boolean {
    const { queue, history, deferred } = this.#core
    if (queue.length === 0 || !this.#right.mayAppend()) return false
    return !history.applying && !this.amidBulk && !this.#updating && !deferred.stepping
  }

  /** Appends the first writes of the queue in one append. Applies and settles those whose records are complete in the segment. */
  #appendBatch(held: HeldSegment, most: number): void {
    const { queue, limits } = this.#core
    const ready = this.#dropRetries(queue.first(most))
    if (ready.length === 0) return
    if (ready[0]!.makeUpdate !== undefined && !this.#runUpdate(ready)) return
    const large = ready.findIndex(write => isLarge(write, limits))
    if (large === 0) {
      void this.#appendLarge(held, ready[0]!)
      return
    }
    const { segment } = held
    const frames = this.#framesOf(large > 0 ? ready.slice(0, large) : ready, segment.epoch)
    if (frames.length === 0) return
    const writes = ready.slice(0, frames.length)
    const bytes = frames.length === 1 ? frames[0]! : Buffer.concat(frames)
    const start = segment.end
    if (!this.#hasRoom(segment, bytes.length, writes)) return
    const { written, refused } = segment.append(bytes)

    const results: unknown[] = []
    let offset = 0
    let done = 0
    for (const { length } of frames) {
      const next = offset + length
      if (next > written) break
      results.push(writes[done]!.readResult?.())
      this.#apply(held, bytes, { start, offset, next })
      offset = next
      done++
    }
    queue.remove(done)
    for (let i = 0; i < done; i++) writes[i]!.resolve(results[i])
    if (done > 0) this.#notifyAppended()
    if (refused !== null) this.#appendRefused(held, refused, writes.slice(done))
  }

  /** Encodes one record per change, with the schemas that the log lacks. Stops before a record that is too large; rejects that change if it is the first. */
  #framesOf(writes: readonly PendingWrite[], epoch: number): Buffer[] {
    const { history, limits } = this.#core
    const withSchema = new Set<SectionStore>()
    const frames: Buffer[] = []
    for (const write of writes) {
      const { sections, parts, request } = write
      const sequence = history.sequence + frames.length + 1
      const body = [encodeEnvelope({ epoch, sequence, request }), ...parts]
      for (const section of sections) {
        const { schemaToWrite } = section
        if (!schemaToWrite || withSchema.has(section)) continue
        withSchema.add(section)
        body.push(encodeSchema(schemaToWrite))
      }
      const bytes = frame(...body)
      const refusal = recordRefusal(bytes, limits)
      if (refusal) {
        if (frames.length === 0) this.#reject([write], refusal)
        break
      }
      frames.push(bytes)
    }
    return frames
  }

  /** Applies the record in `bytes[offset, next)`; `bytes` begin at file offset `start` of the segment. */
  #apply(held: HeldSegment, bytes: Buffer, at: { start: number; offset: number; next: number }): void {
    const { start, offset, next } = at
    const { history, limits } = this.#core
    if (held.position === held.segment.start) history.startSegment(held)
    const record = scanRecord(bytes, offset + 8, next, limits)
    const found = { record, buffer: bytes, base: start, offset: start + offset, next: start + next }
    runAtOnce(history.apply(found, held, 'local'))
    held.position = found.next
  }

  #appendRefused(
    { segment, position }: HeldSegment,
    refused: 'sealed' | FdbError,
    writes: PendingWrite[],
  ): void {
    segment.continueAt(position)
    if (refused === 'sealed') this.#right.onFenced()
    else this.#reject(writes, refused)
  }

  /** Runs the function of the first update on the current state. Returns false if the update changed nothing or threw: its promise is settled then. */
  #runUpdate(ready: PendingWrite[]): boolean {
    const write = ready[0]!
    this.#updating = true
    try {
      const { sections, parts, result } = write.makeUpdate!()
      ready[0] = { ...write, sections, parts, readResult: () => result }
      if (parts.length > 0) return true
      this.#core.queue.remove(1)
      write.resolve(result)
    } catch (error) {
      this.#reject([write], error)
    } finally {
      this.#updating = false
    }
    return false
  }

  /** Returns false, and rejects the writes, if they would exceed a limit of the segment or log. */
  #hasRoom({ epoch, end }: Segment, bytes: number, writes: PendingWrite[]): boolean {
    const { limits, history } = this.#core
    const { segmentBytes, logBytes } = limits
    const all = history.bytes + bytes
    if (end + bytes > segmentBytes)
      this.#reject(
        writes,
        limitError(`the segment of epoch ${epoch}`, end + bytes, 'segmentBytes', segmentBytes),
      )
    else if (all > logBytes) this.#reject(writes, this.#logFullError(all))
    else return true
    return false
  }

  #logFullError(bytes: number): FdbError {
    const { logBytes } = this.#core.limits
    const { liveBytes } = this.#core.store.entries
    const retryable = liveBytes < logBytes / 2
    this.#core.owner.onFull?.()
    return new FdbError(
      'ERR_FDB_STATE_LIMIT',
      `the log would have ${bytes} bytes, the limit "logBytes" is ${logBytes}; its current entries have ${liveBytes} bytes. ` +
        (retryable ? 'The log is being compacted: try again' : 'Upgrade to a version with a higher limit'),
      { details: { limit: 'logBytes', most: logBytes, got: bytes, liveBytes }, retryable },
    )
  }

  /** Appends a large bulk as several records, in slices; it takes effect with the last one. If writing is paused or ends before that, the whole bulk is appended again later. */
  async #appendLarge(held: HeldSegment, write: PendingWrite): Promise<void> {
    const { store, history, queue, deferred, limits, sliceMs } = this.#core
    const { segment } = held
    this.amidBulk = true
    try {
      // Encoding the bulk has used up this turn's time.
      await nextTurn()
      if (!this.#hasRoom(segment, write.bytes, [write])) return
      store.abandonOpen()
      await deferred.done()
      const slice = new Slice(sliceMs)
      for (const { parts, index, last } of recordsOfParts(write.parts, limits)) {
        if (!this.#right.mayAppend() || history.writeSegment !== held || queue.head !== write) return
        const sequence = history.sequence + 1
        const position = { epoch: segment.epoch, sequence, part: { index, last } }
        const body = [encodeEnvelope(last ? { ...position, request: write.request } : position), ...parts]
        for (const { schemaToWrite } of last ? write.sections : [])
          if (schemaToWrite) body.push(encodeSchema(schemaToWrite))
        const bytes = frame(...body)
        const refusal = recordRefusal(bytes, limits)
        if (refusal) throw refusal
        if (!this.#hasRoom(segment, bytes.length, [write])) return
        const start = segment.end
        const { refused } = segment.append(bytes)
        if (refused !== null) {
          this.#appendRefused(held, refused, [write])
          return
        }
        this.#apply(held, bytes, { start, offset: 0, next: bytes.length })
        if (!last) {
          if (slice.over) await slice.next()
          continue
        }
        queue.remove(1)
        void deferred.done().then(() => write.resolve())
        this.#notifyAppended()
      }
    } catch (error) {
      this.#reject([write], error)
    } finally {
      this.amidBulk = false
      this.flush()
    }
  }

  #notifyAppended(): void {
    for (const listener of this.#core.owner.appendListeners) listener()
  }

  /** Settles the first write if the log has its request id already, and returns none. Otherwise returns the writes before the first one whose request id the log has. */
  #dropRetries(writes: PendingWrite[]): PendingWrite[] {
    const known = ({ request }: PendingWrite) =>
      request === '' ? undefined : this.#core.store.requests.get(request)
    const applied = writes.findIndex(write => known(write) !== undefined)
    if (applied < 0) return writes
    if (applied > 0) return writes.slice(0, applied)
    const { request, prints, outcome, resolve, reject } = writes[0]!
    this.#core.queue.remove(1)
    const refusal = requestIdRefusal(request, [known(writes[0]!)!.print], prints)
    if (refusal) reject(refusal)
    else resolve(outcome)
    return []
  }

  #reject(writes: PendingWrite[], error: unknown): void {
    const { queue } = this.#core
    if (queue.head?.promise !== writes[0]?.promise) return
    queue.remove(writes.length)
    for (const write of writes) write.reject(error)
  }
}

/** Checks the size of the complete record: schemas add bytes, and a forwarded change was checked only against its sender's limits. */
function recordRefusal({ length }: Buffer, { recordBytes }: StateLimits): FdbError | null {
  const got = length - FRAME_HEADER
  if (got <= recordBytes) return null
  return limitError(
    'the record of a change, with the schemas of its sections,',
    got,
    'recordBytes',
    recordBytes,
  )
}
