/** Counts open connections by client IP address (IPv6: by /64 network). Ignores Unix sockets. */
export class ClientTally {
  readonly #open = new Map<string, number>()

  of(address: string): number {
    return this.#open.get(networkOf(address)) ?? 0
  }

  add(address: string): void {
    if (address !== '') this.#open.set(networkOf(address), this.of(address) + 1)
  }

  remove(address: string): void {
    const left = this.of(address) - 1
    const network = networkOf(address)
    if (left > 0) this.#open.set(network, left)
    else this.#open.delete(network)
  }
}

const GROUPS = 8
const NETWORK_GROUPS = 4
/** Link-local addresses share one /64 although they belong to different machines: each counts for itself. */
const LINK_LOCAL = /^fe[89ab]/

/** Returns the first 64 bits of an IPv6 address, and any other address unchanged. The address must be as the kernel prints it. */
function networkOf(address: string): string {
  if (!address.includes(':') || LINK_LOCAL.test(address)) return address
  const [before = '', after] = address.split('::')
  const groups = before === '' ? [] : before.split(':')
  if (after !== undefined) {
    const last = after === '' ? [] : after.split(':')
    while (groups.length + last.length < GROUPS) groups.push('0')
    groups.push(...last)
  }
  return groups.slice(0, NETWORK_GROUPS).join(':')
}
