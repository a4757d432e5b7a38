import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { LogCore, LogOwner } from './core.js'
import type { StateDraft } from './draft.js'
import { type Disk, updateDurably } from './durable.js'
import { closed } from './entries.js'
import type { ForwardingOptions, ForwardQueue } from './forward-queue.js'
import { type Answer, type ForwardedWrite, IncomingWrite } from './forwarded-write.js'
import { behindError, History, type LogPiece, type Position } from './history.js'
import { StagedImport } from './import.js'
import { checkRequest, checkSectionName, limitsFrom, type StateLimits } from './limits.js'
import {
  digestsOf,
  type KnownSection,
  knownSections,
  type RawSection,
  rawSectionOf,
  type SectionDigest,
  type StateStats,
  schemasOf,
} from './overview.js'
import { rebuild } from './rebuild.js'
import type { StoredSchema } from './records.js'
import { Replay } from './replay.js'
import { checkWrite, type WriteOptions } from './requests.js'
import { type SectionSchema, schemaRefusal } from './schema.js'
import { Section } from './section.js'
import type { Segment } from './segment.js'
import { writeSnapshot } from './snapshot.js'
import { Store } from './store.js'
import { DeferredWork, runInSlices } from './time-slices.js'
import { WriteQueue } from './write-queue.js'
import { Writing } from './writing.js'

export interface StateLogOptions {
  logger?: Pick<Logger, 'warn'> | undefined
  /** Most milliseconds of reading or compacting in one turn; default 3. */
  sliceMs?: number
  limits?: Partial<StateLimits>
}

/**
 * A service's state: the segments of its log in order, and the sections they add up to. Changes wait, in order and bounded, while the log is not written; none
 * is dropped without a rejection, none is visible before it is in the segment.
 */
export class StateLog implements LogOwner {
  onFenced: (() => void) | null = null
  onFull: (() => void) | null = null
  onStaleSecret: (() => void) | null = null
  onUnreadable: ((error: unknown) => void) | null = null
  readonly appended = new Set<() => void>()
  premature: (() => FdbError | null) | null = null
  disk: Disk | null = null

  readonly #core: LogCore
  readonly #replay: Replay
  readonly #writing: Writing
  readonly #compaction: Compaction
  readonly #sections = new Map<string, Section<never>>()
  readonly #closing = new AbortController()

  constructor(options: StateLogOptions = {}) {
    const { logger, sliceMs = 3 } = options
    const closing = this.#closing.signal
    const limits = limitsFrom(options.limits)
    const warn = (facts: object, message: string) => logger?.warn(facts, message)
    const flush = () => this.#flush()
    const deferred = new DeferredWork(sliceMs, closing, flush)
    const store = new Store(limits, deferred, (error, section) =>
      warn({ err: error, section }, 'a change listener of a state section threw'),
    )
    store.entries.onStaleSecret = () => this.onStaleSecret?.()
    const history = new History(store, limits)
    const queue = new WriteQueue(limits)
    this.#core = { owner: this, store, history, queue, deferred, limits, sliceMs, closing, flush, warn }
    this.#replay = new Replay(this.#core)
    this.#writing = new Writing(this.#core, this.#replay)
    this.#compaction = new Compaction(this.#core, this.#replay, this.#writing)
  }

  get limits(): Readonly<StateLimits> {
    return this.#core.limits
  }

  /** In replay order. A compaction closes them: take `dup()` or `readOnly()` in the same turn. */
  get segments(): readonly Segment[] {
    return this.#core.history.held.map(held => held.segment)
  }

  /** The pieces for a copy of the log; valid in this turn, as a compaction closes segments. */
  pieces(): LogPiece[] {
    return this.#core.history.pieces()
  }

  get sequence(): number {
    return this.#core.history.sequence
  }

  /** The number of the last record that counts, without an incomplete bulk. */
  get reached(): number {
    return this.#core.history.pieces().at(-1)?.sequence ?? 0
  }

  /** A large bulk is being appended. It would be appended again, whole, if writing went on in another segment now. */
  get amidBulk(): boolean {
    return this.#writing.amidBulk
  }

  /** Segments hold replaced or deleted secrets, until they and the segments that displaced them are merged. */
  get hasStaleSecrets(): boolean {
    return this.#core.store.entries.staleSecrets >= 0
  }

  get secret(): boolean {
    return this.#core.store.secret
  }

  /** The log's position, with every change of this process that could be appended. */
  get position(): Position {
    this.#flush()
    return this.#core.history.position
  }

