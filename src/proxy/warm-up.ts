import type { Logger, Member } from '../index.js'
import type { ExchangeReport } from '../relay/index.js'
import { type WarmUpRelay, warmUp } from '../relay/warm-up.js'
import { configFrom } from './config/load.js'
import type { ProxyConfig, ProxyDocument } from './config/schema.js'
import { HTTP1, relayOptions, routerOf } from './relay-options.js'
import { compileTarget, type RouteAction } from './routes/action.js'
import { RouteTable } from './routes/table.js'
import { Upstreams } from './upstreams/upstreams.js'

/** This many exchanges take about 200 ms of CPU; more make little difference. */
const EXCHANGES = 1_000
/** Delay before the warm-up: clients that waited during the handoff get their responses first. */
const LATER_MS = 50

/** During `drain.firstWave` relays requests of this process to itself, so that V8 compiles the code before all clients arrive. Connects to no server. */
export function warmUpInFirstWave(config: ProxyConfig, member: Member, logger: Logger): void {
  const within = config.drain.firstWave - LATER_MS
  if (member.incumbent === null || within < 1) return
  const start = () => void warmUpRequests(config, { member, within, logger })
  member.once('serving', () => setTimeout(start, LATER_MS).unref())
}

/** Never rejects. */
async function warmUpRequests(
  config: ProxyConfig,
  { member, within, logger }: { member: Member; within: number; logger: Logger },
): Promise<void> {
  const startedAt = performance.now()
  const needed = () => member.phase === 'serving'
  try {
    const routed = configFrom(ROUTED)
    const requests = await warmUp(() => relayOf(config, routed), { maxRequests: EXCHANGES, within, needed })
    const ms = Math.round(performance.now() - startedAt)
    logger.info({ requests, ms }, 'this process relayed requests to itself, so that V8 compiles the code')
  } catch (error) {
    // Harmless: only the first requests are slower.
    logger.debug({ err: error }, 'this process could not relay requests to itself')
  }
}

/** The warm-up never connects to these servers. */
const ROUTED: ProxyDocument = {
  service: 'warm-up',
  listeners: [{ name: 'http', address: 'tcp://127.0.0.1:80' }],
  upstreams: {
    one: { servers: ['http://warm-up.invalid:1', 'http://warm-up.invalid:2'] },
    two: { servers: ['http://warm-up.invalid:3'] },
  },
  routes: [
    { host: '*', upstream: 'two' },
    { host: 'one.invalid', upstream: 'one' },
    { host: 'one.invalid', path: '/some', upstream: 'two' },
  ],
}

function relayOf(config: ProxyConfig, routed: ProxyConfig): WarmUpRelay {
  const upstreams = new Upstreams({ onOut: () => {}, onIn: () => {}, onHealth: () => {} })
  upstreams.configure(routed.upstreams)
  const table = new RouteTable<RouteAction>()
  for (const { host, path, target } of routed.routes)
    table.put({ origin: 'file', host, path }, compileTarget(target, upstreams))
  return {
    ...relayOptions(config, HTTP1),
    route: routerOf(table, () => config),
    onExchange: (report: ExchangeReport) => upstreams.recordOutcome(report),
  }
}
