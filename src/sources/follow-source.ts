import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { Backoff, type BackoffBounds } from '../base/backoff.js'
import { type Logger, SILENT } from '../base/logger.js'
import { checkOptions, hook, logger } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, type ShapeOf } from '../checks/shape.js'
import { FdbError, type FdbErrorCode } from '../errors.js'
import type { Member } from '../member/member.js'
import type { StateDraft } from '../state/draft.js'
import type { Section } from '../state/section.js'
import { runInSlices } from '../state/time-slices.js'
import {
  type FollowedRevision,
  keyOfRefused,
  REFUSED,
  REVISIONS,
  type RefusedEntry,
  refusedKey,
  refusedSection,
  revisionsSection,
} from './followed-revisions.js'
import {
  type KnownKeys,
  MOST_VALUE_BYTES,
  type Source,
  type SourceBatch,
  type SourceChange,
} from './source.js'

/** Delays after failures of the store. Each is shortened at random, at most by half, so that many machines do not come back at the same moment. */
const RETRIES: BackoffBounds = { firstMs: 500, longestMs: 5_000 }
/** Larger batches are made by `bulk()`, which works in slices, and their revision is stored after them. */
const MOST_IN_UPDATE = 1_024
const MOST_BYTES_IN_UPDATE = 4 * 1024 * 1024
/** The codes with which a section refuses a value or a key. */
const UNUSABLE: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  'ERR_FDB_STATE_VALUE',
  'ERR_FDB_STATE_KEY',
])

export interface FollowSourceOptions<T> {
  /** Converts a value of the source. An exception refuses the entry; its message is the reason. Default: parses JSON. */
  parse?: ((key: string, value: Uint8Array) => T) | undefined
  /** Default: none. */
  logger?: Logger | undefined
}

const OPTIONS = map({
  parse: absent(hook<(key: string, value: Uint8Array) => unknown>(), parseJson),
  logger: absent(logger, SILENT),
} satisfies ShapeOf<FollowSourceOptions<unknown>>)

/** The result of {@link FollowedSource.status}, for `member.describe()`. */
export interface SourceStatus {
  readonly source: string
  /** Whether this process reads the source: only the serving one does. */
  readonly reading: boolean
  /** Revision of the section's entries; null before the first, and of a source without revisions. */
  readonly revision: string | null
  /** Newest revision of the store that this process knows of. In a store with other contents it may be higher without a change of this section. */
  readonly newest: string | null
  /** The keys that could not be used, with the reasons; at most 100. The section keeps the entries that these keys had before. */
  readonly refused: Readonly<Record<string, string>>
  readonly refusedCount: number
  /** Batches that this process has applied. */
  readonly applied: number
  /** The last failure of the store, until the next success; `since` in milliseconds since 1970. */
  readonly failure: { readonly message: string; readonly since: number; readonly attempts: number } | null
}

const MOST_SHOWN = 100
/** If a power cut takes a change, it also takes the revision, and the store has both. */
const NOT_DURABLE = { durable: false }

/**
 * Lets a section have the contents of a source, as long as this service runs: the serving process reads the source, and writes its changes to the section.
 * The revision of the source is part of the same change of the state, so that the next version, or a process after `kill -9`, continues there:
 * nothing is read again, applied twice or missed. If the source cannot be read, the entries stay as they are. The section must have no other writer.
 *
 * In the first process of a service reading begins at once, in others when they serve: call it before `ready()`. Followers (`join({ follow })`) do
 * not read the source. Throws ERR_FDB_OPTION.
 */
export function followSource<T>(
  member: Member,
  section: Section<T>,
  source: Source,
  options: FollowSourceOptions<T> = {},
): FollowedSource {
  if (typeof (source as Partial<Source> | null)?.read !== 'function')
    throw wrongOption('source', source, 'a source, for example new EtcdSource({ … })')
  const checked = checkOptions('followSource()', options, OPTIONS)
  const parse = checked.parse as (key: string, value: Uint8Array) => T
  return new FollowedSource(member, section as Section<unknown>, source, parse, checked.logger)
}

