import { isIP } from 'node:net'
import type { Destination, ExchangeOptions, KeepAlive, SendOn } from '../../relay/index.js'
import type { Names } from '../names/names.js'
import { takesRequests, type UpstreamAddress } from './address.js'
import { Balancer } from './balance.js'

export interface ServerWatch {
  failed(server: string): void
  /** The server gets no more requests. */
  out(upstream: string, server: string): void
  /** The server passed its trial and gets requests again. */
  in(upstream: string, server: string): void
}

/** A server that is out, as the status shows it. */
export interface ServerOut {
  readonly upstream: string
  readonly server: string
  /** `probing`: one request is trying it. */
  readonly state: 'down' | 'probing'
  readonly triedInSeconds: number
}

/** One group of servers. The object lives as long as the process, so that routes can refer to it without a configuration. */
export class Upstream {
  readonly name: string
  readonly sendOn: SendOn
  #destinations = new Map<string, Destination>()
  #balancer: Balancer | null = null
  #retry = 0
  #takesRequests = false
  readonly #watch: ServerWatch
  readonly #names: Pick<Names, 'named'> | null

  constructor(name: string, watch: ServerWatch, names: Pick<Names, 'named'> | null = null) {
    this.name = name
    this.#names = names
    this.#watch = watch
    this.sendOn = { kind: 'upstream', name, pick: tried => this.#pick(tried) }
  }

  get configured(): boolean {
    return this.#balancer !== null
  }

  get takesRequests(): boolean {
    return this.#balancer !== null && this.#takesRequests
  }

  /** Remaining servers keep their health. Null: removed from the configuration. */
  configure(config: UpstreamConfig | null): void {
    if (config === null) {
      this.#balancer = null
      this.#destinations = new Map()
      return
    }
    const { servers, health, keepAlive, connections, retry, timeouts } = config
    const { idle: idleMs, age } = keepAlive
    const kept = { connections: keepAlive.connections, idleMs, ...(age !== null && { ageMs: age }) }
    const addresses = servers.map(server => server.text)
    if (this.#balancer === null) this.#balancer = new Balancer(addresses, health)
    else this.#balancer.configure(addresses, health)
    this.#destinations = new Map(
      servers.map(server => [server.text, this.#destination(server, kept, connections)]),
    )
    this.#retry = retry
    this.#takesRequests = takesRequests(servers)
    const options: ExchangeOptions = { connectTimeout: timeouts.connect, responseTimeout: timeouts.response }
    this.sendOn.options = options
  }

  destination(key: string): Destination | undefined {
    return this.#destinations.get(key)
  }

  succeeded(key: string): void {
    if (this.#balancer?.succeeded(key, performance.now())) this.#watch.in(this.name, key)
  }

  undecided(key: string): void {
    this.#balancer?.undecided(key, performance.now())
  }

  get out(): ServerOut[] {
    const out = this.#balancer?.out(performance.now()) ?? []
    return out.map(({ address, kind, ms }) => ({
      upstream: this.name,
      server: address,
      state: kind,
      triedInSeconds: ms / 1000,
    }))
  }

  failed(key: string): void {
    if (this.#balancer === null) return
    this.#watch.failed(key)
    if (this.#balancer.failed(key, performance.now())) this.#watch.out(this.name, key)
  }

  #pick(tried: readonly Destination[]): Destination | null {
    const balancer = this.#balancer
    if (balancer === null || tried.length > this.#retry) return null
    const before = tried.length === 0 ? undefined : new Set(tried.map(({ key }) => key))
    const key = balancer.pick(balancer.allUp ? 0 : performance.now(), before)
    return key === undefined ? null : (this.#destinations.get(key) ?? null)
  }

  #destination(server: UpstreamAddress, keepAlive: KeepAlive, connections: number | null): Destination {
    const { text: key } = server
    const tcp = server.kind === 'tcp'
    const named = tcp && isIP(server.host) === 0 ? this.#names?.named(server.host) : undefined
    return {
      key,
      address: tcp
        ? { kind: 'tcp', host: server.host, port: server.port }
        : { kind: 'unix', path: server.path },
      authority: tcp ? key.slice(key.indexOf('//') + 2) : 'localhost',
      keepAlive,
      ...(named !== undefined && { named }),
      ...(connections !== null && { connections }),
      opened: whole => {
        if (whole) this.succeeded(key)
      },
      failed: () => this.failed(key),
    }
  }
}

/** Checked, with all defaults. Times in milliseconds. */
export interface UpstreamConfig {
  name: string
  /** Unique addresses. */
  servers: UpstreamAddress[]
  health: {
    /** Failures in a row that take a server out; null: never. */
    failures: number | null
    coolDown: number
  }
  /** Idle connections kept for each server; `age` null: no limit. */
  keepAlive: { connections: number; idle: number; age: number | null }
  /** To each server, used and idle; null: no limit. */
  connections: number | null
  /** Other servers to try if nothing was sent. */
  retry: number
  timeouts: { connect: number; response: number }
}
