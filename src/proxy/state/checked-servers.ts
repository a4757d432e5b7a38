import type { Logger, Member } from '../../index.js'
import { type CheckedServer, ServerChecks } from '../server-checks/server-checks.js'
import { afterCheck } from '../server-checks/verdict.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import type { LearnedState } from './learned.js'

export interface CheckedServersOptions {
  readonly member: Pick<Member, 'follows' | 'whileServing'>
  readonly upstreams: Upstreams
  readonly learned: Pick<LearnedState, 'recordVerdict' | 'refreshVerdicts'>
  readonly logger: Logger
  /** Called with each result of a check. */
  readonly counted: (server: string, passed: boolean) => void
}

/** Checks the servers of the configuration while this process serves, and writes what it finds to the state. A follower reads it there. */
export class CheckedServers {
  readonly #options: CheckedServersOptions
  readonly #checks: ServerChecks
  #isWork = false

  constructor(options: CheckedServersOptions) {
    this.#options = options
    this.#checks = new ServerChecks((server, why) => this.#onResult(server, why))
  }

  /** Call after each change of the upstreams. */
  configure(): void {
    const { member, upstreams, learned } = this.#options
    learned.refreshVerdicts()
    const servers = upstreams.checked
    this.#checks.configure(servers)
    // Without checks a handoff has no work to wait for.
    if (this.#isWork || servers.length === 0 || member.follows !== null) return
    this.#isWork = true
    member.whileServing(() => {
      this.#checks.start()
      return () => this.#checks.stop()
    })
  }

  stop(): void {
    this.#checks.stop()
  }

  #onResult({ upstream: name, destination: { key }, config }: CheckedServer, why: string | null): void {
    const { upstreams, learned, logger, counted } = this.#options
    counted(key, why === null)
    const upstream = upstreams.findConfigured(name)
    const before = upstream?.verdict(key) ?? null
    if (upstream === undefined || before === null) return
    const after = afterCheck(before, why, config, Date.now())
    if (after === before) return
    upstream.applyVerdict(key, after)
    learned.recordVerdict(name, key, after)
    if (after.up === before.up) return
    const facts = { upstream: name, server: key }
    if (after.up) {
      upstream.clearFailures(key)
      logger.info(facts, 'a server passes its check and gets requests again')
    } else
      logger.warn(
        { ...facts, reason: after.reason },
        'a server fails its check and gets no requests until it passes',
      )
  }
}
