import { FdbError } from '../errors.js'
import type { Upgraded, UpgradeProgress } from '../holder/operator.js'
import { type SuccessorCommand, successorCommand } from '../host/command-line.js'
import { type Successor, spawnSuccessor } from '../host/spawn-successor.js'
import type { UpgradeOptions } from './member.js'
import type { Party } from './party.js'

/** After the end of a successor: what its handoff says about the reason arrives within this time. */
const AFTERMATH_MS = 250
/** Between asking a successor that is late to end, and ending it. */
const KILL_MS = 2_000

/** One process starts one successor at a time. */
const underWay = new WeakSet<Party>()

/** Starts this process's successor and waits until it serves. See `Member.upgrade`. */
export async function upgradeSelf(party: Party, options: UpgradeOptions): Promise<Upgraded> {
  refuseNow(party)
  options.signal?.throwIfAborted()
  underWay.add(party)
  const progress = options.progress ?? (() => {})
  try {
    const command = successorCommand({
      argv: options.argv !== undefined && options.argv.length > 0 ? options.argv : undefined,
      env: options.env,
    })
    const child = await spawnSuccessor(command, { logger: party.settings.logger })
    child.unref()
    progress({ phase: 'started', at: Date.now(), pid: child.pid })
    return await new Attempt(party, child, command, options).outcome
  } catch (error) {
    if (FdbError.is(error) && error.phase === undefined) {
      const { code, message } = error
      party.noteFailure({ code, message, phase: 'starting', at: Date.now() })
    }
    throw error
  } finally {
    underWay.delete(party)
  }
}

function refuseNow(party: Party): void {
  if (party.settings.control === null) {
    throw new FdbError(
      'ERR_FDB_NO_CONTROL',
      'this process runs with control: false and cannot be upgraded: give join() a control path',
    )
  }
  if (party.phase === 'serving' && !underWay.has(party)) return
  const why = underWay.has(party)
    ? 'an upgrade is under way'
    : `this process does not serve (it is ${party.phase})`
  throw new FdbError('ERR_FDB_BUSY', `${why}: try again later`, { retryable: true, phase: party.phase })
}

/** One successor that was started, until it serves or has failed. */
class Attempt {
  readonly outcome: Promise<Upgraded>
  readonly #party: Party
  readonly #child: Successor
  readonly #progress: (step: UpgradeProgress) => void
  readonly #failureBefore
  #phase = 'idle'
  /** The command has ended with code 0: it was a wrapper, and what it has started is to join. */
  #forked = false
  #over = false

  constructor(party: Party, child: Successor, command: SuccessorCommand, options: UpgradeOptions) {
    this.#party = party
    this.#child = child
    this.#progress = options.progress ?? (() => {})
    this.#failureBefore = party.lastFailure
    const { times, timeout } = party.settings
    const limit = options.timeout ?? times.ready + times.freeze + times.prepare + times.commit + timeout
    const { signal } = options
    let undo = () => {}
    this.outcome = new Promise<Upgraded>((resolve, reject) => {
      const stop = party.watch(() => this.#look(resolve, reject))
      const timer = setTimeout(() => reject(this.#late(limit)), limit)
      const aborted = () => reject(signal?.reason)
      signal?.addEventListener('abort', aborted, { once: true })
      undo = () => {
        this.#over = true
        stop()
        clearTimeout(timer)
        signal?.removeEventListener('abort', aborted)
      }
      if (signal?.aborted) aborted()
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
        setTimeout(() => reject(error), AFTERMATH_MS).unref()
      })
      this.#look(resolve, reject)
    }).finally(() => undo())
  }

  #look(resolve: (upgraded: Upgraded) => void, reject: (error: Error) => void): void {
    if (this.#over) return
    const party = this.#party
    if (party.phase === 'standby' || party.phase === 'leaving') {
      // Who serves now need not be the process that was started: a wrapper may have forked it.
      const successor = party.successor ?? { pid: this.#child.pid, generation: party.generation + 1 }
      this.#over = true
      this.#child.letGo()
      this.#progress({ phase: 'serving', at: Date.now(), pid: successor.pid })
      resolve(successor)
      return
    }
    const failure = party.lastFailure
    if (failure !== null && failure !== this.#failureBefore) {
      const { code, message, phase } = failure
      reject(
        new FdbError(code as `ERR_FDB_${string}`, `${message} (phase ${phase}; this process serves on)`, {
          phase,
        }),
      )
      return
    }
    const now = party.holderState?.phase ?? this.#phase
    // From probation on it is told as what it is: serving.
    if (now === this.#phase || now === 'probation' || now === 'released') return
    this.#phase = now
    this.#progress({ phase: now, at: Date.now(), pid: this.#party.joinerPid ?? this.#child.pid })
  }

  /** Too late is never: a successor that took over after it was reported as failed would be a surprise. */
  #late(limit: number): FdbError {
    this.#child.end(KILL_MS)
    const { pid } = this.#child
    return new FdbError(
      'ERR_FDB_DEADLINE',
      this.#forked
        ? `the command ${pid} ended with code 0, and nothing that it started has served within ${limit} ms (phase ${this.#phase}): what is left of it was ended; this process serves on`
        : `the successor ${pid} did not serve within ${limit} ms (phase ${this.#phase}) and was ended; this process serves on`,
    )
  }
}
