import { isIP, isIPv6 } from 'node:net'

/** A network of `address=`: an address alone is one too. */
function partsOf(network: string): { address: string; prefix: number; family: 'ipv4' | 'ipv6' } {
  const [address = '', bits] = network.split('/')
  const family = isIPv6(address) ? 'ipv6' : 'ipv4'
  return { address, family, prefix: bits === undefined ? (family === 'ipv6' ? 128 : 32) : Number(bits) }
}

/** The results of {@link bitsOf}: routes that overlap ask for the same many times. */
const known = new Map<string, string>()

/** The bits that all addresses of a network begin with, behind the version: those of a network within another begin with the bits of that one. */
export function bitsOf(network: string): string {
  const before = known.get(network)
  if (before !== undefined) return before
  const { address, prefix, family } = partsOf(network)
  const bits =
    family === 'ipv4'
      ? `4${address
          .split('.')
          .map(each => binary(Number(each), 8))
          .join('')}`.slice(0, prefix + 1)
      : `6${groupsOf(address)
          .map(each => binary(Number.parseInt(each, 16), 16))
          .join('')}`.slice(0, prefix + 1)
  known.set(network, bits)
  return bits
}

const binary = (value: number, length: number) => value.toString(2).padStart(length, '0')

/** The eight groups of an address of IPv6. */
function groupsOf(address: string): string[] {
  const [before = '', after] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const [first, last] = [before, after ?? ''].map(part => (part === '' ? [] : part.split(':')))
  return [...first!, ...Array.from({ length: 8 - first!.length - last!.length }, () => '0'), ...last!]
}

/** Whether all addresses of the second network are in the first. */
export function contains(network: string, other: string): boolean {
  return bitsOf(other).startsWith(bitsOf(network))
}

/** The networks of addresses that are in both lists. */
export function commonNetworks(some: readonly string[], others: readonly string[]): string[] {
  const found = some.flatMap(one =>
    others.flatMap(other => (contains(one, other) ? [other] : contains(other, one) ? [one] : [])),
  )
  return [...new Set(found)].sort()
}

/** The network as the proxy writes it; null for another text, for an address of one interface, and for a network of IPv6 that holds addresses of IPv4. */
export function networkOf(text: string): string | null {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const version = isIP(address)
  if (
    version === 0 ||
    address.includes('%') ||
    (bits !== undefined && Number(bits) > (version === 4 ? 32 : 128))
  )
    return null
  return version === 6 && bits !== undefined && Number(bits) < 97 && /^::/.test(address) ? null : text
}

/** The length of the prefix of the largest network, as the proxy compares it: narrower ones come first. */
export function narrowness(networks: readonly string[]): number {
  return Math.min(
    ...networks.map(partsOf).map(({ family, prefix }) => (family === 'ipv4' ? prefix + 96 : prefix)),
  )
}
