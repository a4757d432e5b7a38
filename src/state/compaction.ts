import { closed } from './closed.js'
import type { LogCore } from './core.js'
import type { Replay } from './replay.js'
import { runInSlices } from './slices.js'
import { writeSnapshot } from './snapshot.js'
import type { Writing } from './writing.js'

/** Puts a snapshot in the place of the segments to which nobody writes any more, one compaction after the other. */
export class Compaction {
  readonly #core: LogCore
  readonly #replay: Replay
  readonly #writing: Writing
  #running: Promise<unknown> | null = null

  constructor(core: LogCore, replay: Replay, writing: Writing) {
    this.#core = core
    this.#replay = replay
    this.#writing = writing
  }

  get busy(): boolean {
    return this.#running !== null
  }

  /** Resolves when none is under way. */
  async ended(): Promise<void> {
    while (this.#running) await this.#running
  }

  async run(signal: AbortSignal | undefined): Promise<void> {
    while (this.#running) await this.#running
    const { closing } = this.#core
    if (closing.aborted) throw closed()
    const work = this.#merge(signal ? AbortSignal.any([signal, closing]) : closing)
    this.#running = work.catch(() => {})
    try {
      await work
    } finally {
      this.#running = null
    }
  }

  async #merge(signal: AbortSignal): Promise<void> {
    const { owner, store, history, left, sliceMs, closing } = this.#core
    for (;;) {
      await this.#replay.ended()
      if (closing.aborted) throw closed()
      const merge = history.mergeable(this.#writing.mayWrite)
      if (!merge) return
      const { last, newest } = merge
      const end = last.end ?? history.position
      const followed = last !== newest
      const [epoch, ordinal] = [last.segment.epoch, last.ordinal]
      // No more of it can come.
      if (store.open && store.open.ordinal <= ordinal) store.giveUp()
      if (left.waits) {
        await left.done()
        continue
      }
      const work = writeSnapshot(store, { ...end, epoch, last: ordinal, followed })
      const merged = await runInSlices(work, { sliceMs, signal })
      await this.#replay.ended()
      // When a segment has begun meanwhile, what it displaced counts from its own beginning: once more, with it.
      if (newest === history.newest() && !closing.aborted) {
        const { entries } = store
        // What the newest segment displaced was in force at the end of these, and is in the snapshot.
        if (entries.staleSecrets <= ordinal && (!followed || entries.displaced.end === 0))
          entries.staleSecrets = -1
        history.replace(last, merged)
        for (const told of owner.appended) told()
        return
      }
      merged.segment.close()
    }
  }
}
