import { InOrder } from '../base/in-order.js'
import type { LogCore } from './core.js'
import { closedError } from './entries.js'
import type { HeldSegment, History } from './history.js'
import type { Replay } from './replay.js'
import { type MergeResult, writeSnapshot } from './snapshot.js'
import { runAtOnce, runInSlices } from './time-slices.js'
import type { Writer } from './writer.js'

/** Replaces the segments that no process may write any more by a snapshot, one compaction at a time. */
export class Compaction {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #writer: Writer
  readonly #order = new InOrder()
  #waiting = 0

  constructor(core: LogCore, replay: Replay, writing: Writer) {
    this.#core = core
    this.#replay = replay
    this.#writer = writing
  }

  get busy(): boolean {
    return this.#waiting > 0
  }

  /** Resolves when the compactions that are queued now have ended. */
  ended(): Promise<void> {
    return this.#order.run(async () => {})
  }

  async run(): Promise<void> {
    this.#waiting++
    try {
      await this.#order.run(() => this.#merge())
    } finally {
      this.#waiting--
    }
  }

  /** See {@link History.dropEmpty}. */
  async dropEmpty(): Promise<void> {
    await this.#order.run(() => this.#replay.between(() => this.#core.history.dropEmpty()))
  }

  /**
   * Merges again if a segment was started meanwhile. That takes one handoff for each merge: without one this ends, and until then the log grows by its
   * changes alone.
   */
  async #merge(): Promise<void> {
    const { deferred, sliceMs, closing } = this.#core
    for (;;) {
      await this.#replay.between(() => this.#mergeable())
      await deferred.done()
      const begun = await this.#replay.between(() => this.#begin())
      if (begun === null) return
      const merged = await runInSlices(begun.work, { sliceMs, signal: closing })
      if (await this.#replay.between(() => this.#finish(begun, merged))) return
    }
  }

  /** Returns the segments to merge, or null. Abandons a bulk that no process can complete any more, because its segment is sealed. */
  #mergeable(): ReturnType<History['mergeable']> {
    const { store, history, closing } = this.#core
    if (closing.aborted) throw closedError()
    const merge = history.mergeable(this.#writer.mayWrite)
    if (merge !== null && store.open && store.open.ordinal <= merge.last.ordinal) store.abandonOpen()
    return merge
  }

  #begin(): BegunMerge | null {
    const { store, history, deferred } = this.#core
    const merge = this.#mergeable()
    if (merge === null) return null
    // Does at once the work that another large change has left meanwhile, as the next large change would.
    runAtOnce(deferred.steps())
    const { last, newest } = merge
    const { segment, ordinal } = last
    const end = last.end ?? history.position
    const followed = last !== newest
    const work = writeSnapshot(store, { ...end, epoch: segment.epoch, last: ordinal, followed })
    // Until then it has noted where all entries are.
    work.next()
    return { last, newest, followed, work }
  }

  /** Replaces the merged segments. Returns false if a segment was started during the merge: that records only entries that were replaced or deleted since its own start. */
  #finish({ last, newest, followed }: BegunMerge, merged: MergeResult): boolean {
    const { owner, store, history, closing } = this.#core
    if (newest !== history.newest() || !history.held.includes(last) || closing.aborted) {
      merged.segment.close()
      return false
    }
    const { entries } = store
    // The snapshot has no stale secret, unless the newest segment has replaced or deleted an entry, which was live at the end of the merged segments.
    if (entries.staleSecrets <= last.ordinal && (!followed || entries.displaced.end === 0))
      entries.staleSecrets = -1
    history.replace(last, merged)
    for (const listener of owner.appendListeners) listener()
    return true
  }
}

interface BegunMerge {
  readonly last: HeldSegment
  readonly newest: HeldSegment
  /** A newer segment follows the merged ones. */
  readonly followed: boolean
  readonly work: ReturnType<typeof writeSnapshot>
}
