import { setImmediate as nextTurn } from 'node:timers/promises'
import { InOrder } from '../base/in-order.js'
import { nodeHttp2 } from '../base/lazy.js'
import { SILENT } from '../base/logger.js'
import { wrongOption } from '../checks/place.js'
import {
  type Check,
  type CloseOptions,
  FdbError,
  join,
  type Listener,
  type Logger,
  type Member,
  type RetiredReason,
  type Upgraded,
} from '../index.js'
import { type ExchangeReport, UpstreamPools } from '../relay/index.js'
import { leaveAtAbort } from './aborted-start.js'
import { type AccessSink, logAccess } from './access-line.js'
import { afterHandoff } from './after-handoff.js'
import { ClientLimits, RateLimitedWarnings } from './client-limits.js'
import { type ListenerConfig, requestListeners } from './config/listeners.js'
import type { ProxyConfig } from './config/schema.js'
import { SOURCE, sourceSection } from './entries/source-section.js'
import { HealthChecker, prepareCheck } from './health/health.js'
import { type JoinedBy, joinOptions } from './join-options.js'
import { DRAIN_COMMAND, type DrainReply, Leaving } from './leaving.js'
import { MetricsListener } from './metrics/metrics-listener.js'
import { Names } from './names/names.js'
import { ProxyListener, type RelayWiring } from './proxy-listener.js'
import { checkRelayOptions, mayHaveHttp2, routerOf } from './relay-options.js'
import { compileTarget } from './routes/action.js'
import { serveRouteCommands } from './routes/commands.js'
import { LiveRoutes } from './routes/live-routes.js'
import { RateBuckets } from './routes/rate-buckets.js'
import type { FileRoutes } from './routes/reconcile.js'
import { ROUTES, routesSection } from './routes/section.js'
import { serveServerCommands } from './servers/commands.js'
import { LiveServers } from './servers/live-servers.js'
import { SERVERS, serversSection } from './servers/section.js'
import { slotFileOpener } from './slot-file.js'
import { sharedConfigOf } from './source/shared-config.js'
import { CheckedServers } from './state/checked-servers.js'
import { DeclaredState } from './state/declared-state.js'
import type { SharedConfig } from './state/followed-config.js'
import { LearnedState } from './state/learned.js'
import { serveCertificateCommands } from './tls/commands.js'
import { TlsTermination } from './tls/termination.js'
import { UdpListener } from './udp-listener.js'
import type { ServerWatch } from './upstreams/upstream.js'
import { Upstreams } from './upstreams/upstreams.js'
import { warmUpInFirstWave } from './warm-up.js'
import { keepYoungGenerationSmall } from './young-generation.js'

export interface ProxyOptions {
  /** A pino-compatible logger. Default: the proxy logs nothing. */
  logger?: Logger | undefined
  /** Gets a line for each request if the configuration has `accessLog: true`. Default: `logger`. */
  access?: AccessSink | undefined
  /** See `systemd` and `pidFile` of `join()`. */
  systemd?: 'auto' | 'off' | undefined
  pidFile?: string | undefined
  /**
   * Options of `join()` that override the configuration. With `follow` the proxy takes listeners, upstreams, routes, certificates and settings from
   * the followed state and never writes them; `drain`, `upgrade` and `control` come from the proxy's own configuration.
   */
  place?: JoinedBy['place'] | undefined
  /** Aborts the start: a version that does not serve yet leaves, and the previous one serves on. */
  signal?: AbortSignal | undefined
  /** @internal Called before the proxy serves, to register commands that must exist from the start. */
  prepare?: ((proxy: ReverseProxy) => void) | undefined
}

/** The phases in which the state's file routes are those of this process's configuration. */
const OWN_FILE_PHASES: ReadonlySet<string> = new Set(['joining', 'ready', 'beginning', 'serving', 'frozen'])

