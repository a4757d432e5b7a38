import { isDeepStrictEqual } from 'node:util'
import { backoffMs, IN_BACKGROUND } from '../base/backoff.js'
import { nodeCrypto } from '../base/lazy.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { EventFile, eventPath } from '../events/event-file.js'
import { type Caller, MOST_SERVICE_CHARACTERS, turnAway } from '../holder/admission.js'
import type { Peer } from '../holder/peer.js'
import { foreignConnections, sizeOf } from '../kernel/index.js'
import type { StopOrder } from '../operator/service-commands.js'
import { MAIN_PROCESS } from '../os/command-line.js'
import { openPidfd } from '../os/liveness.js'
import { credentialsOf, type ProcessIdentity } from '../os/process-identity.js'
import { NO_MANAGER_VARIABLES } from '../os/service-manager/service-manager.js'
import { shellStart } from '../probing/shell.js'
import { startDetached } from '../versions/spawn-successor.js'
import type { BundleItem } from '../wire/bundle.js'
import type { PersistedFds } from './persisted-fds.js'
import type { AccessCheck } from './policy/access-check.js'
import type { Unserved } from './policy/policy.js'
import { RightsHolders, type ServiceRecord, UNKNOWN_MEMBER } from './service/recovery.js'
import { Service } from './service/service.js'
import type { CommonSettings } from './service/settings.js'
import type { SoleCopy } from './service/sole-copy.js'
import type { UserQuotas } from './user-quotas.js'

/** Limit that only a faulty client reaches. */
const MAX_SERVICES = 1_000

export interface ServicesDeps {
  readonly settings: CommonSettings & {
    readonly control: string
    /** The file for the events of all services, which are workers. Absent if each service has its own. */
    readonly events?: EventFile
  }
  readonly persisted: PersistedFds
  readonly accessCheck: AccessCheck
  readonly quotas: Pick<UserQuotas, 'demandServices' | 'foreignUserOf'>
  /** Called when something that `status` shows has changed. */
  onChange(): void
  /** Returns the member that takes the connections of a service without members. */
  receiver(service: string): Peer | undefined
}

/** Interval of the check that the list of rights-holders is there: a cleaner of temporary files may remove it, and a full disk gets room. */
const LIST_CHECK_MS = 5_000

/** The services of a daemon, as long as it serves. */
export class Services {
  readonly incarnation = nodeCrypto().randomUUID()
  readonly #deps: ServicesDeps
  readonly #services = new Map<string, Service>()
  readonly #rightsHolders: RightsHolders
  readonly #unserved: UnservedServices
  readonly #sizes: StateSizes
  #restored = false
  /** Whether another daemon owns the services or may take them over: this daemon must not write the list of rights-holders then. */
  #paused = true
  #sweep: NodeJS.Immediate | undefined
  #listCheck: NodeJS.Timeout | undefined
  /** Whether the last attempt to write the list of rights-holders has failed. */
  #listFailed = false
  /** Services that have changed since the last {@link #dropEmpty}. */
  readonly #touched = new Set<string>()

