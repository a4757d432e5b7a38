import { Backoff, IN_BACKGROUND } from '../base/backoff.js'
import type { Epoch } from '../handoff/messages.js'
import type { HolderHost } from './message-handler.js'
import type { SegmentSet } from './segment-set.js'

const RENEWAL_CHECK_MS = 1_000
/** A segment that grew by more than this since the last check may be receiving a large bulk. */
const FAST_BYTES = 512 * 1024
/** A segment larger than this multiple of `renewBytes` is renewed even during a bulk. */
const MOST_TIMES = 8

type RenewalMachine = Pick<HolderHost, 'state' | 'dispatch' | 'amidBulk'>

/**
 * Gives the owner a new segment in two cases. If its segment is as large as all others together, the old segments can then be compacted,
 * which keeps the memory below twice the size of the state. If the owner is unfit, it tries again to write, in the new segment.
 */
export class Renewal {
  readonly #machine: RenewalMachine
  readonly #segmentSet: SegmentSet
  readonly #renewBytes: () => number
  readonly #timer: NodeJS.Timeout
  /** When an unfit owner may try again (performance.now()). */
  #retryAt = 0
  readonly #backoff = new Backoff(IN_BACKGROUND)
  /** The size of the owner's segment at the last check, in bytes. */
  #size = 0

  constructor(machine: RenewalMachine, segmentSet: SegmentSet, renewBytes: () => number) {
    this.#machine = machine
    this.#segmentSet = segmentSet
    this.#renewBytes = renewBytes
    this.#timer = setInterval(() => this.#check(), RENEWAL_CHECK_MS).unref()
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #check(): void {
    const { phase, epoch, owner, unfit } = this.#machine.state()
    if ((phase === 'idle' || phase === 'returning') && unfit.includes(owner)) {
      this.#tryAgain()
      return
    }
    if (phase !== 'idle') return
    this.#retryAt = 0
    this.#backoff.reset()
    const amidBulk = this.#machine.amidBulk?.() ?? this.#growsFast(epoch)
    if (!amidBulk && this.#segmentSet.hasGrown(epoch, this.#renewBytes()))
      this.#machine.dispatch({ type: 'renew' })
  }

  /** Whether the owner may be running a large `bulk()`, which would have to start again in a new segment. */
  #growsFast(epoch: Epoch): boolean {
    const before = this.#size
    this.#size = this.#segmentSet.get(epoch)?.size() ?? 0
    return this.#size - before > FAST_BYTES && this.#size < MOST_TIMES * this.#renewBytes()
  }

  /** Lets an unfit owner try again, because a lack of descriptors or memory may have passed. */
  #tryAgain(): void {
    const now = performance.now()
    if (now < this.#retryAt) return
    this.#retryAt = now + this.#backoff.next()
    this.#machine.dispatch({ type: 'renew' })
  }
}
