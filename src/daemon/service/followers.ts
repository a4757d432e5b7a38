import { FdbError } from '../../errors.js'
import type { Epoch } from '../../handoff/messages.js'
import type { Caller } from '../../holder/admission.js'
import type { Peer } from '../../holder/peer.js'
import { type SegmentSet, SegmentSupply } from '../../holder/segment-set.js'
import type { Link } from '../../wire/link.js'
import { SegmentCopies } from './segment-copies.js'

/** Tells the followers of a service about new records. While there are followers, the writing member reports each append. */
export class Followers {
  readonly #links = new Set<Link>()
  readonly #writer: () => Peer | undefined
  /** The link over which the writing member was asked to report its appends. */
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

  /** Asks the writing member to report its appends, or to stop when there are no followers. Sends nothing if the member already knows. */
  updateWriter(): void {
    const link = this.size > 0 ? (this.#writer()?.link ?? null) : null
    if (link === this.#notifyingLink) return
    if (this.size === 0) this.#notifyingLink?.post({ tellAppended: { wanted: false } })
    this.#notifyingLink = link
    link?.post({ tellAppended: { wanted: true } })
  }

  /** Handles the writing member's report that it has appended. */
  notifyAll(peer: Peer): void {
    // A previous daemon asked this member for reports; this daemon has no followers and cancels them.
    if (this.size === 0) peer.link.post({ tellAppended: { wanted: false } })
    for (const link of this.#links) link.post({ appended: {} })
  }
}

/** The error for a follower of a service that does not exist yet; the follower retries. */
export function noStateError(service: string): FdbError {
  return new FdbError(
    'ERR_FDB_BUSY',
    `no member has served "${service}" at this daemon: there is no state to follow yet`,
    {
      retryable: true,
    },
  )
}

/** Interval at which the copies are refreshed even without a report of the writing member. */
const REFRESH_MS = 250

/** The followers of a service that belong to one other user, and get copies of the segments. */
export class ForeignFollowers {
  /** When the copies were begun, in milliseconds since 1970. The fraction distinguishes copies of the same millisecond. */
  readonly begunAt = Date.now() + Math.random()
  readonly #copies: SegmentCopies
  readonly #supply: SegmentSupply
  readonly #drop: (caller: Caller) => void
  readonly #onFailure: (error: unknown) => void
  /** Followers that wait for their first segments, with the highest epoch that each of them has. */
  readonly #waiting = new Map<Caller, Epoch>()
  readonly #all = new Set<Caller>()
  readonly #timer: NodeJS.Timeout
  #running = false
  #again = false
  #closed = false

  /**
   * `most`: limit of the bytes of all copies. `drop` disconnects a follower that cannot get segments now; it connects again later. `onFailure` is
   * called with the reason if no follower can get them.
   */
  constructor(
    segmentSet: SegmentSet,
    most: () => number,
    { drop, onFailure }: { drop(caller: Caller): void; onFailure(error: unknown): void },
  ) {
    this.#copies = new SegmentCopies(segmentSet, most)
    this.#onFailure = onFailure
    this.#supply = new SegmentSupply(this.#copies, drop)
    this.#drop = drop
    this.#timer = setInterval(() => this.refresh(), REFRESH_MS).unref()
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

  /** Updates the copies, after an append or when there is a new segment. */
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
    } catch (error) {
      // Memory or descriptors are exhausted, the state exceeds a limit, or a follower prevents the seal of a copy.
      this.#onFailure(error)
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
