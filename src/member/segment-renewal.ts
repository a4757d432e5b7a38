import type { Epoch } from '../handoff/messages.js'
import type { SegmentSet } from '../holder/segment-set.js'
import type { Changes } from './member-context.js'

const LOOK_MS = 1_000
/** How long a daemon has for a new segment until it is asked again. */
const ANSWER_MS = 1_000

/** A state that can ask for a new segment, so that the present one can be compacted. */
export interface GrowingState {
  readonly segmentSet: SegmentSet
  /** A segment of its own is asked for once it has so many bytes, and as many as all before it. */
  readonly renewBytes: number
  /** The epoch that this process writes to; null: it does not write. */
  written(): Epoch | null
  /** It appends a large bulk, which would begin anew in another segment. */
  amidBulk(): boolean
  ask(): void
  readonly changes: Changes
}

/** A member of a daemon, which decides when there is a new segment, and does not know this process's limits. */
export class SegmentRenewal {
  readonly #state: GrowingState
  readonly #timer: NodeJS.Timeout

  constructor(state: GrowingState) {
    this.#state = state
    this.#timer = setInterval(() => this.#check(), LOOK_MS).unref()
  }

  #check(): void {
    const { segmentSet, renewBytes } = this.#state
    const epoch = this.#state.written()
    if (epoch !== null && segmentSet.hasGrown(epoch, renewBytes) && !this.#state.amidBulk()) this.#state.ask()
  }

  /** Asks for a new segment, whatever the size of this one, and waits until it is there; for a second at most. */
  async renewed(): Promise<void> {
    const epoch = this.#state.written()
    if (epoch === null) return
    const renewed = this.#state.changes.until(() => this.#state.written() !== epoch, ANSWER_MS)
    this.#state.ask()
    await renewed
  }

  close(): void {
    clearInterval(this.#timer)
  }
}

/** So often is told that something was appended, at most. */
const EVERY_MS = 10

/** Tells a listener that the log of this process has grown: at once, and what follows soon as one. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #tell: () => void
  readonly #note = () => this.#soon()
  #toldAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: called when the log has grown. */
  constructor(appended: Set<() => void>, tell: () => void) {
    this.#appended = appended
    this.#tell = tell
  }

  /** Starts to tell, from the present state on, or stops. */
  want(wanted: boolean): void {
    this.close()
    if (!wanted) return
    this.#appended.add(this.#note)
    this.#soon()
  }

  close(): void {
    this.#appended.delete(this.#note)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #soon(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        this.#toldAt = performance.now()
        this.#tell()
      },
      Math.max(0, this.#toldAt + EVERY_MS - performance.now()),
    ).unref()
  }
}
