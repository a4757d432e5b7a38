import type { Logger } from '../base/logger.js'
import { requireFunction } from '../checks/place.js'
import { FdbError } from '../errors.js'
import { Compaction } from './compaction.js'
import type { LogCore, LogOwner } from './core.js'
import type { StateDraft } from './draft.js'
import type { Disk } from './durable.js'
import { closedError } from './entries.js'
import type { ForwardingOptions, ForwardQueue } from './forward-queue.js'
import { type Answer, type ForwardedWrite, IncomingWrite } from './forwarded-write.js'
import { History, type LogPiece, type Position, unreadError } from './history.js'
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
import { checkWrite, rejecting, type WriteOptions } from './requests.js'
import { checkSchema, type SectionSchema, schemaRefusal } from './schema.js'
import { Section } from './section.js'
import { checkSection, type Migrated, writeMigrated } from './section-entries.js'
import type { Segment } from './segment.js'
import { Store } from './store.js'
import { DeferredWork, runInSlices } from './time-slices.js'
import { WriteQueue } from './write-queue.js'
import { Writer } from './writer.js'

export interface StateLogOptions {
  logger?: Pick<Logger, 'warn'> | undefined
  /** Maximum time per turn of the event loop for reading or compacting, in milliseconds; default 1. */
  sliceMs?: number
  limits?: Partial<StateLimits>
}

/**
 * A service's state: the ordered segments of its log, and the sections that result from their changes. While this process may not write, changes wait
 * in a bounded queue. A change that is not made rejects its promise; a change is visible only after its record is in the segment.
 */
export class StateLog implements LogOwner {
  /** Whether the log was read in the present synchronous block. */
  #hasLooked = false
  /** Whether there was another read in the block, for which no changes of other processes were read. */
  #looksAgain = false
  onFenced: (() => void) | null = null
  segmentsAfter: ((epoch: number) => readonly Segment[]) | null = null
  onFull: (() => void) | null = null
  onStaleSecret: (() => void) | null = null
  onUnreadable: ((error: unknown) => void) | null = null
  readonly appendListeners = new Set<() => void>()
  prematureError: (() => FdbError | null) | null = null
  inCheck: (() => boolean) | null = null
  accepts: (() => boolean) | null = null
  disk: Disk | null = null
  skipInvalid = false

  readonly #core: LogCore
  readonly #replay: Replay
  readonly #writer: Writer
  readonly #compaction: Compaction
  readonly #sections = new Map<string, Section<never>>()
  readonly #closing = new AbortController()

  constructor(options: StateLogOptions = {}) {
    const { logger, sliceMs = 1 } = options
    const closing = this.#closing.signal
    const limits = limitsFrom(options.limits)
    const warn = (facts: object, message: string) => logger?.warn(facts, message)
    const flush = () => this.#flush()
    const deferred = new DeferredWork(sliceMs, closing, flush, error =>
      warn({ err: error }, 'a part of the work after a change has failed: some listeners were not notified'),
    )
    const store = new Store(limits, deferred, (error, section) =>
      warn({ err: error, section }, 'a change listener of a state section threw'),
    )
    store.entries.onStaleSecret = () => this.onStaleSecret?.()
    const history = new History(store, limits)
    const queue = new WriteQueue(limits)
    this.#core = { owner: this, store, history, queue, deferred, limits, sliceMs, closing, flush, warn }
    this.#replay = new Replay(this.#core)
    this.#writer = new Writer(this.#core, this.#replay)
    this.#compaction = new Compaction(this.#core, this.#replay, this.#writer)
  }

  get limits(): Readonly<StateLimits> {
    return this.#core.limits
  }

  /**
   * Returns the segment of this epoch, if the log has it, as its last one: closes later segments in which nothing is. So it does with that one unless
   * this process writes to it: the log may follow it by a descriptor that cannot be written.
   */
  backTo(epoch: number): Segment | undefined {
    this.#core.history.dropUnused(epoch)
    return this.segments.find(segment => segment.epoch === epoch)
  }

  /** The segments in replay order. A compaction closes them: take `dup()` or `readOnly()` in the same turn. */
  get segments(): readonly Segment[] {
    return this.#core.history.held.map(held => held.segment)
  }

  /** The pieces to copy the log from. Valid in this turn only: a compaction closes segments. */
  pieces(): LogPiece[] {
    return this.#core.history.pieces()
  }

  get sequence(): number {
    return this.#core.history.sequence
  }

  /** The sequence number of the last record that is not part of an incomplete bulk. */
  get completeSequence(): number {
    return this.#core.history.pieces().at(-1)?.sequence ?? 0
  }

  /** Whether a large bulk is being appended. A switch to another segment now would append the whole bulk again. */
  get amidBulk(): boolean {
    return this.#writer.amidBulk
  }

