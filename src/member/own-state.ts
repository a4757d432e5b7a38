import { Backoff, IN_BACKGROUND } from '../base/backoff.js'
import { FdbError } from '../errors.js'
import { StateFile, type StateFileStatus } from '../state/file/state-file.js'
import { StateLog } from '../state/state-log.js'
import type { StatePosition } from '../wire/envelope.js'
import type { Hosting } from './hosting.js'
import type { MemberContext } from './member-context.js'
import { notReady } from './readiness.js'
import { StateKeeper } from './state-keeper.js'

export interface OwnStateDeps {
  readonly shared: MemberContext
  readonly hosting: () => Hosting
  /** A change was refused by the kernel: this process has lost the right to write. */
  readonly fenced: () => void
  readonly fileChanged: (status: StateFileStatus) => void
}

/** The state in this process: its log, its file, and what becomes of the segments that it is read from. Owns log and file. */
export class OwnState {
  readonly log: StateLog
  readonly keeper: StateKeeper
  readonly file: StateFile | null
  /** Where both sides stood at the last commit, as this process read it. */
  takenOver: StatePosition | null = null
  readonly #shared: MemberContext
  readonly #hosting: () => Hosting
  readonly #forgetting: Forgetting
  #frozenAt: StatePosition | null = null
  #makingRoom = false

  constructor({ shared, hosting, fenced, fileChanged }: OwnStateDeps) {
    const { settings, machine, segmentSet } = shared
    const { logger, stateFile, stateLimits } = settings
    this.#shared = shared
    this.#hosting = hosting
    this.log = new StateLog({ logger, limits: stateLimits })
    this.keeper = new StateKeeper(this.log, segmentSet, logger)
    this.#forgetting = new Forgetting({
      stale: () => this.log.hasStaleSecrets,
      possible: () => machine.phase === 'serving' && (machine.holder?.phase ?? 'idle') === 'idle',
      rewrite: () => this.#makeRoom(),
    })
    this.log.onFenced = fenced
    this.log.onFull = () => this.#makeRoom()
    this.log.onStaleSecret = this.#forgetting.notice
    this.log.onUnreadable = error => this.unreadable(error)
    this.log.premature = () => (machine.phase === 'joining' ? notReady() : null)
    this.file = stateFile === null ? null : new StateFile(stateFile, this.log, logger, () => !machine.sealed)
    this.log.disk = this.file
    if (this.file !== null) this.file.onChange = fileChanged
  }

  freeze(): void {
    this.#frozenAt = this.log.pauseWriting()
  }

  thaw(): void {
    this.log.resumeWriting()
  }

  /** Where the log stood at the last freeze. */
  get frozenAt(): StatePosition | null {
    return this.#frozenAt
  }

  /** While another serves: what it writes cannot be read here. */
  unreadable(error: unknown): void {
    const { shutdown, machine, settings, unfitness } = this.#shared
    if (shutdown.over || machine.phase !== 'standby') return
    const why = unfitness.record(error)
    settings.logger.warn(
      { err: why },
      'this process cannot come back: what is written now cannot be read here',
    )
    machine.step({ type: 'failed', effect: 'follow' })
  }

  /** Merges what earlier generations wrote, unless that is not worth it. */
  async compact(options: { needed?: boolean } = {}): Promise<void> {
    const { shutdown } = this.#shared
    if (shutdown.over) return
    await this.keeper.compact(async snapshot => {
      if (!shutdown.over) await this.#hosting().shelve(snapshot)
    }, options)
  }

  /** The handoff cannot be undone any more. */
  settled(): void {
    void this.compact({ needed: this.#makingRoom })
  }

  /** Nothing can be written any more. */
  close(): void {
    this.#forgetting.close()
    this.log.endWriting(
      new FdbError('ERR_FDB_CLOSED', 'this member has left: nothing can be written any more'),
    )
    this.file?.stop()
    this.log.close()
  }

  /** The log is full: it goes on in a new segment, and what does not count any more is merged away. */
  #makeRoom(): void {
    if (this.#makingRoom) return
    this.#makingRoom = true
    setImmediate(async () => {
      const { shutdown, machine, segmentSet } = this.#shared
      const hosting = this.#hosting()
      if (!shutdown.over && segmentSet.hasRecords(machine.member.epoch)) {
        await hosting.renew()
        await machine.settled()
      }
      // A daemon takes a merged segment when it has no handoff under way any more, and says so: see settled().
      if (hosting.mergesAtOnce) await this.compact({ needed: true })
      this.#makingRoom = false
    })
  }
}

interface ForgettingState {
  /** The log holds secrets that do not count any more. */
  stale(): boolean
  /** This process writes, and no handoff is under way. */
  possible(): boolean
  /** Goes on in a new segment, and merges those before it. */
  rewrite(): void
}

/** Sees to it that secrets that were replaced or deleted do not stay in the log, nor in the state file. */
class Forgetting {
  readonly #state: ForgettingState
  #timer: NodeJS.Timeout | undefined
  /** A handoff delays the rewrite. */
  readonly #backoff = new Backoff(IN_BACKGROUND)

  constructor(state: ForgettingState) {
    this.#state = state
  }

  /** Some secrets may be stale now. */
  readonly notice = (): void => {
    if (this.#timer !== undefined) return
    this.#timer = setTimeout(() => this.#try(), this.#backoff.next()).unref()
  }

  #try(): void {
    this.#timer = undefined
    if (!this.#state.stale()) {
      this.#backoff.reset()
      return
    }
    if (this.#state.possible()) this.#state.rewrite()
    this.notice()
  }

  close(): void {
    clearTimeout(this.#timer)
    // Nothing is noticed any more.
    this.#timer ??= setTimeout(() => {}, 0).unref()
  }
}
