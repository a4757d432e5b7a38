import { Backoff, IN_BACKGROUND } from '../../base/backoff.js'
import { FdbError } from '../../errors.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { StateFile, type StateFileStatus } from '../../state/file/state-file.js'
import { StateLog } from '../../state/state-log.js'
import type { StatePosition } from '../../wire/envelope.js'
import type { CannotServe } from '../lifecycle/cannot-serve.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/machine.js'
import { notReady, type Readiness } from '../lifecycle/readiness.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import { SegmentLoader } from './segment-loader.js'

const SHRINK_BYTES = 64 * 1024

interface OwnStateDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly readiness: Pick<Readiness, 'checks'>
  readonly shutdown: Shutdown
  readonly segmentSet: SegmentSet
  readonly cannotServe: CannotServe
  readonly hosting: () => Hosting
  /** Called when the kernel refuses a write, because the segment is sealed. */
  readonly fenced: () => void
  readonly fileChanged: (status: StateFileStatus) => void
}

/** The state log of this process with its state file and the compaction of its segments. Owns log and file. */
export class OwnState {
  readonly log: StateLog
  readonly loader: SegmentLoader
  readonly file: StateFile | null
  /** The position up to which this process had read the state when it took over. */
  takenOver: StatePosition | null = null
  readonly #deps: OwnStateDeps
  #secretsTimer: NodeJS.Timeout | undefined
  /** The delay between attempts to remove secrets. */
  readonly #secretsBackoff = new Backoff(IN_BACKGROUND)
  /** The position of the log at the last freeze. */
  frozenAt: StatePosition | null = null
  #makingRoom = false

  constructor(deps: OwnStateDeps) {
    const { fenced, fileChanged, machine, readiness, segmentSet, settings } = deps
    const { logger, stateFile, stateLimits } = settings
    this.#deps = deps
    this.log = new StateLog({ logger, limits: stateLimits })
    this.loader = new SegmentLoader(this.log, segmentSet, logger)
    this.log.onFenced = fenced
    this.log.segmentsAfter = epoch => this.loader.after(epoch)
    this.log.onFull = () => this.#makeRoom()
    this.log.onStaleSecret = () => this.#removeSecretsLater()
    this.log.onUnreadable = error => this.onUnreadable(error)
    this.log.prematureError = () => (machine.phase === 'joining' ? notReady() : null)
    this.log.inCheck = () => readiness.checks
    this.file = stateFile === null ? null : new StateFile(stateFile, this.log, logger, () => !machine.sealed)
    this.log.disk = this.file
    if (this.file !== null) {
      this.file.onChange = fileChanged
      this.file.onNoRoom = () => this.#shrink()
    }
  }

  freeze(): void {
    this.frozenAt = this.log.pauseWriting()
  }

  /** A standby that cannot read the records of the process that serves cannot take over again: reports that to the state machine. */
  onUnreadable(error: unknown): void {
    const { cannotServe, machine, settings, shutdown } = this.#deps
    if (shutdown.over || machine.phase !== 'standby') return
    const why = cannotServe.record(error)
    settings.logger.warn(
      { err: why },
      'this process cannot take over again: it cannot read the records of the process that serves',
    )
    machine.step({ type: 'failed', effect: 'follow' })
  }

  /** Merges the segments of earlier generations if they are several or mostly garbage, or if `needed`. */
  async compact(options: { needed?: boolean } = {}): Promise<void> {
    const { shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    if (shutdown.over) return
    await this.loader.compact(async snapshot => {
      if (!shutdown.over) await hosting.replaceMerged(snapshot)
    }, options)
  }

  /** Merges segments, because the handoff cannot be undone any more, and writes migrated entries, which the previous version may be unable to read. */
  onSettled(): void {
    void this.compact({ needed: this.#makingRoom })
    this.writeMigrated()
  }

  /** Puts the entries that this version migrates, so that it does so once, and not at each read. */
  writeMigrated(): void {
    const { machine, settings, shutdown } = this.#deps
    const mayGoOn = () => !shutdown.over && machine.phase === 'serving'
    if (!mayGoOn()) return
    this.log
      .writeMigrated(mayGoOn)
      .then(written => {
        if (written.entries > 0)
          settings.logger.info({ ...written }, 'the migrated entries of the state were written')
      })
      .catch(error => {
        if (mayGoOn())
          settings.logger.warn(
            { err: error },
            'migrated entries of the state could not be written; they are migrated at each read',
          )
      })
  }

  close(): void {
    clearTimeout(this.#secretsTimer)
    this.log.endWriting(
      new FdbError('ERR_FDB_CLOSED', 'this member has left: nothing can be written any more'),
    )
    this.file?.stop()
    this.log.close()
  }

  /** Merges the log if it is mostly garbage, so that the state file can be replaced by a smaller one. */
  #shrink(): void {
    const { bytes, liveBytes } = this.log.stats()
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
    if (!this.log.hasStaleSecrets) {
      this.#secretsBackoff.reset()
      return
    }
    const { machine } = this.#deps
    if (machine.phase === 'serving' && (machine.holder?.phase ?? 'idle') === 'idle') this.#makeRoom()
    this.#removeSecretsLater()
  }
}
