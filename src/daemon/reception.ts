import { FdbError } from '../errors.js'
import { type Caller, dismiss, isForeign, serveCaller, turnAway } from '../holder/admission.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import type { Reception } from '../member/options.js'
import type { MemberRuntime } from '../member/runtime.js'
import { DAEMON_ITSELF } from '../operator/asked-service.js'
import type { Operations } from '../operator/requests.js'
import { type AccessCheck, credentialsOf } from './policy/access-check.js'
import { notThere } from './service/followers.js'
import type { Service } from './service/service.js'
import type { Services } from './services.js'
import { UserQuotas } from './user-quotas.js'

/** Upgrades of members that are under way when the daemon's own begins have so long; it gives up before its successor does. */
const SETTLE_MS = 5_000

/** A joining process waits this long for the decision of which member serves: less than its own timeout, as a rule. */
const DECIDED_MS = 5_000

/** An operator of another user that asks nothing for so long makes room: it waits for no answer, watches nothing and has no claim. */
const IDLE_MS = 60_000

export interface DaemonContext {
  readonly runtime: MemberRuntime
  readonly services: Services
  /** As a client may use them, who has said Hello. Takes the caller's pidfd. */
  operationsFor(caller: Caller): Operations
}

interface Waiting {
  readonly caller: Caller
  readonly own: (caller: Caller) => void
}

/**
 * Receives the clients of a daemon's control socket. While the daemon is handed over nothing that it holds may change, so clients that
 * would change it wait: for this daemon, if the next one fails, else for that one, to which they connect when they find this socket closed.
 */
export class DaemonReception implements Reception {
  readonly passed: OwnedFd | null
  readonly takesOver: boolean
  readonly #gate: AccessCheck
  /** The limits of other users at this daemon. */
  readonly shares: UserQuotas
  #office: DaemonContext | null = null
  #stage: 'opening' | 'open' | 'handing over' | 'over' = 'opening'
  /** The successor is the holder's matter: how that went is seen by its phase. */
  #admitted = false
  #admits = true
  #waiting: Waiting[] = []

  constructor(
    gate: AccessCheck,
    { passed, takesOver }: Pick<Reception, 'passed' | 'takesOver'>,
    shares = new UserQuotas(),
  ) {
    this.#gate = gate
    this.shares = shares
    this.passed = passed
    this.takesOver = takesOver
  }

