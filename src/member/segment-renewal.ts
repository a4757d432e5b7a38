import type { Epoch } from '../handoff/messages.js'
import type { SegmentSet } from '../holder/segment-set.js'
import type { ChangeNotifier } from './member-context.js'

const CHECK_MS = 1_000
/** The longest wait for a new segment from the daemon. */
const ANSWER_MS = 1_000

interface SegmentRenewalDeps {
  readonly segmentSet: SegmentSet
  /** When a segment has reached this size, in bytes, this process asks for a new one. */
  readonly renewBytes: number
  /** Returns the epoch in which this process writes, or null if it does not write. */
  writingEpoch(): Epoch | null
  /** Whether a bulk of changes is being appended. In a new segment it would start again. */
  amidBulk(): boolean
  ask(): void
  readonly changes: ChangeNotifier
}

/**
 * Daemon hosting: asks the daemon for a new segment when the present one is large, so that the present one can be compacted. The daemon
 * cannot do this by itself, because it does not know this process's limits.
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

  /** Asks for a new segment regardless of the size. Resolves when it is in use, at the latest after {@link ANSWER_MS}. */
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

const EVERY_MS = 10

/** Notifies the daemon when this process's log has grown: at once, then at most every {@link EVERY_MS}. */
export class AppendNotice {
  readonly #appended: Set<() => void>
  readonly #notify: () => void
  readonly #onAppend = () => this.#schedule()
  #notifiedAt = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `appended`: the set of functions that the log calls when it has grown. */
  constructor(appended: Set<() => void>, notify: () => void) {
    this.#appended = appended
    this.#notify = notify
  }

  /** Starts or stops the notices. The first one reports the present state. */
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
