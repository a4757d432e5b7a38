import { BlockList, isIP, isIPv6 } from 'node:net'

/** A network of `address=`: an address alone is one too. */
function partsOf(network: string): { address: string; prefix: number; family: 'ipv4' | 'ipv6' } {
  const [address = '', bits] = network.split('/')
  const family = isIPv6(address) ? 'ipv6' : 'ipv4'
  return { address, family, prefix: bits === undefined ? (family === 'ipv6' ? 128 : 32) : Number(bits) }
}

/** The answers of {@link contains}: routes that overlap ask the same many times, and a list costs as much as a thousand look-ups. */
const known = new Map<string, boolean>()

/** Whether all addresses of the second network are in the first. */
export function contains(network: string, other: string): boolean {
  const key = `${network} ${other}`
  const before = known.get(key)
  if (before !== undefined) return before
  const [a, b] = [partsOf(network), partsOf(other)]
  const list = new BlockList()
  list.addSubnet(a.address, a.prefix, a.family)
  const isIn = a.family === b.family && a.prefix <= b.prefix && list.check(b.address, b.family)
  known.set(key, isIn)
  return isIn
}

/** The networks of addresses that are in both lists. */
export function commonNetworks(some: readonly string[], others: readonly string[]): string[] {
  const found = some.flatMap(one =>
    others.flatMap(other => (contains(one, other) ? [other] : contains(other, one) ? [one] : [])),
  )
  return [...new Set(found)].sort()
}

/** The network as the proxy writes it; null for another text, and for one of IPv6 that holds addresses of IPv4. */
export function networkOf(text: string): string | null {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const version = isIP(address)
  if (version === 0 || (bits !== undefined && Number(bits) > (version === 4 ? 32 : 128))) return null
  return version === 6 && bits !== undefined && Number(bits) < 97 && /^::/.test(address) ? null : text
}

/** The length of the prefix of the largest network, as the proxy compares it: narrower ones come first. */
export function narrowness(networks: readonly string[]): number {
  return Math.min(
    ...networks.map(partsOf).map(({ family, prefix }) => (family === 'ipv4' ? prefix + 96 : prefix)),
  )
}
