import type { Changes } from '../operator/service-commands.js'
import type { ProxyConfig } from '../proxy/index.js'
import { LoadedCode } from './loaded-code.js'

/** What only the next process takes over. */
const NEXT: ReadonlySet<string> = new Set<keyof ProxyConfig>(['drain', 'upgrade', 'stateFile', 'workers'])
/** Routes that are compared in one turn of the event loop. */
const SLICE = 1_000

/** What has changed since a proxy was started: what `fd-broker upgrade --smart` goes by. */
export class ProxyChanges {
  readonly #code = new LoadedCode()
  readonly #started: ProxyConfig
  readonly #read: () => Promise<ProxyConfig>

  /** `read` reads the configuration as it stands now. */
  constructor(started: ProxyConfig, read: () => Promise<ProxyConfig>) {
    this.#started = started
    this.#read = read
  }

  /** `inForce`: what was read last. Rejects with ERR_FDB_CONFIG. */
  async since(inForce: ProxyConfig): Promise<Changes> {
    const code = this.#code.changed()
    // The next version reads the configuration itself.
    if (code.length > 0) return { code, next: [], configuration: [] }
    const now = await this.#read()
    const keys = Object.keys(now) as (keyof ProxyConfig)[]
    const differs = (key: keyof ProxyConfig, before: ProxyConfig) =>
      JSON.stringify(before[key]) !== JSON.stringify(now[key])
    const next = keys.filter(key => NEXT.has(key) && differs(key, this.#started))
    const configuration = keys.filter(key => !NEXT.has(key) && key !== 'routes' && differs(key, inForce))
    if (!(await sameRoutes(inForce.routes, now.routes))) configuration.push('routes')
    return { code, next, configuration }
  }
}

async function sameRoutes(before: ProxyConfig['routes'], now: ProxyConfig['routes']): Promise<boolean> {
  if (before.length !== now.length) return false
  for (let from = 0; from < now.length; from += SLICE) {
    const slices = [before, now].map(routes => JSON.stringify(routes.slice(from, from + SLICE)))
    if (slices[0] !== slices[1]) return false
    await new Promise(resolve => setImmediate(resolve))
  }
  return true
}
