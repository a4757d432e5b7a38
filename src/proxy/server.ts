import { setImmediate as nextTurn } from 'node:timers/promises'
import { InOrder } from '../base/in-order.js'
import {
  type Check,
  type CloseOptions,
  FdbError,
  type JoinOptions,
  join,
  type Listener,
  type Logger,
  type Member,
  type RetiredReason,
  type Upgraded,
} from '../index.js'
import { type ExchangeReport, UpstreamPools } from '../relay/index.js'
import { Admission, RateLimitedWarnings } from './client-limits.js'
import type { ListenerConfig, ProxyConfig } from './config/config.js'
import { Health, healthQuestion } from './health/health.js'
import { type Names, serverNames } from './names/names.js'
import { ProxyListener, type RelayWiring } from './proxy-listener.js'
import { routerOf } from './relay-options.js'
import { compileTarget } from './routes/action.js'
import { serveRouteCommands } from './routes/commands.js'
import { LiveRoutes } from './routes/live-routes.js'
import type { NewFile } from './routes/reconcile.js'
import { ROUTES, routesSection } from './routes/section.js'
import { DeclaredState } from './state/declared-state.js'
import { FollowedConfig } from './state/followed-config.js'
import { serveCertificateCommands } from './tls/commands.js'
import { TlsTermination } from './tls/termination.js'
import { serverLog, Upstreams } from './upstreams/upstreams.js'
import { warmUpInFirstWave } from './warm-up.js'
import { keepYoungGenerationSmall } from './young-generation.js'

export interface ProxyOptions {
  /** pino-compatible. Default: nothing is logged. */
  logger?: Logger
  /** Gets a line for each request where the configuration says `accessLog: true`. Default: `logger`. */
  access?: Pick<Logger, 'info'>
  /** As `systemd` and `pidFile` of `join()`. */
  systemd?: 'auto' | 'off'
  pidFile?: string
  /**
   * As of `join()`, in place of what the configuration says. With `follow` its listeners, upstreams, routes, certificates and settings are those of the
   * state, and are never written there; `drain`, `upgrade` and `control` are its own.
   */
  place?: JoinedBy['place'] & object
  signal?: AbortSignal
  /** @internal Called before it may serve: what operators can ask of it is there from the first moment. */
  prepare?: (proxy: ReverseProxy) => void
}

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} }

/** Phases in which the state's file routes are this process's. */
const OWN_FILE: ReadonlySet<string> = new Set(['joining', 'ready', 'beginning', 'serving', 'frozen'])

/**
 * A running reverse proxy. Starting a second one with the same `control` is the upgrade: it serves when
 * {@link startProxy} resolves, and this one drains patiently.
 */
export class ReverseProxy {
  readonly member: Member
  readonly #logger: Logger
  readonly #access: Pick<Logger, 'info'>
  readonly #entrances = new Map<string, ProxyListener>()
  /** Entrances with a closed listener and open connections. */
  readonly #closed = new Set<ProxyListener>()
  readonly #listeners = new Map<string, Listener>()
  readonly #upstreams: Upstreams
  readonly #names: Names
  /** Shared by all entrances, whatever their configuration. */
  readonly #pools = new UpstreamPools()
  readonly #admission: Admission
  readonly #routes: LiveRoutes
  readonly #declared: DeclaredState
  /** Null: this process's own configuration counts, and is written to the state. */
  readonly #followed: FollowedConfig | null
  readonly #wiring: RelayWiring
  readonly #tls: TlsTermination
  #config: ProxyConfig
  readonly #reloads = new InOrder()

