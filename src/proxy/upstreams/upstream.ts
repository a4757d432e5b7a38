import { isAddress } from '../../base/lazy.js'
import { InvalidValue } from '../../checks/values.js'
import {
  type Destination,
  type Forward,
  type KeepAlive,
  type ServerTls,
  tlsFailureOf,
} from '../../relay/index.js'
import type { Names } from '../names/names.js'
import type { CheckedServer } from '../server-checks/server-checks.js'
import type { ServerCheckConfig } from '../server-checks/shape.js'
import { UNCHECKED, type Verdict } from '../server-checks/verdict.js'
import {
  kindOf,
  ofOneKind,
  type ServerConfig,
  type ServerKind,
  type UpstreamAddress,
  usesTls,
} from './address.js'
import { Balancer, type ServerOutState } from './balance.js'
import { type Balancing, balancingOf, type HashFacts, hashKey } from './balancing.js'
import { UpstreamQueue } from './queue.js'
import { ResendBudget } from './resend-budget.js'
import { UpstreamTls } from './server-tls.js'
import type { UpstreamConfig } from './shape.js'
import { StickyCookies } from './sticky.js'
import { NO_TLS_SETTINGS, tlsId } from './tls-shape.js'

export interface ServerWatch {
  onFailure(server: string): void
  /** The server gets no requests until its trial. `reason`: see {@link ServerOut.reason}. */
  onOut(upstream: string, server: string, reason: string | undefined): void
  /** See {@link RequestQueue.ended}. */
  onQueued?(upstream: string, how: 'served' | 'late' | 'full'): void
  /** TLS with the server has failed. `why`: in words. */
  onTlsFailure?(facts: { upstream: string; server: string; reason: string; why: string }): void
  /** The server passed its trial and gets requests again. */
  onIn(upstream: string, server: string): void
  /** As the other two, and for each further failed trial. `ms`: the time until the next trial; null: the server is up. */
  onHealth(upstream: string, server: string, ms: number | null): void
}

/** A server that is out, for the status. */
export interface ServerOut {
  readonly upstream: string
  readonly server: string
  readonly state: ServerOutState
  /** Null as long as the active checks of the server fail. */
  readonly triedInSeconds: number | null
  /** Why the check failed that took the server out, or why TLS with the server fails. */
  readonly reason?: string
}

const IN_TURN: Balancing = { kind: 'round-robin' }

/** An operator's changes of one server, made at run time. */
export interface ServerOverride {
  readonly server: UpstreamAddress
  /** The upstream has this server, whether or not the configuration has it. */
  readonly added: boolean
  /** The server gets no new requests. */
  readonly drained: boolean
  /** Replaces the configured weight; 0: does not. */
  readonly weight: number
  /** The server is a backup server, also if it is none in the configuration. */
  readonly backup: boolean
}

/** A server of an upstream, for lists. */
export interface ServerState {
  readonly server: string
  /** Whether the configuration has the server. */
  readonly configured: boolean
  readonly weight: number
  readonly backup: boolean
  readonly state: 'up' | 'drained' | ServerOutState
  /** The time until the next request that tries the server; null: none will. */
  readonly triedInSeconds: number | null
  readonly verdict: Verdict | null
}

