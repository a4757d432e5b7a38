import { FdbError } from '../../errors.js'
import {
  type Caller,
  dismiss,
  serveCaller,
  turnAway,
  warnWithoutStateFile,
  welcome,
} from '../../holder/admission.js'
import { DECIDED_MS } from '../../holder/times.js'
import { closeAll } from '../../kernel/index.js'
import type { Operations } from '../../operator/requests.js'
import { operationsOnly } from '../../operator/service-name.js'
import { pidOf } from '../../os/liveness.js'
import { endsWithUs } from '../../os/main-process.js'
import type { OlderGenerations } from '../drain/older-generations.js'
import { type Hosting, probationError } from '../lifecycle/hosting.js'
import type { Origin } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import { refuseMainProcess, type Settings } from '../options/options.js'

/** Within this time after a probation the standby has heard a healthy heartbeat, and has released this process. */
const RELEASE_MS = 2_000

export interface ControlClientsDeps {
  readonly settings: Pick<
    Settings,
    'control' | 'logger' | 'mainProcess' | 'service' | 'stateFile' | 'systemd' | 'timeout' | 'times'
  >
  readonly origin: Pick<Origin, 'generation' | 'serviceStartedAt'>
  readonly shutdown: Pick<Shutdown, 'closing' | 'over'>
  readonly hosting: () => Pick<
    Hosting,
    'holder' | 'probationLeftMs' | 'released' | 'stuckIncumbent' | 'whenDecided'
  >
  readonly operations: Operations
  readonly older: Pick<OlderGenerations, 'add' | 'close'>
}

/** The clients of this member's control socket: next versions, operators, older generations. In a daemon: the daemon's own clients. */
export class ControlClients {
  readonly #deps: ControlClientsDeps
  /** Joiners that arrived before the incumbent has released this process. */
  #waiting: Caller[] = []
  /** The operators that are connected; `end` disconnects one. */
  readonly #operators = new Set<{ end(): void }>()

  constructor(deps: ControlClientsDeps) {
    this.#deps = deps
  }

  /** The joiner that waits and takes over next; null if there is none. */
  get waitingPid(): number | null {
    return this.#waiting[0]?.pid ?? null
  }