export class FollowedSource {
  readonly #member: Member
  readonly #section: Section<unknown>
  readonly #source: Source
  readonly #parse: (key: string, value: Uint8Array) => unknown
  readonly #logger: Logger
  readonly #revisions: Section<FollowedRevision>
  readonly #refused: Section<RefusedEntry>
  readonly #read: Promise<void>
  #markRead: () => void = () => {}
  #running: { readonly abort: AbortController; readonly ended: Promise<void> } | null = null
  #applied = 0
  #failure: SourceStatus['failure'] = null

  /** @internal Use {@link followSource}. */
  constructor(
    member: Member,
    section: Section<unknown>,
    source: Source,
    parse: (key: string, value: Uint8Array) => unknown,
    log: Logger,
  ) {
    this.#member = member
    this.#section = section
    this.#source = source
    this.#parse = parse
    this.#logger = log
    this.#revisions = member.section(REVISIONS, revisionsSection)
    this.#refused = member.section(REFUSED, refusedSection)
    this.#read = new Promise(resolve => (this.#markRead = resolve))
    // A next version reads nothing before it serves: it has the entries of the previous one.
    if (!member.first || this.#since() !== null) this.#markRead()
    if (member.follows !== null) return
    // The state has no contents of an earlier process: checks and first answers may need them.
    if (member.first) this.#start()
    // A member that never serves does not call the function that stops its work.
    void member.retired.then(() => this.#stop())
    member.whileServing(() => {
      this.#start()
      return () => this.#stop()
    })
  }

  /** Resolves when the section has contents of the source, in a next version at once. For `ready({ checks })`: clients of the first process then find all entries. */
  async contents(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    let abort = () => {}
    const aborted = new Promise<never>((_, reject) => (abort = () => reject(signal?.reason)))
    signal?.addEventListener('abort', abort)
    try {
      await Promise.race([this.#read, aborted])
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  /** Throws ERR_FDB_STATE_CLOSED after the member has left. */
  get status(): SourceStatus {
    const refused = this.#refusedKeys()
    const shown = refused.slice(0, MOST_SHOWN).map(key => [key, this.#refusedOf(key)?.reason ?? ''])
    return {
      source: this.#source.id,
      reading: this.#running !== null,
      revision: this.#since(),
      newest: this.#source.newest ?? null,
      refused: Object.fromEntries(shown),
      refusedCount: refused.length,
      applied: this.#applied,
      failure: this.#failure,
    }
  }

  #start(): void {
    if (this.#running !== null) return
    const abort = new AbortController()
    this.#running = { abort, ended: this.#run(abort.signal) }
  }

  /** Resolves when the last batch is in the state. */
  async #stop(): Promise<void> {
    const running = this.#running
    this.#running = null
    running?.abort.abort()
    await running?.ended
  }

  /** Never rejects. */
  async #run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(RETRIES)
    await this.#retryRefused(signal).catch(error => this.#failed(error, 0))
    for (let attempts = 1; !signal.aborted; attempts++) {
      try {
        const answered = () => {
          this.#succeeded()
          backoff.reset()
          attempts = 0
        }
        for await (const batch of this.#source.read(this.#since(), signal, this.#known, answered)) {
          if (signal.aborted || !(await this.#apply(batch, signal))) break
          this.#applied++
          this.#markRead()
          answered()
        }
      } catch (error) {
        if (!signal.aborted) this.#failed(error, attempts)
      }
      const delay = backoff.next() * (1 - Math.random() / 2)
      await sleep(delay, undefined, { signal, ref: false }).catch(() => {})
    }
  }

  /** The revision that the section has of this source; null if it has none. */
  #since(): string | null {
    return this.#revisionIn(this.#revisions.get(this.#section.name))
  }

  get #known(): KnownKeys {
    const section = this.#section
    // The section may keep an entry of a key whose newest value it has refused.
    const only = () => this.#refusedKeys().filter(key => !section.has(key))
    return {
      get size() {
        return section.size + only().length
      },
      has: key => section.has(key) || this.#refusedOf(key) !== undefined,
      keys: () => [...section.keys(), ...only()],
    }
  }

  #revisionIn(stored: FollowedRevision | undefined): string | null {
    return stored?.id === this.#source.id ? stored.revision : null
  }

  /** Resolves with false, without the batch's revision, if another process has applied a batch meanwhile, or if `signal` aborts. */
  async #apply(batch: SourceBatch, signal: AbortSignal): Promise<boolean> {
    const since = this.#since()
    const changes =
      'all' in batch ? await runInSlices(this.#difference(batch.all), { signal }) : batch.changes
    let rest = isLarge(changes) ? await this.#makeMany(changes, signal) : changes
    for (let fitting = fittingOf(rest); fitting < rest.length; fitting = fittingOf(rest)) {
      if (signal.aborted || !(await this.#update(since, since, rest.slice(0, fitting)))) return false
      rest = rest.slice(fitting)
      await nextTurn()
    }
    return !signal.aborted && (await this.#update(since, batch.revision, rest))
  }

  /** Resolves with false, without a change, if the section's revision is not `since`: the predecessor's last batch may arrive after later ones. */
  async #update(
    since: string | null,
    revision: string | null,
    changes: readonly SourceChange[],
  ): Promise<boolean> {
    const made = await this.#member.update(state => {
      const stored = state.get(this.#revisions, this.#section.name)
      if (this.#revisionIn(stored) !== since) return false
      for (const change of changes) this.#change(state, change)
      if (revision !== null && revision !== since)
        state.put(this.#revisions, this.#section.name, { id: this.#source.id, revision })
      // The contents are others than those of the revision before, which must not be asked for again.
      else if (revision === null && since !== null) state.delete(this.#revisions, this.#section.name)
      return true
    }, NOT_DURABLE)
    return made === true
  }

  #change(state: StateDraft, { key, value }: SourceChange): void {
    const refused = refusedKey(this.#section.name, key)
    let reason: string | null = null
    if (value === null) state.delete(this.#section, key)
    else {
      const parsed = this.#parsed(key, value)
      if ('reason' in parsed) reason = parsed.reason
      else reason = putOrReason(() => state.put(this.#section, key, parsed.value))
    }
    if (reason === null) {
      if (state.has(this.#refused, refused)) state.delete(this.#refused, refused)
      return
    }
    this.#logger.warn(
      { section: this.#section.name, key, why: reason },
      'an entry of the source cannot be used: the section keeps what it has',
    )
    state.put(this.#refused, refused, { reason, value: kept(value) })
  }

  /** Makes the changes of entries that can be used, as one, and returns the others. */
  async #makeMany(changes: readonly SourceChange[], signal: AbortSignal): Promise<readonly SourceChange[]> {
    const { made, rest } = await runInSlices(this.#usable(changes), { signal })
    try {
      if (!signal.aborted) await this.#section.bulk(made, NOT_DURABLE)
      return rest
    } catch (error) {
      if (!isUnusable(error)) throw error
      // The section refuses some of the values. Only a change of one entry tells which.
      return changes
    }
  }

  *#usable(changes: readonly SourceChange[]) {
    const made: ({ key: string; value: unknown } | { key: string; delete: true })[] = []
    const rest: SourceChange[] = []
    for (const change of changes) {
      yield
      const { key, value } = change
      const parsed = value === null ? null : this.#parsed(key, value)
      const wasRefused = this.#refused.has(refusedKey(this.#section.name, key))
      if (wasRefused || (parsed !== null && 'reason' in parsed)) rest.push(change)
      else if (parsed !== null) made.push({ key, value: parsed.value })
      else if (this.#section.has(key)) made.push({ key, delete: true })
    }
    return { made, rest }
  }

  /** The changes that give the section all of these entries and no others. */
  *#difference(all: readonly { readonly key: string; readonly value: Uint8Array }[]) {
    const changes: SourceChange[] = []
    const wanted = new Set<string>()
    for (const entry of all) {
      yield
      wanted.add(entry.key)
      if (!this.#isStored(entry.key, entry.value)) changes.push(entry)
    }
    for (const key of [...this.#section.keys(), ...this.#refusedKeys()]) {
      yield
      if (!wanted.has(key)) changes.push({ key, value: null })
    }
    return changes
  }

  #isStored(key: string, value: Uint8Array): boolean {
    const refused = this.#refusedOf(key)
    if (refused !== undefined) return Buffer.compare(refused.value, value) === 0
    if (!this.#section.has(key)) return false
    const parsed = this.#parsed(key, value)
    if ('reason' in parsed) return false
    try {
      return isDeepStrictEqual(this.#section.get(key), parsed.value)
    } catch {
      // An entry that this version cannot read is replaced.
      return false
    }
  }

  #parsed(key: string, value: Uint8Array): { value: unknown } | { reason: string } {
    if (value.length > MOST_VALUE_BYTES)
      return { reason: `the value has more than ${MOST_VALUE_BYTES} bytes` }
    try {
      return { value: this.#parse(key, value) }
    } catch (error) {
      return { reason: messageOf(error) }
    }
  }

  /** This version may be able to use what an earlier one has refused. */
  async #retryRefused(signal: AbortSignal): Promise<void> {
    for (const key of this.#refusedKeys()) {
      await nextTurn()
      const refused = this.#refusedOf(key)
      if (signal.aborted || refused === undefined || 'reason' in this.#parsed(key, refused.value)) continue
      await this.#member.update(state => {
        const now = state.get(this.#refused, refusedKey(this.#section.name, key))
        if (now !== undefined) this.#change(state, { key, value: now.value })
      }, NOT_DURABLE)
    }
  }

  #refusedKeys(): string[] {
    return [...this.#refused.keys()].flatMap(key => keyOfRefused(this.#section.name, key) ?? [])
  }

  #refusedOf(key: string): RefusedEntry | undefined {
    return this.#refused.get(refusedKey(this.#section.name, key))
  }

  #succeeded(): void {
    if (this.#failure === null) return
    const { attempts, since } = this.#failure
    this.#failure = null
    this.#logger.info(
      { source: this.#source.id, attempts, sinceMs: Date.now() - since },
      'the source can be read again',
    )
  }

  #failed(error: unknown, attempts: number): void {
    const message = messageOf(error)
    const first = this.#failure === null
    this.#failure = { message, since: this.#failure?.since ?? Date.now(), attempts }
    if (first)
      this.#logger.warn(
        { err: error, source: this.#source.id, section: this.#section.name },
        'the source cannot be read: the section keeps its entries, and the source is tried again',
      )
  }
}

/** Returns the message of an error with which the section refuses the value; throws others. */
function putOrReason(put: () => void): string | null {
  try {
    put()
    return null
  } catch (error) {
    if (isUnusable(error)) return messageOf(error)
    throw error
  }
}

/** `validate` of the section's schema throws errors of its own. */
function isUnusable(error: unknown): boolean {
  return !FdbError.is(error) || UNUSABLE.has(error.code)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function isLarge(changes: readonly SourceChange[]): boolean {
  return fittingOf(changes) < changes.length
}

/** Returns how many of the changes one update makes: at least one, if there is one. */
function fittingOf(changes: readonly SourceChange[]): number {
  const most = Math.min(changes.length, MOST_IN_UPDATE)
  let bytes = 0
  for (let n = 0; n < most; n++) {
    bytes += changes[n]!.value?.length ?? 0
    if (bytes > MOST_BYTES_IN_UPDATE) return Math.max(n, 1)
  }
  return most
}

/** A value that is too large is not kept for the next version. */
function kept(value: Uint8Array | null): Uint8Array {
  return value === null || value.length > MOST_VALUE_BYTES ? new Uint8Array() : value
}

function parseJson(_key: string, value: Uint8Array): unknown {
  return JSON.parse(Buffer.from(value).toString())
}
