import type { Logger, Member } from '../index.js'
import type { ExchangeReport } from '../relay/index.js'
import { type WarmUpRelay, warmUp } from '../warmup/warm-up.js'
import type { ProxyConfig } from './config/config.js'
import { relayOptions } from './relay-options.js'
import { type Action, compileTarget } from './routes/action.js'
import { RouteTable } from './routes/table.js'
import { routerOf } from './routing.js'
import type { UpstreamAddress } from './upstreams/address.js'
import type { UpstreamConfig } from './upstreams/upstream-config.js'
import { Upstreams } from './upstreams/upstreams.js'

/** As many as it takes until more make little difference: some 200 ms of a processor. */
const EXCHANGES = 1_000
/** Who has waited for the handoff is answered first. */
const LATER_MS = 50

/**
 * Relays requests of this process to itself when it has taken over, as this configuration says but for routes and servers: what they need is compiled
 * when all clients come, and not while they wait. It has `drain.firstWave` for that, in which only a few come. Nobody is connected to, and no
 * request of it is counted.
 */
export function warmUpInFirstWave(config: ProxyConfig, member: Member, logger: Logger): void {
  const within = config.drain.firstWave - LATER_MS
  if (member.incumbent === null || within < 1) return
  const begin = () => void warmUpRequests(config, { member, within, logger })
  member.once('serving', () => setTimeout(begin, LATER_MS).unref())
}

/** Never rejects. */
async function warmUpRequests(
  config: ProxyConfig,
  { member, within, logger }: { member: Member; within: number; logger: Logger },
): Promise<void> {
  const begun = performance.now()
  const needed = () => member.phase === 'serving'
  try {
    const requests = await warmUp(() => relayOf(config), { most: EXCHANGES, within, needed })
    const ms = Math.round(performance.now() - begun)
    logger.info({ requests, ms }, 'relayed requests to itself, so that its code is compiled')
  } catch (error) {
    // Its first requests take longer, no more.
    logger.debug({ err: error }, 'could not relay requests to itself')
  }
}

function relayOf(config: ProxyConfig): WarmUpRelay {
  const upstreams = new Upstreams(() => {})
  upstreams.configure([upstream('one', 1, 2), upstream('two', 3)])
  const table = new RouteTable<Action>()
  const put = (host: string, path: string, to: string) =>
    table.put(
      { origin: 'file', host, path },
      compileTarget({ kind: 'upstream', upstream: to, connect: false }, upstreams),
    )
  put('*', '/', 'two')
  put('one.invalid', '/', 'one')
  put('one.invalid', '/some', 'two')
  return {
    ...relayOptions(config, { trusted: false, halfClose: false }),
    route: routerOf(table, () => config),
    onExchange: (report: ExchangeReport) => upstreams.note(report),
  }
}

/** As the defaults are. Its servers are never connected to. */
function upstream(name: string, ...ports: number[]): UpstreamConfig {
  return {
    name,
    servers: ports.map(server),
    health: { failures: 3, coolDown: 10_000 },
    keepAlive: { connections: 64, idle: 30_000 },
    connections: null,
    retry: 1,
    timeouts: { connect: 3_000, response: 60_000 },
  }
}

function server(port: number): UpstreamAddress {
  const host = 'warm-up.invalid'
  return { kind: 'tcp', host, port, text: `http://${host}:${port}` }
}
