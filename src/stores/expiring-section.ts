import { wrongOption } from '../checks/place.js'
import { FdbError } from '../errors.js'
import { processMember } from '../member/joining/process-member.js'
import type { Member } from '../member/member.js'
import { REMOVE } from '../state/draft.js'
import type { SectionSchema } from '../state/schema.js'
import type { Section } from '../state/section.js'

export interface Expiring<T> {
  readonly value: T
  /** Milliseconds since 1970; null if the entry never expires. */
  readonly expires: number | null
}

export interface ExpiringSectionOptions<T> {
  readonly section: string
  readonly schema: SectionSchema<Expiring<T>>
  /** Default: the member of this process. */
  readonly member: Member | undefined
}

const SWEEP_MS = 60_000

/**
 * A section whose entries expire: reads never return an expired entry, and the serving process deletes it within a minute. Before this
 * process has a member, keeps the entries in memory, and writes them to the section when the process joins. A change in a next version is
 * made when that version serves.
 */
export class ExpiringSection<T> {
  readonly #options: ExpiringSectionOptions<T>
  readonly #early = new Map<string, Expiring<T>>()
  #section: Section<Expiring<T>> | null = null

  constructor(options: ExpiringSectionOptions<T>) {
    this.#options = options
    const { section } = options
    if (typeof section !== 'string' || section === '')
      throw wrongOption('section', section, 'the name of a section')
    const own = processMember()
    const member = options.member ?? own.member
    const joined = (joiner: Member) => this.#open(joiner)
    if (member === null) own.waiting.add({ joined })
    else joined(member)
  }

  get(key: string): T | undefined {
    return valid((this.#section ?? this.#early).get(key))
  }

  /** `ttlMs` null: the entry never expires. */
  async put(key: string, value: T, ttlMs: number | null): Promise<void> {
    const entry = { value, expires: ttlMs === null ? null : Date.now() + ttlMs }
    if (this.#section === null) this.#early.set(key, entry)
    else await made(this.#section.put(key, entry))
  }

  /** Replaces an existing entry by the result of `change`, unless the result is undefined. */
  async change(key: string, change: (entry: Expiring<T>) => Expiring<T> | undefined): Promise<void> {
    const changed = (entry: Expiring<T> | undefined) =>
      valid(entry) === undefined ? undefined : change(entry!)
    if (this.#section !== null) {
      if (changed(this.#section.get(key)) !== undefined) await made(this.#section.update(key, changed))
      return
    }
    const entry = changed(this.#early.get(key))
    if (entry !== undefined) this.#early.set(key, entry)
  }

  /** Deletes an entry. Resolves with whether it existed. */
  async delete(key: string): Promise<boolean> {
    const existed = this.get(key) !== undefined
    if (this.#section === null) this.#early.delete(key)
    else await made(this.#section.delete(key))
    return existed
  }

  /** Deletes all entries whose key has this prefix. */
  async clear(prefix = ''): Promise<void> {
    if (this.#section !== null && prefix === '') {
      await made(this.#section.clear())
      return
    }
    for (const key of [...(this.#section ?? this.#early).keys()])
      if (key.startsWith(prefix)) await this.delete(key)
  }

  async *entries(): AsyncGenerator<[string, T], void> {
    const all: AsyncIterable<[string, Expiring<T>]> | Iterable<[string, Expiring<T>]> =
      this.#section ?? this.#early
    for await (const [key, entry] of all) {
      const value = valid(entry)
      if (value !== undefined) yield [key, value]
    }
  }

  #open(member: Member): void {
    const section = member.section(this.#options.section, this.#options.schema)
    this.#section = section
    // In a successor each put waits until this process serves.
    for (const [key, entry] of this.#early)
      section
        .put(key, entry)
        .catch(error => section.warn_(error, 'an entry from before join() could not be written, and is lost'))
    this.#early.clear()
    member.whileServing(() => {
      const failed = (error: unknown) =>
        section.warn_(error, 'expired entries could not be deleted; they are deleted later')
      const timer = setInterval(() => void sweep(section).catch(failed), SWEEP_MS).unref()
      return () => clearInterval(timer)
    })
  }
}

/**
 * Awaits a change. In a next version that is not ready yet, as in a request of its health check, the section keeps the change until this
 * version serves: awaiting it would keep the check from passing.
 */
async function made(change: Promise<unknown>): Promise<void> {
  try {
    await change
  } catch (error) {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_NOT_READY') throw error
  }
}

function valid<T>(entry: Expiring<T> | undefined): T | undefined {
  if (entry === undefined || (entry.expires !== null && entry.expires <= Date.now())) return undefined
  return entry.value
}

async function sweep<T>(section: Section<Expiring<T>>): Promise<void> {
  for await (const [key, entry] of section.readable_())
    if (valid(entry) === undefined)
      await section.update(key, now => (now !== undefined && valid(now) === undefined ? REMOVE : undefined))
}
