import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { checkRequest, checkSectionName } from './arguments.js'
import { writeSnapshot } from './compaction.js'
import { draw, type StateDraft } from './draft.js'
import { type Disk, type Durability, made } from './durable.js'
import { type Answer, ArrivingWrite, CONFLICT, type ForwardedWrite } from './forwarded.js'
import { Forwarding, type ForwardingOptions } from './forwarding.js'
import { frame } from './frame.js'
import { behind, type Held, History, type LogPiece, type Position } from './history.js'
import type { RawSection } from './import.js'
import { limitsFrom, overLimit, type StateLimits } from './limits.js'
import { isLarge, recordsOfParts } from './parts.js'
import { encodeEnvelope, encodeSchema, type StoredSchema, scanRecord } from './records.js'
import { requestRefusal } from './requests.js'
import { type SectionSchema, schemaRefusal } from './schema.js'
import { Section, type SectionHost } from './section.js'
import type { SectionStore } from './section-store.js'
import type { Segment } from './segment.js'
import { runAtOnce, runInSlices, Slice } from './slices.js'
import { StagedImport } from './staged-import.js'
import { Store } from './store.js'
import { ToldToWait } from './told-to-wait.js'
import { checkWrite, type WriteOptions } from './write-options.js'
import { type NewWrite, type PendingWrite, WriteQueue } from './write-queue.js'

/** Appended without waiting for the end of the turn, and the most of one append of several changes. */
const BATCH_BYTES = 64 * 1024
/** Of those that waited for longer, as much at a time: each may be tiny. */
const BACKLOG_BYTES = 8 * 1024
/** The most that a read of a followed log reads in place; what is more is read in slices meanwhile. */
const FOLLOW_BYTES = 64 * 1024

export interface StateLogger {
  warn(facts: object, message: string): void
}

export interface StateLogOptions {
  logger?: StateLogger | undefined
  /** The most milliseconds of reading or compacting in one turn of the event loop; default 3. */
  sliceMs?: number
  limits?: Partial<StateLimits>
}

export interface SectionDigest {
  name: string
  version: number
  entries: number
  digest: string
}

export interface StateStats {
  segments: number
  /** Bytes of all segments. */
  bytes: number
  /** Bytes of changes that are still in force: what a compaction would leave. */
  liveBytes: number
  entries: number
  sequence: number
  /** Changes that wait to be appended. */
  waiting: number
}

type Mode = 'reading' | 'writing' | 'paused' | 'fenced' | 'forwarding' | 'ended'

/** Told to those whose forwarded changes cannot be made here. */
const NOT_HERE: unique symbol = Symbol('another process writes')

/**
 * The state of a service: the segments of its log in order, and the sections that they add up to.
 *
 * A log reads (adopt, catchUp), and writes while the right to write is its own (startWriting until a seal). Changes that
 * are made while it does not write wait, in order and bounded; none is dropped without its promise being
 * rejected, none is visible before it is in the segment.
 */
export class StateLog {
  /**
   * An append met a seal: somebody ended this process' right to write. Changes wait from then on, until startWriting
   * (with another segment) or endWriting. Called once for each seal that is met, in a microtask.
   */
  onFenced: (() => void) | null = null
  /** A change was refused because of the limit `logBytes`. Must not throw. */
  onFull: (() => void) | null = null
  /** See {@link hasStaleSecrets}. Must not throw. */
  onStaleSecret: (() => void) | null = null
  /** What another process writes, and this one follows, cannot be read any more, or may not be (ERR_FDB_SCHEMA). */
  onUnreadable: ((error: unknown) => void) | null = null
  /** Changes were appended and applied, or segments merged. Called often, and must not throw. */
  onAppended: (() => void) | null = null

  /** Why a change that waits must not be awaited now; null: it may be. */
  premature: (() => FdbError | null) | null = null
  /** Where `durable` changes come to. */
  disk: Disk | null = null

