import type { StdioOptions } from 'node:child_process'
import { FdbError } from '../errors.js'
import type { Cancelled } from '../holder/cancel.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import type { Failure } from '../operator/status-report.js'
import { type SuccessorCommand, successorCommand } from '../process/command-line.js'
import { mainProcess } from '../process/main-process.js'
import { type Successor, spawnSuccessor } from '../process/spawn-successor.js'
import type { MemberDriver } from './driver.js'
import type { UpgradeOptions } from './member.js'

/** After the end of a successor: what its handoff says about the reason arrives within this time. */
const AFTERMATH_MS = 250
/** Between asking a successor that is not wanted any more to end, and ending it. */
const END_MS = 2_000
/** A successor that has failed is left so long to say why and to end. */
const OWN_END_MS = 5_000
/** After a cancellation: for the incumbent to write again. */
const SERVING_MS = 2_000
/** Failures in these phases of a handoff: the successor may have clients, and is ended by the handoff's own rules. */
const AFTER_COMMIT: ReadonlySet<string | undefined> = new Set(['committing', 'probation'])

/** How the successor is started. */
export interface Place {
  /** Default: as this process was started. */
  readonly cwd?: string
  readonly stdio?: StdioOptions
}

/** One process starts one successor at a time. */
const underWay = new WeakMap<MemberDriver, { end(reason: FdbError, graceMs: number): Promise<void> }>()

/** Starts this process's successor and waits until it serves. See `Member.upgrade`. */
export async function upgradeSelf(
  driver: MemberDriver,
  options: UpgradeOptions,
  place: Place = {},
): Promise<Upgraded> {
  refuseNow(driver)
  options.signal?.throwIfAborted()
  const ended = new AbortController()
  let graceMs = END_MS
  const failureBefore = driver.lastFailure
  const upgraded = start(driver, { ...options, ...place }, ended.signal, () => graceMs)
  underWay.set(driver, {
    end: async (reason, ms) => {
      graceMs = Math.min(ms, END_MS)
      ended.abort(reason)
      await upgraded.catch(() => {})
    },
  })
  try {
    return await upgraded
  } catch (error) {
    // Else the handoff has noted it.
    if (FdbError.is(error) && driver.lastFailure === failureBefore) {
      const { code, message, phase = 'starting' } = error
      driver.noteFailure({ code, message, phase, at: Date.now() })
    }
    throw error
  } finally {
    underWay.delete(driver)
  }
}

/**
 * This process is to end: so is a successor that it is starting, unless Commit has left. Resolves when the upgrade is
 * over; a successor that does not end within `graceMs` is killed.
 */
export async function endUpgrade(driver: MemberDriver, graceMs: number): Promise<void> {
  const why = `process ${process.pid} was told to end during its upgrade`
  await underWay.get(driver)?.end(new FdbError('ERR_FDB_ABORTED', why), graceMs)
}

async function start(
  driver: MemberDriver,
  options: UpgradeOptions & Place,
  ended: AbortSignal,
  graceMs: () => number,
): Promise<Upgraded> {
  const command = successorCommand({
    argv: options.argv !== undefined && options.argv.length > 0 ? options.argv : undefined,
    env: options.env,
    cwd: options.cwd,
  })
  const child = await spawnSuccessor(command, { logger: driver.settings.logger, stdio: options.stdio })
  child.unref()
  driver.started.push(child)
  options.progress?.({ phase: 'started', at: Date.now(), pid: child.pid })
  const attempt = new Attempt(driver, child, command, options, graceMs)
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

function refuseNow(driver: MemberDriver): void {
  if (driver.settings.control === null) {
    throw new FdbError(
      'ERR_FDB_NO_CONTROL',
      'this process runs with control: false and cannot be upgraded: give join() a control path',
    )
  }
  refuseMainProcess(driver, 'what it starts')
  // One that can only read is repaired by the next version.
  const serves = driver.phase === 'serving' || driver.phase === 'unfit'
  if (serves && !underWay.has(driver)) return
  const why = underWay.has(driver)
    ? 'an upgrade is under way'
    : `this process does not serve (it is ${driver.phase})`
  throw new FdbError('ERR_FDB_BUSY', `${why}: try again later`, { retryable: true, phase: driver.phase })
}

/** Throws ERR_FDB_MAIN_PROCESS where the end of this process would end `whom`, and nobody has said what is to be done. */
export function refuseMainProcess({ settings }: Pick<MemberDriver, 'settings'>, whom: string): void {
  const why = settings.mainProcess === 'refuse' ? mainProcess() : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_MAIN_PROCESS',
    `the end of process ${process.pid} would end ${whom} too, as ${why}: give join() mainProcess 'stays' and await member.stay(), or 'ends' if that is not so (KillMode=process, ExitType=cgroup)`,
  )
}

/** One successor that was started, until it serves, has failed or was given up. */
class Attempt {
  readonly outcome: Promise<Upgraded>
  readonly #driver: MemberDriver
  readonly #child: Successor
  readonly #progress: (step: UpgradeProgress) => void
  readonly #graceMs: () => number
  readonly #failureBefore
  #resolve!: (upgraded: Upgraded) => void
  #reject!: (error: unknown) => void
  #phase = 'idle'
  #cancelling = false
  /** The command has ended with code 0: it was a wrapper, and what it has started is to join. */
  #forked = false
  #over = false