  constructor(deps: ServicesDeps) {
    this.#deps = deps
    const { control, logger } = deps.settings
    this.#rightsHolders = new RightsHolders(control, error =>
      logger.warn(
        { err: error },
        'the list of the processes that an earlier daemon served cannot be used: this daemon waits 5 s for members of the services that it was given, and for no others',
      ),
    )
    this.#sizes = new StateSizes(() => this.all.map(service => this.#sizeOf(service)), logger)
    this.#unserved = new UnservedServices({
      control,
      logger,
      rule: name => deps.accessCheck.policyOf(name).unserved,
      isUnserved: name => this.get(name)?.unserved ?? false,
      isPaused: () => this.#paused,
      end: name => this.#end(name),
    })
  }

  /** Takes over the services of the previous daemon: those with living members, and those that it has handed over. */
  restore(): void {
    const items = this.#deps.persisted.claimAll()
    this.#rightsHolders.removeLeftovers()
    for (const record of this.#rightsHolders.read()) {
      const handedOver = items.get(record.service) ?? []
      items.delete(record.service)
      const members = record.members.filter(member => this.#mayReturn(record.service, member))
      const remains = members.length > 0 || handedOver.length > 0 || (record.draining ?? []).length > 0
      if (remains) this.#add({ ...record, members }, handedOver)
    }
    // The list cannot be read, or was removed: the users of these services' members are unknown, and a member may serve.
    for (const [service, handedOver] of items) {
      const members = [UNKNOWN_MEMBER]
      this.#add({ service, generation: 1, startedAt: Date.now(), members, foreign: true }, handedOver)
    }
    this.#restored = true
    this.#resumeWriting()
    this.applyPolicy()
    this.#sizes.open()
    clearInterval(this.#listCheck)
    this.#listCheck = setInterval(() => {
      this.#rightsHolders.look()
      this.#writeRightsHolders()
    }, LIST_CHECK_MS).unref()
  }

  /** Whether the rules allow a member of the previous daemon to come back. If they do not, this daemon does not wait for it: it may live for long. */
  #mayReturn(service: string, { pid, startTime }: ProcessIdentity): boolean {
    const { accessCheck, settings } = this.#deps
    const credentials = startTime === undefined ? null : credentialsOf(pid)
    // In another PID namespace, or ended by now: recovery gives up such a process soon.
    if (credentials === null) return true
    const pidfd = openPidfd(pid)
    const peer = { pid, ...credentials, pidfd: pidfd === 'dead' ? null : pidfd }
    const may = accessCheck.allows('join', accessCheck.policyOf(service), peer)
    peer.pidfd?.close()
    if (!may)
      settings.logger.warn(
        { service, pid, uid: credentials.uid },
        'a member of the previous daemon may no longer be one: this daemon does not wait for it. The process keeps its listeners until you end it',
      )
    return may
  }

  #sizeOf({ items, name: service }: Service): StateSize {
    const segments = items.filter(({ role }) => role === 'segment')
    const bytes = segments.reduce((sum, { fd }) => sum + sizeOf(fd), 0)
    return { service, bytes, most: this.#deps.accessCheck.policyOf(service).limits.state }
  }

  /** The number of members that will reconnect to this daemon after it has replaced the serving one. */
  get expected(): number {
    return this.#rightsHolders.read().reduce((sum, { members }) => sum + members.length, 0)
  }

  /** Applies changed rules to all services. */
  applyPolicy(): void {
    for (const name of this.#services.keys()) this.#unserved.update(name)
  }

  /** Whether another daemon may own the services now, or is about to take them over. */
  get paused(): boolean {
    return this.#paused
  }

  get all(): Service[] {
    return [...this.#services.values()]
  }

  get size(): number {
    return this.#services.size
  }

  get(name: string): Service | undefined {
    return this.#services.get(name)
  }

  /** The descriptors and state that no living member has. */
  get soleCopies(): SoleCopy[] {
    return this.all.flatMap(service => service.soleCopy ?? [])
  }

  /** Returns the named service; for an empty name, the only service for which `shows` is true. Throws ERR_FDB_SERVICE, which lists only those services. */
  find(name: string, shows: (service: string) => boolean = () => true): Service {
    const shown = this.all.filter(service => shows(service.name))
    const service = name === '' && shown.length === 1 ? shown[0] : this.get(name)
    if (service !== undefined) return service
    const names = shown.map(each => each.name).join(', ')
    if (names === '') {
      const wanted = name === '' ? '' : ` "${name}"`
      const reason = `there is no service${wanted}: this daemon holds none yet, start a member of it (hosting: 'daemon')`
      throw new FdbError('ERR_FDB_SERVICE', reason)
    }
    throw new FdbError(
      'ERR_FDB_SERVICE',
      `which service? ${name === '' ? 'Give one' : `There is no "${name}"`} (this daemon holds: ${names})`,
    )
  }

  /** Returns the service that the client joins or returns to, creating it if necessary. Returns null after refusing the client. */
  findOrCreate(caller: Caller): Service | null {
    const name = caller.hello.service ?? ''
    const known = this.get(name)
    if (known !== undefined) return known
    if (name === '' || name.length > MOST_SERVICE_CHARACTERS || this.size >= MAX_SERVICES) {
      const reason =
        this.size >= MAX_SERVICES
          ? `this daemon holds ${MAX_SERVICES} services already`
          : `a service needs a name of 1 to ${MOST_SERVICE_CHARACTERS} characters`
      turnAway(caller, new FdbError('ERR_FDB_SERVICE', reason))
      return null
    }
    const { uid } = caller
    try {
      const started = this.all.filter(({ startedBy }) => startedBy === uid).length
      this.#deps.quotas.demandServices(uid, started + 1)
    } catch (error) {
      turnAway(caller, FdbError.from(error))
      return null
    }
    // A member returns to a service that this daemon does not know: recovery waits for it as for the listed members.
    const members = caller.intent === 'back' ? [caller.identity] : []
    return this.#add({ service: name, generation: 0, startedAt: Date.now(), startedBy: uid, members }, [])
  }

  /** Whether no handoff is running. */
  get idle(): boolean {
    return this.busy.length === 0
  }

  /** The services with an upgrade for which an operator waits. */
  get upgrading(): Service[] {
    return this.all.filter(({ operations }) => operations.upgrading)
  }

  /** The services with a running handoff. */
  get busy(): Service[] {
    return this.all.filter(service => !service.idle)
  }

  /** Keeps the services' items unchanged until {@link resume}, except for deaths of members. */
  pause(): void {
    this.#paused = true
    for (const service of this.all) service.pause()
  }

  /** Writes the list of rights-holders, which the next daemon reads. To be called while the services are paused. Throws ERR_FDB_SIDE_FILE. */
  writeForSuccessor(): void {
    this.#rightsHolders.replace(this.all.map(service => service.record))
    this.#rightsHolders.write()
  }

  resume(): void {
    this.#paused = false
    for (const service of this.all) service.resume()
    this.#resumeWriting()
  }

  #resumeWriting(): void {
    this.#paused = false
    for (const name of this.#services.keys()) this.#touched.add(name)
    this.#rightsHolders.replace(this.all.map(service => service.record))
    this.#noteChange()
  }

  /** Writes the state that only this daemon holds to the members' state files. */
  async keepState(timeoutMs: number): Promise<void> {
    await Promise.all(this.all.map(service => service.keepState(timeoutMs)))
  }

  /** Closes the services of this daemon; their members keep serving. `kept`: another process has the items too. */
  close(how: { readonly kept: boolean }): void {
    this.#paused = true
    clearImmediate(this.#sweep)
    clearInterval(this.#listCheck)
    this.#unserved.close()
    this.#sizes.close()
    // If the next daemon fails, this one restores its services: #noteChange() must schedule again.
    this.#sweep = undefined
    for (const service of this.all) service.close(how)
    this.#services.clear()
  }

  #add(record: ServiceRecord, items: readonly BundleItem[]): Service {
    const { persisted, accessCheck, settings } = this.#deps
    const name = record.service
    this.#countForeign(record, items)
    const service = new Service(
      {
        settings: { ...settings, events: settings.events ?? this.#eventFile(record) },
        incarnation: this.incarnation,
        policy: () => accessCheck.policyOf(name),
        changed: () => this.#noteChangeOf(name),
        receiver: name => this.#deps.receiver(name),
        holds: name => persisted.update(name, this.#services.get(name)?.items ?? []),
      },
      record,
      items,
    )
    this.#services.set(service.name, service)
    return service
  }

  /** Another user, whose processes write the file too, gets none of the daemon's disk. */
  #eventFile({ service, startedBy }: ServiceRecord): EventFile {
    const { control, logger } = this.#deps.settings
    const isForeign = startedBy !== undefined && this.#deps.quotas.foreignUserOf(startedBy) !== undefined
    return new EventFile({ path: isForeign ? null : eventPath(control, service), logger })
  }

  /** Counts the descriptors that the previous daemon has handed over as those of the user that started the service. */
  #countForeign({ startedBy, foreign = false }: ServiceRecord, items: readonly BundleItem[]): void {
    const foreignUser = startedBy === undefined ? undefined : this.#deps.quotas.foreignUserOf(startedBy)
    if (foreignUser === undefined && !foreign) return
    for (const { role, fd } of items)
      if (role === 'listener' || role === 'named') fd.countAs(foreignUser?.fds ?? foreignConnections)
  }

  #noteChangeOf(name: string): void {
    const service = this.get(name)
    if (service === undefined) return
    this.#unserved.update(name)
    this.#touched.add(name)
    if (!this.#paused) this.#rightsHolders.remember(service.record)
    this.#noteChange()
  }

  #noteChange(): void {
    // Members of a main process that was killed bring its events back.
    if (this.#restored && !this.all.some(({ operations }) => operations.isRecovering))
      this.#deps.settings.events?.begin()
    this.#deps.onChange()
    this.#sweep ??= setImmediate(() => {
      this.#sweep = undefined
      this.#dropEmpty()
    })
    this.#writeRightsHolders()
  }

  /** Removes services for which no member has ever served. */
  #dropEmpty(): void {
    for (const name of this.#touched) {
      const service = this.get(name)
      if (service?.empty) this.#remove(service)
    }
    this.#touched.clear()
    this.#writeRightsHolders()
  }

  /** Ends a service that no member serves, as an operator orders. Throws ERR_FDB_HELD_ALONE without `drop`, ERR_FDB_BUSY while the next daemon takes over. */
  endUnserved(name: string, { drop }: StopOrder): void {
    if (!drop)
      throw new FdbError(
        'ERR_FDB_HELD_ALONE',
        `no member serves "${name}", whose listeners and state the daemon keeps for the next member: start one, or lose them: fd-broker stop --service ${name} --drop`,
      )
    if (this.#paused)
      throw new FdbError('ERR_FDB_BUSY', 'the next daemon is taking over: try again when it has', {
        retryable: true,
      })
    this.#deps.settings.logger.warn(
      { service: name },
      'an operator ends the service: its descriptors are closed',
    )
    this.#end(name)
  }

  /** Ends a service without members. */
  #end(name: string): void {
    const service = this.get(name)
    if (service === undefined) return
    this.#remove(service)
    this.#noteChange()
  }

  #remove(service: Service): void {
    this.#services.delete(service.name)
    this.#rightsHolders.forget(service.name)
    service.close({ kept: false })
    this.#deps.persisted.dropService(service.name)
    this.#unserved.update(service.name)
  }

  #writeRightsHolders(): void {
    if (this.#paused) return
    try {
      this.#rightsHolders.write()
      this.#listFailed = false
    } catch (error) {
      if (this.#listFailed) return
      this.#listFailed = true
      this.#deps.settings.logger.warn(
        { err: error },
        'the list of rights-holders could not be written: a restarted daemon would not know for which processes to wait, and no next daemon can take over',
      )
    }
  }
}

