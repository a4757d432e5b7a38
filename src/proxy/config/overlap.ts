import type { ListenerSpec } from '../../index.js'

/** Reports whether the kernel refuses to bind both addresses, because every connection to one of them would fit the other too. */
export function overlap(one: ListenerSpec, other: ListenerSpec): boolean {
  if (one.kind !== 'tcp' || other.kind !== 'tcp' || one.port === 0 || one.port !== other.port) return false
  if (one.reusePort && other.reusePort) return false
  return covers(one, other) || covers(other, one)
}

/** Whether a wildcard address includes the other address. */
function covers({ host, ipv6Only }: ListenerSpec, other: ListenerSpec): boolean {
  const isV6 = other.host.includes(':')
  if (host === '0.0.0.0') return !isV6 || (other.host === '::' && !other.ipv6Only)
  return host === '::' && (isV6 || !ipv6Only)
}
