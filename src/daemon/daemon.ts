import { resolve } from 'node:path'
import { withinLimit } from '../base/limited-signal.js'
import { type Logger, SILENT, wrappedLogger } from '../base/logger.js'
import { startThreadPool } from '../base/thread-pool.js'
import type { HookSettings } from '../checks/hooks.js'
import { abortSignal, checkOptions, type Given, logger, path } from '../checks/options.js'
import { absent, map, optional, required, type ShapeOf } from '../checks/shape.js'
import { boolean, unchecked } from '../checks/values.js'
import { FdbError } from '../errors.js'
import { EVENTS_COMMAND } from '../events/events.js'
import { orderFacts, type Requester } from '../events/requester.js'
import type { Caller } from '../holder/admission.js'
import type { HookGroup } from '../holder/hook-group.js'
import type { Peer } from '../holder/peer.js'
import { type HandoffTimes, handoffTimes } from '../holder/times.js'
import { type OwnedFd, requireAddon, startApart } from '../kernel/index.js'
import { startMember } from '../member/joining/join.js'
import { type Member, memberOf, UPGRADE } from '../member/member.js'
import type { StayOptions } from '../member/operator/stay.js'
import type { ReadyOptions, UpgradeOptions } from '../member/options/member-options.js'
import { resolveOptions } from '../member/options/options.js'
import type { MemberRuntime } from '../member/runtime.js'
import { serviceOfName } from '../operator/held-descriptors.js'
import {
  type CommandContext,
  type CommandOrder,
  refuseWithout,
  type Upgraded,
  type UpgradeOrder,
  type UpgradeProgress,
} from '../operator/requests.js'
import {
  GAUGES,
  GAUGES_MS,
  ORDER_EVENTS,
  processReply,
  readStopOrder,
  STOP,
  type StopOrder,
  stopBody,
} from '../operator/service-commands.js'
import { DAEMON_ITSELF } from '../operator/service-name.js'
import type { DaemonStatus, Failure } from '../operator/status-report.js'
import { fdLimits, residentBytes } from '../os/limits.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { ServiceManager } from '../os/service-manager/service-manager.js'
import { TURN_ACCEPTS } from '../wire/control-listener.js'
import { chargeTurn, type ForeignUser } from '../wire/foreign-user.js'
import { auditEnd, type DaemonOperations, OperatorAccess } from './operator-access.js'
import { PersistedFds } from './persisted-fds.js'
import { AccessCheck, clientIdentity } from './policy/access-check.js'
import { OWNERS_ONLY, type Policy } from './policy/policy.js'
import { DaemonReception } from './reception.js'
import { DescriptorStore } from './service/descriptor-store.js'
import type { Service } from './service/service.js'
import type { ServiceReport } from './service/service-operations.js'
import type { SoleCopy } from './service/sole-copy.js'
import { Services } from './services.js'

/** Time to write the state to a slow disk; shorter than the time after which service managers kill a stopping service. */
const KEEP_MS = 30_000
/** Time limit for the next daemon from the Offer until it is ready: its code was loaded before, and members that connect must wait. */
const READY_MS = 10_000

export interface DaemonOptions {
  /** Path of the control socket, at most 106 bytes. */
  control: string
  logger?: Logger | undefined
  /** Time limits of the handoffs that the daemon decides. The limits that the incumbent member gave to join() have precedence. */
  upgrade?: Given<HandoffTimes> | undefined
  /** `auto`: notifies the service manager when the daemon listens, lives and ends, as `systemd` of `join()` does. Default `off`. */
  systemd?: 'auto' | 'off' | undefined
  /** A file to which the listening daemon writes its pid. */
  pidFile?: string | undefined
  /** An abort closes the daemon. */
  signal?: AbortSignal | undefined
  /**
   * Takes over from the daemon that listens at `control`: its control socket and everything that it holds. That daemon ends when this one serves.
   * Default false: rejects with ERR_FDB_CONTROL_TAKEN if another process listens there.
   */
  takeOver?: boolean | undefined
  /**
   * A file (YAML or JSON) with access rules, limits per service and the action for a service without members: see docs/daemon.md. By default
   * only the user of this process and root may use the daemon. Rejects with ERR_FDB_CONFIG.
   */
  config?: string | undefined
  /** The behaviour of this process after the next daemon has taken over, if its exit would end that daemon too: see `mainProcess` of `join()`. */
  mainProcess?: 'refuse' | 'stays' | 'ends' | undefined
}

