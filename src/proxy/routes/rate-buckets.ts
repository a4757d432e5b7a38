import type { Logger, Member, Section } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { messageSection } from '../entries/message-section.js'

type BucketMessage = fdbroker.proxy.RateBucket
const { RateBucket } = fdbroker.proxy

export const RATE_BUCKETS = 'routes.limits'
export const rateBucketsSection = messageSection<BucketMessage, fdbroker.proxy.RateBucket.$Properties>(
  RateBucket,
)

/** The processes of a service tell one another this often what they have let pass. */
const SHARE_MS = 250
/** Most entries that a process writes at a time, and that it looks at to delete them; others follow the next time. */
const MOST_WRITTEN = 256
/** While nothing changes, a process looks this often for entries to delete. */
const REST_MS = 5_000
/** Most keys in the memory of a process, and in the state. */
const MOST_KEYS = 100_000

interface Bucket {
  readonly key: string
  /** When it has all its tokens, in milliseconds since 1970. Each request that passes makes this later. */
  fullAt: number
  /** How long it takes to fill when it is empty, in milliseconds. */
  fillMs: number
  /** By how much requests of this process have done so since they were told to others, and when the first one came. */
  added: number
  since: number
}

export interface RateBucketsOptions {
  readonly section: Section<BucketMessage>
  readonly update: Member['update']
  /** Reports whether this process deletes entries of full buckets. */
  readonly tidies: () => boolean
  readonly logger: Pick<Logger, 'debug'>
  /** For tests. */
  readonly most?: number
}

/**
 * The token buckets of all rate limits, by key, also of other workers and versions: each process has those of the keys that it has seen last, and writes
 * to the state how much they are used. There is no entry for a full bucket.
 */
export class RateBuckets {
  readonly #options: RateBucketsOptions
  readonly #most: number
  /** The key that was not seen for the longest time is the first. */
  readonly #buckets = new Map<string, Bucket>()
  readonly #changed = new Set<Bucket>()
  readonly #unsubscribe: () => void
  #timer: NodeJS.Timeout | undefined
  #due = 0
  #tidying: Iterator<string> | null = null
  #sharing = false
  #stopped = false

  /** The buckets of a service, which a replaced process counts on with until it has ended. */
  static of(member: Member, logger: Logger): RateBuckets {
    const buckets = new RateBuckets({
      section: member.section(RATE_BUCKETS, rateBucketsSection),
      update: member.update.bind(member),
      tidies: () => member.follows === null && member.phase === 'serving',
      logger,
    })
    member.on('retiring', () => void buckets.share())
    return buckets
  }

  constructor(options: RateBucketsOptions) {
    this.#options = options
    this.#most = options.most ?? MOST_KEYS
    this.#unsubscribe = options.section.onChange(({ op, key }) => {
      const bucket = op === 'put' ? this.#buckets.get(key) : undefined
      if (bucket !== undefined) {
        const together = Math.max(bucket.fullAt, this.#stored(key) + bucket.added)
        bucket.fullAt = Math.min(together, Date.now() + bucket.fillMs)
      }
      this.#schedule(REST_MS)
    })
    if (options.section.size > 0) this.#schedule(REST_MS)
  }

  get size(): number {
    return this.#buckets.size
  }

  /** Takes a token, which comes back after `cost` milliseconds, of the `burst` tokens of a bucket. Returns 0, or in how many milliseconds there is one. */
  take(key: string, cost: number, burst: number): number {
    const now = Date.now()
    const bucket = this.#bucketOf(key)
    // The clock may have been set back, and the limit may have been another one.
    bucket.fillMs = cost * burst
    bucket.fullAt = Math.min(Math.max(bucket.fullAt, now), now + bucket.fillMs)
    const wait = bucket.fullAt - now - cost * (burst - 1)
    // Sums of fractions may miss a whole number.
    if (wait > 0.001) return wait
    bucket.fullAt += cost
    if (bucket.added === 0) bucket.since = now
    bucket.added += cost
    this.#changed.add(bucket)
    this.#schedule(SHARE_MS)
    return 0
  }

  #bucketOf(key: string): Bucket {
    const found = this.#buckets.get(key)
    if (found !== undefined) {
      this.#buckets.delete(key)
      this.#buckets.set(key, found)
      return found
    }
    const bucket = { key, fullAt: this.#stored(key), fillMs: 0, added: 0, since: 0 }
    this.#buckets.set(key, bucket)
    if (this.#buckets.size > this.#most) {
      const [oldest] = this.#buckets.values()
      this.#buckets.delete(oldest!.key)
      this.#changed.delete(oldest!)
    }
    return bucket
  }

  #stored(key: string): number {
    try {
      return this.#options.section.get(key)?.fullAt ?? 0
    } catch {
      return 0
    }
  }

  /** Tells the other processes of the service what this one has let pass. Changes wait during a handoff; what passes meanwhile is told after it. */
  async share(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#sharing || this.#stopped) return
    this.#sharing = true
    try {
      await this.#write(Date.now())
    } catch (error) {
      // This process goes on to count the requests, and tells more with the next change of a bucket.
      this.#options.logger.debug({ err: error }, 'counts of rate limits could not be written to the state')
    } finally {
      this.#sharing = false
      if (this.#changed.size > 0) this.#schedule(SHARE_MS)
      else if (this.#options.section.size > 0) this.#schedule(REST_MS)
    }
  }

  async #write(now: number): Promise<void> {
    const { section, update } = this.#options
    const taken: { key: string; added: number; since: number; least: number; most: number }[] = []
    for (const bucket of this.#changed) {
      if (taken.length === MOST_WRITTEN) break
      const { key, added, since, fullAt: least, fillMs } = bucket
      this.#changed.delete(bucket)
      bucket.added = 0
      // A bucket that is about to be full limits nothing.
      if (least - now >= SHARE_MS) taken.push({ key, added, since, least, most: now + fillMs })
    }
    const full = this.#options.tidies() ? this.#fullEntries(now) : []
    if (taken.length + full.length === 0) return
    await update(state => {
      for (const key of full) if ((state.get(section, key)?.fullAt ?? 0) <= now) state.delete(section, key)
      for (const { key, added, since, least, most } of taken) {
        if (section.size >= this.#most && !state.has(section, key)) continue
        // Others may have let pass more meanwhile.
        const together = Math.max(state.get(section, key)?.fullAt ?? 0, since) + added
        // No more than that of an empty bucket: the clock may have been set back since others wrote.
        const fullAt = Math.ceil(Math.min(Math.max(together, least), most))
        state.put(section, key, RateBucket.create({ fullAt }))
      }
    })
  }

  /** Looks at the next few entries. */
  #fullEntries(now: number): string[] {
    const full: string[] = []
    const keys = (this.#tidying ??= this.#options.section.keys()[Symbol.iterator]())
    for (let n = 0; n < MOST_WRITTEN; n++) {
      const { value: key, done } = keys.next()
      if (done) {
        this.#tidying = null
        break
      }
      if (this.#stored(key) <= now) full.push(key)
    }
    return full
  }

  #schedule(ms: number): void {
    if (this.#stopped || this.#sharing) return
    const due = performance.now() + ms
    if (this.#timer !== undefined && this.#due <= due) return
    clearTimeout(this.#timer)
    this.#due = due
    this.#timer = setTimeout(() => void this.share(), ms).unref()
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#unsubscribe()
  }
}
