import { nodeHttp } from '../../base/lazy.js'
import { runCheck } from '../../probing/health-check.js'
import { type Destination, shortageOf } from '../../relay/index.js'
import { probeOf } from './probe.js'
import type { ServerCheckConfig } from './shape.js'

/** A server that must be checked. */
export interface CheckedServer {
  readonly upstream: string
  readonly config: ServerCheckConfig
  readonly destination: Destination
}

/** Called with each result. `why`: why the check failed, or null. */
export type CheckHeard = (server: CheckedServer, why: string | null) => void

/** The active checks of all servers, between {@link start} and {@link stop}: only the process that serves checks. */
export class ServerChecks {
  readonly #heard: CheckHeard
  #servers: readonly CheckedServer[] = []
  /** Null while no check may run. */
  #running: Map<string, RunningCheck> | null = null

  constructor(heard: CheckHeard) {
    this.#heard = heard
  }

  /** Checks these servers from now on. The check of a server that stays goes on, unless its settings have changed. */
  configure(servers: readonly CheckedServer[]): void {
    this.#servers = servers
    // Loads the module while another version serves, as a rule: the first check would block the event loop.
    if (servers.some(({ config }) => config.http !== null)) nodeHttp()
    if (this.#running === null) return
    const before = this.#running
    const now = new Map<string, RunningCheck>()
    for (const [index, server] of servers.entries()) {
      const { upstream, destination, config } = server
      const key = `${upstream} ${destination.key} ${JSON.stringify(config)}`
      // The first checks of many servers are spread over the interval.
      const firstDelay = Math.floor((config.interval * index) / servers.length)
      const running = before.get(key) ?? new RunningCheck(this.#heard, server, firstDelay)
      running.server = server
      now.set(key, running)
      before.delete(key)
    }
    for (const gone of before.values()) gone.stop()
    this.#running = now
  }

  /** Idempotent. */
  start(): void {
    if (this.#running !== null) return
    this.#running = new Map()
    this.configure(this.#servers)
  }

  /** Ends all checks at once; a check under way has no result. Idempotent. */
  stop(): void {
    for (const running of this.#running?.values() ?? []) running.stop()
    this.#running = null
  }
}

class RunningCheck {
  server: CheckedServer
  readonly #heard: CheckHeard
  #timer: NodeJS.Timeout | undefined
  #underWay: AbortController | null = null

  constructor(heard: CheckHeard, server: CheckedServer, firstDelay: number) {
    this.#heard = heard
    this.server = server
    this.#schedule(firstDelay)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#underWay?.abort()
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => void this.#run(), ms).unref()
  }

  async #run(): Promise<void> {
    const { config, destination } = this.server
    const underWay = new AbortController()
    this.#underWay = underWay
    const probe = probeOf(config, destination)
    let isShort = false
    const run = async (signal: AbortSignal) => {
      try {
        return await probe.run(signal)
      } catch (error) {
        // A process without a free descriptor learns nothing about the server.
        isShort = shortageOf(error) !== null
        throw error
      }
    }
    const why = await runCheck({ name: probe.name, run }, config.timeout, underWay.signal)
    if (underWay.signal.aborted) return
    this.#underWay = null
    this.#schedule(config.interval)
    if (!isShort) this.#heard(this.server, why)
  }
}