  /** Whether segments still hold replaced or deleted secrets. Merging them with the segments that replaced or deleted these entries removes the secrets. */
  get hasStaleSecrets(): boolean {
    return this.#core.store.entries.staleSecrets >= 0
  }

  get secret(): boolean {
    return this.#core.store.secret
  }

  /** The log's position, after appending every change of this process that can be appended. */
  get position(): Position {
    this.#flush()
    return this.#core.history.position
  }

  /**
   * Adds the log's next segment and reads it to its current end. Takes ownership; closes the segment if it is out of order (ERR_FDB_STATE_ORDER).
   * Rejects with ERR_FDB_STATE_DAMAGED, ERR_FDB_STATE_FORMAT or ERR_FDB_STATE_LIMIT after applying the records before the error, with ERR_FDB_SCHEMA
   * if the schema of a registered section must not read it.
   */
  async adopt(segment: Segment): Promise<void> {
    const { history, closing } = this.#core
    await this.#replay.enqueue(() => {
      const refusal = closing.aborted ? closedError() : history.orderError(segment, this.#writer.mayWrite)
      if (refusal) {
        segment.close()
        throw refusal
      }
      history.hold(segment)
      return history.readNew()
    })
  }

  /**
   * Replaces the log by `segments`, which are a whole log, in one turn, and notifies listeners of the differences. Takes ownership of the segments;
   * rejects as {@link adopt} does, without effect, and with ERR_FDB_STATE_ORDER if this process may write.
   */
  async rebuild(segments: readonly Segment[]): Promise<void> {
    await this.#compaction.ended()
    await this.#replay.enqueue(() => rebuild(this.#core, segments, this.#writer.mayWrite))
  }

  /** Reads new records of the adopted segments. Reads a segment only when all earlier ones are sealed. */
  async catchUp(): Promise<Position> {
    await this.#replay.enqueue(() => {
      this.#checkOpen()
      return this.#core.history.readNew()
    })
    return this.position
  }

  /**
   * Appends to `segment` from now on, beginning with the waiting changes. The segment is new and empty, or was adopted and read; the log owns it.
   * Throws ERR_FDB_STATE_ORDER or ERR_FDB_STATE_BEHIND, without effect, unless all earlier segments are sealed and read.
   */
  startWriting(segment: Segment): void {
    this.#checkOpen()
    if (this.#replay.busy) throw unreadError(segment, segment.start)
    this.#writer.start(segment)
  }

  /** Freezes: appends earlier changes and makes later ones wait. Returns the log's position. */
  pauseWriting(): Position {
    return this.#writer.pause()
  }

  /** Thaws: continues to append to the same segment, beginning with the waiting changes. No effect unless paused. */
  resumeWriting(): void {
    this.#writer.resume()
  }

  /** Rejects waiting and later changes with `error`, until startWriting. */
  endWriting(error: FdbError): void {
    this.#writer.end(error)
  }

  /** Returns a queue that forwards waiting and later changes to the process that writes, until startWriting or endWriting. */
  forwardWriting(options: ForwardingOptions): ForwardQueue {
    this.#checkOpen()
    return this.#writer.forward(options)
  }

  /** Resolves when every change that waits now was made or refused. */
  async settled(): Promise<void> {
    await this.#core.queue.last?.promise.catch(() => {})
  }

  /** Returns an empty forwarded change, which the caller fills in pieces. */
  incoming(): IncomingWrite {
    return new IncomingWrite(this.#core.store)
  }

  /** Makes a forwarded change once, when this process may write. Never rejects. */
  accept(arriving: IncomingWrite, write: Omit<ForwardedWrite, 'parts'>): Promise<Answer> {
    return this.#writer.accept(arriving, write)
  }

  /**
   * Makes reads see what other processes append to the held segments: at once, or a little later if more than 64 KiB are new. Ends with startWriting
   * or at damage. Has an effect only before startWriting, or after endWriting or forwardWriting.
   */
  follow(): void {
    this.#writer.follow()
  }

  /**
   * Returns the section of a name, always the same object. Without a schema its values are bytes. Throws ERR_FDB_SCHEMA if `schema` may not read the
   * section in the log, or if the section is registered with another schema.
   */
  section(name: string): Section<Uint8Array>
  section<T>(name: string, schema: SectionSchema<T>): Section<T>
  section<T>(name: string, schema: SectionSchema<T> | null = null): Section<T> {
    checkSectionName(name)
    this.#checkOpen()
    const existing = this.#sections.get(name)
    const store = this.#core.store.sectionNamed(name)
    if (existing && (schema === null || store.schema === (schema as unknown)))
      return existing as unknown as Section<T>
    if (store.schema) {
      throw new FdbError(
        'ERR_FDB_SCHEMA',
        `section "${name}" is registered with another schema object (version ${store.schema.version}); register it once ` +
          'and share the Section that section() returns',
      )
    }
    if (schema !== null) {
      checkSchema('section()', schema)
      const refusal = store.stored ? schemaRefusal(store.stored, schema as SectionSchema<unknown>) : null
      if (refusal) throw refusal
      store.schema = schema as unknown as SectionSchema<never>
    }
    const section = new Section<T>(this.#core, this.#writer, store, schema)
    this.#sections.set(name, section as unknown as Section<never>)
    return section
  }

  get hasSchemas(): boolean {
    return [...this.#core.store.sections.values()].some(({ schema }) => schema !== null)
  }

  /** Rejects with ERR_FDB_STATE_VALUE if entries of the registered sections cannot be decoded. Decodes those of other schema versions, or all if the schema has `validate`. */
  async checkEntries(signal?: AbortSignal): Promise<void> {
    this.#flush()
    for (const section of this.#sections.values())
      await runInSlices(checkSection(section), { sliceMs: this.#core.sliceMs, signal })
  }

  /** Puts all entries that `migrate` converts at each read, some per turn of the event loop, while `mayGoOn` returns true. */
  async writeMigrated(mayGoOn: () => boolean): Promise<Migrated> {
    const written = { entries: 0, changes: 0 }
    for (const section of this.#sections.values()) {
      const { entries, changes } = await writeMigrated(section, this.#core, mayGoOn)
      written.entries += entries
      written.changes += changes
    }
    return written
  }

  digests(): SectionDigest[] {
    this.#flush()
    return digestsOf(this.#core.store)
  }

  schemas(): StoredSchema[] {
    this.#flush()
    return schemasOf(this.#core.store)
  }

  /** The schemas of the log's sections, and of registered sections that are not in the log yet. */
  knownSections(): KnownSection[] {
    this.#flush()
    return knownSections(this.#core.store, new Set(this.#sections.keys()))
  }

  /** Returns the encoded entries of a section, for tools. Empty for an unknown name. */
  rawSection(name: string): RawSection {
    this.#flush()
    return rawSectionOf(this.#core.store, name)
  }

  /** Starts an import in pieces. `replace` first empties the sections whose schema the import has, in the same change. */
  stageImport(options: { replace?: boolean } = {}): StagedImport {
    this.#checkOpen()
    return new StagedImport(this.#core, this.#writer, options.replace ?? false)
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
   * Changes entries of several sections in one change, as {@link Section.update} does. Resolves with the result of `change`, or undefined if a change
   * with the same `request` was already made.
   */
  update<R>(change: (state: StateDraft) => R, options: WriteOptions = {}): Promise<R | undefined> {
    return rejecting(() => {
      requireFunction('change', change)
      checkWrite('update()', options)
      const request = checkRequest(options.request, this.#core.limits)
      // Print 0: the sections and keys that the update will change are unknown here.
      const write = { update: change, request, prints: [0] }
      return this.#writer.change(write, options, undefined, answer => answer as R | undefined)
    })
  }

  /**
   * Called before each read. The changes of other processes become visible at the first read of a synchronous block only, so that its reads see one
   * state: not one account before a transfer, and the other one after it.
   */
  #flush(): void {
    if (!this.#hasLooked) {
      this.#hasLooked = true
      queueMicrotask(this.#endBlock)
      this.#writer.checkRight()
      this.#replay.follow()
    } else this.#looksAgain = true
    this.#writer.flush()
  }

  /** A read of the block may have been the answer to the word that there are new changes: they are read now. */
  readonly #endBlock = (): void => {
    this.#hasLooked = false
    if (!this.#looksAgain) return
    this.#looksAgain = false
    this.#replay.follow()
  }

  /**
   * Merges all segments that are sealed and read, except the one for appends, into a snapshot, in slices. Replaces and closes the merged segments in one turn.
   * Resolves with the log's segments. Changes nothing if there is nothing to merge.
   */
  async compact(): Promise<readonly Segment[]> {
    await this.#compaction.run()
    return this.segments
  }

  /** Closes segments in which nothing is, which a log that is only read would keep. */
  dropEmpty(): Promise<void> {
    return this.#compaction.dropEmpty()
  }

  /** Rejects waiting changes (ERR_FDB_STATE_CLOSED), and closes the segments when reading and compacting have stopped. Idempotent. */
  close(): void {
    if (this.#core.closing.aborted) return
    this.#replay.setFollowing(false)
    this.#flush()
    this.#closing.abort()
    this.endWriting(closedError())
    const { history } = this.#core
    if (!this.#replay.busy && !this.#compaction.busy) history.close()
    else void Promise.allSettled([this.#replay.ended(), this.#compaction.ended()]).then(() => history.close())
  }

  #checkOpen(): void {
    if (this.#core.closing.aborted) throw closedError()
  }
}