interface DaemonDeps {
  readonly member: Member
  readonly runtime: MemberRuntime
  readonly reception: DaemonReception
  readonly services: Services
  /** Access rules, and the file from which they are read again; null without a file. */
  readonly rules: { readonly accessCheck: AccessCheck; readonly config: string | null }
  readonly orchestrator: Orchestrator | null
}

/**
 * The daemon of `fd-broker serve`: holds sockets and state for the members of any number of services, which the members name. If a member
 * is killed, connections queue until the next member joins; that one gets the listeners and every acknowledged change. If the daemon ends,
 * its members keep serving, and reconnect to the daemon that is started next or takes over.
 */
export class Daemon implements AsyncDisposable {
  readonly control: string
  /** Resolves when the daemon is closed or another daemon has taken over. */
  readonly closed: Promise<void>
  readonly #deps: DaemonDeps
  /** The descriptors that operators have put. */
  readonly #descriptors: DescriptorStore
  /** The service manager stores the descriptors of this daemon. */
  readonly #keptByManager: boolean
  readonly #startedAt = Date.now()
  #closing = false

  /** @internal Use {@link serveDaemon}. */
  static of(deps: DaemonDeps): Daemon {
    return new Daemon(deps)
  }

  private constructor(deps: DaemonDeps) {
    this.#deps = deps
    const { member, runtime, reception, services, orchestrator } = deps
    const { accessCheck } = deps.rules
    const { control, logger, systemd } = runtime.settings
    this.control = control ?? ''
    const keptByManager = systemd === 'auto' && ServiceManager.find(logger)?.storeFor(DAEMON_ITSELF) != null
    this.#keptByManager = keptByManager
    const { quotas } = reception
    const settled = () => !reception.handsOver
    const descriptors = new DescriptorStore(runtime.registry, settled, (what, name, pid) =>
      auditEnd(logger, what, name, pid),
    )
    this.#descriptors = descriptors
    const operations: DaemonOperations = {
      status: (shows, user) => this.#status(shows, user),
      resolveService: (service, shows) =>
        addressesAll(orchestrator, service) ? DAEMON_ITSELF : services.find(service, shows).name,
      upgrade: async (order, progress, cancel, by) => {
        if (addressesAll(orchestrator, order.service))
          return orchestrator.upgrade(order, progress, cancel, by)
        if (order.service !== DAEMON_ITSELF)
          return services.find(order.service).operations.upgrade(order, progress, cancel, by)
        const { argv, timeoutMs, without } = order
        refuseWithout(without, 'is a daemon')
        return this.upgradeFor(by, {
          ...(argv.length > 0 && { argv }),
          progress,
          signal: cancel,
          ...(timeoutMs > 0 && { timeout: timeoutMs }),
        })
      },
      command: (order, context) => this.#command(order, context, runtime),
      stopped: orchestrator === null ? DAEMON_ITSELF : '',
    }
    const workerListener = orchestrator && ((key: string) => orchestrator.listener(key))
    const checks = { operations, store: descriptors, accessCheck, quotas, logger, workerListener }
    const operationsFor = (caller: Caller) => new OperatorAccess(checks, clientIdentity(caller))
    const restart = () => {
      orchestrator?.replaced()
      services.close({ kept: true })
      restore()
    }
    reception.attach({ runtime, services, restart, operationsFor })
    const restore = () => {
      services.restore()
      descriptors.takeOver(uid => quotas.foreignUserOf(uid)?.fds ?? null)
    }
    const onServing = () => reception.open(restore)
    const close = (how: { readonly kept: boolean }) => {
      reception.close()
      // The services tell it what it must not end.
      orchestrator?.replaced()
      services.close(how)
      descriptors[Symbol.dispose]()
    }
    member.onReload(() => this.#reload())
    member.on('serving', onServing)
    member.on('reinstated', onServing)
    // `kept`: the next daemon, or the service manager, has the same descriptors too. Otherwise their last copies are closed.
    member.on('retiring', () => close({ kept: keptByManager || !runtime.shutdown.ended }))
    // The state is on disk before another process can start to serve one of the services.
    member.whileServing(() => () => (this.#closing ? services.keepState(KEEP_MS) : undefined))
    this.closed = member.retired.then(() => close({ kept: keptByManager }))
  }

  /** Returns the status that `fd-broker status --json` prints. */
  async status(): Promise<DaemonStatus> {
    return await this.#status(() => true)
  }

  async #status(shows: (service: string | null) => boolean, user?: ForeignUser): Promise<DaemonStatus> {
    const { orchestrator } = this.#deps
    const isOver = ({ name, unserved }: Service) => unserved && orchestrator?.isSurplus(name)
    const shown = this.#deps.services.all.filter(service => shows(service.name) && !isOver(service))
    const reports = await Promise.all(shown.map(({ operations }) => operations.report()))
    if (user !== undefined) chargeTurn(user)
    const services = describeAll(reports)
    return {
      hosting: 'daemon',
      control: this.control,
      pid: process.pid,
      generation: this.generation,
      startedAt: new Date(this.#startedAt).toISOString(),
      rssBytes: residentBytes(),
      descriptors: this.#descriptors.size,
      programs: this.#descriptors.usersOf(name => shows(serviceOfName(name))),
      ...orchestrator?.status(),
      services,
    }
  }

  /** The number of daemons since the first, each of which took over from the previous one. Counts from 1. */
  get generation(): number {
    return this.#deps.member.generation
  }

  /** @internal Descriptors and state that no living member has and no service manager stores: they are lost when this daemon ends. */
  get soleCopies(): SoleCopy[] {
    const { services } = this.#deps
    return this.#keptByManager ? [] : [...services.soleCopies, ...this.#descriptors.soleCopies]
  }

  /**
   * Starts the next daemon (with the same command, unless `argv` is given), which takes over when it calls {@link serveDaemon} with
   * `takeOver`. Resolves when that daemon serves; this one then ends. Members keep serving and reconnect to the next daemon. Rejects as
   * `upgrade` of a member does; this daemon then continues.
   */
  async upgrade(options: UpgradeOptions = {}): Promise<Upgraded> {
    return await this.upgradeFor(undefined, options)
  }

  /** @internal As {@link upgrade}, at the order of an operator. */
  async upgradeFor(by: Requester | undefined, options: UpgradeOptions): Promise<Upgraded> {
    return await this.#deps.runtime.upgrades.start(checkOptions('upgrade()', options, UPGRADE), by && { by })
  }

  /** @internal The last failure of an upgrade of this daemon. */
  get lastFailure(): Failure | null {
    return this.#deps.runtime.upgrades.lastFailure
  }

  /** Makes joining processes wait until {@link resume}. Connected and returning members are served as before. */
  pause(): void {
    this.#deps.reception.hold()
  }

  /** Ends {@link pause}. */
  resume(): void {
    this.#deps.reception.admit()
  }

  /**
   * Reads the file of `config` again. The new rules apply to all later requests; current members stay members. Rejects with
   * ERR_FDB_CONFIG if the file is wrong: the previous rules then stay in effect. Does nothing without `config`.
   */
  async reload(): Promise<void> {
    await this.#deps.runtime.reloading.run()
  }

  async #reload(): Promise<void> {
    const { rules, runtime, services } = this.#deps
    const { accessCheck, config } = rules
    if (config === null) return
    const { readPolicyAgain } = await import('./policy/schema.js')
    accessCheck.policy = readPolicyAgain(config)
    runtime.settings.logger.info({ config }, 'the configuration was reloaded')
    services.applyPolicy()
    runtime.controlSocket.adjust()
  }

  /** Keeps this process alive for the next daemon, as `stay` of a member does. */
  async stay(options: StayOptions = {}): Promise<number> {
    return await this.#deps.member.stay(options)
  }

  /**
   * @internal Refuses the next daemon, which joins or is started by {@link upgrade}, because an operator ends all services. Throws
   * ERR_FDB_FENCED (retryable) if that one serves already.
   */
  async refuseSuccessor(): Promise<void> {
    const { reception, runtime } = this.#deps
    const { clients, hosting, machine, settings, upgrades } = runtime
    const why = new FdbError('ERR_FDB_ABORTED', 'an operator has stopped the service')
    hosting.refuseJoiner(why)
    clients.refuseWaiting(why)
    void upgrades.end(0)
    await machine.changes.until(() => !reception.handsOver, settings.times.commit)
    if (!reception.handsOver) return
    throw new FdbError(
      'ERR_FDB_FENCED',
      `process ${process.pid} hands over to the next one: connect again to reach the process that serves`,
      { retryable: true },
    )
  }

  /** @internal Whether another daemon serves and this process stays alive for it. */
  get staysForOthers(): boolean {
    return this.#deps.member.staysForOthers
  }

  /**
   * Closes the daemon. Members keep serving and keep their descriptors. The daemon closes the descriptors that only it holds, after it has
   * written their state to the members' state file, if they have one. Idempotent.
   */
  async close(): Promise<void> {
    this.#closing = true
    await this.#deps.member.close({ timeout: 0, handBack: false })
    await this.closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #command(order: CommandOrder, context: CommandContext, runtime: MemberRuntime): Promise<Uint8Array> {
    const { name, body, service } = order
    const { orchestrator, services } = this.#deps
    if (addressesAll(orchestrator, service)) {
      if (name === EVENTS_COMMAND)
        return await runtime.commands.run(name, body, context, runtime.machine.phase)
      if (name === GAUGES) return await this.#gauges(order, context)
      const reply = orchestrator.command(name, body, context)
      if (reply !== null) {
        const type = ORDER_EVENTS.get(name)
        if (type !== undefined) runtime.events.note(type, orderFacts(context.by))
        return await reply
      }
    }
    if (name === STOP && service === DAEMON_ITSELF)
      return await this.#stop(readStopOrder(body), context, runtime)
    if (service === DAEMON_ITSELF)
      return await runtime.commands.run(name, body, context, runtime.machine.phase)
    const target = services.find(service || (orchestrator?.service ?? ''))
    if (name === STOP && target.unserved) {
      services.endUnserved(target.name, readStopOrder(body))
      return processReply({ pid: 0, generation: 0 })
    }
    return await target.operations.command(order, context)
  }

  /** Returns the gauges of each worker that answers in time. */
  async #gauges(order: CommandOrder, context: CommandContext): Promise<Buffer> {
    const replies = await withinLimit(context.signal, GAUGES_MS, signal => {
      const asked = this.#deps.services.all.map(async ({ name, operations }) => {
        const reply = await operations.command({ ...order, service: name }, { ...context, signal })
        return JSON.parse(Buffer.from(reply).toString()) as object[]
      })
      return Promise.all(asked.map(reply => reply.catch(() => [])))
    })
    return Buffer.from(JSON.stringify(replies))
  }

  /** Closes the daemon in the next turn, after the reply was sent. A next daemon that joins is refused. */
  async #stop(
    { drop }: StopOrder,
    context: CommandContext,
    { commands, machine }: MemberRuntime,
  ): Promise<Buffer> {
    const lost = this.soleCopies.map(({ service }) =>
      service === '' ? 'the descriptors stored by fd-broker fd' : `the service "${service}"`,
    )
    if (lost.length > 0 && !drop) {
      throw new FdbError(
        'ERR_FDB_HELD_ALONE',
        `no other process holds ${lost.join(', ')}, which would be lost: start a member of each service, or stop the daemon with --drop`,
      )
    }
    const body = Buffer.from(stopBody({ timeoutMs: 0, drop }))
    const reply = await commands.run(STOP, body, context, machine.phase)
    this.#closing = true
    return reply
  }
}