const EVERY_MS = 5_000

/** The size of one service's state in a daemon. */
export interface StateSize {
  readonly service: string
  readonly bytes: number
  /** The limit of the daemon's configuration. */
  readonly most: number
}

/** Logs when the state of a service exceeds its limit, and when it no longer does. The daemon cannot enforce the limit: members write to shared memory. */
export class StateSizes {
  readonly #sizes: () => readonly StateSize[]
  readonly #logger: Logger
  readonly #overLimit = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(sizes: () => readonly StateSize[], logger: Logger) {
    this.#sizes = sizes
    this.#logger = logger
  }

  /** Starts to check every few seconds. */
  open(): void {
    clearInterval(this.#timer)
    this.#timer = setInterval(() => this.update(), EVERY_MS).unref()
  }

  update(): void {
    const sizes = this.#sizes()
    for (const size of sizes) this.#check(size)
    const present = new Set(sizes.map(({ service }) => service))
    for (const service of this.#overLimit) if (!present.has(service)) this.#overLimit.delete(service)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #check(size: StateSize): void {
    const { service, bytes, most } = size
    if (bytes > most === this.#overLimit.has(service)) return
    if (bytes > most) {
      this.#overLimit.add(service)
      const message = 'the state of a service is larger than limits.state: its members should delete entries'
      this.#logger.warn({ ...size }, message)
    } else {
      this.#overLimit.delete(service)
      this.#logger.info({ ...size }, 'the state of a service is within limits.state again')
    }
  }
}

interface UnservedDeps {
  readonly control: string
  readonly logger: Logger
  /** Returns the rule of the service, or null if the daemon waits for the next member. */
  rule(service: string): Unserved | null
  isUnserved(service: string): boolean
  /** Whether another daemon may take over the services now, so that no rule may be applied. */
  isPaused(): boolean
  /** Ends the service and closes everything that it has. */
  end(service: string): void
}

/** Delay before a rule is applied whose time has passed during a handoff of the daemon, or while the daemon was stopped: then members may wait unread. */
const PAUSED_MS = 1_000
/** A timer that is later than this by itself shows that the daemon was stopped, or busy. */
const LATE_MS = 100

/** A service without members. */
interface UnservedService {
  /** The rule that is being applied; a different rule restarts the delay. */
  readonly rule: Unserved
  timer: NodeJS.Timeout | undefined
  runs: number
}

/** Applies the rules for services that have had no member for longer than the rule's delay. */
export class UnservedServices {
  readonly #deps: UnservedDeps
  readonly #waiting = new Map<string, UnservedService>()

  constructor(deps: UnservedDeps) {
    this.#deps = deps
  }

  /** Starts or stops the delay of a service after a change of the service or of its rule. */
  update(service: string): void {
    const rule = this.#deps.rule(service)
    const waiting = this.#waiting.get(service)
    if (rule === null && waiting === undefined) return
    const unserved = rule !== null && this.#deps.isUnserved(service)
    // An equal rule, as after a reload, does not restart the delay.
    if (unserved && isDeepStrictEqual(waiting?.rule, rule)) return
    clearTimeout(waiting?.timer)
    this.#waiting.delete(service)
    if (!unserved) return
    const next: UnservedService = { rule, timer: undefined, runs: 0 }
    this.#waiting.set(service, next)
    this.#schedule(rule.afterMs, service, next)
  }

  /** Cancels all delays; running commands continue. update() may follow. */
  close(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    this.#waiting.clear()
  }

  #schedule(ms: number, service: string, waiting: UnservedService): void {
    const dueAt = performance.now() + ms
    const act = () => {
      if (this.#deps.isPaused() || performance.now() - dueAt > LATE_MS)
        this.#schedule(PAUSED_MS, service, waiting)
      else this.#act(service, waiting)
    }
    waiting.timer = setTimeout(act, ms).unref()
  }

  #act(service: string, waiting: UnservedService): void {
    const { end, logger } = this.#deps
    const { act, afterMs } = waiting.rule
    if (act === 'close') {
      this.#waiting.delete(service)
      logger.warn(
        { service, afterMs },
        'no member serves: the daemon ends the service and closes its descriptors',
      )
      end(service)
      return
    }
    this.#run(act.run, service, waiting)
  }

  #run(command: string, service: string, waiting: UnservedService): void {
    const { control, logger } = this.#deps
    waiting.runs++
    logger.info({ service, command, run: waiting.runs }, 'no member serves: the daemon runs the command')
    const onEnd = (facts: object) => {
      if (this.#waiting.get(service) !== waiting) return
      const ms = backoffMs(IN_BACKGROUND, waiting.runs)
      logger.warn(
        { service, command, ...facts, againMs: ms },
        'no member serves yet, and the command has ended or could not be started',
      )
      this.#schedule(ms, service, waiting)
    }
    const own = { [MAIN_PROCESS]: undefined, FD_BROKER_SERVICE: service, FD_BROKER_CONTROL: control }
    const env = { ...process.env, ...NO_MANAGER_VARIABLES, ...own }
    // In a new session, so that a signal to the daemon's session does not end the member that the command starts.
    startDetached(shellStart(command, env), ['ignore', 'ignore', 'inherit']).then(
      child => {
        child.unref()
        child.onExit(({ code: exitCode, signal }) => onEnd({ exitCode, signal }))
      },
      (err: unknown) => onEnd({ err }),
    )
  }
}
