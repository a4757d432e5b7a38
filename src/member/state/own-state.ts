import { FdbError } from '../../errors.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { StateFile, type StateFileStatus } from '../../state/file/state-file.js'
import { StateLog } from '../../state/state-log.js'
import type { StatePosition } from '../../wire/envelope.js'
import type { Machine } from '../lifecycle/process-machine.js'
import { notReady, type Readiness } from '../lifecycle/readiness.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import { SegmentLoader } from './segment-loader.js'

interface OwnStateDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly readiness: Pick<Readiness, 'checks'>
  readonly shutdown: Shutdown
  readonly segmentSet: SegmentSet
  readonly events: {
    /** The kernel has refused a write, because the segment is sealed. */
    fenced(): void
    fileChanged(status: StateFileStatus): void
  }
}

/** The state log of this process with its state file. Owns both. */
export class OwnState {
  readonly log: StateLog
  readonly loader: SegmentLoader
  readonly file: StateFile | null
  /** The position up to which this process had read the state when it took over. */
  takenOver: StatePosition | null = null
  readonly #deps: OwnStateDeps
  /** The position of the log at the last freeze. */
  frozenAt: StatePosition | null = null

  constructor(deps: OwnStateDeps) {
    const { events, machine, readiness, segmentSet, settings } = deps
    const { logger, stateFile, stateLimits } = settings
    this.#deps = deps
    this.log = new StateLog({ logger, limits: stateLimits })
    this.loader = new SegmentLoader(this.log, segmentSet, logger)
    this.log.onFenced = () => events.fenced()
    this.log.segmentsAfter = epoch => this.loader.after(epoch)
    this.log.onUnreadable = error => this.onUnreadable(error)
    this.log.prematureError = () => (machine.phase === 'joining' ? notReady() : null)
    this.log.inCheck = () => readiness.checks
    // Between the Commit and the first write, and while no holder lives.
    this.log.accepts = () => machine.member.accepting
    this.file = stateFile === null ? null : new StateFile(stateFile, this.log, logger, () => !machine.sealed)
    this.log.disk = this.file
    if (this.file !== null) this.file.onChange = status => events.fileChanged(status)
  }

  freeze(): void {
    this.frozenAt = this.log.pauseWriting()
  }

  /** A standby that cannot read the records of the process that serves cannot take over again: reports that to the state machine. */
  onUnreadable(error: unknown): void {
    const { machine, settings, shutdown } = this.#deps
    if (shutdown.over || machine.phase !== 'standby') return
    const why = shutdown.cannotServe.record(error)
    settings.logger.warn(
      { err: why },
      'this process cannot take over again: it cannot read the records of the process that serves',
    )
    machine.step({ type: 'failed', effect: 'follow' })
  }

  /** See `Member.flushState`. A process that accepts, and does not serve yet, waits for that, as a durable change does. */
  async flush(): Promise<void> {
    const { phase } = this.#deps.machine
    if (this.file !== null && (phase === 'beginning' || phase === 'orphan'))
      await this.log.update(() => {}, { durable: true })
    else await this.file?.flush()
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
    this.log.endWriting(
      new FdbError('ERR_FDB_CLOSED', 'this member has left: nothing can be written any more'),
    )
    this.file?.stop()
    this.log.close()
  }
}
