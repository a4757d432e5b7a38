import type { StdioOptions } from 'node:child_process'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Id } from '../handoff/messages.js'
import type { Cancelled } from '../holder/cancel.js'
import type { Peer } from '../holder/peer.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import type { Failure } from '../operator/status-report.js'
import { successorCommand } from '../os/command-line.js'
import { GRACE_MS } from '../versions/process-members.js'
import { type Successor, spawnSuccessor } from '../versions/spawn-successor.js'
import type { Hosting } from './hosting.js'
import { SELF } from './machine.js'
import type { UpgradeOptions } from './member-options.js'
import { refuseMainProcess } from './options.js'
import type { Shared } from './shared.js'
import { type Replaced, UpgradeAttempt } from './upgrade-attempt.js'

/** An upgrade that was given up is over within this time: its successor is ended, and this process writes again. */
const GIVEN_UP_MS = 10_000

/** How the successor is started. */
export interface Place {
  /** Default: as this process was started. */
  readonly cwd?: string
  readonly stdio?: StdioOptions
}

/** The upgrades that this process has begun: one at a time. Owns the successors that it starts. */
export class Upgrades implements Replaced {
  readonly shared: Shared
  /** Successors that this process has started. */
  readonly started: Successor[] = []
  readonly #hosting: () => Hosting
  #underWay: { end(reason: FdbError, graceMs: number): Promise<void> } | null = null
  /** Of the upgrade under way, when its successor has been started. */
  #attempt: UpgradeAttempt | null = null
  /** Why a successor failed that never came as far as a handoff. */
  #failure: Failure | null = null

  constructor(shared: Shared, hosting: () => Hosting) {
    this.shared = shared
    this.#hosting = hosting
  }

  get underWay(): boolean {
    return this.#underWay !== null
  }

  get lastFailure(): Failure | null {
    const own = this.#failure
    const handoff = this.#hosting().holder?.timeline.lastFailure ?? null
    return own !== null && (handoff === null || own.at >= handoff.at) ? own : handoff
  }

  get successor(): Upgraded | null {
    const peer = this.#peer(this.shared.machine.holder?.owner)
    return peer === undefined ? null : { pid: peer.pid, generation: peer.generation }
  }

  get joinerPid(): number | null {
    return this.#peer(this.shared.machine.holder?.joiner)?.pid ?? null
  }

  /** The successor is not wanted any more: it is given up, unless its Commit has left. */
  cancelHandoff(reason: FdbError): Cancelled | Promise<Cancelled> {
    return this.#hosting().cancelHandoff(reason)
  }

  /** Starts this process's successor and waits until it serves. See `Member.upgrade`. */
  async start(options: UpgradeOptions, place: Place = {}): Promise<Upgraded> {
    // Its failure may have been told already, by a daemon for one: who tries again then is not told "busy" for its rest.
    const beingEnded = () => this.#attempt?.givenUp === true
    if (beingEnded()) await this.shared.changes.until(() => !beingEnded(), GIVEN_UP_MS)
    this.#refuseNow()
    options.signal?.throwIfAborted()
    const ended = new AbortController()
    let graceMs = GRACE_MS
    const failureBefore = this.lastFailure
    const upgraded = this.#run({ ...options, ...place }, ended.signal, () => graceMs)
    this.#underWay = {
      end: async (reason, ms) => {
        graceMs = Math.min(ms, GRACE_MS)
        ended.abort(reason)
        await upgraded.catch(() => {})
      },
    }
    this.shared.changes.tell()
    try {
      return await upgraded
    } catch (error) {
      // Else the handoff has noted it.
      const unknown = this.lastFailure === failureBefore || this.#attempt?.saidMore === true
      if (FdbError.is(error) && unknown) this.#note(error)
      throw error
    } finally {
      this.#underWay = null
      this.#attempt = null
      this.shared.changes.tell()
    }
  }

  /**
   * This process is to end: so is a successor that it is starting, unless Commit has left. Resolves when the upgrade is
   * over; a successor that does not end within `graceMs` is killed.
   */
  async end(graceMs: number): Promise<void> {
    const why = `process ${process.pid} was told to end during its upgrade`
    await this.#underWay?.end(new FdbError('ERR_FDB_ABORTED', why), graceMs)
  }

  async #run(options: UpgradeOptions & Place, ended: AbortSignal, graceMs: () => number): Promise<Upgraded> {
    const command = successorCommand({
      argv: options.argv !== undefined && options.argv.length > 0 ? options.argv : undefined,
      env: options.env,
      cwd: options.cwd,
    })
    const { logger } = this.shared.settings
    const control = this.shared.settings.control!
    const child = await spawnSuccessor(command, { control, logger, stdio: options.stdio })
    child.unref()
    this.started.push(child)
    const progress = toldOf(options.progress, logger)
    progress({ phase: 'started', at: Date.now(), pid: child.pid })
    const attempt = new UpgradeAttempt(this, { child, command, progress }, options, graceMs)
    this.#attempt = attempt
    const signals = [ended, ...(options.signal === undefined ? [] : [options.signal])]
    const cancel = ({ target }: { target: EventTarget | null }) =>
      attempt.cancel((target as AbortSignal).reason)
    for (const signal of signals) {
      if (signal.aborted) attempt.cancel(signal.reason)
      else signal.addEventListener('abort', cancel, { once: true })
    }
    try {
      return await attempt.outcome
    } finally {
      for (const signal of signals) signal.removeEventListener('abort', cancel)
    }
  }

  #refuseNow(): void {
    const { machine, settings } = this.shared
    const { phase } = machine
    if (settings.control === null) {
      throw new FdbError(
        'ERR_FDB_NO_CONTROL',
        'this process runs with control: false and cannot be upgraded: give join() a control path',
      )
    }
    refuseMainProcess(this.shared, 'what it starts')
    // A process that can only read is repaired by the next version.
    const serves = phase === 'serving' || phase === 'unfit'
    if (serves && this.#underWay === null) return
    const why =
      this.#underWay === null ? `this process does not serve (it is ${phase})` : 'an upgrade is under way'
    throw new FdbError('ERR_FDB_BUSY', `${why}: try again later`, { retryable: true, phase })
  }

  #note({ code, message, phase = 'starting' }: FdbError): void {
    this.#failure = { code, message, phase, at: Date.now() }
    this.shared.changes.tell()
  }

  #peer(id: Id = SELF): Peer | undefined {
    return id === SELF ? undefined : this.#hosting().holder?.peer(id)
  }
}

/** The caller's function, of which nothing is heard but the log when it throws: what it is told of has happened already, and goes on. */
export function toldOf(
  progress: ((step: UpgradeProgress) => void) | undefined,
  logger: Logger,
): (step: UpgradeProgress) => void {
  return step => {
    try {
      progress?.(step)
    } catch (err) {
      logger.error({ err, phase: step.phase }, 'a function for the progress of an upgrade threw')
    }
  }
}