/** Limit of the members' parts of a status in characters: the whole status must fit into a message. */
const MOST_REPORTED = 8 * 1024 * 1024
/** Limit of the parts of other users' members, whose text this process would have to parse in one turn. */
const MOST_REPORTED_BY_OTHERS = 256 * 1024

/** Returns the status of each service. Without the longest parts of members if all together are too long: no member can keep operators from the status. */
function describeAll(reports: readonly ServiceReport[]): object[] {
  const whole = new Set<ServiceReport>()
  let [characters, others] = [0, 0]
  for (const report of [...reports].sort((a, b) => a.characters - b.characters)) {
    characters += report.characters
    if (report.isOthers) others += report.characters
    if (characters <= MOST_REPORTED && (!report.isOthers || others <= MOST_REPORTED_BY_OTHERS))
      whole.add(report)
  }
  return reports.map(report => report.describe(whole.has(report)))
}

const OPTIONS = map({
  control: required(path()),
  config: absent(path('the path of a file')),
  logger: optional(logger, SILENT),
  upgrade: optional(handoffTimes, {}),
  systemd: absent(unchecked<NonNullable<DaemonOptions['systemd']>>()),
  pidFile: absent(unchecked<string>()),
  signal: absent(abortSignal),
  takeOver: optional(boolean, false),
  mainProcess: absent(unchecked<NonNullable<DaemonOptions['mainProcess']>>()),
} satisfies ShapeOf<DaemonOptions>)

