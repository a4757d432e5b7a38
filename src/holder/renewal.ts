import { Backoff, IN_BACKGROUND } from '../base/backoff.js'
import type { Epoch } from '../handoff/messages.js'
import type { HolderHost } from './message-handler.js'
import type { SegmentSet } from './segment-set.js'

const CHECK_MS = 1_000
/** A segment that grew by more than this since the last check may be receiving a large bulk. */
const FAST_BYTES = 512 * 1024
/** A segment larger than this multiple of `renewBytes` is renewed even during a bulk. */
const MOST_TIMES = 8

type RenewalMachine = Pick<HolderHost, 'state' | 'dispatch' | 'amidBulk'>

/**
 * Makes the owner continue in a new segment in two cases: when its segment is as large as all earlier ones together, so that compaction of
 * the old segments keeps the memory below twice the size of the state; and when the owner was unfit and must try again.
 */
export class Renewal {
  readonly #machine: RenewalMachine
  readonly #segmentSet: SegmentSet
  readonly #renewBytes: number
  readonly #timer: NodeJS.Timeout
  /** When an unfit owner must try again (performance.now()). */
  #retryAt = 0
  readonly #backoff = new Backoff(IN_BACKGROUND)
  /** The size of the owner's segment at the last check, in bytes. */
  #size = 0

  constructor(machine: RenewalMachine, segmentSet: SegmentSet, renewBytes: number) {
    this.#machine = machine
    this.#segmentSet = segmentSet
    this.#renewBytes = renewBytes
    this.#timer = setInterval(() => this.#check(), CHECK_MS).unref()
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
    if (!amidBulk && this.#segmentSet.hasGrown(epoch, this.#renewBytes))
      this.#machine.dispatch({ type: 'renew' })
  }

  /** Whether the owner may be appending a large bulk, which it would have to append again in a new segment. */
  #growsFast(epoch: Epoch): boolean {
    const before = this.#size
    this.#size = this.#segmentSet.get(epoch)?.size() ?? 0
    return this.#size - before > FAST_BYTES && this.#size < MOST_TIMES * this.#renewBytes
  }

  /** Lets an unfit owner try again: it may have lacked descriptors or memory. */
  #tryAgain(): void {
    const now = performance.now()
    if (now < this.#retryAt) return
    this.#retryAt = now + this.#backoff.next()
    this.#machine.dispatch({ type: 'renew' })
  }
}
