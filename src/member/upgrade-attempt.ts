import { FdbError } from '../errors.js'
import { isCommitted } from '../handoff/phases.js'
import type { Cancelled } from '../holder/cancel.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import type { Failure } from '../operator/status-report.js'
import type { SuccessorCommand } from '../os/command-line.js'
import { below, type LastWords } from '../versions/last-words.js'
import { mayLive } from '../versions/process-members.js'
import { AFTERMATH_MS, exitText, type Successor } from '../versions/spawn-successor.js'
import { Pending } from '../wire/pending.js'
import type { UpgradeOptions } from './member-options.js'
import type { Shared } from './shared.js'

/** A successor that has failed is left so long to say why and to end. */
const OWN_END_MS = 5_000
/** A command that ended with code 0, and of which nothing lives, may have had a service manager start the successor: it joins within this time. */
const JOIN_MS = 2_000
/** How often it is looked whether anything lives that such a command has started. */
const LOOK_MS = 250
/** After a cancellation: for the incumbent to write again. */
const SERVING_MS = 2_000
/** The handoff knows of a successor's end, and not why it ended. */
const GONE: ReadonlySet<string> = new Set(['ERR_FDB_SUCCESSOR_LOST', 'ERR_FDB_SUCCESSOR_DIED'])

/** The process that is to be replaced. */
export interface Replaced {
  readonly shared: Shared
  readonly lastFailure: Failure | null
  /** Who serves in its place, as its own holder knows it; null when it does, or a daemon decides. */
  readonly successor: Upgraded | null
  /** Who is being brought to serve, as its own holder knows it. */
  readonly joinerPid: number | null
  cancelHandoff(reason: FdbError): Cancelled | Promise<Cancelled>
}

/** What was started. */
export interface Started {
  readonly child: Successor
  readonly command: SuccessorCommand
  /** Never throws. */
  readonly progress: (step: UpgradeProgress) => void
}

/** The attempt with one successor that was started, until it serves, has failed or was given up. */
export class UpgradeAttempt {
  readonly outcome: Promise<Upgraded>
  readonly #replaced: Replaced
  readonly #child: Successor
  readonly #words: LastWords
  readonly #progress: (step: UpgradeProgress) => void
  readonly #graceMs: () => number
  readonly #failureBefore
  readonly #startedAt = performance.now()
  readonly #settled = new Pending<Upgraded>()
  #phase = 'idle'
  #cancelling = false
  /** The command has ended with code 0: it was a wrapper, and what it has started is to join. */
  #forked = false
  #over = false
  #failing = false
  #saidMore = false

