import { resolve } from 'node:path'
import { abortSignal, type Checks, checkOptions, flag, path, unchecked } from '../base/check-option.js'
import { type Logger, wrappedLogger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Caller } from '../holder/admission.js'
import { type HandoffTimes, resolveTimes } from '../holder/times.js'
import { requireAddon } from '../kernel/index.js'
import { findPlace } from '../member/join.js'
import { type Member, memberOf } from '../member/member.js'
import type { ReadyOptions, UpgradeOptions } from '../member/member-options.js'
import { settle } from '../member/options.js'
import type { MemberRuntime } from '../member/runtime.js'
import type { StayOptions } from '../member/stay.js'
import { DAEMON_ITSELF } from '../operator/asked-service.js'
import { serviceIn } from '../operator/held-descriptors.js'
import type { CommandContext, CommandOrder, Upgraded } from '../operator/requests.js'
import { RELOAD, STOP, type StopOrder, stopOrderOf, toldReply } from '../operator/service-commands.js'
import type { DaemonStatus } from '../operator/status-report.js'
import { fdLimits, residentBytes } from '../os/limits.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { ServiceManager } from '../os/service-manager/service-manager.js'
import { auditOver, type DaemonOperations, OperatorAccess } from './operator-access.js'
import { meansAll, type Orchestrator } from './orchestrator.js'
import { PersistedFds } from './persisted-fds.js'
import { AccessCheck, credentialsOf } from './policy/access-check.js'
import { OWNERS_ONLY } from './policy/policy.js'
import { DaemonReception } from './reception.js'
import { DescriptorStore } from './service/descriptor-store.js'
import type { HeldAlone } from './service/kept-state.js'
import { Services } from './services.js'

/** A disk may be slow; what kills a service that does not end waits for longer. */
const KEEP_MS = 30_000
/** The next daemon has loaded all that it needs when it is offered anything; members that come meanwhile wait. */
const READY_MS = 10_000

export interface DaemonOptions {
  /** Path of the control socket, at most 106 bytes. */
  control: string
  logger?: Logger
  /** Limits of the handoffs that it decides; those that a member gives in join() count before them where it is the incumbent. */
  upgrade?: Partial<HandoffTimes>
  /** `auto`: the service manager is told when it listens and ends, and that it lives, as `systemd` of `join()` says. Default `off`. */
  systemd?: 'auto' | 'off'
  /** A file that names the process that listens. */
  pidFile?: string
  /** Closes the daemon. */
  signal?: AbortSignal
  /**
   * Takes over from the daemon that listens there: its control socket, and what it holds of its services; it ends when this one serves.
   * Default: a path that another process holds is refused (ERR_FDB_CONTROL_TAKEN).
   */
  takeOver?: boolean
  /**
   * A file (YAML or JSON) with the access rules, the limits of a service and the fate of one without members: see docs/daemon.md. Default:
   * the user of this process, and root, may do everything. Rejects with ERR_FDB_CONFIG.
   */
  config?: string
  /** The fate of this process when the next daemon has taken over, and its end would end that one: see `mainProcess` of `join()`. */
  mainProcess?: 'refuse' | 'stays' | 'ends'
}

interface Insides {
  readonly member: Member
  readonly runtime: MemberRuntime
  readonly reception: DaemonReception
  readonly services: Services
  /** The service manager keeps what this daemon has. */
  readonly kept: boolean
  readonly policyFile: PolicyFile
  readonly orchestrator: Orchestrator | null
}

/**
 * `fd-broker serve`: holds sockets and state for members of any number of services, named by the members. A member that
 * was killed is replaced by the next one that joins, which gets its listeners (connections queue meanwhile) and every
 * acknowledged change. Members outlive the daemon: they serve on, and come back to the one that is started next, or takes over.
 */
export class Daemon implements AsyncDisposable {
  readonly control: string
  /** Resolves when it is closed, or another daemon has taken over. */
  readonly closed: Promise<void>
  readonly #member: Member
  readonly #runtime: MemberRuntime
  readonly #reception: DaemonReception
  readonly #services: Services
  /** Descriptors that operators have put. */
  readonly #descriptors: DescriptorStore
  readonly #startedAt = Date.now()
  readonly #kept: boolean
  readonly #policyFile: PolicyFile
  #closing = false
  readonly #orchestrator: Orchestrator | null

