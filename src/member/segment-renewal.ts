import type { Epoch } from '../handoff/messages.js'
import type { SegmentSet } from '../holder/segment-set.js'
import type { ChangeNotifier } from './member-context.js'

const CHECK_MS = 1_000
/** The time to wait for a new segment from the daemon. */
const ANSWER_MS = 1_000

export interface SegmentRenewalDeps {
  readonly segmentSet: SegmentSet
  /** The least size of a segment, in bytes, at which a new one is asked for. */
  readonly renewBytes: number
  /** Returns the epoch in which this process writes, or null if it does not write. */
  writingEpoch(): Epoch | null
  /** Whether a large bulk is being appended, which would have to be appended again in a new segment. */
  amidBulk(): boolean
  ask(): void
  readonly changes: ChangeNotifier
}

/**
 * Daemon hosting: asks the daemon for a new segment, so that the present one can be compacted. The daemon does not know this process's
 * limits.
 */
export class SegmentRenewal {
  readonly #deps: SegmentRenewalDeps
  readonly #timer: NodeJS.Timeout

  constructor(deps: SegmentRenewalDeps) {
    this.#deps = deps
    this.#timer = setInterval(() => this.#check(), CHECK_MS).unref()
  }

  #check(): void {
    const { segmentSet, renewBytes } = this.#deps
    const epoch = this.#deps.writingEpoch()
    if (epoch !== null && segmentSet.hasGrown(epoch, renewBytes) && !this.#deps.amidBulk()) this.#deps.ask()
  }

  /** Asks for a new segment regardless of the size, and waits for it for at most {@link ANSWER_MS}. */
  async requestNew(): Promise<void> {
    const epoch = this.#deps.writingEpoch()
    if (epoch === null) return
    const renewed = this.#deps.changes.until(() => this.#deps.writingEpoch() !== epoch, ANSWER_MS)
    this.#deps.ask()
    await renewed
  }

  close(): void {
    clearInterval(this.#timer)
  }
}

/** The shortest interval between two notices. */
const EVERY_MS = 10

/** Notifies the daemon that the log of this process has grown: at once, and for later records at most every {@link EVERY_MS}. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #notify: () => void
  readonly #onAppend = () => this.#schedule()
  #notifiedAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: the functions that are called when the log has grown. */
  constructor(appended: Set<() => void>, notify: () => void) {
    this.#appended = appended
    this.#notify = notify
  }

  /** Starts notices, with one for the present state, or stops them. */
  want(wanted: boolean): void {
    this.close()
    if (!wanted) return
    this.#appended.add(this.#onAppend)
    this.#schedule()
  }

  close(): void {
    this.#appended.delete(this.#onAppend)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #schedule(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        this.#notifiedAt = performance.now()
        this.#notify()
      },
      Math.max(0, this.#notifiedAt + EVERY_MS - performance.now()),
    ).unref()
  }
}
