import { randomUUID } from 'node:crypto'
import { ControlListener } from '../../channel/control-listener.js'
import { checkKeys, checkSignal, type Keys, wrongOption } from '../../check-option.js'
import { FdbError } from '../../errors.js'
import { checkLogger, type Logger, SILENT } from '../../logger.js'
import { serveOperator } from '../../operator/server.js'
import { STOP, type StopOrder, stopOrderOf, toldReply } from '../../operator/service-commands.js'
import { type FirstControl, letGoOfControl } from '../../process/control-path.js'
import { ControlWatch } from '../../process/control-watch.js'
import { PidFile } from '../../process/pid-file.js'
import { placeRestored } from '../../process/restore-control.js'
import { VERSIONS } from '../../protocol/versions.js'
import { Reminders } from '../../supervised/reminders.js'
import { ServiceManager } from '../../supervised/service-manager.js'
import { takeControl } from '../../supervised/take-control.js'
import { type Caller, receiveHello, turnAway, welcome } from '../admission.js'
import { Registry } from '../registry.js'
import { type HandoffTimes, settleTimes } from '../times.js'
import { DescriptorStore } from './descriptor-store.js'
import type { HeldAlone } from './held-alone.js'
import { type RememberedService, RightsHolders } from './rights-holders.js'
import { Service } from './service.js'

const HELLO_MS = 5_000
/** A disk may be slow; what kills a service that does not end waits for longer. */
const KEEP_MS = 30_000
/** More services than this are a fault of somebody, not a need. */
const MAX_SERVICES = 1_000

export interface DaemonOptions {
  /** Path of the control socket, at most 106 bytes. */
  control: string
  logger?: Logger
  /** Limits of the handoffs that it decides; those that a member gives in join() count before them where it is the incumbent. */
  upgrade?: Partial<HandoffTimes>
  /** `auto`: the service manager is told when it listens and ends, and that it lives, as `systemd` of `join()` says. Default `off`. */
  systemd?: 'auto' | 'off'
  /** A file that names this process as long as it listens. */
  pidFile?: string
  /** Closes the daemon. */
  signal?: AbortSignal
}

/**
 * `fd-broker serve`: holds sockets and state for members of any number of services, named by the members. A member that
 * was killed is replaced by the next one that joins, which gets its listeners (connections queue meanwhile) and every
 * acknowledged change. Members outlive the daemon: they serve on, and come back to the one that is started next.
 */
export class Daemon implements AsyncDisposable {
  readonly control: string
  /** Resolves when it is closed. */
  readonly closed: Promise<void>
  #place: FirstControl
  #listener!: ControlListener
  readonly #watch: ControlWatch
  readonly #logger: Logger
  readonly #times: HandoffTimes
  readonly #services = new Map<string, Service>()
  /** Of the descriptors that operators have put. */
  readonly #registry = new Registry()
  readonly #descriptors = new DescriptorStore(this.#registry)
  readonly #rightsHolders: RightsHolders
  readonly #incarnation = randomUUID()
  readonly #manager: ServiceManager | null
  readonly #reminders: Reminders
  readonly #pidFile: PidFile | null
  readonly #startedAt = Date.now()
  #resolveClosed!: () => void
  #isClosed = false
  #sweep: NodeJS.Immediate | undefined

  /** @internal Use {@link serveDaemon}. */
  static at(place: FirstControl, options: DaemonOptions): Daemon {
    return new Daemon(place, options)
  }

