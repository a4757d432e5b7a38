import { nodeCrypto } from '../base/lazy.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { type Caller, turnAway } from '../holder/admission.js'
import type { Peer } from '../holder/peer.js'
import type { HandoffTimes } from '../holder/times.js'
import { sizeOf } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import type { PersistedFds } from './persisted-fds.js'
import type { AccessCheck } from './policy/access-check.js'
import type { HeldAlone } from './service/kept-state.js'
import { type RememberedService, RightsHolders } from './service/recovery.js'
import { Service } from './service/service.js'
import { UnservedServices } from './unserved-services.js'
import type { UserQuotas } from './user-quotas.js'

/** More services than this are a mistake, not a need. */
const MAX_SERVICES = 1_000

export interface ServicesDeps {
  readonly control: string
  readonly times: HandoffTimes
  readonly logger: Logger
  readonly persisted: PersistedFds
  readonly gate: AccessCheck
  readonly shares: Pick<UserQuotas, 'demandServices'>
  /** Something that `status` shows has changed. */
  changed(): void
  /** The receiver for connections of a service without members. */
  receiver(service: string): Peer | undefined
}

/** The services of a daemon, as long as it serves. */
export class Services {
  readonly incarnation = nodeCrypto().randomUUID()
  readonly #deps: ServicesDeps
  readonly #services = new Map<string, Service>()
  readonly #rightsHolders: RightsHolders
  readonly #unserved: UnservedServices
  readonly #sizes: StateSizes
  /** Another daemon may have them by now: nothing is written down. */
  #paused = true
  #sweep: NodeJS.Immediate | undefined
  /** Services that have changed since the last look for empty ones. */
  readonly #touched = new Set<string>()
  /** The user that each service was begun by, as far as this daemon has seen it. */
  readonly #begunBy = new Map<string, number>()