  /** @internal Use {@link serveDaemon}. */
  static of(insides: Insides): Daemon {
    return new Daemon(insides)
  }

  private constructor({ member, runtime, reception, services, policyFile, kept, orchestrator }: Insides) {
    this.#orchestrator = orchestrator
    this.#policyFile = policyFile
    this.control = runtime.settings.control ?? ''
    this.#member = member
    this.#runtime = runtime
    this.#reception = reception
    this.#services = services
    this.#kept = kept
    const { registry, wanted } = runtime
    const { logger } = runtime.settings
    const settled = () => !reception.handsOver
    const descriptors = new DescriptorStore(registry, wanted, settled, (what, name, pid) =>
      auditOver(logger, what, name, pid),
    )
    this.#descriptors = descriptors
    const operations: DaemonOperations = {
      status: shows => this.#status(shows),
      named: (service, shows) =>
        meansAll(orchestrator, service) ? DAEMON_ITSELF : services.only(service, shows).name,
      upgrade: (order, progress, cancel) => {
        if (meansAll(orchestrator, order.service)) return orchestrator.upgrade(order, progress, cancel)
        if (order.service !== DAEMON_ITSELF)
          return services.only(order.service).operations.upgrade(order, progress, cancel)
        const { argv, timeoutMs } = order
        return this.upgrade({ argv, progress, signal: cancel, ...(timeoutMs > 0 && { timeout: timeoutMs }) })
      },
      command: (order, context) => this.#command(order, context, runtime),
    }
    const { shares } = reception
    const { gate } = policyFile
    const workerListener = orchestrator && ((key: string) => orchestrator.listener(key))
    const checks = { operations, store: descriptors, gate, shares, logger, workerListener }
    const operationsFor = (caller: Caller) => new OperatorAccess(checks, credentialsOf(caller))
    reception.staff({ runtime, services, operationsFor })
    const take = () => {
      services.restore()
      descriptors.takeOver()
    }
    const serves = () => reception.open(take)
    const leaves = (how: { readonly kept: boolean }) => {
      reception.close()
      services.close(how)
      descriptors[Symbol.dispose]()
    }
    member.on('serving', serves)
    member.on('reinstated', serves)
    // The next daemon has what this one had, unless there is none.
    member.on('retiring', () => leaves({ kept: kept || !runtime.shutdown.ended }))
    // The state is safe before anybody else can be the first of a service here.
    member.whileServing(() => () => (this.#closing ? services.keepState(KEEP_MS) : undefined))
    this.closed = member.retired.then(() => leaves({ kept }))
  }

  /** Returns what `fd-broker status --json` prints of a daemon. */
  async status(): Promise<DaemonStatus> {
    return await this.#status(() => true)
  }

  async #status(shows: (service: string | null) => boolean): Promise<DaemonStatus> {
    const shown = this.#services.all.filter(({ name }) => shows(name))
    const services = await Promise.all(shown.map(({ operations }) => operations.status()))
    return {
      hosting: 'daemon',
      control: this.control,
      pid: process.pid,
      generation: this.#member.generation,
      startedAt: new Date(this.#startedAt).toISOString(),
      rssBytes: residentBytes(),
      descriptors: this.#descriptors.size,
      programs: this.#descriptors.usersOf(name => shows(serviceIn(name))),
      ...this.#orchestrator?.status(),
      services,
    }
  }

  /** Counts the daemons that have taken over one from the other: 1 for the first. */
  get generation(): number {
    return this.#member.generation
  }

  /** @internal Descriptors and state that no living member has and no service manager keeps: they are lost when this daemon closes or ends. */
  get heldAlone(): HeldAlone[] {
    return this.#kept ? [] : [...this.#services.heldAlone, ...this.#descriptors.heldAlone]
  }

  /**
   * Starts the next daemon (same command, unless `argv` says otherwise), which takes over when it calls {@link serveDaemon} with
   * `takeOver`; resolves when it serves, and this one ends. Members come back to it, and serve meanwhile. Rejects as
   * `upgrade` of a member does, and this daemon goes on.
   */
  async upgrade(options: UpgradeOptions = {}): Promise<Upgraded> {
    return await this.#member.upgrade(options)
  }

  /** Joining processes wait until {@link resume}. Members, and those that come back, are served as before. */
  pause(): void {
    this.#reception.hold()
  }

  /** Behind {@link pause}. */
  resume(): void {
    this.#reception.admit()
  }

  /**
   * Reads the file of `config` anew: it counts for all that is asked from now on; who is a member stays one. Rejects with
   * ERR_FDB_CONFIG, and what counted before counts on. Does nothing without `config`.
   */
  async reload(): Promise<void> {
    await this.#policyFile.reload()
    this.#services.governed()
    this.#runtime.controlSocket.adjust()
  }

  /** As `stay` of a member. */
  async stay(options: StayOptions = {}): Promise<number> {
    return await this.#member.stay(options)
  }

  /** @internal Another daemon serves, and this process stays for it. */
  get staysForOthers(): boolean {
    return this.#member.staysForOthers
  }

  /**
   * Members serve on and keep their descriptors. The daemon closes those that only it holds: before, it writes the state to the members'
   * state file, if they have one. Idempotent.
   */
  async close(): Promise<void> {
    this.#closing = true
    await this.#member.close({ timeout: 0, handBack: false })
    await this.closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #command(order: CommandOrder, context: CommandContext, runtime: MemberRuntime): Promise<Uint8Array> {
    const { name, body, service } = order
    const done = meansAll(this.#orchestrator, service) ? this.#orchestrator.command(name, body) : null
    if (done != null) return await done
    if (name === STOP && (service === '' || service === DAEMON_ITSELF)) return this.#stop(stopOrderOf(body))
    if (name === RELOAD && service === DAEMON_ITSELF) {
      await this.reload()
      return this.#told()
    }
    if (service === DAEMON_ITSELF)
      return await runtime.commands.run(name, body, context, runtime.machine.phase)
    const asked = service || (this.#orchestrator?.service ?? '')
    return await this.#services.only(asked).operations.command(order, context)
  }

  /** The answer leaves first. */
  #stop({ drop }: StopOrder): Buffer {
    const alone = this.heldAlone.map(({ service }) => service || 'the descriptors that were put')
    if (alone.length > 0 && !drop) {
      throw new FdbError(
        'ERR_FDB_HELD_ALONE',
        `no living member has what this daemon holds of ${alone.join(', ')}, and it would be lost: start a member, or stop it with --drop`,
      )
    }
    setImmediate(() => void this.close())
    return this.#told()
  }

  #told(): Buffer {
    return Buffer.from(toldReply({ pid: process.pid, generation: this.#member.generation }))
  }
}

const OPTIONS: Checks<DaemonOptions> = {
  control: path(),
  config: path('the path of a file'),
  logger: unchecked,
  upgrade: unchecked,
  systemd: unchecked,
  pidFile: unchecked,
  signal: abortSignal,
  takeOver: flag,
  mainProcess: unchecked,
}

/** Starts a daemon. Rejects with ERR_FDB_OPTION, and with ERR_FDB_CONTROL_TAKEN when another process holds the path. */
export async function serveDaemon(options: DaemonOptions): Promise<Daemon> {
  return await openDaemon(options)
}

/** Opens a daemon with an orchestrator of its services. */
export async function openDaemon(
  options: DaemonOptions,
  oversees: (services: Services) => Orchestrator | null = () => null,
): Promise<Daemon> {
  checkOptions('serveDaemon()', options, OPTIONS)
  OPTIONS.control(options.control, 'control')
  requireAddon()
  const {
    config,
    control,
    logger: given,
    mainProcess,
    pidFile,
    signal,
    systemd,
    takeOver = false,
    upgrade,
  } = options
  const logger = wrappedLogger(given)
  const times = resolveTimes(upgrade)
  // Before anything is taken over.
  const policyFile = await PolicyFile.of(config ?? null, logger)
  const reception = new DaemonReception(policyFile.gate, {
    passed: passedSockets().takePath(resolve(control)),
    takesOver: takeOver,
  })
  const settings = settle({
    service: DAEMON_ITSELF,
    control,
    logger,
    // Members go back to the process that serves: a standby is not needed.
    upgrade: { probation: 0, ready: READY_MS, quiesce: KEEP_MS },
    ...(signal !== undefined && { signal }),
    ...(systemd !== undefined && { systemd }),
    ...(pidFile !== undefined && { pidFile }),
    ...(mainProcess !== undefined && { mainProcess }),
  })
  const driver = await findPlace({ ...settings, reception }).catch(error => {
    reception.passed?.close()
    throw error
  })
  const member = memberOf(driver)
  const { changes, registry, wanted } = driver.runtime
  const persisted = new PersistedFds(registry, wanted)
  const services = new Services({
    control: settings.control!,
    times,
    logger,
    persisted,
    gate: policyFile.gate,
    shares: reception.shares,
    changed: () => {
      changes.notify()
      orchestrator?.servicesChanged()
    },
    receiver: service => orchestrator?.receiver(service) ?? undefined,
  })
  const orchestrator = oversees(services)
  const kept = systemd === 'auto' && ServiceManager.find(logger)?.storeFor(DAEMON_ITSELF) != null
  const daemon = Daemon.of({
    member,
    runtime: driver.runtime,
    reception,
    services,
    policyFile,
    kept,
    orchestrator,
  })
  await member.ready(member.incumbent === null ? {} : checkingRoom(services, persisted))
  // It came when it was too late not to listen.
  if (signal?.aborted) {
    await daemon.close()
    throw signal.reason
  }
  signal?.addEventListener('abort', () => void daemon.close(), { once: true })
  return daemon
}

/** Keeps the rules of a daemon as its file says them. */
class PolicyFile {
  readonly gate: AccessCheck
  readonly #file: string | null
  readonly #logger: Logger

  /** `file` null: there is none, and others may do nothing. Rejects with ERR_FDB_CONFIG. */
  static async of(file: string | null, logger: Logger): Promise<PolicyFile> {
    const policy = file === null ? OWNERS_ONLY : await read(file)
    return new PolicyFile(new AccessCheck(policy, logger), file, logger)
  }

  private constructor(gate: AccessCheck, file: string | null, logger: Logger) {
    this.gate = gate
    this.#file = file
    this.#logger = logger
  }

  /** Rejects with ERR_FDB_CONFIG: the rules stay as they were. */
  async reload(): Promise<void> {
    if (this.#file === null) return
    this.gate.policy = await read(this.#file)
    this.#logger.info({ config: this.#file }, 'the configuration was read anew, and counts')
  }
}

/** Loaded here: a daemon without a file starts faster without. */
async function read(file: string) {
  const { readPolicy } = await import('./policy/schema.js')
  return readPolicy(file)
}

/** A member that comes back: its connection, its pidfd, and a watch of each of those who wait for it. */
const OF_A_MEMBER = 4
/** Descriptors for operators, joining processes, and files that are read. */
const OF_OTHERS = 16

/** For a daemon that takes over, as long as the one before serves: members have nowhere else to go where there is none. */
export function checkingRoom(
  services: Pick<Services, 'expected'>,
  persisted: Pick<PersistedFds, 'largest' | 'demandReadable'>,
): ReadyOptions {
  const room = () => demandRoom(services.expected, persisted.largest)
  return { checks: [room, () => persisted.demandReadable()] }
}

/** Throws ERR_FDB_NO_DESCRIPTORS if members could not come back for lack of them. `brought`: the most that one of them brings. */
function demandRoom(members: number, brought: number): void {
  const { open, soft } = fdLimits()
  if (open === null || soft === null) return
  const more = members * OF_A_MEMBER + brought + OF_OTHERS
  if (open + more <= soft) return
  throw new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    `process ${process.pid} cannot take over: it has ${open} descriptors open with those that it was given, needs ${more} more for ${members} members that come back, ` +
      `and may have ${soft}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) and try again; the daemon before goes on`,
    { retryable: true, details: { open, more, members, soft } },
  )
}