  private constructor(place: FirstControl, options: DaemonOptions) {
    this.control = place.path
    this.#place = place
    this.#logger = options.logger ?? SILENT
    this.#times = settleTimes(options.upgrade)
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    this.#rightsHolders = new RightsHolders(place.path)
    for (const remembered of this.#rightsHolders.read()) this.#add(remembered)
    const { pidFile, systemd = 'off' } = options
    this.#manager = systemd === 'auto' ? ServiceManager.find(this.#logger) : null
    this.#reminders = new Reminders(this.#manager, () => true)
    this.#pidFile = pidFile === undefined ? null : new PidFile(pidFile)
    this.#open()
    this.#watch = new ControlWatch({
      place: () => this.#place,
      restored: made => {
        this.#listener.stop()
        this.#place = placeRestored(this.#place, made)
        this.#open()
      },
      logger: this.#logger,
    })
    this.#watch.start()
    this.#pidFile?.write()
    this.#manager?.serves(this.#describe())
    this.#reminders.live()
  }

  async status(): Promise<object> {
    const services = await Promise.all(
      [...this.#services.values()].map(({ operations }) => operations.status()),
    )
    return {
      hosting: 'daemon',
      control: this.control,
      pid: process.pid,
      startedAt: new Date(this.#startedAt).toISOString(),
      rssBytes: process.memoryUsage.rss(),
      descriptors: this.#descriptors.size,
      services,
    }
  }

  /** What no living member has too: it is lost when this daemon closes or ends. */
  get heldAlone(): HeldAlone[] {
    const services = [...this.#services.values()].flatMap(service => service.heldAlone ?? [])
    return [...services, ...this.#descriptors.heldAlone]
  }

  /**
   * Members serve on; what they hold stays theirs. What this daemon holds alone is let go of: the state is written to the
   * members' state file before, if they have one. Idempotent.
   */
  async close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true
      clearImmediate(this.#sweep)
      this.#watch.stop()
      this.#manager?.ends('the daemon ends; its members serve on')
      this.#reminders.takeTime()
      this.#listener.stop()
      // The state is safe before anybody else can be the first of a service here.
      await Promise.all([...this.#services.values()].map(service => service.keepState(KEEP_MS)))
      for (const service of this.#services.values()) service.close()
      this.#descriptors[Symbol.dispose]()
      this.#registry.close()
      letGoOfControl(this.#place)
      this.#pidFile?.remove()
      this.#reminders.close()
      this.#resolveClosed()
    }
    await this.closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #onCaller(caller: Caller): void {
    switch (caller.intent) {
      case 'operate':
        caller.pidfd?.close()
        welcome(caller.link, {
          version: caller.version,
          pid: process.pid,
          daemon: true,
          incarnation: this.#incarnation,
        })
        serveOperator(caller.link, {
          descriptors: this.#descriptors,
          status: () => this.status(),
          upgrade: (order, progress, cancel) =>
            this.#only(order.service).operations.upgrade(order, progress, cancel),
          command: async (order, context) =>
            order.name === STOP && order.service === ''
              ? this.#stop(stopOrderOf(order.body))
              : await this.#only(order.service).operations.command(order, context),
        })
        return
      case 'draining': {
        const service = this.#services.get(caller.hello.service ?? '')
        if (service !== undefined) service.draining(caller)
        else {
          caller.pidfd?.close()
          caller.link.close()
        }
        return
      }
      case 'join':
      case 'back': {
        const service = this.#service(caller)
        if (service === null) return
        if (caller.intent === 'join') service.join(caller)
        else service.back(caller)
      }
    }
  }

  #open(): void {
    this.#listener = new ControlListener(this.#place.listener)
    const admission = { service: null, versions: VERSIONS, timeoutMs: HELLO_MS, logger: this.#logger }
    this.#listener.start({
      channel: (fd, who) => receiveHello(fd, who, admission, caller => this.#onCaller(caller)),
      error: error => this.#logger.error({ err: error }, 'accepting on the control socket failed'),
    })
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
    return Buffer.from(toldReply({ pid: process.pid, generation: 0 }))
  }

  #service(caller: Caller): Service | null {
    const name = caller.hello.service ?? ''
    const known = this.#services.get(name)
    if (known !== undefined) return known
    if (name === '' || name.length > 128 || this.#services.size >= MAX_SERVICES) {
      const why =
        this.#services.size >= MAX_SERVICES
          ? `this daemon holds ${MAX_SERVICES} services already`
          : 'a service needs a name of 1 to 128 characters'
      turnAway(caller, new FdbError('ERR_FDB_SERVICE', why))
      return null
    }
    // A member of a service that this daemon does not know comes back: it is to be waited for like the others.
    const members = caller.intent === 'back' ? [caller.identity] : []
    return this.#add({ service: name, generation: 0, startedAt: Date.now(), members })
  }

  #add(remembered: RememberedService): Service {
    const service = new Service(
      {
        times: this.#times,
        logger: this.#logger,
        incarnation: this.#incarnation,
        changed: () => this.#noteChange(),
      },
      remembered,
    )
    this.#services.set(remembered.service, service)
    return service
  }

  #only(name: string): Service {
    const service =
      name === '' && this.#services.size === 1 ? [...this.#services.values()][0] : this.#services.get(name)
    if (service !== undefined) return service
    const names = [...this.#services.keys()].join(', ') || 'none'
    throw new FdbError(
      'ERR_FDB_SERVICE',
      `which service? ${name === '' ? 'Give one' : `There is no "${name}"`} (this daemon holds: ${names})`,
    )
  }

  #describe(): string {
    const { size } = this.#services
    return `holds ${size === 1 ? 'a service' : `${size} services`} at ${this.control}`
  }

  #noteChange(): void {
    if (!this.#isClosed) this.#manager?.says(this.#describe())
    this.#sweep ??= setImmediate(() => {
      this.#sweep = undefined
      this.#dropEmpty()
    })
    this.#writeRightsHolders()
  }

  /** A name that nobody came to serve under is not kept. */
  #dropEmpty(): void {
    for (const [name, service] of this.#services) {
      if (!service.empty) continue
      this.#services.delete(name)
      service.close()
    }
    this.#writeRightsHolders()
  }

  #writeRightsHolders(): void {
    if (this.#isClosed) return
    try {
      this.#rightsHolders.write([...this.#services.values()].map(service => service.remembered))
    } catch (error) {
      this.#logger.warn(
        { err: error },
        'the list of rights-holders could not be written: a restart would not know whom to wait for',
      )
    }
  }
}

const OPTIONS: Keys<DaemonOptions> = {
  control: true,
  logger: true,
  upgrade: true,
  systemd: true,
  pidFile: true,
  signal: true,
}

/** Starts a daemon. Rejects with ERR_FDB_OPTION, and with ERR_FDB_CONTROL_TAKEN when another process holds the path. */
export async function serveDaemon(options: DaemonOptions): Promise<Daemon> {
  checkKeys('serveDaemon()', options, OPTIONS)
  const { control, logger, pidFile, systemd, upgrade, signal } = options
  if (typeof control !== 'string' || control === '') throw wrongOption('control', control, 'a path')
  checkLogger(logger)
  if (systemd !== undefined && systemd !== 'auto' && systemd !== 'off')
    throw wrongOption('systemd', systemd, '"auto" or "off"')
  if (pidFile !== undefined && (typeof pidFile !== 'string' || pidFile === ''))
    throw wrongOption('pidFile', pidFile, 'a path')
  checkSignal(signal)
  settleTimes(upgrade)
  const place = await takeControl(control, {
    signal,
    remedy: 'end it, or give this daemon another control path',
  })
  const daemon = Daemon.at(place, options)
  options.signal?.addEventListener('abort', () => void daemon.close(), { once: true })
  return daemon
}