  /**
   * Takes the log's next segment, and reads it to its present end. Owns it, and closes it if it is out of order (ERR_FDB_STATE_ORDER). Rejects with
   * ERR_FDB_STATE_DAMAGED, ERR_FDB_STATE_FORMAT or ERR_FDB_STATE_LIMIT behind the applied records, with ERR_FDB_SCHEMA if a registered section may not read it.
   */
  async adopt(segment: Segment, options: { signal?: AbortSignal } = {}): Promise<void> {
    const { history, closing } = this.#core
    await this.#replay.enqueue(() => {
      const refusal = closing.aborted ? closed() : history.refusal(segment, this.#writing.mayWrite)
      if (refusal) {
        segment.close()
        throw refusal
      }
      history.hold(segment)
      return history.readNew()
    }, options.signal)
  }

  /**
   * Replaces the held segments by these, a whole log, in one turn, and notifies listeners of the differences. For a log that was never written. Takes the
   * segments; rejects as {@link adopt} does, without effect.
   */
  async rebuild(segments: readonly Segment[]): Promise<void> {
    await this.#compaction.ended()
    await this.#replay.enqueue(() => rebuild(this.#core, segments), undefined)
  }

  /** Reads new records of adopted segments, each once all before it are sealed. */
  async catchUp(options: { signal?: AbortSignal } = {}): Promise<Position> {
    await this.#replay.enqueue(() => {
      this.#checkOpen()
      return this.#core.history.readNew()
    }, options.signal)
    return this.position
  }

  /**
   * Appends to this segment from now on, waiting changes first. It is new and empty, or was adopted and read; the log owns it. Throws, without effect, unless
   * all segments before are sealed and read: ERR_FDB_STATE_ORDER, ERR_FDB_STATE_BEHIND.
   */
  startWriting(segment: Segment): void {
    this.#checkOpen()
    if (this.#replay.busy) throw behindError(segment, segment.start)
    this.#writing.start(segment)
  }

  /** Freezes: earlier changes are appended, later ones wait. Returns the log's position. */
  pauseWriting(): Position {
    return this.#writing.pause()
  }

  /** Thaws: appends go on in the same segment, waiting changes first. No effect unless paused. */
  resumeWriting(): void {
    this.#writing.resume()
  }

  /** Rejects waiting and later changes with `error`, until startWriting. */
  endWriting(error: FdbError): void {
    this.#writing.end(error)
  }

  /** Another process writes: waiting and later changes are forwarded to it by the result, until startWriting or endWriting. */
  forwardWriting(options: ForwardingOptions): ForwardQueue {
    this.#checkOpen()
    return this.#writing.forward(options)
  }

  async settled(): Promise<void> {
    const { queue } = this.#core
    for (let { last } = queue; last !== undefined; last = queue.last) await last.promise.catch(() => {})
  }

  /** A forwarded change of another process, to be filled in pieces. */
  incoming(): IncomingWrite {
    return new IncomingWrite(this.#core.store)
  }

  /** Makes a forwarded change, once, when this process may write. Never rejects. */
  accept(arriving: IncomingWrite, write: Omit<ForwardedWrite, 'parts'>): Promise<Answer> {
    return this.#writing.accept(arriving, write)
  }

  /**
   * Before startWriting, or after endWriting or forwardWriting: reads see what others append to the held segments at once (more than 64 KiB a little later),
   * until startWriting, or damage.
   */
  follow(): void {
    this.#writing.follow()
  }

  /**
   * The section of a name, always the same object. Without a schema its values are bytes. Throws ERR_FDB_SCHEMA if this schema may not read the log's section,
   * or another one is registered.
   */
  section(name: string): Section<Uint8Array>
  section<T>(name: string, schema: SectionSchema<T>): Section<T>
  section<T>(name: string, schema: SectionSchema<T> | null = null): Section<T> {
    checkSectionName(name)
    this.#checkOpen()
    const there = this.#sections.get(name)
    const store = this.#core.store.sectionNamed(name)
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
    const section = Section.create<T>(this.#core, this.#writing, store, schema)
    this.#sections.set(name, section as unknown as Section<never>)
    return section
  }

  digests(): SectionDigest[] {
    this.#flush()
    return digestsOf(this.#core.store)
  }

  schemas(): StoredSchema[] {
    this.#flush()
    return schemasOf(this.#core.store)
  }

  /** As {@link schemas}, with registered sections that are not in the log yet. */
  known(): KnownSection[] {
    this.#flush()
    return knownSections(this.#core.store, new Set(this.#sections.keys()))
  }

  /** A section for tools: no codec, no cache. Empty for an unknown name. */
  rawSection(name: string): RawSection {
    this.#flush()
    return rawSectionOf(this.#core.store, name)
  }

  /** An import in pieces. `replace`: sections with a schema in it are emptied first, in the same change. */
  stageImport(options: { replace?: boolean } = {}): StagedImport {
    this.#checkOpen()
    return new StagedImport(this.#core, this.#writing, options.replace ?? false)
  }

  /** Appends the result of {@link encodeImport}, all or nothing, checked in slices. Rejects as {@link StagedImport} does. */
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
    const { store, history, queue } = this.#core
    const bytes = history.held.reduce((sum, { segment }) => sum + segment.size(), 0)
    const { liveBytes, count } = store.entries
    const [segments, sequence, waiting] = [history.held.length, history.sequence, queue.length]
    return { segments, bytes, liveBytes, entries: count, sequence, waiting }
  }

  /**
   * Changes entries of several sections in one change, as {@link Section.update} does. Resolves with the result of `change`; undefined if `request` was made
   * before.
   */
  update<R>(change: (state: StateDraft) => R, options: WriteOptions = {}): Promise<R | undefined> {
    return this.#writing.guardPremature(this.#update(change, options), options)
  }

  async #update<R>(change: (state: StateDraft) => R, options: WriteOptions): Promise<R | undefined> {
    checkWrite('update()', options)
    // The result of an update is unknown here.
    const request = checkRequest(options.request, this.#core.limits)
    const writing = this.#writing
    return await updateDurably(
      durability => writing.update(change, request, [0], durability),
      options,
      () => writing.disk,
    )
  }

  #flush(): void {
    this.#replay.follow()
    this.#writing.flush()
  }

  /**
   * Merges all sealed and read segments, except the one for appends, into a snapshot, in slices; it replaces them in one turn, and they are closed. Returns the
   * segments, the same ones if nothing could be merged.
   */
  async compact(options: { signal?: AbortSignal } = {}): Promise<readonly Segment[]> {
    await this.#compaction.run(options.signal)
    return this.segments
  }

  /** Closes the segments once reading and compacting have stopped. Rejects waiting changes (ERR_FDB_STATE_CLOSED). Idempotent. */
  close(): void {
    if (this.#core.closing.aborted) return
    this.#replay.following = false
    this.#flush()
    this.#closing.abort()
    this.endWriting(closed())
    const { history } = this.#core
    if (!this.#replay.busy && !this.#compaction.busy) history.close()
    else void Promise.allSettled([this.#replay.ended(), this.#compaction.ended()]).then(() => history.close())
  }

  #checkOpen(): void {
    if (this.#core.closing.aborted) throw closed()
  }
}

/** Replaces the segments that no process writes any more by a snapshot, one compaction at a time. */
class Compaction {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #writing: Writing
  #running: Promise<unknown> | null = null

  constructor(core: LogCore, replay: Replay, writing: Writing) {
    this.#core = core
    this.#replay = replay
    this.#writing = writing
  }

  get busy(): boolean {
    return this.#running !== null
  }

  async ended(): Promise<void> {
    while (this.#running) await this.#running
  }

  async run(signal: AbortSignal | undefined): Promise<void> {
    while (this.#running) await this.#running
    const { closing } = this.#core
    if (closing.aborted) throw closed()
    const work = this.#merge(signal ? AbortSignal.any([signal, closing]) : closing)
    this.#running = work.catch(() => {})
    try {
      await work
    } finally {
      this.#running = null
    }
  }

  async #merge(signal: AbortSignal): Promise<void> {
    const { owner, store, history, deferred, sliceMs, closing } = this.#core
    for (;;) {
      await this.#replay.ended()
      if (closing.aborted) throw closed()
      const merge = history.mergeable(this.#writing.mayWrite)
      if (!merge) return
      const { last, newest } = merge
      const end = last.end ?? history.position
      const followed = last !== newest
      const [epoch, ordinal] = [last.segment.epoch, last.ordinal]
      // It can never be completed.
      if (store.open && store.open.ordinal <= ordinal) store.abandonOpen()
      if (deferred.pending) {
        await deferred.done()
        continue
      }
      const work = writeSnapshot(store, { ...end, epoch, last: ordinal, followed })
      const merged = await runInSlices(work, { sliceMs, signal })
      await this.#replay.ended()
      // A segment started meanwhile records its displaced entries from its own start: merge again, with it.
      if (newest === history.newest() && !closing.aborted) {
        const { entries } = store
        // An entry that the newest segment displaced was in force at the end of these, so the snapshot has it.
        if (entries.staleSecrets <= ordinal && (!followed || entries.displaced.end === 0))
          entries.staleSecrets = -1
        history.replace(last, merged)
        for (const listener of owner.appended) listener()
        return
      }
      merged.segment.close()
    }
  }
}
