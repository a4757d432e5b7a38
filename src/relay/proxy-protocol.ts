import { isIP } from 'node:net'
import { NO_BYTES } from './bytes.js'

/** The two ends of a client's connection, as a proxy in front of this one tells them. */
export interface Addresses {
  /** IP addresses. */
  readonly client: string
  readonly clientPort: number
  readonly server: string
  readonly serverPort: number
}

export type ProxyVersion = 'v1' | 'v2'

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
/** Version 2 has a length after signature, command and family. */
const V2_FIXED_BYTES = 16
const MAX_V1_BYTES = 107
/** Addresses and the further fields behind them, which are not used. */
const MAX_V2_BYTES = 4096

const TCP4 = 0x11
const TCP6 = 0x21
const LOCAL = 0x20
const PROXY = 0x21

/** A header at the begin of a connection. `addresses`: null if the sender speaks for itself. */
export interface ProxyHeader {
  readonly length: number
  readonly addresses: Addresses | null
}

/** Reads a header of the PROXY protocol, version 1 or 2. Returns null if bytes are missing, and why it is no header. */
export function readProxyHeader(bytes: Buffer): ProxyHeader | string | null {
  if (bytes.length === 0) return null
  return bytes[0] === SIGNATURE[0] ? readV2(bytes) : readV1(bytes)
}

function readV1(bytes: Buffer): ProxyHeader | string | null {
  const text = bytes.toString('latin1', 0, MAX_V1_BYTES)
  const end = text.indexOf('\r\n')
  if (!'PROXY '.startsWith(text.slice(0, 6))) return 'the connection does not begin with PROXY'
  if (end < 0) return text.length < MAX_V1_BYTES ? null : 'the header is too long'
  const length = end + 2
  if (/^PROXY UNKNOWN(?: |$)/.test(text.slice(0, end))) return { length, addresses: null }
  const [, family = '', client = '', server = '', ...ports] =
    /^PROXY TCP([46]) (\S+) (\S+) (\d{1,5}) (\d{1,5})$/.exec(text.slice(0, end)) ?? []
  const [clientPort = 0, serverPort = 0] = ports.map(Number)
  const areRight = [client, server].every(address => isIP(address) === Number(family || -1))
  if (!areRight || Math.max(clientPort, serverPort) > 65_535) return 'the addresses of the header are wrong'
  return { length, addresses: { client, clientPort, server, serverPort } }
}

function readV2(bytes: Buffer): ProxyHeader | string | null {
  const known = Math.min(bytes.length, SIGNATURE.length)
  if (bytes.compare(SIGNATURE, 0, known, 0, known) !== 0) return 'the signature of the header is wrong'
  if (bytes.length < V2_FIXED_BYTES) return null
  const [command, family] = [bytes[12], bytes[13]]
  const content = bytes.readUInt16BE(14)
  if (command !== LOCAL && command !== PROXY) return 'the header has an unknown version or command'
  if (content > MAX_V2_BYTES) return 'the header is too long'
  const length = V2_FIXED_BYTES + content
  if (bytes.length < length) return null
  const addressBytes = family === TCP4 ? 4 : family === TCP6 ? 16 : 0
  if (command === LOCAL || addressBytes === 0) return { length, addresses: null }
  if (content < 2 * addressBytes + 4) return 'the header is too short for its addresses'
  const at = V2_FIXED_BYTES
  const ports = at + 2 * addressBytes
  return {
    length,
    addresses: {
      client: addressText(bytes.subarray(at, at + addressBytes)),
      clientPort: bytes.readUInt16BE(ports),
      server: addressText(bytes.subarray(at + addressBytes, ports)),
      serverPort: bytes.readUInt16BE(ports + 2),
    },
  }
}

function addressText(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from({ length: 8 }, (_, n) => bytes.readUInt16BE(2 * n).toString(16))
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1)
}

/** Writes a header. `given`: null if the sender speaks for itself, or the client has no IP address. */
export function proxyHeader(version: ProxyVersion, given: Addresses | null): Buffer {
  const addresses = given && {
    ...given,
    client: withoutZone(given.client),
    server: withoutZone(given.server),
  }
  const kinds = addresses === null ? [] : [isIP(addresses.client), isIP(addresses.server)]
  const [kind = 0, other = 0] = kinds
  const isKnown = addresses !== null && kind !== 0 && kind === other
  if (version === 'v1') {
    if (!isKnown) return Buffer.from('PROXY UNKNOWN\r\n')
    const { client, clientPort, server, serverPort } = addresses
    return Buffer.from(`PROXY TCP${kind} ${client} ${server} ${clientPort} ${serverPort}\r\n`)
  }
  const content = isKnown ? contentOf(addresses) : NO_BYTES
  const fixed = Buffer.alloc(4)
  fixed[0] = isKnown ? PROXY : LOCAL
  fixed[1] = !isKnown ? 0 : kind === 4 ? TCP4 : TCP6
  fixed.writeUInt16BE(content.length, 2)
  return Buffer.concat([SIGNATURE, fixed, content])
}

/** Only this machine knows the zone of a link-local address (`fe80::1%eth0`). */
function withoutZone(address: string): string {
  const at = address.indexOf('%')
  return at < 0 ? address : address.slice(0, at)
}

function contentOf({ client, clientPort, server, serverPort }: Addresses): Buffer {
  const ports = Buffer.alloc(4)
  ports.writeUInt16BE(clientPort, 0)
  ports.writeUInt16BE(serverPort, 2)
  return Buffer.concat([addressBytes(client), addressBytes(server), ports])
}

function addressBytes(address: string): Buffer {
  if (!address.includes(':')) return Buffer.from(address.split('.').map(Number))
  // The last two groups may be written as an IPv4 address; WHATWG writes groups alone.
  const groups = new URL(`http://[${address}]`).hostname.slice(1, -1)
  const [front = '', back] = groups.split('::')
  const of = (part: string | undefined) =>
    part ? part.split(':').map(group => Number.parseInt(group, 16)) : []
  const [first, last] = [of(front), of(back)]
  const all = [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last]
  const bytes = Buffer.alloc(16)
  for (const [n, group] of all.entries()) bytes.writeUInt16BE(group, 2 * n)
  return bytes
}
