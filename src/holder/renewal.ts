import { Backoff, IN_BACKGROUND } from '../base/backoff.js'
import type { Epoch } from '../handoff/messages.js'
import type { HolderHost } from './message-handler.js'
import type { SegmentSet } from './segment-set.js'

/** How often it is looked how much has been written. */
const LOOK_MS = 1_000
/** More between two looks may be a large bulk, for who does not know; in a segment of so many times the size it does not matter. */
const FAST_BYTES = 512 * 1024
const MOST_TIMES = 8

type RenewalMachine = Pick<HolderHost, 'state' | 'dispatch' | 'amidBulk'>

/**
 * Has the owner go on in a new segment: when the present one is as large as all before it, so that what is written again and
 * again is compacted, and costs no more than twice; and when the owner could not begin.
 */
export class Renewal {
  readonly #machine: RenewalMachine
  readonly #segmentSet: SegmentSet
  readonly #renewBytes: number
  readonly #timer: NodeJS.Timeout
  /** When an owner that could not begin is asked again. */
  #retryAt = 0
  readonly #backoff = new Backoff(IN_BACKGROUND)
  /** The size of the owner's segment, at the last check. */
  #size = 0

  constructor(machine: RenewalMachine, segmentSet: SegmentSet, renewBytes: number) {
    this.#machine = machine
    this.#segmentSet = segmentSet
    this.#renewBytes = renewBytes
    this.#timer = setInterval(() => this.#check(), LOOK_MS).unref()
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

  /** A bulk that is interrupted is appended anew, whole, and would be interrupted again: it is let come to its end. */
  #growsFast(epoch: Epoch): boolean {
    const before = this.#size
    this.#size = this.#segmentSet.get(epoch)?.size() ?? 0
    return this.#size - before > FAST_BYTES && this.#size < MOST_TIMES * this.#renewBytes
  }

  /** The owner may lack descriptors or memory. */
  #tryAgain(): void {
    const now = performance.now()
    if (now < this.#retryAt) return
    this.#retryAt = now + this.#backoff.next()
    this.#machine.dispatch({ type: 'renew' })
  }
}