/** Starts a daemon. Rejects with ERR_FDB_OPTION, or with ERR_FDB_CONTROL_TAKEN if another process listens at the path. */
export async function serveDaemon(options: DaemonOptions): Promise<Daemon> {
  return await openDaemon(options)
}

export async function openDaemon(
  options: DaemonOptions,
  orchestrated: OrchestratedServices | null = null,
): Promise<Daemon> {
  const given = checkOptions('serveDaemon()', options, OPTIONS)
  requireAddon()
  startThreadPool()
  const { control, mainProcess, pidFile, signal, systemd, takeOver, upgrade: times } = given
  // reload() reads the file again, perhaps when the program has changed its folder.
  const config = given.config === undefined ? null : resolve(given.config)
  const logger = wrappedLogger(given.logger)
  // A wrong configuration is reported before anything is taken over.
  const policy = config === null ? ownersOnly(orchestrated?.hooks ?? null) : await readRules(config)
  const accessCheck = new AccessCheck(policy, logger)
  const reception = new DaemonReception(accessCheck, {
    passed: passedSockets().takePath(resolve(control)),
    takesOver: takeOver,
  })
  const settings = resolveOptions({
    service: DAEMON_ITSELF,
    control,
    logger,
    // No probation: members reconnect to the serving daemon, so that a standby is not needed.
    upgrade: { probation: 0, ready: READY_MS, quiesce: KEEP_MS },
    signal,
    systemd,
    pidFile,
    mainProcess,
    ...(orchestrated?.hooks && { hooks: { ...orchestrated.hooks, success: undefined } }),
  })
  // Before another user's descriptors can arrive.
  const starter = startApart()
  if (starter === null)
    logger.warn(
      {},
      'this system refuses a thread its own descriptors (close_range, unshare): another user may delay the start of processes, and the daemon with it',
    )
  const driver = await startMember({ ...settings, reception }).catch(error => {
    reception.passed?.close()
    starter?.[Symbol.dispose]()
    throw error
  })
  const member = memberOf(driver)
  void member.retired.then(() => starter?.[Symbol.dispose]())
  const { machine, registry } = driver.runtime
  const persisted = new PersistedFds(registry)
  const { file } = driver.runtime.events
  // Members that an earlier main process has served may bring it.
  if (orchestrated !== null) file.hold()
  const services = new Services({
    settings: {
      control: settings.control!,
      times,
      logger,
      ...(orchestrated && { events: file, hooks: orchestrated.hookGroup }),
    },
    persisted,
    accessCheck,
    quotas: reception.quotas,
    onChange: () => {
      machine.changes.notify()
      orchestrator?.servicesChanged()
    },
    receiver: service => orchestrator?.receiver(service) ?? undefined,
  })
  const orchestrator = orchestrated?.create(services) ?? null
  const daemon = Daemon.of({
    member,
    runtime: driver.runtime,
    reception,
    services,
    rules: { accessCheck, config },
    orchestrator,
  })
  await member.ready(member.incumbent === null ? {} : checkingRoom(services, persisted))
  // The orchestrator ends its processes first.
  if (orchestrator !== null) return daemon
  // Aborted after listening had begun.
  if (signal?.aborted) {
    await daemon.close()
    throw signal.reason
  }
  signal?.addEventListener('abort', () => void daemon.close(), { once: true })
  return daemon
}

