import { readFileSync, statSync } from 'node:fs'
import { isIP, SocketAddress } from 'node:net'

const NONE: readonly string[] = []

/** A hosts file (hosts(5)). Changes take effect within a second. */
export class HostsFile {
  readonly #file: CachedFile
  #text = ''
  #names = new Map<string, string[]>()

  constructor(path: string) {
    this.#file = new CachedFile(path)
  }

  /** Returns the addresses of a lower-case name, in the order of the file. */
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

/** Returns the address as Node spells it in `remoteAddress`; null if `text` is not an address. */
function canonical(text: string): string | null {
  const family = isIP(text)
  if (family !== 6) return family === 4 ? text : null
  const [bare = '', zone] = text.split('%')
  const { address } = new SocketAddress({ address: bare, family: 'ipv6' })
  return zone === undefined ? address : `${address}%${zone}`
}

const CHECK_INTERVAL_MS = 1_000

/** The cached text of a small file. Checks at most once a second whether the file has changed. */
export class CachedFile {
  readonly #path: string
  #checkAt = Number.NEGATIVE_INFINITY
  #version = ''
  #text = ''

  constructor(path: string) {
    this.#path = path
  }

  /** Returns the text, or '' if the file cannot be read. */
  text(now: number): string {
    if (now < this.#checkAt) return this.#text
    this.#checkAt = now + CHECK_INTERVAL_MS
    try {
      const { ino, size, mtimeNs } = statSync(this.#path, { bigint: true })
      const version = `${ino} ${size} ${mtimeNs}`
      if (version === this.#version) return this.#text
      this.#text = readFileSync(this.#path, 'utf8')
      this.#version = version
    } catch {
      this.#text = ''
      this.#version = ''
    }
    return this.#text
  }
}
