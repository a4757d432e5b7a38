import { HTTP1, relayOptions } from '../../src/proxy/relay-options.js'
import { compileTarget, decisionOf } from '../../src/proxy/routes/action.js'
import { upstreamAddress } from '../../src/proxy/upstreams/address.js'
import type { ServerOverride, ServerState, Upstream } from '../../src/proxy/upstreams/upstream.js'
import { Upstreams } from '../../src/proxy/upstreams/upstreams.js'
import type { Dial } from '../../src/relay/destination.js'
import { Relay, UpstreamPools } from '../../src/relay/index.js'
import { configOf, inForce, SERVERS, type Settings } from './schedule.js'
import type { Slots } from './slots.js'

const NAME = 'app'
/** As seldom as in the proxy the wheel would turn too seldom for the short limits here. */
const TICK_MS = 20

export interface EdgeEvents {
  dial: Dial
  fault(error: unknown): void
  /** See {@link ServerWatch.onHealth}. */
  health(server: string, ms: number | null): void
  queued(how: 'served' | 'late' | 'full'): void
}

/** The servers, the queue and the relay of one process of the proxy, as `server.ts` puts them together. */
export class SimulatedEdge {
  readonly number: number
  settings: Settings
  /** When its configuration was last changed. */
  changedAt = 0
  readonly relay: Relay
  readonly pools: UpstreamPools
  readonly #upstreams: Upstreams
  readonly #overrides = new Map<string, ServerOverride>()

  /** `slots`: null if it shares its limits with no other process. */
  constructor(number: number, settings: Settings, slots: Slots | null, events: EdgeEvents) {
    this.number = number
    this.settings = inForce(settings)
    this.#upstreams = new Upstreams(
      {
        onOut: () => {},
        onIn: () => {},
        onHealth: (_, server, ms) => events.health(server, ms),
        onQueued: (_, how) => events.queued(how),
      },
      null,
      server => this.pools.busy(server),
    )
    const config = configOf(this.settings)
    this.#upstreams.configure(config.upstreams)
    this.pools = new UpstreamPools({
      dial: events.dial,
      tickMs: TICK_MS,
      ...(slots !== null && { slotFile: touched => slots.open(touched) }),
    })
    const target = { kind: 'upstream', upstream: NAME, connect: false } as const
    const plain = compileTarget(target, this.#upstreams)
    const changed = compileTarget({ ...target, changes: { host: 'b.test' } }, this.#upstreams)
    this.relay = new Relay({
      ...relayOptions(config, HTTP1),
      route: (head, origin, client) =>
        decisionOf(head.authority?.host === 'changed.test' ? changed : plain, head, origin, client),
      pools: this.pools,
      destinationByKey: key => this.#upstreams.destination(key),
      tickMs: TICK_MS,
      onExchange: report => this.#upstreams.recordOutcome(report),
      onFault: error => events.fault(error),
    })
  }

  get upstream(): Upstream {
    return this.#upstreams.get(NAME)
  }

  get servers(): readonly ServerState[] {
    return this.upstream.servers
  }

  /** How many requests wait, as the metrics tell. */
  get queued(): number {
    return this.upstream.queued
  }

  reload(change: Partial<Settings>, now: number): void {
    this.changedAt = now
    this.settings = inForce({ ...this.settings, ...change })
    this.#upstreams.configure(configOf(this.settings).upstreams)
    this.#changed()
  }

  order(server: string, order: 'drain' | 'undrain' | 'add' | 'remove' | 'weight', now: number): void {
    this.changedAt = now
    const before = this.#overrides.get(server)
    const isConfigured = this.settings.servers.some(n => SERVERS[n] === server)
    const address = upstreamAddress(server) as Exclude<ReturnType<typeof upstreamAddress>, Error>
    const own = before ?? {
      server: address as ServerOverride['server'],
      added: false,
      drained: false,
      weight: 0,
      backup: false,
    }
    if (order === 'remove') this.#overrides.delete(server)
    else if (order === 'add') this.#overrides.set(server, { ...own, added: !isConfigured || own.added })
    else if (order === 'weight') this.#overrides.set(server, { ...own, weight: 3 })
    else this.#overrides.set(server, { ...own, drained: order === 'drain' })
    this.#upstreams.override(NAME, new Map(this.#overrides))
    this.#changed()
  }

  #changed(): void {
    setImmediate(() => {
      this.#upstreams.prune(new Set())
      this.pools.retire(key => this.#upstreams.destination(key) === undefined)
    })
  }

  /** A check of this process has this result. */
  check(server: string, up: boolean): void {
    const before = this.upstream.verdict(server)
    this.verdict(server, up)
    if (before?.up === false && up) this.upstream.clearFailures(server)
  }

  /** A process has this verdict. */
  verdict(server: string, up: boolean): void {
    this.upstream.applyVerdict(server, { up, count: 0, since: Date.now(), reason: up ? '' : 'refused' })
  }

  learn(server: string, ms: number | null): void {
    this.#upstreams.applyHealth(NAME, server, ms)
  }
}