function ownersOnly(hooks: HookSettings | null): Policy {
  return hooks === null ? OWNERS_ONLY : { ...OWNERS_ONLY, others: { ...OWNERS_ONLY.others, hooks } }
}

/** Reads the access rules of a daemon. Imports the parser lazily: a daemon without a configuration file starts faster. Rejects with ERR_FDB_CONFIG. */
async function readRules(file: string): Promise<Policy> {
  const { readPolicy } = await import('./policy/schema.js')
  return readPolicy(file)
}

/** Descriptors per returning member: its connection, its pidfd, and one watch of each. */
const PER_MEMBER = 4
/** Descriptors for operators, joining processes and files. */
const FOR_OTHERS = 16

/** Returns the checks of a daemon that takes over, which must fail while the previous daemon still serves: afterwards members have no other daemon to return to. */
export function checkingRoom(
  services: Pick<Services, 'expected'>,
  persisted: Pick<PersistedFds, 'largest' | 'demandReadable'>,
): ReadyOptions {
  const room = () => demandRoom(services.expected, persisted.largest)
  return { checks: [room, () => persisted.demandReadable()] }
}

/**
 * Throws ERR_FDB_NO_DESCRIPTORS if this process has too few descriptors for the returning members. Each member brings at most
 * `brought` descriptors: duplicates, which the daemon closes before it accepts the members of the next turn.
 */