  /** The daemon is there; it does not serve yet. */
  staff(office: DaemonContext): void {
    this.#office = office
    office.runtime.changes.watch(() => this.#checkSuccessor())
  }

  /** The daemon serves, once it has taken its items. If that fails it serves with those that it has: no other daemon does. */
  open(take: () => void = () => {}): void {
    try {
      take()
    } finally {
      this.#stage = 'open'
      this.#admitted = false
      this.#office?.services.resume()
      this.#serveWaiting()
      this.#office?.runtime.changes.notify()
    }
  }

  /** The held items may not change now. */
  get handsOver(): boolean {
    return this.#stage === 'handing over' || this.#stage === 'over'
  }

  /** Joining processes wait until {@link admit}; members and operators are served as before. */
  hold(): void {
    this.#admits = false
  }

  admit(): void {
    this.#admits = true
    this.#serveWaiting()
  }

  /** Another daemon serves, or none: waiting clients connect again. */
  close(): void {
    this.#stage = 'over'
    for (const { caller } of this.#waiting.splice(0)) dismiss(caller)
  }

  describe(): string {
    const { runtime, services } = this.#office ?? {}
    const size = services?.size ?? 0
    return `holds ${size === 1 ? 'a service' : `${size} services`} at ${runtime?.settings.control ?? ''}`
  }

  receive(caller: Caller, own: (caller: Caller) => void): void {
    const { hello, intent } = caller
    if (this.#stage === 'over') dismiss(caller)
    else if (hello.service === DAEMON_ITSELF && intent !== 'operate') {
      if (this.#refusesOther(caller)) return
      if (intent === 'join') void this.#receiveSuccessor({ caller, own })
      else own(caller)
    } else if (this.#mayServe(caller)) this.#serve({ caller, own })
    else {
      this.#waiting.push({ caller, own })
      if (intent === 'join') this.#attend(caller)
      else caller.link.channel.pause()
    }
  }

  mayConnect(uid: number): boolean {
    return this.#gate.mayConnect(uid)
  }

  connected(uid: number, closed: Promise<void>): FdbError | null {
    return this.shares.connect(uid, closed)
  }

  /** The kernel keeps others out as long as no rule speaks of them. */
  get controlMode(): number {
    return this.#gate.opensToOthers ? 0o666 : 0o600
  }

  #refusesOther(caller: Caller): boolean {
    try {
      this.#gate.demandOwner(DAEMON_ITSELF, credentialsOf(caller))
      return false
    } catch (error) {
      turnAway(caller, FdbError.from(error))
      return true
    }
  }

  /** A joining process may wait for as long as {@link hold} lasts, sends nothing before its Welcome, and may give up. */
  #attend(caller: Caller): void {
    const left = () => {
      this.#waiting = this.#waiting.filter(waiting => waiting.caller !== caller)
      dismiss(caller)
    }
    caller.link.start({ message: (_envelope, fds) => closeAll(fds), broken: left, end: left })
  }

  #mayServe({ intent }: Caller): boolean {
    if (this.#stage === 'opening') return false
    if (intent === 'operate') return true
    return this.#stage === 'open' && (intent !== 'join' || this.#admits)
  }

  #serveWaiting(): void {
    for (const { caller, own } of this.#waiting.splice(0)) {
      if (!caller.link.open) dismiss(caller)
      else {
        this.receive(caller, own)
        if (this.#mayServe(caller) && caller.link.open) caller.link.channel.resume()
      }
    }
  }

  #serve({ caller, own }: Waiting): void {
    const { operationsFor, services } = this.#office!
    const name = caller.hello.service ?? ''
    if (caller.intent !== 'operate') {
      try {
        const action = caller.intent === 'follow' ? 'follow' : 'join'
        this.#gate.demand(action, { service: name }, this.#gate.of(name), credentialsOf(caller))
      } catch (error) {
        turnAway(caller, FdbError.from(error))
        return
      }
    }
    switch (caller.intent) {
      case 'operate':
        // Its pidfd is for the rules, as long as it asks.
        serveCaller(
          { ...caller, pidfd: null },
          operationsFor(caller),
          { daemon: true, incarnation: services.incarnation },
          isForeign(caller) ? IDLE_MS : null,
        )
        return
      case 'draining':
      case 'follow': {
        const service = services.get(name)
        if (service !== undefined)
          service.forwards(caller, this.#gate.allows('join', this.#gate.of(name), credentialsOf(caller)))
        else if (caller.intent === 'follow') turnAway(caller, notThere(name))
        else dismiss(caller)
        return
      }
      case 'join':
      case 'back': {
        const service = services.of(caller)
        if (service === null) return
        if (caller.intent === 'back') service.back(caller)
        else {
          const decided = service.operations.decided(DECIDED_MS)
          if (decided === null) service.join(caller)
          else void this.#joinWhen(decided, service, { caller, own })
        }
      }
    }
  }

  /** The process that starts the next version may know that this one serves before this daemon hears of it. */
  async #joinWhen(decided: Promise<void>, service: Service, { caller, own }: Waiting): Promise<void> {
    this.#attend(caller)
    await decided
    if (!caller.link.open) return
    const same = this.#office?.services.get(service.name) === service
    if (same && this.#mayServe(caller)) service.join(caller)
    else this.receive(caller, own)
  }

  /** The next daemon: it is offered everything when no handoff of a member is under way. */
  async #receiveSuccessor({ caller, own }: Waiting): Promise<void> {
    const { link } = caller
    link.channel.pause()
    await this.#until(() => this.#stage !== 'opening')
    if (this.#stage === 'handing over' || this.#stage === 'opening') {
      this.#refuseSuccessor({ caller, own })
      return
    }
    const { runtime, services } = this.#office!
    if (this.#stage === 'open') {
      this.#stage = 'handing over'
      services.pause()
      await this.#until(() => this.#stage !== 'handing over' || !link.open || this.#isSettled)
    }
    if (this.#stage === 'over' || !link.open) dismiss(caller)
    else if (!this.#isSettled) {
      const why = `an upgrade of a member is under way, and has not ended within ${SETTLE_MS} ms: try again when it has`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
    } else {
      this.#admitted = true
      own(caller)
      if (link.open) link.channel.resume()
    }
    if (this.#stage === 'handing over' && !this.#admitted) this.open()
    else runtime.changes.notify()
  }

  /** There is a successor already. While that waits itself no other is offered anything; later the holder answers that it is busy. */
  #refuseSuccessor({ caller, own }: Waiting): void {
    if (this.#admitted) {
      own(caller)
      if (caller.link.open) caller.link.channel.resume()
    } else {
      const why = `process ${process.pid} begins to serve, or is about to hand over to another one: try again`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', why, { retryable: true }))
    }
  }

  async #until(holds: () => boolean): Promise<void> {
    await this.#office?.runtime.changes.until(holds, SETTLE_MS)
  }

  get #isSettled(): boolean {
    const { runtime, services } = this.#office!
    return services.settled && runtime.machine.holder?.phase === 'idle'
  }

  /** A successor that has failed leaves this daemon as it was. */
  #checkSuccessor(): void {
    const machine = this.#office?.runtime.machine
    const serves = machine?.phase === 'serving' || machine?.phase === 'unfit'
    if (this.#stage === 'handing over' && this.#admitted && serves && machine.holder?.phase === 'idle')
      this.open()
  }
}
