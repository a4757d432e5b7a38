import { FieldEdits } from '../http1/index.js'
import type { RelayOptions } from '../relay/index.js'
import type { ProxyConfig } from './config/config.js'

/** Nothing an upstream asks for is refused by the relay's own bounds. */
const MOST_ATTEMPTS = 11
const UPSTREAM_IDLE_MS = 4_000

/** What of a configuration a relay is made with; equal texts of {@link relaySettings} mean equal relays. */
export function relayOptions(
  config: ProxyConfig,
  trusted: boolean,
): Pick<RelayOptions, 'timeouts' | 'limits' | 'headLimits' | 'forwarded' | 'responseEdits'> {
  const { timeouts, limits, upstreams, instanceHeader, forwarded } = config
  const { idle, head, connect, response } = timeouts
  const { headBytes, fields, body } = limits
  const kept = upstreams.map(({ keepAlive }) => keepAlive)
  const options: ReturnType<typeof relayOptions> = {
    timeouts: {
      idle,
      head,
      connect,
      response,
      stall: idle,
      tunnel: idle,
      upstreamIdle: Math.min(
        ...kept.map(each => each.idle),
        kept.length === 0 ? UPSTREAM_IDLE_MS : 2 ** 31 - 1,
      ),
    },
    limits: {
      bodyBytes: body === null ? Number.POSITIVE_INFINITY : Math.max(1, body),
      upstreamIdle: Math.max(1, ...kept.map(each => each.connections)),
      attempts: MOST_ATTEMPTS,
    },
    headLimits: { headBytes, fields, targetBytes: Math.min(headBytes, 8 * 1024) },
    forwarded: {
      client: trusted ? 'append' : 'replace',
      xForwarded: forwarded.headers === 'x-forwarded' || forwarded.headers === 'both',
      forwarded: forwarded.headers === 'forwarded' || forwarded.headers === 'both',
    },
  }
  if (instanceHeader === null) return options
  return { ...options, responseEdits: new FieldEdits({ set: { [instanceHeader]: String(process.pid) } }) }
}

/** Everything that {@link relayOptions} looks at. */
export function relaySettings(config: ProxyConfig): string {
  const { timeouts, limits, upstreams, instanceHeader, forwarded } = config
  return JSON.stringify([timeouts, limits, upstreams.map(each => each.keepAlive), instanceHeader, forwarded])
}
