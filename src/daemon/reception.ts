import { SOCKET_MODES } from '../base/socket-modes.js'
import { FdbError } from '../errors.js'
import type { HolderState } from '../handoff/holder-machine.js'
import { type Caller, dismiss, isForeign, serveCaller, turnAway } from '../holder/admission.js'
import { DECIDED_MS } from '../holder/times.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import type { Reception } from '../member/options/options.js'
import type { MemberRuntime } from '../member/runtime.js'
import type { Operations } from '../operator/requests.js'
import { DAEMON_ITSELF } from '../operator/service-name.js'
import type { ForeignUser } from '../wire/foreign-user.js'
import { SMALL_FRAMES } from '../wire/frame.js'
import { type AccessCheck, type ClientIdentity, clientIdentity } from './policy/access-check.js'
import { noStateError } from './service/followers.js'
import type { Service } from './service/service.js'
import type { Services } from './services.js'
import { UserQuotas } from './user-quotas.js'

/** Time for running upgrades of members to end when the next daemon wants to take over. The next daemon itself waits longer. */
const SETTLE_MS = 5_000
/** Number of services that an error names. */
const NAMED = 3

/** The daemon disconnects an operator of another user after this time without a waiting request, a watch or a claim. */
const IDLE_MS = 60_000

export interface DaemonContext {
  readonly runtime: {
    readonly settings: Pick<MemberRuntime['settings'], 'control' | 'logger'>
    readonly machine: Pick<MemberRuntime['machine'], 'changes' | 'phase'> & {
      readonly holder: Pick<HolderState, 'phase'> | null
    }
    readonly clients: Pick<MemberRuntime['clients'], 'receive'>
  }
  readonly services: Services
  /** Takes over the services of this daemon itself: their members return. */
  restart(): void
  /** Returns the operations that a client may use after its Hello. Takes ownership of the caller's pidfd. */
  operationsFor(caller: Caller): Operations
}

/**
 * Receives the clients of a daemon's control socket. During the daemon's own handoff nothing that it holds may change, so clients that
 * would change it wait. If the next daemon fails, this one serves them; otherwise this one closes their connections and they connect to the next one.
 */
export class DaemonReception implements Reception {
  readonly passed: OwnedFd | null
  readonly takesOver: boolean
  readonly #accessCheck: AccessCheck
  readonly quotas = new UserQuotas()
  #context: DaemonContext | null = null
  #stage: 'opening' | 'open' | 'handing over' | 'over' = 'opening'
  /** The successor was passed on to the daemon's holder, whose phase shows the outcome. */
  #admitted = false
  /** The successor was told to serve. */
  #committed = false
  #admits = true
  #waiting: Caller[] = []

  constructor(accessCheck: AccessCheck, { passed, takesOver }: Pick<Reception, 'passed' | 'takesOver'>) {
    this.#accessCheck = accessCheck
    this.passed = passed
    this.takesOver = takesOver
  }