function demandRoom(members: number, brought: number): void {
  const { open, soft } = fdLimits()
  if (open === null || soft === null) return
  const more = members * PER_MEMBER + brought * Math.min(members, TURN_ACCEPTS) + FOR_OTHERS
  if (open + more <= soft) return
  throw new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    `process ${process.pid} cannot take over: it has ${open} open descriptors (including those of the previous daemon), needs ${more} more for ${members} returning members, ` +
      `and may have ${soft}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) and try again; the previous daemon continues`,
    { retryable: true, details: { open, more, members, soft } },
  )
}

/** The services of one orchestrator, which have their events and hooks in common. */
interface OrchestratedServices {
  create(services: Services): Orchestrator
  readonly hooks: HookSettings | null
  readonly hookGroup?: HookGroup
}

/** Starts and replaces the processes of a daemon's services. The only implementation is the main process of workers. */
export interface Orchestrator {
  /** The common service name of all workers, which is also the target of requests that name no service. */
  readonly service: string
  /** Fields to add to the daemon's status. */
  status(): object
  /** Upgrades all workers, for a request for which {@link addressesAll} is true. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
    by?: Requester,
  ): Promise<Upgraded>
  /** Runs a command, or returns null if the daemon itself must handle it. */
  command(name: string, body: Buffer, context: CommandContext): Promise<Uint8Array> | null
  /** Returns a duplicate of the workers' listener with this key, or null. */
  listener(key: string): OwnedFd | null
  /** Returns the member that takes the connections of a service without a serving member, or null. */
  receiver(service: string): Peer | null
  servicesChanged(): void
  /** Called when this daemon no longer owns the services, and they still are as they were. This daemon owns them again from the next {@link servicesChanged} on, if the next daemon fails. */
  replaced(): void
  /** Whether the service has more listeners than processes by intention: without a member it is not missing one. */
  isSurplus(service: string): boolean
}

/** Whether a request addresses all workers: it names no service, or their common name. */
function addressesAll(orchestrator: Orchestrator | null, service: string): orchestrator is Orchestrator {
  return orchestrator !== null && (service === '' || service === orchestrator.service)
}
