import type { Logger } from '../base/logger.js'
import { LONGEST_MS } from '../base/time.js'
import type { Standing } from '../daemon/service/service-operations.js'
import { FdbError } from '../errors.js'
import { isCommitted, isGranted } from '../handoff/phases.js'
import type { Upgraded } from '../operator/requests.js'
import type { Failure } from '../operator/status-report.js'
import { successorCommand } from '../os/command-line.js'
import { type WorkerPlace, workerVariables } from '../os/default-control.js'
import { statOf } from '../os/main-process.js'
import { NOTHING_TOLD } from '../os/service-manager/service-manager.js'
import { below } from '../versions/last-words.js'
import { AFTERMATH_MS, exitText, type Successor, spawnSuccessor } from '../versions/spawn-successor.js'
import { Pending } from '../wire/pending.js'

/** One whose handoff has failed ends within this time, as a rule, and says why. */
const SAID_MS = 1_000

export interface AttemptParts {
  readonly place: WorkerPlace
  readonly command: readonly string[] | null
  readonly timeout: number
  /** The time to leave of a worker that fails behind its Commit, milliseconds. Null: no limit. */
  readonly stopTimeout: number | null
  readonly logger: Logger
  /** Null: nobody has come to serve yet. */
  standing(): Standing | null
}

/** One process that is started to serve in a worker's place, in that of the one that does, or of none. */
export class Attempt {
  /** Resolves when the process serves; rejects when it does not. */
  readonly outcome: Promise<Upgraded>
  readonly #parts: AttemptParts
  readonly #settled = new Pending<Upgraded>()
  readonly #before: string
  readonly #failureBefore: unknown
  #child: Successor | null = null
  #failing = false

  constructor(parts: AttemptParts) {
    this.#parts = parts
    const standing = parts.standing()
    this.#before = nameOf(standing?.owner)
    this.#failureBefore = standing?.lastFailure ?? null
    this.outcome = this.#settled.answer
    this.#start().catch(error => this.#settled.reject(error))
  }

  /** Something of the service may have changed. */
  look(): void {
    if (this.#settled.settled || this.#child === null) return
    const standing = this.#parts.standing()
    const { owner = null, phase, lastFailure = null } = standing ?? {}
    const serves = owner !== null && nameOf(owner) !== this.#before
    if (serves && (phase === 'idle' || phase === 'probation')) {
      this.#child.letGo()
      this.#settled.resolve({ pid: owner.pid, generation: owner.generation })
    } else if (lastFailure !== null && lastFailure !== this.#failureBefore) void this.#failed(lastFailure)
  }

  /** What its handoff says, unless its process says more at its end. */
  async #failed({ code, message, phase }: Failure): Promise<void> {
    if (this.#failing) return
    this.#failing = true
    const child = this.#child!
    await Promise.race([child.exited, new Promise(resolve => setTimeout(resolve, SAID_MS).unref())])
    const why = child.words.take() ?? `${message} (phase ${phase})`
    this.#fail(
      new FdbError(code, `${this.#name} did not come to serve: ${why}`, { phase }),
      isCommitted(phase),
    )
  }

  /** It is not wanted any more. Resolves when its process has ended, unless it serves. */
  async cancel(why: string): Promise<void> {
    if (this.#settled.settled) return
    this.#fail(new FdbError('ERR_FDB_ABORTED', `${this.#name}: ${why}`))
    await this.#child?.end()
  }

  get #name(): string {
    const { index, service } = this.#parts.place
    return `worker ${index} of ${service}${this.#child === null ? '' : ` (pid ${this.#child.pid})`}`
  }

  async #start(): Promise<void> {
    const { command, logger, place, timeout } = this.#parts
    const env = { ...NOTHING_TOLD, ...workerVariables(place) }
    const start = successorCommand({ env, ...(command !== null && { argv: command }) })
    const child = await spawnSuccessor(start, { control: place.control, logger })
    const { words } = child
    void this.outcome.catch(() => {}).finally(() => words.close())
    this.#child = child
    // A main process that was closed need not wait for those that drain.
    child.unref()
    this.#settled.limit(timeout, () => {
      const said = words.take()
      const why = `${this.#name} has not served within ${timeout} ms${said === null ? '' : `: ${said}`}`
      this.#fail(new FdbError('ERR_FDB_DEADLINE', why), isGranted(this.#parts.standing()?.phase ?? 'idle'))
    })
    void child.exited.then(({ code, signal }) => {
      this.look()
      // A wrapper that has started what is to serve.
      if (code === 0) return
      const how = exitText({ code, signal })
      setTimeout(() => {
        const { why, lines } = words.takeReason()
        const text = `${this.#name} ended ${how} before it served: ${why}${below(lines)}`
        this.#fail(new FdbError('ERR_FDB_SUCCESSOR_EXITED', text, { details: { code, signal } }))
      }, AFTERMATH_MS)
    })
    if (this.#settled.settled) await child.end()
    this.look()
  }

  #fail(error: FdbError, granted = false): void {
    if (this.#settled.settled) return
    this.#settled.reject(error)
    if (granted) this.#endLater()
    else void this.#child?.end()
  }

  /**
   * Behind its Commit a worker may have clients, and gets the right to serve again if the one before does not come back: the handoff has it
   * leave. If it has not let go of its listeners when any worker that is told to stop must have, it hangs and is ended.
   */
  #endLater(): void {
    const { standing, stopTimeout } = this.#parts
    const child = this.#child!
    if (stopTimeout === null) {
      child.letGo()
      return
    }
    const end = () => {
      const hangs = standing()?.bound.some(pid => statOf(pid)?.session === child.pid)
      if (hangs) void child.end()
      else child.letGo()
    }
    setTimeout(end, Math.min(stopTimeout, LONGEST_MS)).unref()
  }
}

function nameOf(owner: Standing['owner'] | undefined): string {
  return owner == null ? '' : `${owner.pid}/${owner.generation}`
}
