import { Backoff, IN_BACKGROUND } from '../../base/backoff.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { OwnState } from './own-state.js'

const SHRINK_BYTES = 64 * 1024
/** The interval at which a daemon's member checks the size of the present segment. */
const SIZE_CHECK_MS = 1_000

interface LogSpaceDeps {
  readonly settings: Pick<Settings, 'stateLimits'>
  readonly machine: Machine
  readonly shutdown: Pick<Shutdown, 'over'>
  readonly segmentSet: SegmentSet
  readonly hosting: () => Pick<Hosting, 'mayReplaceMerged' | 'mergesAtOnce' | 'renew'>
  readonly state: OwnState
}

/** Keeps the log of this process small: continues in a new segment, merges earlier ones, and removes replaced secrets. */
export class LogSpace {
  readonly #deps: LogSpaceDeps
  #sizeTimer: NodeJS.Timeout | undefined
  #secretsTimer: NodeJS.Timeout | undefined
  /** The delay between attempts to remove secrets. */
  readonly #secretsBackoff = new Backoff(IN_BACKGROUND)
  #makingRoom = false

  constructor(deps: LogSpaceDeps) {
    this.#deps = deps
    const { machine, state } = deps
    state.log.onFull = () => this.#makeRoom()
    state.log.onStaleSecret = () => this.#removeSecretsLater()
    if (state.file !== null) state.file.onNoRoom = () => this.#shrink()
    // The daemon does not know this process's limit. An own holder checks the size itself.
    if (machine.member.scope === 'member')
      this.#sizeTimer = setInterval(() => this.#checkSize(), SIZE_CHECK_MS).unref()
  }

  /** Merges the segments of earlier generations if they are several or mostly garbage, or if `needed`. */
  async compact(options: { needed?: boolean } = {}): Promise<void> {
    const { segmentSet, shutdown, state } = this.#deps
    const hosting = this.#deps.hosting()
    if (shutdown.over) return
    await state.loader.compact(async snapshot => {
      if (!shutdown.over && (await hosting.mayReplaceMerged(snapshot)))
        segmentSet.replaceUpTo(snapshot.share())
    }, options)
  }

  /** Merges segments, because the handoff cannot be undone any more. */
  onSettled(): void {
    void this.compact({ needed: this.#makingRoom })
  }

  close(): void {
    clearInterval(this.#sizeTimer)
    clearTimeout(this.#secretsTimer)
  }

  /**
   * Asks the daemon for a new segment when the present one is large, so that the present one can be compacted. Not during a bulk of changes,
   * which would start again in the new segment.
   */
  #checkSize(): void {
    const { machine, segmentSet, settings, state } = this.#deps
    if (machine.phase !== 'serving' || state.log.amidBulk) return
    const { renewBytes } = settings.stateLimits
    if (segmentSet.hasGrown(machine.member.epoch, renewBytes)) void this.#deps.hosting().renew()
  }

  /** Merges the log if it is mostly garbage, so that the state file can be replaced by a smaller one. */
  #shrink(): void {
    const { bytes, liveBytes } = this.#deps.state.log.stats()
    if (bytes > 2 * liveBytes + SHRINK_BYTES) this.#makeRoom()
  }

  /** Continues in a new segment and compacts the earlier ones, because the log is full. */
  #makeRoom(): void {
    if (this.#makingRoom) return
    this.#makingRoom = true
    setImmediate(async () => {
      const { machine, segmentSet, shutdown } = this.#deps
      const hosting = this.#deps.hosting()
      if (!shutdown.over && segmentSet.hasRecords(machine.member.epoch)) {
        await hosting.renew()
        await machine.settled()
      }
      // In daemon hosting onSettled() merges later, after Released.
      if (hosting.mergesAtOnce) await this.compact({ needed: true })
      this.#makingRoom = false
    })
  }

  /** Schedules an attempt to remove replaced and deleted secrets from the log and the state file, unless one is scheduled. */
  #removeSecretsLater(): void {
    if (this.#deps.shutdown.over) return
    this.#secretsTimer ??= setTimeout(() => this.#removeSecrets(), this.#secretsBackoff.next()).unref()
  }

  /** While a handoff is under way, or if this process does not write, only schedules the next attempt. */
  #removeSecrets(): void {
    this.#secretsTimer = undefined
    if (!this.#deps.state.log.hasStaleSecrets) {
      this.#secretsBackoff.reset()
      return
    }
    const { machine } = this.#deps
    if (machine.phase === 'serving' && (machine.holder?.phase ?? 'idle') === 'idle') this.#makeRoom()
    this.#removeSecretsLater()
  }
}