  readonly #logger: StateLogger | undefined
  readonly #sliceMs: number
  readonly #limits: Readonly<StateLimits>
  readonly #store: Store
  readonly #queue: WriteQueue
  readonly #host: SectionHost
  readonly #sections = new Map<string, Section<never>>()
  readonly #closing = new AbortController()
  readonly #history: History
  #mode: Mode = 'reading'
  #ended: unknown = null
  #flushScheduled = false
  #following = false
  /** That has been told. */
  #forbidden = false
  /** Reading and compacting come one after the other. */
  #reading: Promise<unknown> = Promise.resolve()
  #readers = 0
  #compacting: Promise<unknown> | null = null
  /** A large bulk is being appended. */
  #appending = false
  /** The function of an update is running: sections may be read, nothing may be appended. */
  #drawing = false
  /** So much waited that it is appended in slices. */
  #backlog: Slice | null = null
  /** Where changes go while another process writes. */
  #forwarding: Forwarding | null = null
  /** What large bulks left to do is being done. */
  #merging: Promise<unknown> | null = null

  constructor(options: StateLogOptions = {}) {
    this.#logger = options.logger
    this.#sliceMs = options.sliceMs ?? 3
    this.#limits = limitsFrom(options.limits)
    this.#store = new Store(this.#limits, (error, section) =>
      this.#logger?.warn({ err: error, section }, 'a change listener of a state section threw'),
    )
    this.#store.onWork = () => this.#merge()
    this.#store.onStaleSecret = () => this.onStaleSecret?.()
    this.#history = new History(this.#store, this.#limits)
    this.#queue = new WriteQueue(this.#limits)
    this.#host = {
      store: this.#store,
      limits: this.#limits,
      sliceMs: this.#sliceMs,
      flush: () => this.#flush(),
      write: write => this.#write(write),
      update: (change, request, prints, durability) => this.#update(change, request, prints, durability),
      warn: (facts, message) => this.#logger?.warn(facts, message),
      disk: () => this.#disk,
      told: (change, options) => this.#told(change, options),
    }
  }

  get limits(): Readonly<StateLimits> {
    return this.#limits
  }

  /** In replay order. The log owns them, and a compaction closes them: take `dup()` or `readOnly()` in the same turn. */
  get segments(): readonly Segment[] {
    return this.#history.held.map(held => held.segment)
  }

  /** What whoever copies the log needs; valid in this turn only, as a compaction closes segments. */
  pieces(): LogPiece[] {
    return this.#history.pieces()
  }

  /** The number of the last record. */
  get sequence(): number {
    return this.#history.sequence
  }

  /** The number of the last record that counts: not of a bulk that is being appended. */
  get reached(): number {
    return this.#history.pieces().at(-1)?.sequence ?? 0
  }

  /** Segments hold secrets that were replaced or deleted: until they are merged, with all that displaced those in them. */
  get hasStaleSecrets(): boolean {
    return this.#store.staleSecrets >= 0
  }

  /** Somebody marked one of the sections as secret. */
  get secret(): boolean {
    return this.#store.secret
  }

  /** Where the log stands: with every change of this process that could be appended. */
  get position(): Position {
    this.#flush()
    return this.#history.position
  }

  /**
   * Takes a segment as the next of the log (a snapshot is the first, epochs rise) and reads it to its present end.
   * Owns it from the call on, and closes it when its place is wrong (ERR_FDB_STATE_ORDER). Rejects with
   * ERR_FDB_STATE_DAMAGED, ERR_FDB_STATE_FORMAT or ERR_FDB_STATE_LIMIT at a record that it cannot believe: all before it is
   * applied. Rejects with ERR_FDB_SCHEMA when the segment was read whole but a registered section may not read it.
   * A bulk is visible piecewise while it is read, and counted in `position` when it is whole.
   */
  async adopt(segment: Segment, options: { signal?: AbortSignal } = {}): Promise<void> {
    const closing = this.#closing.signal
    await this.#readNext(() => {
      const refusal = closing.aborted ? closed() : this.#history.refusal(segment)
      if (refusal) {
        segment.close()
        throw refusal
      }
      this.#history.hold(segment)
      return this.#history.readOn()
    }, options.signal)
  }

  /** Reads what was appended to adopted segments since. A segment is read only when all before it are sealed. */
  async catchUp(options: { signal?: AbortSignal } = {}): Promise<Position> {
    await this.#readNext(() => {
      this.#checkOpen()
      return this.#history.readOn()
    }, options.signal)
    return this.position
  }

  async #readNext(begin: () => Generator<unknown, void>, signal: AbortSignal | undefined): Promise<void> {
    const closing = this.#closing.signal
    const task = this.#reading.then(async () => {
      const work = begin()
      this.#readers++
      try {
        const either = signal ? AbortSignal.any([signal, closing]) : closing
        await runInSlices(work, { sliceMs: this.#sliceMs, signal: either })
        await this.#merged()
        this.#checkSchemas()
      } finally {
        this.#readers--
        this.#flush()
      }
    })
    this.#reading = task.catch(() => {})
    return task
  }

  #checkSchemas(): void {
    for (const section of this.#store.sections.values()) {
      const refusal = section.stored && section.schema ? schemaRefusal(section.stored, section.schema) : null
      if (refusal) throw refusal
    }
  }

  /**
   * Appends go to this segment from now on; those that waited are appended first, in order. The segment is a new, empty
   * one, or one that was adopted and read to its end (half a record at its end is cut off); the log owns it. All
   * segments before it must be sealed and read: ERR_FDB_STATE_ORDER, ERR_FDB_STATE_BEHIND, and nothing has changed.
   */
  startWriting(segment: Segment): void {
    this.#checkOpen()
    if (this.#readers > 0) throw behind(segment, segment.start)
    this.#history.claim(segment)
    this.#mode = 'writing'
    this.#ended = null
    this.#following = false
    this.#stopForwarding()
    this.#flush()
  }

  /** Freeze: changes made before are appended, later ones wait. Returns where the log stands. */
  pauseWriting(): Position {
    this.#flush()
    if (this.#mode === 'writing') this.#mode = 'paused'
    return this.position
  }

  /** Thaw: goes on in the same segment, with what waited first. Does nothing unless it is paused. */
  resumeWriting(): void {
    if (this.#mode !== 'paused') return
    this.#mode = 'writing'
    this.#flush()
  }

  /** Changes that wait, and all later ones, are rejected with `error`; until startWriting. */
  endWriting(error: FdbError): void {
    this.#mode = 'ended'
    this.#ended = error
    this.#stopForwarding()
    this.#queue.rejectForeign(NOT_HERE)
    void this.#queue.rejectAll(error, this.#sliceMs)
  }

  /**
   * Another process was given the right to write: changes that wait, and later ones, are forwarded to it by what this returns; until
   * startWriting, which makes what was not, or endWriting.
   */
  forwardWriting(options: ForwardingOptions): Forwarding {
    if (this.#forwarding) return this.#forwarding
    this.#checkOpen()
    this.#mode = 'forwarding'
    this.#queue.rejectForeign(NOT_HERE)
    const host = {
      queue: this.#queue,
      store: this.#store,
      limits: this.#limits,
      sliceMs: this.#sliceMs,
      follow: () => {
        if (this.#following) this.#followOn()
      },
      warn: (facts: object, message: string) => this.#logger?.warn(facts, message),
    }
    this.#forwarding = new Forwarding(host, options)
    return this.#forwarding
  }

  #stopForwarding(): void {
    this.#forwarding?.stop()
    this.#forwarding = null
  }

  /** Resolves when no change waits any more. */
  async settled(): Promise<void> {
    for (let last = this.#queue.last; last !== undefined; last = this.#queue.last)
      await last.promise.catch(() => {})
  }

  /** Where this process does not write, whoever does brings its changes to the disk. */
  get #disk(): Disk | null {
    const { disk } = this
    if (disk === null || this.#mode !== 'forwarding') return disk
    return { checkServing: () => {}, flush: () => disk.flush() }
  }

  /** A change that another process forwards, to be filled as it comes. */
  arriving(): ArrivingWrite {
    return new ArrivingWrite(this.#store, this.#limits)
  }

  /** Makes it, once, in its turn: when this process may write, if it waits for that. Never rejects. */
  async accept(arriving: ArrivingWrite, write: Omit<ForwardedWrite, 'parts'>): Promise<Answer> {
    try {
      if (this.#mode === 'ended' || this.#mode === 'forwarding') throw NOT_HERE
      const make = () => this.#write(arriving.write(write))
      const existed = await made(make, write, this.disk)
      return { outcome: 'applied', existed: existed === true, sequence: this.sequence }
    } catch (error) {
      if (error === CONFLICT) return { outcome: 'conflict', sequence: this.sequence }
      if (error === NOT_HERE || this.#closing.signal.aborted) return { outcome: 'again' }
      if (FdbError.is(error) && error.code === 'ERR_FDB_FENCED') return { outcome: 'again' }
      return { outcome: 'refused', error: FdbError.from(error) }
    }
  }

  /**
   * After endWriting or forwardWriting: from now on reads see what others append to the segments that are held, as soon as it is
   * appended (what is more than 64 KiB at once a little later); until startWriting, or until a segment is damaged.
   */
  follow(): void {
    const elsewhere = this.#mode === 'ended' || this.#mode === 'forwarding'
    this.#following = elsewhere && !this.#closing.signal.aborted
    this.#forwarding?.wake()
  }

  /**
   * The section of a name; the same object each time. Without a schema its values are bytes. Throws ERR_FDB_SCHEMA when
   * the log's section may not be read with this schema, or another one is registered.
   */
  section(name: string): Section<Uint8Array>
  section<T>(name: string, schema: SectionSchema<T>): Section<T>
  section<T>(name: string, schema: SectionSchema<T> | null = null): Section<T> {
    checkSectionName(name)
    this.#checkOpen()
    const there = this.#sections.get(name)
    const store = this.#store.sectionNamed(name)
    if (there && (schema === null || store.schema === (schema as unknown)))
      return there as unknown as Section<T>
    if (store.schema) {
      throw new FdbError(
        'ERR_FDB_SCHEMA',
        `section "${name}" is registered with another schema object (version ${store.schema.version}); register it once, ` +
          'and share what section() returned',
      )
    }
    if (schema) {
      const refusal = store.stored ? schemaRefusal(store.stored, schema as SectionSchema<unknown>) : null
      if (refusal) throw refusal
      store.schema = schema as unknown as SectionSchema<never>
    }
    const section = new Section<T>(this.#host, store, schema)
    this.#sections.set(name, section as unknown as Section<never>)
    return section
  }

  /** Of each section in the log, by name. */
  digests(): SectionDigest[] {
    this.#flush()
    const all: SectionDigest[] = []
    for (const section of this.#store.sections.values()) {
      const entries = section.slots.size
      if (entries === 0 && !section.stored) continue
      all.push({
        name: section.name,
        version: section.stored?.version ?? 0,
        entries,
        digest: section.digest.toString(),
      })
    }
    return all.sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** What the log says of its sections, by name. */
  schemas(): StoredSchema[] {
    this.#flush()
    const stored = [...this.#store.sections.values()].flatMap(section => section.stored ?? [])
    return stored.sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** A section as it lies in the log, for tools: no codec, no cache. Empty when there is none of that name. */
  rawSection(name: string): RawSection {
    this.#flush()
    const section = this.#store.sections.get(name)
    return {
      keys: () => section?.slots.keys() ?? [],
      get: key => {
        const slot = section?.slots.get(key)
        return section && slot !== undefined ? { key, ...this.#store.read(section, key, slot) } : undefined
      },
    }
  }

  /** An import that comes in pieces; `replace`: the sections that have a schema in it are emptied first, in the same change. */
  stageImport(options: { replace?: boolean } = {}): StagedImport {
    this.#checkOpen()
    return new StagedImport({ ...this.#host, signal: this.#closing.signal }, options.replace ?? false)
  }

  /**
   * Appends what {@link encodeImport} encoded, all of it or nothing, for any sections; checked in slices first. Rejects as
   * {@link StagedImport} does.
   */
  async importRecord(
    bytes: Buffer,
    options: { replace?: boolean; request?: string } = {},
  ): Promise<{ puts: number }> {
    const staged = this.stageImport(options)
    await staged.add(bytes)
    return await staged.commit(options.request ?? '')
  }

  stats(): StateStats {
    this.#flush()
    let bytes = 0
    for (const { segment } of this.#history.held) bytes += segment.size()
    const { liveBytes, entries } = this.#store
    const [segments, sequence, waiting] = [
      this.#history.held.length,
      this.#history.sequence,
      this.#queue.length,
    ]
    return { segments, bytes, liveBytes, entries, sequence, waiting }
  }

  /**
   * Changes entries of several sections by what they are, in one change. `change` is called when it is its turn, as that of
   * {@link Section.update}. Resolves with what it returned; undefined also where a change with this `request` id was made before.
   */
  update<R>(change: (state: StateDraft) => R, options: WriteOptions = {}): Promise<R | undefined> {
    return this.#told(this.#updated(change, options), options)
  }

  async #updated<R>(change: (state: StateDraft) => R, options: WriteOptions): Promise<R | undefined> {
    checkWrite('update()', options)
    // What it comes to cannot be known here.
    const request = checkRequest(options.request, this.#limits)
    return await made(durability => this.#update(change, request, [0], durability), options, this.#disk)
  }

  #update<R>(
    change: (state: StateDraft) => R,
    request: string,
    prints: readonly number[],
    durability: Durability | null,
  ): Promise<R | undefined> {
    const make = () => draw(change, this.#store)
    const write = { sections: [], parts: [], request, prints, durability, draw: make }
    return this.#write(write) as Promise<R | undefined>
  }

  /** A `durable` change does not wait: it is refused. */
  #told<R>(change: Promise<R>, options: WriteOptions): Promise<R> {
    const premature = () => (this.#mode === 'reading' ? (this.premature?.() ?? null) : null)
    return options?.durable === true || premature() === null ? change : ToldToWait.of(change, premature)
  }

  #write(write: NewWrite): Promise<unknown> {
    if (this.#mode === 'ended') throw this.#ended
    this.#checkOpen()
    const { request, prints } = write
    if (request !== '') {
      const waiting = this.#queue.waitingFor(request)
      const known = this.#store.requests.get(request)
      const before = known ? [known.print] : waiting?.prints
      const refusal = before ? requestRefusal(request, before, prints) : null
      if (refusal) throw refusal
      if (before) return waiting?.promise ?? Promise.resolve()
    }
    const refused = this.#forwarding?.refusal
    if (refused) throw refused
    const promise = this.#queue.add(write)
    this.#forwarding?.wake()
    if (this.#mode === 'writing') {
      if (this.#queue.bytes >= BATCH_BYTES) this.#flush()
      else this.#scheduleFlush()
    }
    return promise
  }

  #scheduleFlush(): void {
    if (this.#flushScheduled) return
    this.#flushScheduled = true
    queueMicrotask(() => {
      this.#flushScheduled = false
      this.#flush()
    })
  }

  #flush(): void {
    if (this.#following) this.#followOn()
    if (this.#backlog !== null) return
    const until = performance.now() + this.#sliceMs
    while (this.#mayAppend) {
      this.#appendBatch(this.#history.writing!, BATCH_BYTES)
      // Only what has waited is so much.
      if (this.#queue.bytes > BATCH_BYTES && performance.now() >= until) {
        void this.#appendBacklog()
        return
      }
    }
  }

  /** What has waited, in slices: no turn is held up by it, nor by those who hear that their changes were made. */
  async #appendBacklog(): Promise<void> {
    const slice = new Slice(this.#sliceMs)
    this.#backlog = slice
    await slice.next()
    while (this.#mayAppend) {
      this.#appendBatch(this.#history.writing!, BACKLOG_BYTES)
      await slice.passed()
    }
    this.#backlog = null
    this.#flush()
  }

  get #mayAppend(): boolean {
    if (this.#mode !== 'writing' || this.#queue.length === 0) return false
    return !this.#history.applying && !this.#appending && !this.#drawing && !this.#store.merging
  }

  /** Does what large bulks left to do, in slices. */
  #merge(): void {
    if (this.#merging || this.#closing.signal.aborted) return
    const work = async () => {
      await nextTurn()
      await runInSlices(this.#store.merge(), { sliceMs: this.#sliceMs, signal: this.#closing.signal })
    }
    this.#merging = work()
      .catch(() => {})
      .finally(() => {
        this.#merging = null
        if (this.#store.hasWork) this.#merge()
        this.#flush()
      })
  }

  #followOn(): void {
    if (this.#readers > 0 || this.#history.applying || this.#store.merging) return
    const fresh = this.#history.unread()
    if (fresh === 0) return
    if (fresh > FOLLOW_BYTES || this.#store.hasWork) {
      this.catchUp().catch(error => this.#unfollow(error))
      return
    }
    try {
      runAtOnce(this.#history.readOn())
      this.#checkSchemas()
    } catch (error) {
      this.#unfollow(error)
    }
  }

  /** What a section may not be read for is in the log all the same: the others are followed on. */
  #unfollow(error: unknown): void {
    const forbidden = FdbError.is(error) && error.code === 'ERR_FDB_SCHEMA'
    if (!forbidden) this.#following = false
    else if (this.#forbidden) return
    this.#forbidden ||= forbidden
    if (this.#closing.signal.aborted) return
    this.#logger?.warn({ err: error }, 'the state of the process that serves now cannot be read any more')
    this.onUnreadable?.(error)
  }

  /** Listeners know of every change that counts. */
  async #merged(): Promise<void> {
    while (this.#store.hasWork && this.#merging) await this.#merging
  }

  /** Appends the first writes of the queue in one go, and applies and settles those that are in the segment whole. */
  #appendBatch(held: Held, most: number): void {
    const { segment } = held
    const ready = this.#dropRetries(this.#queue.first(most))
    if (ready.length === 0) return
    if (ready[0]!.draw !== undefined && !this.#draw(ready)) return
    const large = ready.findIndex(write => isLarge(write, this.#limits))
    if (large === 0) {
      void this.#appendLarge(held, ready[0]!)
      return
    }
    const writes = large > 0 ? ready.slice(0, large) : ready
    const frames: Buffer[] = []
    const told = new Set<SectionStore>()
    let sequence = this.#history.sequence
    for (const { sections, parts, request } of writes) {
      const body = [encodeEnvelope({ epoch: segment.epoch, sequence: ++sequence, request }), ...parts]
      for (const section of sections) {
        const { unsaid } = section
        if (!unsaid || told.has(section)) continue
        told.add(section)
        body.push(encodeSchema(unsaid))
      }
      frames.push(frame(...body))
    }
    const bytes = frames.length === 1 ? frames[0]! : Buffer.concat(frames)
    const start = segment.end
    if (!this.#hasRoom(segment, bytes.length, writes)) return
    const { written, refused } = segment.append(bytes)

    const results: unknown[] = []
    let offset = 0
    let done = 0
    for (const one of frames) {
      const next = offset + one.length
      if (next > written) break
      if (held.position === segment.start) this.#history.begin(held)
      const record = scanRecord(bytes, offset + 8, next, this.#limits)
      const found = { record, buffer: bytes, base: start, offset: start + offset, next: start + next }
      results.push(writes[done]!.look?.())
      runAtOnce(this.#history.apply(found, held, 'local'))
      held.position = start + next
      offset = next
      done++
    }
    this.#queue.remove(done)
    for (let i = 0; i < done; i++) writes[i]!.resolve(results[i])
    if (done > 0) this.onAppended?.()
    if (refused === null) return
    segment.continueAt(held.position)
    if (refused === 'sealed') this.#fence()
    else this.#reject(writes.slice(done), refused)
  }

  /**
   * Makes the change of an update that is next, of the state as it is now, in its place in `ready`. False: it is settled, as
   * there is nothing to change, or it failed.
   */
  #draw(ready: PendingWrite[]): boolean {
    const write = ready[0]!
    this.#drawing = true
    try {
      const { sections, parts, result } = write.draw!()
      ready[0] = { ...write, sections, parts, look: () => result }
      if (parts.length > 0) return true
      this.#queue.remove(1)
      write.resolve(result)
    } catch (error) {
      this.#reject([write], error)
    } finally {
      this.#drawing = false
    }
    return false
  }

  #hasRoom(segment: Segment, bytes: number, writes: PendingWrite[]): boolean {
    const { segmentBytes, logBytes } = this.#limits
    const end = segment.end + bytes
    const all = this.#history.bytes + bytes
    if (end <= segmentBytes && all <= logBytes) return true
    const error =
      end > segmentBytes
        ? overLimit(`the segment of epoch ${segment.epoch}`, end, 'segmentBytes', segmentBytes)
        : this.#logFull(all)
    this.#reject(writes, error)
    return false
  }

  #logFull(bytes: number): FdbError {
    const { logBytes } = this.#limits
    const { liveBytes } = this.#store
    this.onFull?.()
    return new FdbError(
      'ERR_FDB_STATE_LIMIT',
      `the log would have ${bytes} bytes, the limit "logBytes" is ${logBytes}; ${liveBytes} bytes of it are in force. ` +
        (liveBytes < logBytes / 2
          ? 'It is compacted: try again'
          : 'Upgrade to a version with a higher limit'),
      {
        details: { limit: 'logBytes', most: logBytes, got: bytes, liveBytes },
        retryable: liveBytes < logBytes / 2,
      },
    )
  }

  /**
   * Appends a large bulk as several records, in slices; it counts with the last of them. When the right to write ends
   * meanwhile, or writing is paused and goes on elsewhere, it stays the first of the queue: it is appended anew, whole.
   */
  async #appendLarge(held: Held, write: PendingWrite): Promise<void> {
    const { segment } = held
    const { sections, request } = write
    this.#appending = true
    try {
      // What was encoded just before has had its share of this turn.
      await nextTurn()
      if (!this.#hasRoom(segment, write.bytes, [write])) return
      this.#store.giveUp()
      await this.#merged()
      const mine = () =>
        this.#mode === 'writing' && this.#history.writing === held && this.#queue.head === write
      let started = performance.now()
      for (const { parts, index, last } of recordsOfParts(write.parts, this.#limits)) {
        if (!mine()) return
        const sequence = this.#history.sequence + 1
        const envelope = {
          epoch: segment.epoch,
          sequence,
          part: { index, last },
          ...(last ? { request } : {}),
        }
        const body = [encodeEnvelope(envelope), ...parts]
        for (const { unsaid } of last ? sections : []) if (unsaid) body.push(encodeSchema(unsaid))
        const bytes = frame(...body)
        if (!this.#hasRoom(segment, bytes.length, [write])) return
        const start = segment.end
        const { written, refused } = segment.append(bytes)
        if (written < bytes.length || refused !== null) {
          segment.continueAt(held.position)
          if (refused === 'sealed') this.#fence()
          else if (refused) this.#reject([write], refused)
          return
        }
        if (held.position === segment.start) this.#history.begin(held)
        const record = scanRecord(bytes, 8, bytes.length, this.#limits)
        const found = { record, buffer: bytes, base: start, offset: start, next: start + bytes.length }
        runAtOnce(this.#history.apply(found, held, 'local'))
        held.position = found.next
        if (last) {
          this.#queue.remove(1)
          void this.#merged().then(() => write.resolve())
          this.onAppended?.()
        } else if (performance.now() - started >= this.#sliceMs) {
          await nextTurn()
          started = performance.now()
        }
      }
    } catch (error) {
      this.#reject([write], error as FdbError)
    } finally {
      this.#appending = false
      this.#flush()
    }
  }

  /** A request that waited may have been applied by another writer meanwhile: it is done, not made again. */
  #dropRetries(writes: PendingWrite[]): PendingWrite[] {
    let fresh = 0
    while (fresh < writes.length && !this.#isApplied(writes[fresh]!)) fresh++
    if (fresh > 0 || writes.length === 0) return writes.slice(0, fresh)
    this.#queue.remove(1)
    const { request, prints, resolve, reject } = writes[0]!
    const refusal = requestRefusal(request, [this.#store.requests.get(request)!.print], prints)
    if (refusal) reject(refusal)
    else resolve(writes[0]!.outcome)
    return []
  }

  #isApplied({ request }: PendingWrite): boolean {
    return request !== '' && this.#store.requests.get(request) !== undefined
  }

  /** The first ones of the queue. */
  #reject(writes: PendingWrite[], error: unknown): void {
    if (this.#queue.head?.promise !== writes[0]?.promise) return
    this.#queue.remove(writes.length)
    for (const write of writes) write.reject(error)
  }

  #fence(): void {
    this.#mode = 'fenced'
    queueMicrotask(() => {
      if (this.#mode === 'fenced') this.onFenced?.()
    })
  }

  /**
   * Merges all segments that are sealed and read (at the front of the log; not the one that this log writes to, until
   * startWriting with the next or endWriting) into one sealed snapshot, in slices. Changes
   * made meanwhile go to the segment that is written and are not touched. In one turn at the end the snapshot takes the
   * place of what it merged, which is closed. Returns the new list, the same one when there was nothing to merge.
   */
  async compact(options: { signal?: AbortSignal } = {}): Promise<readonly Segment[]> {
    while (this.#compacting) await this.#compacting
    this.#checkOpen()
    const work = this.#compact(options.signal)
    this.#compacting = work.catch(() => {})
    try {
      return await work
    } finally {
      this.#compacting = null
    }
  }

  async #compact(signal: AbortSignal | undefined): Promise<readonly Segment[]> {
    const either = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal
    for (;;) {
      await this.#readingEnds()
      this.#checkOpen()
      const merge = this.#history.mergeable(this.#mode === 'writing' || this.#mode === 'paused')
      if (!merge) return this.segments
      const { last, newest } = merge
      const end = last.end ?? this.#history.position
      const followed = last !== newest
      const [epoch, ordinal] = [last.segment.epoch, last.ordinal]
      // No more of it can come.
      const { openIn } = this.#store
      if (openIn !== null && openIn <= ordinal) this.#store.giveUp()
      if (this.#store.hasWork) {
        await this.#merging
        continue
      }
      const work = writeSnapshot(this.#store, { ...end, epoch, last: ordinal, followed })
      const merged = await runInSlices(work, { sliceMs: this.#sliceMs, signal: either })
      await this.#readingEnds()
      // When a segment has begun meanwhile, what it displaced counts from its own beginning: once more, with it.
      if (newest === this.#history.newest() && !this.#closing.signal.aborted) {
        const { displaced, staleSecrets } = this.#store
        // What the newest segment displaced was in force at the end of these, and is in the snapshot.
        if (staleSecrets <= ordinal && (!followed || displaced.end === 0)) this.#store.staleSecrets = -1
        this.#history.replace(last, merged)
        this.onAppended?.()
        return this.segments
      }
      merged.segment.close()
    }
  }

  async #readingEnds(): Promise<void> {
    do await this.#reading
    while (this.#readers > 0)
  }

  /**
   * Closes the segments. Changes that wait are rejected (ERR_FDB_STATE_CLOSED); reading and compacting that is under
   * way stops, and the segments are closed when it has. Idempotent.
   */
  close(): void {
    if (this.#closing.signal.aborted) return
    this.#following = false
    this.#flush()
    this.#closing.abort()
    this.endWriting(closed())
    const closeAll = () => {
      this.#history.close()
    }
    if (this.#readers === 0 && !this.#compacting) closeAll()
    else void Promise.allSettled([this.#reading, this.#compacting]).then(closeAll)
  }

  #checkOpen(): void {
    if (this.#closing.signal.aborted) throw closed()
  }
}

function closed(): FdbError {
  return new FdbError('ERR_FDB_STATE_CLOSED', 'the state log is closed; make a new one')
}
