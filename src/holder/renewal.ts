import type { HolderEvent, HolderState } from '../protocol/holder-machine.js'
import type { SegmentShelf } from './segment-shelf.js'

/** How often it is looked how much has been written. */
const LOOK_MS = 1_000
/** An owner that could not begin tries again. */
const AGAIN_MS = 1_000
const AGAIN_MOST_MS = 60_000

/**
 * Has the owner go on in a new segment: when the present one is as large as all before it, so that what is written again and
 * again is compacted, and costs no more than twice; and when the owner could not begin.
 */
export class Renewal {
  readonly #machine: { state(): HolderState; dispatch(event: HolderEvent): void }
  readonly #shelf: SegmentShelf
  readonly #renewBytes: number
  readonly #timer: NodeJS.Timeout
  #again = { at: 0, ms: AGAIN_MS }

  constructor(
    machine: { state(): HolderState; dispatch(event: HolderEvent): void },
    shelf: SegmentShelf,
    renewBytes: number,
  ) {
    this.#machine = machine
    this.#shelf = shelf
    this.#renewBytes = renewBytes
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref()
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #look(): void {
    const { phase, epoch, owner, unfit } = this.#machine.state()
    if (phase !== 'idle') return
    if (unfit.includes(owner)) {
      this.#tryAgain()
      return
    }
    this.#again = { at: 0, ms: AGAIN_MS }
    if (this.#shelf.hasGrown(epoch, this.#renewBytes)) this.#machine.dispatch({ type: 'renew' })
  }

  /** The owner lacks, perhaps, descriptors or memory: it is asked seldomer and seldomer. */
  #tryAgain(): void {
    const now = performance.now()
    if (now < this.#again.at) return
    this.#again = { at: now + this.#again.ms, ms: Math.min(this.#again.ms * 2, AGAIN_MOST_MS) }
    this.#machine.dispatch({ type: 'renew' })
  }
}