  /** Offers the service to the joiners that wait: this process decides now. */
  admitWaiting(): void {
    for (const caller of this.#waiting.splice(0)) setImmediate(() => this.#admit(caller))
  }

  /** Refuses the joiners that wait until the incumbent has released this process. */
  refuseWaiting(why: FdbError): void {
    for (const caller of this.#waiting.splice(0)) turnAway(caller, why)
  }

  /** This process leaves: refuses the joiners that wait. */
  refuseLeaving(): void {
    this.refuseWaiting(busy(`process ${process.pid} leaves before it could hand over: try again`))
  }

  /** Closes the connections of older generations, which then connect to the serving process. */
  dismissOlder(): void {
    this.#deps.older.close()
  }

  /** This process has left: disconnects the operators, which have their answers. */
  endOperators(): void {
    for (const operator of [...this.#operators]) operator.end()
  }

  /** Handles and owns a client of this member. A daemon passes here only the clients of the daemon itself. */
  receive(caller: Caller): void {
    if (this.#deps.shutdown.over) {
      // The Hello came after the end, over a connection that was accepted before it. Other clients connect again without an answer.
      if (caller.intent === 'operate')
        turnAway(caller, busy(`process ${process.pid} has left the service: try again`))
      else this.#drop(caller)
      return
    }
    switch (caller.intent) {
      case 'operate': {
        const { operations, origin, settings } = this.#deps
        const facts = { generation: origin.generation }
        const operator = { end: () => {} }
        this.#operators.add(operator)
        const ended = () => this.#operators.delete(operator)
        operator.end = serveCaller(caller, operationsOnly(settings, operations), facts, { ended })
        return
      }
      case 'draining':
        this.#deps.older.add(caller)
        return
      case 'back':
      case 'follow':
        turnAway(
          caller,
          new FdbError(
            'ERR_FDB_NOT_A_DAEMON',
            `process ${process.pid} is no daemon: only a daemon accepts members that reconnect or follow another service`,
          ),
        )
        return
      case 'join':
        void this.#receiveJoiner(caller)
        return
    }
  }

  /**
   * During a commit or a rollback the joiner waits until it is decided which process serves. If this process has released its successor by then, the
   * joiner connects again, to the successor.
   */
  async #receiveJoiner(caller: Caller): Promise<void> {
    const { settings, shutdown } = this.#deps
    const decided = this.#deps.hosting().whenDecided?.(Math.min(DECIDED_MS, settings.times.commit)) ?? null
    if (decided !== null) {
      this.#attend(caller)
      await decided
    }
    const hasLeft = shutdown.over || this.#deps.hosting().released
    if (caller.link.open && !hasLeft) this.#decide(caller)
    else this.#drop(caller)
  }

  #decide(caller: Caller): void {
    const refusal = this.#refusal(caller)
    if (refusal !== null) {
      turnAway(caller, refusal)
      return
    }
    const { origin, settings } = this.#deps
    const { generation, serviceStartedAt } = origin
    welcome(caller.link, {
      version: caller.version,
      pid: process.pid,
      daemon: false,
      generation: generation + 1,
      serviceStartedAt,
      heartbeatMs: settings.times.heartbeat,
      waitMs: this.#releaseMs,
    })
    if (this.#deps.hosting().holder !== null) {
      this.#admit(caller)
      return
    }
    // The joiner waits until the incumbent has released this process. The incumbent stands by meanwhile: the joiner may fail, or this process.
    this.#waiting.push(caller)
    this.#attend(caller)
  }

  /** Watches a waiting joiner for the end of its connection. */
  #attend(caller: Caller): void {
    caller.link.start({
      message: (_envelope, fds) => closeAll(fds),
      broken: () => this.#drop(caller),
      end: () => this.#drop(caller),
    })
  }

  /** For how long a joiner may have to wait until the standby has released this process. */
  get #releaseMs(): number {
    const { settings } = this.#deps
    const hosting = this.#deps.hosting()
    if (hosting.holder !== null) return 0
    return Math.ceil(hosting.probationLeftMs ?? settings.times.probation) + RELEASE_MS
  }

  #refusal({ pid, pidfd }: Caller): FdbError | null {
    const { holder, stuckIncumbent: stuck } = this.#deps.hosting()
    const { closing } = this.#deps.shutdown
    const [first] = this.#waiting
    if (first !== undefined && (closing || holder === null))
      return busy(`process ${first.pid} is already joining: try again`)
    if (closing) return busy(`process ${process.pid} is closing: try again`)
    if (stuck !== null)
      return busy(
        `process ${stuck} stands by and does not answer (stopped or stuck): resume it (SIGCONT), or end it (fd-broker upgrade --kill-stuck)`,
      )
    const tooEarly = probationError(this.#deps.hosting(), this.#deps.settings.timeout)
    if (tooEarly !== null) return tooEarly
    // Refuses a joiner that would end with this process, unless the option `mainProcess` allows that.
    const here = pidfd === null || pidOf(pidfd) === pid
    if (!here || !endsWithUs(pid)) return null
    try {
      refuseMainProcess(this.#deps, `process ${pid}`)
      return null
    } catch (error) {
      return error as FdbError
    }
  }

  #drop(caller: Caller): void {
    this.#waiting = this.#waiting.filter(other => other !== caller)
    dismiss(caller)
  }

  #admit(caller: Caller): void {
    const { generation } = this.#deps.origin
    const { holder } = this.#deps.hosting()
    if (!caller.link.open || holder === null) {
      this.#drop(caller)
      return
    }
    const { logger, stateFile } = this.#deps.settings
    if (stateFile !== null) warnWithoutStateFile(caller, stateFile.path, logger)
    holder.admit({ ...caller, generation: generation + 1, capabilities: caller.hello.capabilities ?? [] })
  }
}

function busy(why: string): FdbError {
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}