  private constructor(member: Member, given: ProxyConfig, options: ProxyOptions) {
    const { logger = SILENT, access = logger } = options
    this.#followed = FollowedConfig.of(member, logger)
    const config = this.#followed?.read(given) ?? given
    this.member = member
    this.#config = config
    this.#logger = logger
    this.#access = access
    const warnings = new RateLimitedWarnings(logger)
    this.#names = serverNames(config.resolver, warnings)
    this.#upstreams = new Upstreams(serverLog(logger), this.#names)
    this.#upstreams.configure(config.upstreams)
    this.#admission = new Admission({
      limits: () => this.#config.limits,
      open: () => this.connections,
      logger,
    })
    this.#declared = new DeclaredState(member, this.#upstreams, logger)
    this.#tls = new TlsTermination(member, config, logger)
    this.#routes = new LiveRoutes({
      section: member.section(ROUTES, routesSection),
      generation: member.generation,
      serves: () => member.follows !== null || OWN_FILE.has(member.phase),
      compile: target => compileTarget(target, this.#upstreams),
      logger,
    })
    this.#wiring = {
      route: routerOf(this.#routes.table, () => this.#config),
      routeByName: name => this.#upstreams.configured(name)?.sendOn,
      pools: this.#pools,
      destinationByKey: key => this.#upstreams.destination(key),
      onExchange: report => this.#onExchange(report),
      onShortage: (shortage, server) => warnings.warnShortage(shortage, server),
      onFault: error => logger.error({ err: error }, 'a request met a fault of the proxy'),
    }
    member.describe(() => ({ serversOut: this.#upstreams.out }))
    serveCertificateCommands(member, this.#tls)
    serveRouteCommands(member, this.#routes, () => this.#upstreams.forRequests)
    member.on('reinstated', () => void this.#reinstated())
    void member.retired.then(() => this.#release())
  }

  static async start(config: ProxyConfig, options: ProxyOptions): Promise<ReverseProxy> {
    const { timeout } = config.upgrade
    let health: Health | null = null
    const member = await join(joinOptions(config, options, () => health?.report ?? true))
    try {
      const proxy = new ReverseProxy(member, config, options)
      options.prepare?.(proxy)
      for (const listener of proxy.config.listeners) {
        // Code that runs for the first time is slow: one turn for each listener.
        await nextTurn()
        await proxy.#openListener(listener, proxy.config)
      }
      await nextTurn()
      if (member.follows === null) await proxy.#routes.prepare(proxy.#newFileOf(config))
      else await proxy.#routes.refresh()
      health = await proxy.#openHealth(config)
      warmUpInFirstWave(proxy.config, member, proxy.#logger)
      const checkHealth: Check = ({ signal }) => health?.prove(signal, () => member.incumbent !== null)
      await member.ready({ timeout, checks: [checkHealth] })
      health?.watch(() => member.phase === 'serving' && member.incumbent !== null)
      // Waiting requests come first.
      await nextTurn()
      await proxy.#tryWriteConfig()
      proxy.#followed?.watch(() => proxy.#applyFollowed())
      proxy.#applyFollowed()
      return proxy
    } catch (error) {
      health?.[Symbol.dispose]()
      await member.close({ timeout: 0 })
      throw error
    }
  }

  /** Null without a health check, or a process to fall back to. */
  async #openHealth({ upgrade: { health }, listeners }: ProxyConfig): Promise<Health | null> {
    if (health === null || this.member.incumbent === null) return null
    const listener = listeners.find(
      ({ name, forward }) => forward === null && name === (health.listener ?? name),
    )
    const entrance = listener && this.#entrances.get(listener.name)
    const asks = entrance === undefined ? null : { entrance, tls: listener?.tls ?? false }
    return new Health(health, await healthQuestion(health, asks), this.#logger)
  }

  get config(): ProxyConfig {
    return this.#config
  }

  /** Where it listens, by name. */
  get addresses(): Record<string, string> {
    return Object.fromEntries([...this.#listeners].map(([name, { address }]) => [name, address.url]))
  }

  get connections(): number {
    let sum = 0
    for (const entrance of this.#allEntrances()) sum += entrance.connections
    return sum
  }

  /** Resolves when it does not serve any more and its last connection has ended. */
  get retired(): Promise<RetiredReason> {
    return this.member.retired
  }

  /** Starts its own successor; resolves when that one serves. */
  upgrade(): Promise<Upgraded> {
    return this.member.upgrade({ timeout: this.#config.upgrade.timeout })
  }

  /**
   * Takes another configuration over without closing a connection. Timeouts, limits and headers are for new connections; `drain` and `upgrade` for the next
   * process. Rejects with ERR_FDB_RELOAD (what cannot change), or because an address is in use or another process serves by now: then it serves on as before.
   */
  reload(config: ProxyConfig): Promise<void> {
    return this.#reloads.run(() => this.#reload(this.#followed?.read(config) ?? config))
  }

  #applyFollowed(): void {
    if (this.#followed === null || this.member.phase !== 'serving') return
    this.reload(this.#config).catch(error =>
      this.#logger.error(
        { err: error },
        'what has changed of the configuration in the state is not in force here',
      ),
    )
  }

  /**
   * Leaves. Without a successor the service ends, and connections without a request are closed at once. The others have `timeout`
   * milliseconds (default: `drain.timeout`) to end.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    await this.member.close({ ...options, timeout: options.timeout ?? this.#config.drain.timeout })
  }

  /** {@link close} with its default. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Closes every connection now. */
  cut(): void {
    for (const entrance of this.#allEntrances()) entrance.close()
  }

  *#allEntrances(): Generator<ProxyListener> {
    yield* this.#entrances.values()
    yield* this.#closed
  }

  async #openListener(given: ListenerConfig, config: ProxyConfig, anew = false): Promise<void> {
    const { name, spec } = given
    const listener = anew ? await this.member.relisten(name, spec) : await this.member.listen(name, spec)
    // The same address with other options.
    if (listener === this.#listeners.get(name)) return
    const before = this.#entrances.get(name)
    if (before !== undefined) this.#closeWhenEmpty(before)
    const entrance = new ProxyListener(given, config, this.#wiring, this.#tls, {
      admission: this.#admission,
      onEmpty: () => this.#clearPoolsWhenIdle(),
    })
    listener.serve(entrance.server, { keeper: entrance })
    this.#entrances.set(name, entrance)
    this.#listeners.set(name, listener)
  }

  #closeListener(name: string): void {
    const entrance = this.#entrances.get(name)
    if (entrance === undefined) return
    this.#entrances.delete(name)
    this.#listeners.delete(name)
    this.member.unlisten(name)
    this.#closeWhenEmpty(entrance)
  }

  #closeWhenEmpty(entrance: ProxyListener): void {
    this.#closed.add(entrance)
    void entrance.emptied().then(() => {
      this.#closed.delete(entrance)
      entrance.close()
    })
  }

  async #reload(config: ProxyConfig): Promise<void> {
    const before = this.#config
    const { phase } = this.member
    if (phase !== 'serving') {
      throw new FdbError(
        'ERR_FDB_FENCED',
        `process ${process.pid} does not serve (it is ${phase}): reload the one that does`,
        { retryable: true, phase },
      )
    }
    for (const key of ['service', 'control'] as const) {
      if (config[key] === before[key]) continue
      throw new FdbError(
        'ERR_FDB_RELOAD',
        `"${key}" cannot change from ${before[key] ?? 'the default'} to ${config[key] ?? 'the default'} by a reload: stop this proxy, and start one with the new configuration`,
      )
    }
    // Before the listeners: a new one may forward to a new upstream, and needs its certificates.
    this.#upstreams.configure(config.upstreams)
    this.#tls.configure(config)
    this.#names.configure(config.resolver)
    try {
      await this.#relisten(before, config)
    } catch (error) {
      this.#upstreams.configure(before.upstreams)
      this.#tls.configure(before)
      throw error
    }
    this.#config = config
    for (const entrance of this.#entrances.values()) entrance.configure(config)
    await nextTurn()
    this.#upstreams.prune(await this.#writeConfig(config))
    this.#pools.retire(key => this.#upstreams.destination(key) === undefined)
    const later = (['drain', 'upgrade'] as const).filter(
      key => JSON.stringify(config[key]) !== JSON.stringify(before[key]),
    )
    if (later.length > 0) this.#logger.info({ keys: later }, 'these keys count from the next process on')
  }

  /** Opens first: if an address is in use, nothing has changed. */
  async #relisten(before: ProxyConfig, config: ProxyConfig): Promise<void> {
    const present = new Map(before.listeners.map(each => [each.name, each]))
    const opened: ListenerConfig[] = []
    try {
      for (const listener of config.listeners) {
        const old = present.get(listener.name)
        if (old !== undefined && JSON.stringify(old.spec) === JSON.stringify(listener.spec)) continue
        await this.#openListener(listener, config, true)
        opened.push(listener)
      }
    } catch (error) {
      for (const { name } of opened) {
        const old = present.get(name)
        if (old === undefined) this.#closeListener(name)
        else await this.#openListener(old, before, true)
      }
      throw error
    }
    const wanted = new Set(config.listeners.map(each => each.name))
    for (const name of present.keys()) if (!wanted.has(name)) this.#closeListener(name)
  }

  async #reinstated(): Promise<void> {
    await this.#routes.refresh()
    this.#applyFollowed()
    await this.#tryWriteConfig()
  }

  /** A failure does not stop serving: the next reload, or serving process, repairs it. */
  async #tryWriteConfig(): Promise<void> {
    try {
      await this.#writeConfig(this.#config)
    } catch (error) {
      this.#logger.warn({ err: error }, 'the configuration could not be written to the state')
    }
  }

  /** Returns the upstreams that are still needed beside the configuration's. */
  async #writeConfig(config: ProxyConfig): Promise<ReadonlySet<string>> {
    if (this.#followed !== null) return new Set()
    return await this.#declared.write(config, async () => {
      const { needed } = await this.#routes.apply(this.#newFileOf(config))
      await this.#tls.write(config)
      return needed
    })
  }

  #newFileOf({ routes }: ProxyConfig): NewFile {
    const { forRequests, former } = this.#upstreams
    return { routes, upstreams: forRequests, former }
  }

  #onExchange(report: ExchangeReport): void {
    this.#upstreams.recordOutcome(report)
    if (this.#config.accessLog) logAccess(this.#access, report)
  }

  /** The serving process has its own connections to servers, and this one may stand by for long. */
  #clearPoolsWhenIdle(): void {
    if (this.connections === 0 && !OWN_FILE.has(this.member.phase)) this.#pools.clear()
  }

  #release(): void {
    this.#routes.stop()
    this.#declared.stop()
    this.#followed?.stop()
    this.#tls.stop()
    for (const entrance of this.#allEntrances()) entrance.close()
    this.#pools.clear()
    this.#names.close()
  }
}