  constructor(
    replaced: Replaced,
    { child, command, progress }: Started,
    options: Pick<UpgradeOptions, 'timeout'>,
    graceMs: () => number,
  ) {
    this.#replaced = replaced
    this.#child = child
    const { words } = child
    this.#words = words
    this.#progress = progress
    this.#graceMs = graceMs
    this.#failureBefore = replaced.lastFailure
    const { changes, settings } = replaced.shared
    const { times, timeout } = settings
    const limit =
      options.timeout ?? times.ready + times.quiesce + times.freeze + times.prepare + times.commit + timeout
    const timer = setTimeout(() => this.cancel(this.#late(limit)), limit)
    const stop = changes.watch(() => this.#look())
    this.outcome = this.#settled.answer.finally(() => {
      this.#over = true
      stop()
      clearTimeout(timer)
      words.close()
    })
    void child.exited.then(({ code, signal: by }) => {
      if (code === 0) {
        this.#forked = true
        this.#expectJoiner(command, performance.now())
        return
      }
      const { why, lines } = words.takeReason()
      const error = new FdbError(
        'ERR_FDB_SUCCESSOR_EXITED',
        `the successor ${child.pid} (${command.argv0} …) ended ${exitText({ code, signal: by })} before it served: ${why}; this process serves on${below(lines)}`,
        { details: { code, signal: by } },
      )
      setTimeout(() => {
        if (!this.#cancelling && !this.#failing) this.#settled.reject(error)
      }, AFTERMATH_MS).unref()
    })
    this.#look()
  }

  /** The command has ended with code 0: as long as something lives that it has started, that may join. */
  #expectJoiner(command: SuccessorCommand, lastLived: number): void {
    if (this.#over || this.#cancelling || this.#phase !== 'idle' || this.#replaced.joinerPid !== null) return
    const now = performance.now()
    const since = mayLive(this.#words.mark, now - this.#startedAt) ? now : lastLived
    if (now - since < JOIN_MS) {
      setTimeout(() => this.#expectJoiner(command, since), LOOK_MS).unref()
      return
    }
    const said = this.#words.take()
    this.#settled.reject(
      new FdbError(
        'ERR_FDB_SUCCESSOR_EXITED',
        `the successor ${this.#child.pid} (${command.argv0} …) ended with code 0, and nothing that it started lives or joined within ${JOIN_MS} ms${said === null ? ': check the command' : `: ${said}`}; this process serves on`,
        { details: { code: 0, signal: null } },
      ),
    )
  }

  /** Whether all that it waits for is the end of a successor that is not wanted any more. */
  get givenUp(): boolean {
    return this.#cancelling
  }

  /**
   * The successor is not wanted any more. Before its Commit it is given up and ended; later it serves, or fails, as if this
   * had not been called. Either way the outcome says which.
   */
  cancel(reason: unknown): void {
    if (this.#cancelling) return
    this.#cancelling = true
    this.#giveUp(reason).catch(error => this.#settled.reject(error))
  }

  async #giveUp(reason: unknown): Promise<void> {
    const { machine } = this.#replaced.shared
    if (FdbError.is(reason) && isCommitted(reason.phase)) throw reason
    const phase = machine.holder?.phase ?? this.#phase
    const cancelled = await this.#replaced.cancelHandoff(toldFor(reason))
    if (cancelled === 'late') {
      this.#cancelling = false
      this.#look()
      this.#boundTheRest()
      return
    }
    const { pid } = this.#child
    const ended = await this.#child.end(this.#ownGrace(cancelled))
    await this.#serving()
    // The successor came to serve all the same: nobody who could have been asked had seen it coming.
    if (this.#isReplaced()) return
    const fate = ended
      ? `its successor ${pid} was ended`
      : `its successor ${pid} could not be ended (it is another user's, or has left its session)`
    const where = phase === 'idle' ? 'starting' : phase
    this.#settled.reject(abandoned(reason, `${fate}; process ${process.pid} serves on`, where))
  }

  /** What has not joined has nothing to let go of. */
  #ownGrace(cancelled: Cancelled): number {
    return cancelled === 'idle' && this.#replaced.shared.machine.phase === 'serving' ? 0 : this.#graceMs()
  }

  /** Commit has left: the handoff's own deadlines decide, and in daemon hosting they are another's. */
  #boundTheRest(): void {
    const { commit, prepare } = this.#replaced.shared.settings.times
    const error = new FdbError(
      'ERR_FDB_DEADLINE',
      `the successor ${this.#child.pid} was sent its Commit and has not been heard of since: status shows who serves`,
    )
    const timer = setTimeout(() => this.#settled.reject(error), commit + prepare + OWN_END_MS)
    void this.outcome.catch(() => {}).finally(() => clearTimeout(timer))
  }

  /** Whether another serves by now. */
  #isReplaced(): boolean {
    const { generation, machine } = this.#replaced.shared
    if (machine.phase !== 'standby' && machine.phase !== 'leaving') return false
    // Who serves now need not be the process that was started: a wrapper may have forked it.
    const successor = this.#replaced.successor ?? { pid: this.#child.pid, generation: generation + 1 }
    this.#over = true
    this.#child.letGo()
    this.#progress({ phase: 'serving', at: Date.now(), pid: successor.pid })
    this.#settled.resolve(successor)
    return true
  }

  #look(): void {
    if (this.#over || this.#isReplaced() || this.#cancelling) return
    const { joinerPid, lastFailure: failure, shared } = this.#replaced
    if (failure !== null && failure !== this.#failureBefore) {
      void this.#failed(failure)
      return
    }
    const now = shared.machine.holder?.phase ?? this.#phase
    // Probation is told as what it is: serving.
    if (now === this.#phase || now === 'probation' || now === 'released') return
    this.#phase = now
    this.#progress({ phase: now, at: Date.now(), pid: joinerPid ?? this.#child.pid })
  }

  /** Its process says more of its end than the handoff knows. */
  get saidMore(): boolean {
    return this.#saidMore
  }

  /** A successor ends by itself, as a rule, when it has said why. */
  async #failed({ code, message, phase }: Failure): Promise<void> {
    if (this.#failing) return
    this.#failing = true
    let how: string | null = null
    let lines: string | null = null
    if (GONE.has(code) && !isCommitted(phase)) {
      const exit = await Promise.race([this.#child.exited, afterMs(AFTERMATH_MS)])
      how = exit === undefined ? null : exitText(exit)
      lines = this.#words.takeLines()
    }
    this.#saidMore = how !== null || lines !== null
    const end = how === null ? '' : `; it ended ${how}`
    const text = `${message}${end} (phase ${phase}; this process serves on)${below(lines)}`
    this.#settled.reject(new FdbError(code, text, { phase }))
    // The successor may have clients, and gets the right to serve again if this process cannot come back.
    if (isCommitted(phase)) return
    setTimeout(() => void this.#child.end(), OWN_END_MS).unref()
  }

  /** Resolves when this process writes again, or another serves. */
  async #serving(): Promise<void> {
    const { changes, machine } = this.#replaced.shared
    const settled = () => machine.phase !== 'frozen' && machine.holder?.phase !== 'returning'
    await changes.until(settled, SERVING_MS)
  }

  /** Too late is never: a successor that took over after it was reported as failed would be a surprise. */
  #late(limit: number): FdbError {
    const { pid } = this.#child
    const said = this.#words.take()
    return new FdbError(
      'ERR_FDB_DEADLINE',
      this.#forked
        ? `the command ${pid} ended with code 0, and nothing that it started has served within ${limit} ms${said === null ? '' : `: ${said}`}`
        : `the successor ${pid} did not serve within ${limit} ms`,
    )
  }
}

function afterMs(ms: number): Promise<undefined> {
  return new Promise(resolve => setTimeout(() => resolve(undefined), ms).unref())
}

/** What the successor and `status` are told. */
function toldFor(reason: unknown): FdbError {
  return FdbError.is(reason) ? reason : new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled')
}

function abandoned(reason: unknown, who: string, phase: string): FdbError {
  const { code, message } = toldFor(reason)
  return new FdbError(code, `${message} (phase ${phase}): ${who}`, {
    phase,
    cause: reason,
  })
}