/** A running reverse proxy. To upgrade it, start a new proxy with the same `control`: the new one serves when {@link startProxy} resolves, and the old one drains. */
export class ReverseProxy {
  readonly member: Member
  readonly #logger: Logger
  readonly #access: AccessSink
  readonly #proxyListeners = new Map<string, ProxyListener | UdpListener>()
  /** Listeners that were closed and still have connections. */
  readonly #closed = new Set<ProxyListener | UdpListener>()
  readonly #listeners = new Map<string, Listener>()
  readonly #upstreams: Upstreams
  readonly #names: Names
  readonly #learned: LearnedState
  readonly #checked: CheckedServers
  readonly #servers: LiveServers
  #serversChanged: NodeJS.Immediate | null = null
  readonly #pools: UpstreamPools
  readonly #clientLimits: ClientLimits
  readonly #routes: LiveRoutes
  readonly #buckets: RateBuckets
  readonly #declared: DeclaredState
  readonly #leaving: Leaving
  /** Null if this process uses its own configuration alone. */
  readonly #shared: SharedConfig | null
  readonly #wiring: RelayWiring
  #metrics: MetricsListener | null = null
  readonly #tls: TlsTermination
  #config: ProxyConfig
  /** The configuration without shared parts. */
  #own: ProxyConfig
  readonly #reloads = new InOrder()
  readonly #sharedChanged: () => void