/**
 * Starts a proxy, or the next version of the one that runs with this `control`: resolves when it serves. Rejects with the errors of
 * `join()`, `listen()` and `ready()`; the incumbent serves on then.
 */
export function startProxy(config: ProxyConfig, options: ProxyOptions = {}): Promise<ReverseProxy> {
  keepYoungGenerationSmall()
  return ReverseProxy.start(config, options)
}

/** Options that are not in the configuration. `place`: replaces the configured one. */
type JoinedBy = Pick<JoinOptions, 'logger' | 'pidFile' | 'signal' | 'systemd'> & {
  place?: Pick<JoinOptions, 'hosting' | 'follow'> & { service?: string }
}

function joinOptions(
  config: ProxyConfig,
  { logger, pidFile, place, signal, systemd }: JoinedBy,
  health: () => boolean | string,
): JoinOptions {
  const { control, drain, service, stateFile, upgrade } = config
  const { timeout: _, health: __, ...times } = upgrade
  const { lastEvent: ___, movesPerSecond, ...leaving } = drain
  return {
    service,
    ...(control !== null && { control }),
    upgrade: times,
    drain: { ...leaving, ...(movesPerSecond !== null && { movesPerSecond }) },
    mainProcess: 'stays',
    health,
    ...(logger && { logger }),
    ...(stateFile && place?.follow === undefined && { stateFile }),
    ...(signal && { signal }),
    ...(systemd && { systemd }),
    ...(pidFile && { pidFile }),
    ...place,
  }
}

/** One line for each request, or whole connection. Unknown fields are omitted. */
function logAccess(log: Pick<Logger, 'info'>, report: ExchangeReport): void {
  const { subject, listener, client, method, target, host, status, reason, destination, attempts } = report
  const { bytesSent, bytesReceived } = report
  const tcp = subject === 'tcp'
  log.info(
    {
      listener,
      client: client || undefined,
      method: method || undefined,
      host: host || undefined,
      target: escaped(target) || undefined,
      status: tcp ? undefined : status,
      reason,
      upstream: destination,
      attempts: attempts > 1 ? attempts : undefined,
      bytes: bytesSent,
      received: tcp ? bytesReceived : undefined,
      ms: Math.round(report.milliseconds * 10) / 10,
    },
    tcp ? 'connection' : 'request',
  )
}

/** Escapes bytes above ASCII, as a client might. */
function escaped(target: string): string {
  return target.replace(/[\x80-\xff]/g, byte => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`)
}