  /** Sets the daemon's parts, before it serves. */
  attach(context: DaemonContext): void {
    this.#context = context
    context.runtime.machine.changes.watch(() => this.#checkSuccessor())
  }

  /** Restores the held items, then serves. If `restore` throws, serves with the items that it has restored: no other daemon serves them. */
  open(restore: () => void = () => {}): void {
    try {
      restore()
    } finally {
      this.#stage = 'open'
      this.#admitted = false
      this.#committed = false
      this.#context?.services.resume()
      this.#serveWaiting()
      this.#context?.runtime.machine.changes.notify()
    }
  }

  /** Whether the daemon is being handed over, so that the held items must not change. */
  get handsOver(): boolean {
    return this.#stage === 'handing over' || this.#stage === 'over'
  }

  /** Makes joining processes wait until {@link admit}; members and operators are served as before. */
  hold(): void {
    this.#admits = false
  }

  admit(): void {
    this.#admits = true
    this.#serveWaiting()
  }

  /** Disconnects waiting clients, because this daemon no longer serves; they connect again. */
  close(): void {
    this.#stage = 'over'
    for (const caller of this.#waiting.splice(0)) dismiss(caller)
  }

  describe(): string {
    const { runtime, services } = this.#context ?? {}
    const size = services?.size ?? 0
    return `holds ${size === 1 ? 'a service' : `${size} services`} at ${runtime?.settings.control ?? ''}`
  }

  receive(caller: Caller): void {
    const { hello, intent } = caller
    if (this.#stage === 'over') dismiss(caller)
    else if (hello.service === DAEMON_ITSELF && intent !== 'operate') {
      if (this.#refuses(caller, peer => this.#accessCheck.demandOwner(DAEMON_ITSELF, peer))) return
      if (intent === 'join') void this.#receiveSuccessor(caller)
      else this.#passOn(caller)
    } else if (this.#mayServe(caller)) this.#serve(caller)
    else {
      this.#waiting.push(caller)
      if (intent === 'join') this.#attend(caller)
      else caller.link.channel.pause()
    }
  }

  mayConnect(uid: number): boolean {
    return this.#accessCheck.mayConnect(uid)
  }

  connected(uid: number, closed: Promise<void>): FdbError | null {
    return this.quotas.connect(uid, closed)
  }

  foreignUserOf(uid: number): ForeignUser | undefined {
    return this.quotas.foreignUserOf(uid)
  }

  /** If no rule mentions other users, the kernel keeps them out. */
  get controlMode(): number {
    return this.#accessCheck.opensToOthers ? SOCKET_MODES.sharedControl : SOCKET_MODES.control
  }

  /** Runs an access check; if it throws, refuses the client. Returns whether the client was refused. */
  #refuses(caller: Caller, demand: (peer: ClientIdentity) => void): boolean {
    try {
      demand(clientIdentity(caller))
      return false
    } catch (error) {
      turnAway(caller, FdbError.from(error))
      return true
    }
  }

  /** Watches a waiting process, which sends nothing before its Welcome, for the end of its connection. */
  #attend(caller: Caller): void {
    const left = () => {
      this.#waiting = this.#waiting.filter(waiting => waiting !== caller)
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
    for (const caller of this.#waiting.splice(0)) {
      if (!caller.link.open) dismiss(caller)
      else {
        this.receive(caller)
        if (this.#mayServe(caller) && caller.link.open) caller.link.channel.resume()
      }
    }
  }

  #serve(caller: Caller): void {
    const { operationsFor, services } = this.#context!
    const check = this.#accessCheck
    const name = caller.hello.service ?? ''
    const policy = check.policyOf(name)
    const action = caller.intent === 'follow' ? 'follow' : 'join'
    const demand = (peer: ClientIdentity) => check.demand(action, { service: name }, policy, peer)
    if (caller.intent !== 'operate' && this.#refuses(caller, demand)) return
    const { link } = caller
    switch (caller.intent) {
      case 'operate':
        // Only commands and upgrades have long messages.
        if (check.operatesAny(clientIdentity(caller))) link.channel.allow({ fds: SMALL_FRAMES.fds })
        // The operations own the pidfd: the access check uses it for every request.
        serveCaller(
          { ...caller, pidfd: null },
          operationsFor(caller),
          { daemon: true, incarnation: services.incarnation },
          isForeign(caller) ? { idleMs: IDLE_MS } : {},
        )
        return
      case 'draining':
      case 'follow': {
        const service = services.get(name)
        const writes = check.allows('join', policy, clientIdentity(caller))
        if (writes) link.channel.allow({})
        if (service !== undefined) service.addAuthor(caller, writes)
        else if (caller.intent === 'follow') turnAway(caller, noStateError(name))
        else dismiss(caller)
        return
      }
      case 'join':
      case 'back': {
        const service = services.findOrCreate(caller)
        if (service === null) return
        link.channel.allow({})
        if (caller.intent === 'back') service.back(caller)
        else {
          const decided = service.operations.whenDecided(DECIDED_MS)
          if (decided === null) service.join(caller)
          else void this.#joinWhen(decided, service, caller)
        }
      }
    }
  }

  /** Lets a successor join when `decided` resolves. The successor's starter may learn earlier than this daemon that the current version serves. */
  async #joinWhen(decided: Promise<void>, service: Service, caller: Caller): Promise<void> {
    this.#attend(caller)
    await decided
    if (!caller.link.open) return
    if (service.joinsAnew(caller)) await service.operations.whenDecided(DECIDED_MS)
    if (!caller.link.open) return
    const same = this.#context?.services.get(service.name) === service
    if (same && this.#mayServe(caller)) service.join(caller)
    else this.receive(caller)
  }

  /** Passes the next daemon on to the holder, which offers it everything, when no handoff of a member is running. */
  async #receiveSuccessor(caller: Caller): Promise<void> {
    const { link } = caller
    link.channel.pause()
    await this.#until(() => this.#stage !== 'opening')
    // The successor of a member cannot join any more when the services are paused.
    await this.#until(() => this.#stage !== 'open' || !link.open || this.#upgrading.length === 0)
    // For a next daemon that has gone no handoff of a member is ended.
    if (!link.open) {
      dismiss(caller)
      return
    }
    if (this.#stage === 'handing over' || this.#stage === 'opening') {
      this.#refuseSuccessor(caller)
      return
    }
    const { runtime, services } = this.#context!
    if (this.#stage === 'open' && this.#upgrading.length > 0) {
      turnAway(caller, upgradingError(this.#upgrading))
      return
    }
    if (this.#stage === 'open') {
      this.#stage = 'handing over'
      services.pause()
      for (const service of services.busy) service.cancelForDaemon(handsOverError())
      await this.#until(() => this.#stage !== 'handing over' || !link.open || this.#isSettled)
    }
    const busy = this.#isSettled ? [] : services.busy
    if (this.#stage === 'over' || !link.open) dismiss(caller)
    else if (!this.#mayHandOver) {
      const texts = busy.slice(0, NAMED).map(service => service.handoffText)
      const reason = `an upgrade is running in ${texts.join(', ') || 'the daemon'}, and has not ended within ${SETTLE_MS} ms: try again when it has ended, or end that process`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', reason, { retryable: true }))
    } else {
      if (busy.length > 0) {
        const texts = busy.slice(0, NAMED).map(service => service.handoffText)
        runtime.settings.logger.warn(
          { handoffs: texts },
          'the daemon hands over although upgrades of other users have not ended: the next daemon decides them, as after a crash of this one',
        )
      }
      this.#handOver(caller)
    }
    if (this.#stage === 'handing over' && !this.#admitted) this.open()
    else runtime.machine.changes.notify()
  }

  /** Without the list of rights-holders the next daemon would not wait for the members, and would end them. */
  #handOver(caller: Caller): void {
    try {
      this.#context!.services.writeForSuccessor()
    } catch (error) {
      turnAway(caller, FdbError.from(error))
      return
    }
    this.#admitted = true
    this.#passOn(caller)
  }

  /** Refuses a second successor. If the holder already has the first one, the holder answers that it is busy. */
  #refuseSuccessor(caller: Caller): void {
    if (this.#admitted) this.#passOn(caller)
    else {
      const reason = `process ${process.pid} is starting to serve, or is about to hand over to another daemon: try again`
      turnAway(caller, new FdbError('ERR_FDB_BUSY', reason, { retryable: true }))
    }
  }

  /** Passes a client of the daemon itself on to its control socket. */
  #passOn(caller: Caller): void {
    this.#context!.runtime.clients.receive(caller)
    if (caller.link.open) caller.link.channel.resume()
  }

  async #until(holds: () => boolean): Promise<void> {
    await this.#context?.runtime.machine.changes.until(holds, SETTLE_MS)
  }

  get #upgrading(): readonly Service[] {
    return this.#context?.services.upgrading ?? []
  }

  get #isSettled(): boolean {
    const { runtime, services } = this.#context!
    return services.idle && runtime.machine.holder?.phase === 'idle'
  }

  /** Whether at most handoffs of other users are running, for which the daemon waits no longer. */
  get #mayHandOver(): boolean {
    const { runtime, services } = this.#context!
    return (
      services.busy.every(({ operations }) => operations.isOthers) && runtime.machine.holder?.phase === 'idle'
    )
  }

  /**
   * Serves again if the successor has failed. If that one was told to serve, members may have returned to it, and write in segments that it has given
   * them: they have to return to this daemon, as after a restart.
   */
  #checkSuccessor(): void {
    const { machine } = this.#context?.runtime ?? {}
    const serves = machine?.phase === 'serving' || machine?.phase === 'unfit'
    if (this.#stage !== 'handing over' || !this.#admitted) return
    this.#committed ||= machine?.holder?.phase === 'committing'
    if (!serves || machine.holder?.phase !== 'idle') return
    const isCommitted = this.#committed
    this.#stage = 'opening'
    this.open(() => isCommitted && this.#context?.restart())
  }
}

/** Refuses the next daemon amid upgrades of members: their successors may not have joined yet. */
function upgradingError(services: readonly Service[]): FdbError {
  const names = services.slice(0, NAMED).map(({ name }) => `"${name}"`)
  const reason = `an upgrade of ${names.join(', ')} has not ended within ${SETTLE_MS} ms: try again when it has ended`
  return new FdbError('ERR_FDB_BUSY', reason, { retryable: true })
}

/** Ends the handoff of a member whose upgrade would keep the daemon from its own. */
function handsOverError(): FdbError {
  const reason =
    'the daemon hands over to its next version, and the upgrade of this service is one of another user, or has lasted longer than the limit upgrade.ready of the daemon: try again'
  return new FdbError('ERR_FDB_BUSY', reason, { retryable: true })
}