/** One group of servers. The object lives as long as the process, so that routes can refer to an upstream that is not configured. */
export class Upstream {
  readonly name: string
  readonly forward: Forward
  #destinations = new Map<string, Destination>()
  #balancer: Balancer | null = null
  #check: ServerCheckConfig | null = null
  #sticky: StickyCookies | null = null
  readonly #queue = new UpstreamQueue({
    servers: failed => this.#usable(failed),
    ended: how => this.#watch.onQueued?.(this.name, how),
    taken: ({ key }) => this.#balancer?.take(key, performance.now()),
    untilDue: () => this.#balancer?.untilDue(performance.now()) ?? null,
  })
  #tls: UpstreamTls | null = null
  /** The TLS of each server that uses it, which keeps its session. */
  readonly #serverTls = new Map<string, ServerTls>()
  /** Why servers fail with which TLS fails, or that answer with errors, by server. */
  readonly #reasons = new Map<string, string>()
  /** The findings of active checks, by server. Empty without checks. */
  readonly #verdicts = new Map<string, Verdict>()
  #config: UpstreamConfig | null = null
  /** The operators' changes, by server. */
  #overrides: ReadonlyMap<string, ServerOverride> = new Map()
  #balancing = IN_TURN
  readonly #busy: (key: string) => number
  #retry = 0
  #resendPercent = 0
  readonly #resends = new ResendBudget()
  readonly #mayResend = () => this.#resends.take(this.#resendPercent, performance.now())
  #kind: ServerKind = 'requests'
  readonly #watch: ServerWatch
  readonly #names: Pick<Names, 'hostOf'> | null

  /** `busy`: see {@link BalancerOptions}. */
  constructor(
    name: string,
    watch: ServerWatch,
    names: Pick<Names, 'hostOf'> | null = null,
    busy: (key: string) => number = () => 0,
  ) {
    this.name = name
    this.#busy = busy
    this.#names = names
    this.#watch = watch
    this.forward = {
      kind: 'upstream',
      name,
      pick: (tried, full) => this.#pick(tried, full),
      mayResend: this.#mayResend,
    }
  }

  get configured(): boolean {
    return this.#balancer !== null
  }

  /** Null if it is not {@link configured}. */
  get kind(): ServerKind | null {
    return this.configured ? this.#kind : null
  }

  get takesRequests(): boolean {
    return this.kind === 'requests'
  }

  /** Whether {@link forwardFor} must be called for each request. */
  get choosesByRequest(): boolean {
    return this.#balancing.kind === 'hash' || this.#sticky !== null
  }

  /** Returns `forward` for one request or connection, whose server depends on `facts` if the upstream hashes or has cookies. */
  forwardFor(forward: Forward, facts: HashFacts): Forward {
    const key = this.#balancing.kind === 'hash' ? hashKey(this.#balancing.source, facts) : undefined
    const wanted = this.#sticky?.serverOf(facts.header('cookie'))
    if (key === undefined && wanted === undefined) return forward
    const pick: Forward['pick'] = (tried, full) => this.#pick(tried, full, key, wanted)
    return { ...forward, pick, ...(wanted !== undefined && { wanted }) }
  }

  /** Replaces the configuration; null removes it. Servers that stay keep their health. */
  configure(config: UpstreamConfig | null): void {
    this.#queue.changed()
    this.#config = config
    if (config === null) {
      this.#balancer = null
      this.#destinations = new Map()
      this.#check = null
      this.#verdicts.clear()
      return
    }
    const { health, check, connections, retry, resend, sticky, timeouts, proxyProtocol } = config
    const servers = this.#serversOf(config)
    this.#configureTls(config, servers)
    // A connection whose header names a client is not for others.
    const keepAlive = { ...config.keepAlive, ...(proxyProtocol !== null && { connections: 0 }) }
    const { idle: idleMs, age } = keepAlive
    const keepAliveLimits = {
      connections: keepAlive.connections,
      idleMs,
      ...(age !== null && { ageMs: age }),
    }
    const used = servers
      .filter(({ text }) => !this.#overrides.get(text)?.drained)
      .map(({ text: address, weight = 1, backup = false }) => ({ address, weight, backup }))
    const balancing = balancingOf(config.balance)
    this.#balancing = balancing instanceof InvalidValue ? IN_TURN : balancing
    const options = { balancing: this.#balancing, busy: this.#busy, changed: () => this.#queue.changed() }
    if (this.#balancer === null) this.#balancer = new Balancer(used, health, options)
    else this.#balancer.configure(used, health, options)
    this.#destinations = new Map(
      servers.map(server => [server.text, this.#destination(server, keepAliveLimits, connections)]),
    )
    this.#sticky = sticky === null ? null : new StickyCookies(sticky, this.#destinations.keys())
    this.forward.sticky = this.#sticky ?? undefined
    if (config.queue !== null) this.#queue.configure(config.queue)
    this.forward.queue = config.queue === null ? undefined : this.#queue
    this.#check = check
    for (const key of this.#reasons.keys()) if (!this.#destinations.has(key)) this.#reasons.delete(key)
    for (const key of this.#verdicts.keys())
      if (check === null || !this.#destinations.has(key)) this.#verdicts.delete(key)
    for (const { address } of used) {
      const verdict = this.#verdicts.get(address)
      this.#balancer.setFailing(address, verdict?.up === false)
      if (verdict !== undefined) this.#startSlowly(address, verdict)
    }
    this.#retry = retry
    this.#resendPercent = resend
    this.#kind = kindOf(servers)
    this.forward.options = { connectTimeout: timeouts.connect, responseTimeout: timeouts.response }
  }

  /** Throws for certificates that OpenSSL refuses, and changes nothing. */
  #configureTls({ tls }: UpstreamConfig, servers: readonly ServerConfig[]): void {
    const secure = servers.filter(usesTls)
    const settings = tls ?? NO_TLS_SETTINGS
    const id = secure.length === 0 ? null : tlsId(settings)
    if (id !== (this.#tls?.id ?? null)) {
      this.#tls = id === null ? null : new UpstreamTls(settings, id)
      this.#serverTls.clear()
    }
    const present = new Set(secure.map(({ text }) => text))
    for (const key of this.#serverTls.keys()) if (!present.has(key)) this.#serverTls.delete(key)
    for (const { text, host } of secure)
      if (!this.#serverTls.has(text))
        this.#serverTls.set(text, this.#tls!.server(host, text.startsWith('https:')))
  }

  /** Returns the servers of the configuration with the operators' changes. */
  #serversOf({ servers }: UpstreamConfig): ServerConfig[] {
    if (this.#overrides.size === 0) return servers
    const all = new Map<string, ServerConfig>(servers.map(server => [server.text, server]))
    for (const [key, { server, added, weight, backup }] of this.#overrides) {
      // The file may have changed to servers of another kind.
      const fits = () => ofOneKind([key, ...servers.map(({ text }) => text)])
      const present = all.get(key) ?? (added && fits() ? server : undefined)
      if (present === undefined) continue
      all.set(key, { ...present, ...(weight !== 0 && { weight }), ...(backup && { backup }) })
    }
    return [...all.values()]
  }

  /** Applies the operators' changes, by server, instead of earlier ones. */
  override(overrides: ReadonlyMap<string, ServerOverride>): void {
    this.#overrides = overrides
    this.configure(this.#config)
  }

  /** All servers, with those that are drained. */
  get servers(): ServerState[] {
    if (this.#config === null) return []
    const out = new Map(this.out.map(each => [each.server, each]))
    const configured = new Set(this.#config.servers.map(({ text }) => text))
    return this.#serversOf(this.#config).map(({ text: server, weight = 1, backup = false }) => ({
      server,
      configured: configured.has(server),
      weight,
      backup,
      state: this.#overrides.get(server)?.drained ? 'drained' : (out.get(server)?.state ?? 'up'),
      triedInSeconds: out.get(server)?.triedInSeconds ?? null,
      verdict: this.verdict(server),
    }))
  }

  /** The host names, not addresses, of the servers. */
  get hosts(): string[] {
    const found: string[] = []
    for (const { address } of this.#destinations.values())
      if (address.kind === 'tcp' && !isAddress(address.host)) found.push(address.host)
    return found
  }

  /** The servers that have active checks. */
  get checked(): CheckedServer[] {
    const config = this.#check
    if (config === null) return []
    return [...this.#destinations.values()].map(destination => ({ upstream: this.name, config, destination }))
  }

  /** The finding of the server's active checks; null if it has none. */
  verdict(key: string): Verdict | null {
    return this.#check === null || !this.#destinations.has(key)
      ? null
      : (this.#verdicts.get(key) ?? UNCHECKED)
  }

  /** `verdict`: what this or another process has found. Without active checks does nothing. */
  applyVerdict(key: string, verdict: Verdict): void {
    if (this.#check === null || !this.#destinations.has(key)) return
    this.#verdicts.set(key, verdict)
    this.#balancer?.setFailing(key, !verdict.up)
    this.#startSlowly(key, verdict)
  }

  /** The time since when the server passes its checks is in the state: another process goes on with the same share. */
  #startSlowly(key: string, { up, since }: Verdict): void {
    const ms = this.#config?.slowStart ?? null
    if (!up || since === 0 || ms === null) return
    const left = Math.min(ms, since + ms - Date.now())
    if (left > 0) this.#balancer?.startSlowly(key, performance.now() + left, ms)
  }

  destination(key: string): Destination | undefined {
    return this.#destinations.get(key)
  }

  recordSuccess(key: string): void {
    this.#reasons.delete(key)
    if (!this.#balancer?.recordSuccess(key, performance.now())) return
    this.#watch.onIn(this.name, key)
    this.#watch.onHealth(this.name, key, null)
  }

  recordUndecided(key: string): void {
    this.#balancer?.recordUndecided(key, performance.now())
  }

  get out(): ServerOut[] {
    const out = this.#balancer?.out(performance.now()) ?? []
    return out.map(({ address, kind, ms }) => ({
      upstream: this.name,
      server: address,
      state: kind,
      triedInSeconds: ms === null ? null : ms / 1000,
      ...(kind === 'failing'
        ? { reason: this.#verdicts.get(address)?.reason ?? '' }
        : this.#reasons.has(address) && { reason: this.#reasons.get(address)! }),
    }))
  }

  recordFailure(key: string): void {
    this.#recordTrouble(key, (balancer, now) => balancer.recordFailure(key, now))
  }

  /** Whether answers with a status from 500 count. */
  get countsErrors(): boolean {
    return this.configured && this.#config!.health.errors !== null
  }

  /** The server has answered with such a `status`. */
  recordError(key: string, status: number): void {
    this.#reasons.set(key, `status ${status}`)
    this.#recordTrouble(key, (balancer, now) => balancer.recordError(key, now))
  }

  #recordTrouble(key: string, record: (balancer: Balancer, now: number) => boolean): void {
    const balancer = this.#balancer
    if (balancer === null) return
    this.#watch.onFailure(key)
    const now = performance.now()
    const before = balancer.downUntil(key)
    if (record(balancer, now)) this.#watch.onOut(this.name, key, this.#reasons.get(key))
    const until = balancer.downUntil(key)
    if (until !== null && until !== before) this.#watch.onHealth(this.name, key, until - now)
  }

  /** Ends the time for which the server is skipped because requests failed. */
  clearFailures(key: string): void {
    const balancer = this.#balancer
    if (balancer === null || balancer.downUntil(key) === null) return
    balancer.apply(key, null, performance.now())
    this.#watch.onHealth(this.name, key, null)
  }

  /** See {@link Balancer.apply}. `ms`: the time until the next trial. */
  applyHealth(key: string, ms: number | null): void {
    const now = performance.now()
    this.#balancer?.apply(key, ms === null ? null : now + ms, now)
    // So that a success is recorded.
    if (ms !== null && this.#destinations.has(key)) this.#watch.onFailure(key)
  }

  /** A server that is full costs no try: the next one may be free. */
  #pick(tried: readonly Destination[], full = 0, hashed?: string, wanted?: string): Destination | null {
    const balancer = this.#balancer
    if (balancer === null || tried.length - full > this.#retry) return null
    if (tried.length === 0) this.#resends.requests++
    const triedKeys = tried.length === 0 ? undefined : new Set(tried.map(({ key }) => key))
    const key = balancer.pick(balancer.allUp ? 0 : performance.now(), triedKeys, hashed, wanted)
    return key === undefined ? null : (this.#destinations.get(key) ?? null)
  }

  /** How many requests of this process wait for a server. */
  get queued(): number {
    return this.#queue.waiting
  }

  #usable(failed?: ReadonlySet<string>): Destination[] {
    const usable = this.#balancer?.usable(performance.now(), failed) ?? []
    return usable.flatMap(key => this.#destinations.get(key) ?? [])
  }

  #destination(server: UpstreamAddress, keepAlive: KeepAlive, connections: number | null): Destination {
    const { text: key } = server
    const tcp = server.kind === 'tcp'
    const named = tcp && !isAddress(server.host) ? this.#names?.hostOf(server.host) : undefined
    const tls = this.#serverTls.get(key)
    const { proxyProtocol } = this.#config!
    return {
      key,
      address: server,
      ...(tls !== undefined && { tls }),
      // A server with TLS that was added at run time gets no header.
      ...(proxyProtocol !== null && tls === undefined && { proxyProtocol }),
      authority: tcp ? key.slice(key.indexOf('//') + 2) : 'localhost',
      keepAlive,
      ...(named !== undefined && { named }),
      ...(connections !== null && { connections }),
      opened: isTcp => {
        if (isTcp) this.recordSuccess(key)
      },
      passedOver: isLate => {
        if (isLate) this.recordUndecided(key)
        else this.#balancer?.passOver(key, performance.now())
      },
      failed: (failure, error) => {
        const isTls = error !== null && tlsFailureOf(error) === failure
        if (isTls) {
          this.#reasons.set(key, failure)
          this.#watch.onTlsFailure?.({
            upstream: this.name,
            server: key,
            reason: failure,
            why: error.message,
          })
        } else this.#reasons.delete(key)
        this.recordFailure(key)
      },
    }
  }
}