  private constructor(
    member: Member,
    own: ProxyConfig,
    shared: SharedConfig | null,
    { logger = SILENT, access = logger }: ProxyOptions,
  ) {
    this.#shared = shared
    const unapplied =
      'this process could not apply the changed configuration of the state, and keeps its current one'
    const failed = (err: unknown) => logger.error({ err }, unapplied)
    this.#sharedChanged = afterHandoff(member, () => this.#applyShared(), failed)
    const config = shared?.read(own) ?? own
    this.member = member
    this.#config = config
    this.#own = own
    this.#logger = logger
    this.#access = access
    const warnings = new RateLimitedWarnings(logger)
    this.#learned = new LearnedState(member, logger)
    this.#names = new Names({
      ...config.resolver,
      shared: this.#learned,
      onFailure: (host, code) =>
        warnings.warn(`name ${host}`, { host, code }, 'the name of a server could not be looked up'),
    })
    const watch: Omit<ServerWatch, 'onFailure'> = {
      onOut: (upstream, server, reason) =>
        logger.warn(
          { upstream, server, reason },
          'a server failed too often and gets no requests for a while',
        ),
      onQueued: (upstream, how) => {
        if (this.#config.metrics !== null) this.#metrics?.counts.addQueued(upstream, how)
      },
      onTlsFailure: facts => warnings.warn(`tls ${facts.server}`, facts, 'TLS with a server failed'),
      onIn: (upstream, server) =>
        logger.info({ upstream, server }, 'a server responds and gets requests again'),
      onHealth: (upstream, server, ms) => this.#learned.recordHealth(upstream, server, ms),
    }
    this.#upstreams = new Upstreams(watch, this.#names, server => this.#pools.busy(server))
    this.#upstreams.configure(config.upstreams)
    shared?.adoptInto(this.#upstreams)
    this.#pools = new UpstreamPools({ slotFile: slotFileOpener(member, logger) })
    this.#clientLimits = new ClientLimits({
      limits: () => this.#config.limits,
      open: () => this.connections,
      logger,
    })
    this.#declared = new DeclaredState(member, this.#upstreams, logger)
    this.#learned.follow(this.#upstreams)
    this.#checked = new CheckedServers({
      member,
      upstreams: this.#upstreams,
      learned: this.#learned,
      logger,
      counted: (server, passed) => {
        if (this.#config.metrics !== null) this.#metrics?.counts.addCheck(server, passed)
      },
    })
    this.#servers = new LiveServers({
      section: member.section(SERVERS, serversSection),
      generation: member.generation,
      upstreams: this.#upstreams,
      logger,
      changed: () => this.#onServersChanged(),
    })
    this.#checked.configure()
    this.#tls = new TlsTermination(member, config, logger)
    this.#buckets = RateBuckets.of(member, logger)
    this.#routes = new LiveRoutes({
      section: member.section(ROUTES, routesSection),
      source: own.source === null && member.follows === null ? null : member.section(SOURCE, sourceSection),
      generation: member.generation,
      serves: () => member.follows !== null || OWN_FILE_PHASES.has(member.phase),
      compile: target => compileTarget(target, this.#upstreams, this.#buckets),
      logger,
    })
    this.#leaving = new Leaving(member, () => this.#leave())
    this.#wiring = {
      route: routerOf(
        this.#routes.table,
        () => this.#config,
        () => this.#leaving.step !== 'serving',
      ),
      tls: () => this.#tls.carrier,
      routeByName: name => this.#upstreams.findConfigured(name)?.forward,
      forwardOf: (name, client) => {
        const upstream = this.#upstreams.findConfigured(name)
        return upstream?.forwardFor(upstream.forward, { client, header: () => undefined })
      },
      pools: this.#pools,
      destinationByKey: key => this.#upstreams.destination(key),
      onExchange: report => this.#onExchange(report),
      onShortage: (shortage, server) =>
        warnings.warn(
          shortage,
          { shortage, server },
          'this process could not connect to a server, because it has no free descriptors or ports',
        ),
      onHttp2Bound: (listener, bound, client) => {
        warnings.warn(
          `http2 ${bound}`,
          { listener, bound, client },
          'an HTTP/2 connection exceeded a bound and was ended',
        )
        if (this.#config.metrics !== null) this.#metrics?.counts.addHttp2Bound(listener, bound)
      },
      onDrop: (listener, why) => {
        if (this.#config.metrics !== null) this.#metrics?.counts.addDrop(listener, why)
      },
      onFault: error => logger.error({ err: error }, 'a request failed because of a bug in the proxy'),
    }
    member.describe(() => ({
      serversOut: this.#upstreams.out,
      source: shared?.status,
      requests: this.#config.metrics === null ? undefined : this.#metrics?.counts.recent,
      leaving: this.#leaving.step,
    }))
    serveCertificateCommands(member, this.#tls)
    serveRouteCommands(member, this.#routes, () => ({
      upstreams: this.#upstreams.forRequests,
      listeners: requestListeners(this.#config.listeners),
    }))
    serveServerCommands(member, this.#servers)
    member.command(DRAIN_COMMAND, async body => JSON.stringify(await this.#drain(body.toString())))
    member.on('reinstated', () => void this.#onReinstated())
    void member.retired.then(() => this.#release())
  }

  static async start(config: ProxyConfig, options: ProxyOptions): Promise<ReverseProxy> {
    const { timeout } = config.upgrade
    let health: HealthChecker | null = null
    const member = await join(joinOptions(config, options, () => health?.report ?? true))
    using _abort = leaveAtAbort(member, options.signal)
    try {
      const proxy = new ReverseProxy(member, config, await sharedConfigOf(member, config, options), options)
      options.prepare?.(proxy)
      for (const listener of proxy.config.listeners) {
        // Lets the event loop run before each listener: opening the first one is slow, because V8 has not compiled the code.
        await nextTurn()
        await proxy.#openListener(listener, proxy.config)
      }
      await proxy.#openMetrics(proxy.config)
      await nextTurn()
      if (member.follows === null) await proxy.#routes.prepare(proxy.#fileRoutesOf(proxy.config))
      else await proxy.#routes.refresh()
      if (member.incumbent !== null) {
        // While a previous version serves, no client waits for a module, or for the addresses of a name.
        if (mayHaveHttp2(proxy.config)) nodeHttp2()
        await proxy.#names.prepare(proxy.#upstreams.hosts)
      }
      health = await proxy.#openHealth(config)
      warmUpInFirstWave(proxy.config, member, proxy.#logger)
      // A bundler may rename a function, but not the key that names it in messages.
      const checks: Record<string, Check> = {
        'upgrade.health': ({ signal }) => health?.waitUntilHealthy(signal, () => member.incumbent !== null),
      }
      // An unreadable entry is reported, and its route left out.
      await member.ready({ timeout, checks: Object.values(checks), skipInvalid: true })
      health?.watch(() => member.phase === 'serving' && member.incumbent !== null)
      // Waiting requests go first, before the state is written.
      await nextTurn()
      await proxy.#tryWriteConfig()
      proxy.#leave()
      proxy.#shared?.watch(proxy.#sharedChanged)
      if (member.follows !== null) proxy.#sharedChanged()
      return proxy
    } catch (error) {
      health?.[Symbol.dispose]()
      await member.close({ timeout: 0 })
      throw options.signal?.aborted ? options.signal.reason : error
    }
  }

  /** Returns null if no check is configured, or if no previous version could take over again. */
  async #openHealth({ upgrade: { health }, listeners }: ProxyConfig): Promise<HealthChecker | null> {
    if (health === null || this.member.incumbent === null) return null
    const listener = listeners.find(
      ({ name, forward }) => forward === null && name === (health.listener ?? name),
    )
    const proxyListener = listener && this.#proxyListeners.get(listener.name)
    const isStream = proxyListener instanceof ProxyListener
    const target = isStream ? { listener: proxyListener, tls: listener?.tls ?? false } : null
    return new HealthChecker(health, await prepareCheck(health, target), this.#logger)
  }

  get config(): ProxyConfig {
    return this.#config
  }

  /** @internal The configuration of the file, without what other processes and a store share. */
  get ownConfig(): ProxyConfig {
    return this.#own
  }

  /** The URL of each listener, by name. */
  get addresses(): Record<string, string> {
    return Object.fromEntries([...this.#listeners].map(([name, { address }]) => [name, address.url]))
  }

  get connections(): number {
    let sum = 0
    for (const proxyListener of this.#allProxyListeners()) sum += proxyListener.connections
    return sum
  }

  /** Resolves when this process no longer serves and its last connection has ended. */
  get retired(): Promise<RetiredReason> {
    return this.member.retired
  }

  /** Starts a successor process. Resolves when the successor serves. */
  upgrade(): Promise<Upgraded> {
    return this.member.upgrade({ timeout: this.#config.upgrade.timeout })
  }

  /**
   * Applies another configuration without closing a connection. Timeouts, limits and headers apply to new connections; `drain` and `upgrade` to the
   * next process. Rejects, and keeps the current configuration, if a key cannot change (ERR_FDB_RELOAD), an address is in use, or another process
   * serves already. Also rejects if the state cannot be written: then the new configuration applies, but the old routes may stay in use until the
   * next reload.
   */
  reload(config: ProxyConfig): Promise<void> {
    return this.#reloads.run(() => this.#reload(config))
  }

  async #applyShared(): Promise<void> {
    if (this.#shared === null || this.member.phase !== 'serving') return
    await this.#reloads.run(() => this.#reload(this.#own))
  }

  /**
   * Stops serving. Without a successor the service ends: idle connections are closed at once, and the others after `timeout` milliseconds (default:
   * `drain.timeout`).
   */
  async close(options: CloseOptions = {}): Promise<void> {
    await this.member.close({ ...options, timeout: options.timeout ?? this.#config.drain.timeout })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Closes all connections at once. */
  cut(): void {
    for (const proxyListener of this.#allProxyListeners()) proxyListener.closeConnections()
  }

  *#allProxyListeners(): Generator<ProxyListener | UdpListener> {
    yield* this.#proxyListeners.values()
    yield* this.#closed
  }

  async #openListener(listenerConfig: ListenerConfig, config: ProxyConfig, reopen = false): Promise<void> {
    const { name, spec } = listenerConfig
    const listener = reopen ? await this.member.relisten(name, spec) : await this.member.listen(name, spec)
    // relisten() returns the same listener if only options have changed, not the address.
    if (listener === this.#listeners.get(name)) return
    const before = this.#proxyListeners.get(name)
    if (before !== undefined) this.#closeWhenEmpty(before)
    const deps = {
      member: this.member,
      clientLimits: this.#clientLimits,
      onEmpty: () => this.#clearPoolsWhenIdle(),
    }
    const proxyListener =
      spec.kind === 'udp'
        ? new UdpListener(listenerConfig, config, this.#wiring, deps)
        : new ProxyListener(listenerConfig, config, this.#wiring, this.#tls, deps)
    proxyListener.serveOn(listener)
    this.#proxyListeners.set(name, proxyListener)
    this.#listeners.set(name, listener)
  }

  /** Opens or moves the listener for metrics, if there is to be one. */
  async #openMetrics({ metrics: spec }: ProxyConfig, reopen = false): Promise<void> {
    if (spec === null) return
    this.#metrics ??= new MetricsListener(
      this.member,
      this.#logger,
      this.#upstreams,
      () => this.#shared?.status,
    )
    await this.#metrics.listen(spec, reopen)
  }

  #closeListener(name: string): void {
    const proxyListener = this.#proxyListeners.get(name)
    if (proxyListener === undefined) return
    this.#proxyListeners.delete(name)
    this.#listeners.delete(name)
    this.member.unlisten(name)
    this.#closeWhenEmpty(proxyListener)
  }

  #closeWhenEmpty(proxyListener: ProxyListener | UdpListener): void {
    this.#closed.add(proxyListener)
    void proxyListener.emptied().then(() => {
      this.#closed.delete(proxyListener)
      proxyListener.close()
    })
  }

  async #reload(own: ProxyConfig): Promise<void> {
    const config = this.#shared?.read(own) ?? own
    const before = this.#config
    const { phase } = this.member
    if (phase !== 'serving') {
      throw new FdbError(
        'ERR_FDB_FENCED',
        `process ${process.pid} is not the serving process (its phase is ${phase}): reload the serving process`,
        { retryable: true, phase },
      )
    }
    for (const key of ['service', 'control'] as const) {
      if (config[key] === before[key]) continue
      throw new FdbError(
        'ERR_FDB_RELOAD',
        `a reload cannot change "${key}" from ${before[key] ?? 'the default'} to ${config[key] ?? 'the default'}: stop this proxy and start it with the new configuration`,
      )
    }
    checkRelayOptions(config)
    try {
      // Upstreams and certificates first: a new listener may need them.
      this.#upstreams.configure(config.upstreams)
      this.#tls.configure(config)
      await this.#relisten(before, config)
    } catch (error) {
      this.#upstreams.configure(before.upstreams)
      this.#tls.configure(before)
      throw error
    }
    this.#names.configure(config.resolver)
    this.#checked.configure()
    this.#config = config
    this.#own = own
    for (const proxyListener of this.#proxyListeners.values()) proxyListener.configure(config)
    this.#leave()
    await nextTurn()
    const needed = await this.#writeConfig(config)
    this.#upstreams.prune(new Set([...needed, ...(this.#shared?.adopted ?? [])]))
    this.#retirePools()
    const later = (['drain', 'hooks', 'source', 'upgrade'] as const).filter(
      key => JSON.stringify(config[key]) !== JSON.stringify(before[key]),
    )
    if (later.length > 0) this.#logger.info({ keys: later }, 'these keys apply only after the next upgrade')
  }

  /** Many servers may change in one turn of the event loop. */
  #onServersChanged(): void {
    this.#serversChanged ??= setImmediate(() => {
      this.#serversChanged = null
      this.#checked.configure()
      this.#retirePools()
    })
  }

  #retirePools(): void {
    this.#pools.retire(key => this.#upstreams.destination(key) === undefined)
  }

  /** Opens the new listeners before it closes old ones: if an address is in use, the old listeners are still open. */
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
      // The last one, so that it need not be moved back.
      await this.#openMetrics(config, true)
    } catch (error) {
      for (const { name } of opened) await this.#moveBack(name, present.get(name), before)
      throw error
    }
    const wantedNames = new Set(config.listeners.map(each => each.name))
    for (const name of present.keys()) if (!wantedNames.has(name)) this.#closeListener(name)
    if (config.metrics === null) this.#metrics?.close()
  }

  /** Logs a failure instead of throwing: the reload rejects with its own error, and the other listeners move back. */
  async #moveBack(name: string, old: ListenerConfig | undefined, before: ProxyConfig): Promise<void> {
    try {
      if (old === undefined) this.#closeListener(name)
      else await this.#openListener(old, before, true)
    } catch (error) {
      this.#logger.error(
        { err: error, listener: name },
        'a listener could not move back to its address after the configuration was refused: reload with an address that is free',
      )
    }
  }

  async #onReinstated(): Promise<void> {
    this.#leave()
    await this.#routes.refresh()
    if (this.#shared === null) await this.#tryWriteConfig()
    else this.#sharedChanged()
  }

  async #drain(step: string): Promise<DrainReply> {
    const { ready, drain } = this.#config
    return { step: await this.#leaving.take(step), ready, timeout: drain.timeout }
  }

  /** Lets the connections leave if the machine does. In a replaced process they do not stay again, because it drains. */
  #leave(): void {
    const { step } = this.#leaving
    if (this.member.phase === 'serving' || step === 'leaving' || step === 'ended')
      for (const each of this.#allProxyListeners()) each.leave(step)
  }

  /** Logs a failure instead of throwing: the next reload, or the next serving process, writes the configuration again. */
  async #tryWriteConfig(): Promise<void> {
    try {
      await this.#writeConfig(this.#config)
    } catch (error) {
      this.#logger.warn(
        { err: error },
        'the configuration could not be written to the state: the next reload or the next serving process writes it again',
      )
    }
  }

  /** Returns the upstreams that routes still need although the configuration lacks them. */
  async #writeConfig(config: ProxyConfig): Promise<ReadonlySet<string>> {
    if (this.member.follows !== null) return new Set()
    const needed = await this.#declared.write(config, async () => {
      const { needed, digest } = await this.#routes.apply(this.#fileRoutesOf(config))
      if (digest !== null) await this.#declared.recordDigest(config.routes, digest)
      await this.#tls.write(config)
      return needed
    })
    this.#servers.report()
    const { hosts } = this.#upstreams
    await this.#learned.prune(
      (upstream, server) => this.#upstreams.hasServer(upstream, server),
      (upstream, server) => this.#upstreams.isChecked(upstream, server),
      host => hosts.has(host),
    )
    return needed
  }

  #fileRoutesOf({ routes }: ProxyConfig): FileRoutes {
    const { forRequests, former } = this.#upstreams
    return { routes, upstreams: forRequests, former, digest: this.#declared.digestOf(routes) }
  }

  #onExchange(report: ExchangeReport): void {
    this.#upstreams.recordOutcome(report)
    if (this.#config.metrics !== null) this.#metrics?.counts.add(report)
    if (this.#config.accessLog) logAccess(this.#access, report, this.#config.accessLine)
  }

  /** Closes idle connections to servers once this process no longer serves and has no clients: it may stand by for a long time. */
  #clearPoolsWhenIdle(): void {
    if (this.connections === 0 && !OWN_FILE_PHASES.has(this.member.phase)) this.#pools.clear()
  }

  #release(): void {
    this.#routes.stop()
    this.#buckets.stop()
    this.#declared.stop()
    if (this.#serversChanged !== null) clearImmediate(this.#serversChanged)
    this.#checked.stop()
    this.#servers.stop()
    this.#learned.stop()
    this.#shared?.stop()
    this.#leaving.stop()
    this.#tls.stop()
    for (const proxyListener of this.#allProxyListeners()) proxyListener.close()
    this.#pools.close()
    this.#names.close()
  }
}

/**
 * Starts a proxy, or the next version of the proxy that runs with this `control`. Resolves when it serves. Rejects with the errors of `join()`,
 * `listen()` and `ready()`; the running version then keeps serving.
 */
export function startProxy(config: ProxyConfig, options: ProxyOptions = {}): Promise<ReverseProxy> {
  if (!config?.upgrade)
    return Promise.reject(wrongOption('config', config, 'the result of configFrom() or readConfig()'))
  keepYoungGenerationSmall()
  return ReverseProxy.start(config, options)
}
