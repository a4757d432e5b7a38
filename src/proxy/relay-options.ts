import { hostname } from 'node:os'
import { crc32 } from 'node:zlib'
import type { RelayOptions } from '../relay/index.js'
import type { ProxyConfig } from './config/config.js'

/** Nothing an upstream asks for is refused by the relay's own bounds. */
const MOST_ATTEMPTS = 11

/** What of a configuration a relay is made with; equal texts of {@link relaySettings} mean equal relays. */
export function relayOptions(
  config: ProxyConfig,
  { trusted, halfClose }: { trusted: boolean; halfClose: boolean },
): Pick<
  RelayOptions,
  'timeouts' | 'limits' | 'headLimits' | 'forwarded' | 'gateway' | 'responseFields' | 'halfClosedClients'
> {
  const { timeouts, limits, instanceHeader, forwarded } = config
  const { idle, stall, tunnel, head, connect, response, request } = timeouts
  const { headBytes, fields, body } = limits
  const options: ReturnType<typeof relayOptions> = {
    timeouts: {
      idle,
      head,
      connect,
      response,
      request: request ?? Number.POSITIVE_INFINITY,
      stall,
      tunnel,
    },
    limits: {
      bodyBytes: body === null ? Number.POSITIVE_INFINITY : Math.max(1, body),
      attempts: MOST_ATTEMPTS,
    },
    halfClosedClients: halfClose ? 'serve' : 'abort',
    headLimits: { headBytes, fields, targetBytes: Math.min(headBytes, 8 * 1024) },
    gateway: { via: config.via === 'auto' ? ownName(config) : config.via, trace: config.trace },
    forwarded: {
      client: trusted ? 'append' : 'replace',
      xForwarded: forwarded.headers === 'x-forwarded' || forwarded.headers === 'both',
      forwarded: forwarded.headers === 'forwarded' || forwarded.headers === 'both',
    },
  }
  if (instanceHeader === null) return options
  return { ...options, responseFields: { set: { [instanceHeader]: String(process.pid) } } }
}

/** Every generation is called the same, and no other proxy is. */
function ownName({ service, control }: ProxyConfig): string {
  const sum = crc32(`${hostname()}\n${service}\n${control ?? ''}`)
  return `${service.replace(/[^0-9A-Za-z.-]/g, '-')}-${sum.toString(16).padStart(8, '0')}`
}

/** Everything that {@link relayOptions} looks at. */
export function relaySettings(config: ProxyConfig, halfClose: boolean): string {
  const { timeouts, limits, instanceHeader, forwarded, via, trace } = config
  return JSON.stringify([timeouts, limits, instanceHeader, forwarded, via, trace, halfClose])
}
