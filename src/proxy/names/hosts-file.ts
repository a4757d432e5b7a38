import { isIP, SocketAddress } from 'node:net'
import { FollowedFile } from './followed-file.js'

const NONE: readonly string[] = []

/** The names of a hosts file (hosts(5)); a file that changes is read again within a second. */
export class HostsFile {
  readonly #file: FollowedFile
  #text = ''
  #names = new Map<string, string[]>()

  constructor(path: string) {
    this.#file = new FollowedFile(path)
  }

  /** Returns the addresses of a name in small letters, in the order of the file. */
  addresses(name: string, now: number): readonly string[] {
    const text = this.#file.text(now)
    if (text !== this.#text) {
      this.#text = text
      this.#names = parse(text)
    }
    return this.#names.get(name) ?? NONE
  }
}

function parse(text: string): Map<string, string[]> {
  const names = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const [given = '', ...aliases] = line.replace(/#.*/, '').trim().split(/\s+/)
    const address = canonical(given)
    if (address === null) continue
    for (const alias of aliases) {
      const name = alias.toLowerCase()
      const addresses = names.get(name)
      if (addresses === undefined) names.set(name, [address])
      else if (!addresses.includes(address)) addresses.push(address)
    }
  }
  return names
}

/** Returns the address as the kernel spells it, or null if the text is none. */
function canonical(text: string): string | null {
  const family = isIP(text)
  if (family !== 6) return family === 4 ? text : null
  const [bare = '', zone] = text.split('%')
  const { address } = new SocketAddress({ address: bare, family: 'ipv6' })
  return zone === undefined ? address : `${address}%${zone}`
}