  constructor(deps: ServicesDeps) {
    this.#deps = deps
    this.#rightsHolders = new RightsHolders(deps.control, error =>
      deps.logger.warn({ err: error }, 'the list of rights-holders of an earlier daemon is not used'),
    )
    this.#sizes = new StateSizes(() => this.all.map(service => this.#sizeOf(service)), deps.logger)
    this.#unserved = new UnservedServices({
      control: deps.control,
      logger: deps.logger,
      rule: name => deps.gate.of(name).unserved,
      isUnserved: name => this.get(name)?.unserved ?? false,
      end: name => this.#end(name),
    })
  }

  /** They are this daemon's: those of which members of an earlier one live, and those that it has handed over. */
  restore(): void {
    const items = this.#deps.persisted.claimAll()
    for (const remembered of this.#rightsHolders.read()) {
      const handedOver = items.get(remembered.service) ?? []
      items.delete(remembered.service)
      if (remembered.members.length > 0 || handedOver.length > 0) this.#add(remembered, handedOver)
    }
    // The list was removed, or cannot be read: whose they were is not known.
    for (const [service, handedOver] of items)
      this.#add({ service, generation: 1, startedAt: Date.now(), members: [], foreign: true }, handedOver)
    this.#goOn()
    this.governed()
    this.#sizes.open()
  }

  #sizeOf({ items, name: service }: Service): StateSize {
    const segments = items.filter(({ role }) => role === 'segment')
    const bytes = segments.reduce((sum, { fd }) => sum + sizeOf(fd), 0)
    return { service, bytes, most: this.#deps.gate.of(service).limits.state }
  }

  /** The number of members that will come back when this daemon replaces the one that has them now. */
  get expected(): number {
    return this.#rightsHolders.read().reduce((sum, { members }) => sum + members.length, 0)
  }

  /** Other rules count from now on. */
  governed(): void {
    for (const name of this.#services.keys()) this.#unserved.update(name)
  }

  /** Another daemon may have them now, or is to. */
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

  /** Descriptors and state that no living member has. */
  get heldAlone(): HeldAlone[] {
    return this.all.flatMap(service => service.heldAlone ?? [])
  }

  /** The one that is named; empty: the only one of those that are shown. Throws ERR_FDB_SERVICE, which names those that are shown. */
  only(name: string, shows: (service: string) => boolean = () => true): Service {
    const shown = this.all.filter(service => shows(service.name))
    const service = name === '' && shown.length === 1 ? shown[0] : this.get(name)
    if (service !== undefined) return service
    const names = shown.map(each => each.name).join(', ')
    if (names === '') {
      const meant = name === '' ? '' : ` "${name}"`
      const why = `there is no service${meant}: this daemon holds none yet, start a member of it (hosting: 'daemon')`
      throw new FdbError('ERR_FDB_SERVICE', why)
    }
    throw new FdbError(
      'ERR_FDB_SERVICE',
      `which service? ${name === '' ? 'Give one' : `There is no "${name}"`} (this daemon holds: ${names})`,
    )
  }

  /** The service that the client joins or comes back to. Null: there is none, and the client was told. */
  of(caller: Caller): Service | null {
    const name = caller.hello.service ?? ''
    const known = this.get(name)
    if (known !== undefined) return known
    if (name === '' || name.length > 128 || this.size >= MAX_SERVICES) {
      const why =
        this.size >= MAX_SERVICES
          ? `this daemon holds ${MAX_SERVICES} services already`
          : 'a service needs a name of 1 to 128 characters'
      turnAway(caller, new FdbError('ERR_FDB_SERVICE', why))
      return null
    }
    const { uid } = caller
    try {
      const begun = [...this.#begunBy.values()].filter(user => user === uid).length
      this.#deps.shares.demandServices(uid, begun + 1)
    } catch (error) {
      turnAway(caller, FdbError.from(error))
      return null
    }
    this.#begunBy.set(name, uid)
    // A member of a service that this daemon does not know comes back: it is to be waited for like the others.
    const members = caller.intent === 'back' ? [caller.identity] : []
    return this.#add({ service: name, generation: 0, startedAt: Date.now(), members }, [])
  }

  /** No handoff is under way. */
  get settled(): boolean {
    return this.all.every(service => service.settled)
  }

  /** Their items change no more until {@link resume}, but for deaths. */
  pause(): void {
    this.#paused = true
    for (const service of this.all) service.pause()
  }

  resume(): void {
    this.#paused = false
    for (const service of this.all) service.resume()
    this.#goOn()
  }

  #goOn(): void {
    this.#paused = false
    for (const name of this.#services.keys()) this.#touched.add(name)
    this.#rightsHolders.replace(this.all.map(service => service.remembered))
    this.#noteChange()
  }

  /** Writes the state that this daemon alone has to the files of the members. */
  async keepState(timeoutMs: number): Promise<void> {
    await Promise.all(this.all.map(service => service.keepState(timeoutMs)))
  }

  /** Members serve on. `kept`: another process has their items. */
  close(how: { readonly kept: boolean }): void {
    this.#paused = true
    clearImmediate(this.#sweep)
    this.#unserved.close()
    this.#sizes.close()
    // They may be this daemon's again.
    this.#sweep = undefined
    for (const service of this.all) service.close(how)
    this.#services.clear()
  }

  #add(remembered: RememberedService, items: readonly BundleItem[]): Service {
    const { persisted, gate, logger, times } = this.#deps
    const name = remembered.service
    const service = new Service(
      {
        times,
        logger,
        incarnation: this.incarnation,
        limits: () => gate.of(name).limits,
        changed: () => this.#noteChangeOf(name),
        receiver: name => this.#deps.receiver(name),
        holds: name => persisted.update(name, this.#services.get(name)?.items ?? []),
      },
      remembered,
      items,
    )
    this.#services.set(service.name, service)
    return service
  }

  #noteChangeOf(name: string): void {
    const service = this.get(name)
    if (service === undefined) return
    this.#unserved.update(name)
    this.#touched.add(name)
    if (!this.#paused) this.#rightsHolders.remember(service.remembered)
    this.#noteChange()
  }

  #noteChange(): void {
    this.#deps.changed()
    this.#sweep ??= setImmediate(() => {
      this.#sweep = undefined
      this.#dropEmpty()
    })
    this.#writeRightsHolders()
  }

  /** Drops names without a member that served. */
  #dropEmpty(): void {
    for (const name of this.#touched) {
      const service = this.get(name)
      if (service?.empty) this.#remove(service)
    }
    this.#touched.clear()
    this.#writeRightsHolders()
  }

  /** It has no members, and its rule is to close it then. */
  #end(name: string): void {
    const service = this.get(name)
    if (service === undefined || this.#paused) return
    this.#remove(service)
    this.#noteChange()
  }

  #remove(service: Service): void {
    this.#services.delete(service.name)
    this.#begunBy.delete(service.name)
    this.#rightsHolders.forget(service.name)
    service.close({ kept: false })
    this.#deps.persisted.forget(service.name)
    this.#unserved.update(service.name)
  }

  #writeRightsHolders(): void {
    if (this.#paused) return
    try {
      this.#rightsHolders.write()
    } catch (error) {
      this.#deps.logger.warn(
        { err: error },
        'the list of rights-holders could not be written: a restart would not know whom to wait for',
      )
    }
  }
}

const EVERY_MS = 5_000

/** The size of one service's state in a daemon. */
export interface StateSize {
  readonly service: string
  readonly bytes: number
  /** The most that its configuration lets it have. */
  readonly most: number
}

/** Logs when a service's state exceeds its limit, and when no more. Nothing else can be done: members write in shared memory. */
export class StateSizes {
  readonly #sizes: () => readonly StateSize[]
  readonly #logger: Logger
  readonly #larger = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(sizes: () => readonly StateSize[], logger: Logger) {
    this.#sizes = sizes
    this.#logger = logger
  }

  /** Looks every few seconds. */
  open(): void {
    clearInterval(this.#timer)
    this.#timer = setInterval(() => this.update(), EVERY_MS).unref()
  }

  update(): void {
    const sizes = this.#sizes()
    for (const size of sizes) this.#judge(size)
    const present = new Set(sizes.map(({ service }) => service))
    for (const service of this.#larger) if (!present.has(service)) this.#larger.delete(service)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #judge(size: StateSize): void {
    const { service, bytes, most } = size
    if (bytes > most === this.#larger.has(service)) return
    if (bytes > most) {
      this.#larger.add(service)
      const why = 'the state of a service is larger than limits.state: its members are to delete entries'
      this.#logger.warn({ ...size }, why)
    } else {
      this.#larger.delete(service)
      this.#logger.info({ ...size }, 'the state of a service is within limits.state again')
    }
  }
}