  constructor(
    driver: MemberDriver,
    child: Successor,
    command: SuccessorCommand,
    options: UpgradeOptions,
    graceMs: () => number,
  ) {
    this.#driver = driver
    this.#child = child
    this.#progress = options.progress ?? (() => {})
    this.#graceMs = graceMs
    this.#failureBefore = driver.lastFailure
    const settled = new Promise<Upgraded>((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    const { times, timeout } = driver.settings
    const limit =
      options.timeout ?? times.ready + times.quiesce + times.freeze + times.prepare + times.commit + timeout
    const timer = setTimeout(() => this.cancel(this.#late(limit)), limit)
    const stop = driver.watch(() => this.#look())
    this.outcome = settled.finally(() => {
      this.#over = true
      stop()
      clearTimeout(timer)
    })
    void child.exited.then(({ code, signal: by }) => {
      if (code === 0) {
        this.#forked = true
        return
      }
      const how = by === null ? `with code ${code}` : `by ${by}`
      const error = new FdbError(
        'ERR_FDB_SUCCESSOR_EXITED',
        `the successor ${child.pid} (${command.argv0} …) ended ${how} before it served: see its own output; this process serves on`,
        { details: { code, signal: by } },
      )
      setTimeout(() => {
        if (!this.#cancelling) this.#reject(error)
      }, AFTERMATH_MS).unref()
    })
    this.#look()
  }

  /**
   * The successor is not wanted any more. Before its Commit it is given up and ended; later it serves, or fails, as if this
   * had not been called. Either way the outcome says which.
   */
  cancel(reason: unknown): void {
    if (this.#cancelling) return
    this.#cancelling = true
    this.#giveUp(reason).catch(this.#reject)
  }

  async #giveUp(reason: unknown): Promise<void> {
    const driver = this.#driver
    if (FdbError.is(reason) && AFTER_COMMIT.has(reason.phase)) throw reason
    const phase = driver.holderState?.phase ?? this.#phase
    const cancelled = await driver.cancelHandoff(toldFor(reason))
    if (cancelled === 'late') {
      this.#cancelling = false
      this.#look()
      this.#boundTheRest()
      return
    }
    const { pid } = this.#child
    const ended = await this.#child.end(this.#ownGrace(cancelled))
    await this.#serving()
    // It came to serve all the same: nobody who could have been asked had seen it coming.
    if (this.#replaced()) return
    const fate = ended
      ? `its successor ${pid} was ended`
      : `its successor ${pid} could not be ended (it is another user's, or has left its session)`
    const where = phase === 'idle' ? 'starting' : phase
    this.#reject(abandoned(reason, `${fate}; process ${process.pid} serves on`, where))
  }

  /** What has not joined has nothing to let go of. */
  #ownGrace(cancelled: Cancelled): number {
    return cancelled === 'idle' && this.#driver.phase === 'serving' ? 0 : this.#graceMs()
  }

  /** Commit has left: the handoff's own deadlines decide, and in daemon hosting they are another's. */
  #boundTheRest(): void {
    const { commit, prepare } = this.#driver.settings.times
    const error = new FdbError(
      'ERR_FDB_DEADLINE',
      `the successor ${this.#child.pid} was sent its Commit and has not been heard of since: status shows who serves`,
    )
    const timer = setTimeout(() => this.#reject(error), commit + prepare + OWN_END_MS)
    void this.outcome.catch(() => {}).finally(() => clearTimeout(timer))
  }

  /** Whether another serves by now. */
  #replaced(): boolean {
    const driver = this.#driver
    if (driver.phase !== 'standby' && driver.phase !== 'leaving') return false
    // Who serves now need not be the process that was started: a wrapper may have forked it.
    const successor = driver.successor ?? { pid: this.#child.pid, generation: driver.generation + 1 }
    this.#over = true
    this.#child.letGo()
    this.#progress({ phase: 'serving', at: Date.now(), pid: successor.pid })
    this.#resolve(successor)
    return true
  }

  #look(): void {
    if (this.#over || this.#replaced() || this.#cancelling) return
    const driver = this.#driver
    const failure = driver.lastFailure
    if (failure !== null && failure !== this.#failureBefore) {
      this.#failed(failure)
      return
    }
    const now = driver.holderState?.phase ?? this.#phase
    // From probation on it is told as what it is: serving.
    if (now === this.#phase || now === 'probation' || now === 'released') return
    this.#phase = now
    this.#progress({ phase: now, at: Date.now(), pid: driver.joinerPid ?? this.#child.pid })
  }

  /** It ends by itself, as a rule, when it has said why. */
  #failed({ code, message, phase }: Failure): void {
    const text = `${message} (phase ${phase}; this process serves on)`
    this.#reject(new FdbError(code, text, { phase }))
    if (AFTER_COMMIT.has(phase)) return
    setTimeout(() => void this.#child.end(END_MS), OWN_END_MS).unref()
  }

  /** Resolves when this process writes again, or another serves. */
  async #serving(): Promise<void> {
    const driver = this.#driver
    const settled = () => driver.phase !== 'frozen' && driver.holderState?.phase !== 'returning'
    if (settled()) return
    await new Promise<void>(resolve => {
      const done = () => {
        clearTimeout(timer)
        stop()
        resolve()
      }
      const timer = setTimeout(done, SERVING_MS)
      const stop = driver.watch(() => settled() && done())
    })
  }

  /** Too late is never: a successor that took over after it was reported as failed would be a surprise. */
  #late(limit: number): FdbError {
    const { pid } = this.#child
    return new FdbError(
      'ERR_FDB_DEADLINE',
      this.#forked
        ? `the command ${pid} ended with code 0, and nothing that it started has served within ${limit} ms`
        : `the successor ${pid} did not serve within ${limit} ms`,
    )
  }
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
