import { readFileSync, statSync } from 'node:fs'
import { isIP, SocketAddress } from 'node:net'

/** Returns the addresses of each lower-case name of a hosts file (hosts(5)), in the order of the file. */
export function parseHosts(text: string): ReadonlyMap<string, readonly string[]> {
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

/** Errors of a file that does not exist for this user. */
const MISSING: ReadonlySet<string | undefined> = new Set(['ENOENT', 'ENOTDIR', 'EACCES'])

/** The parsed text of a small file; a file that is missing counts as empty. Keeps the value if the file cannot be read for another reason, such as a lack of descriptors. Reads the file on first use. Checks at most once a second whether the file has changed, and returns the same value until then. */
export class ParsedFile<T> {
  readonly #path: string
  readonly #parse: (text: string) => T
  #checkAt = Number.NEGATIVE_INFINITY
  #version = ''
  #value: T | null = null

  constructor(path: string, parse: (text: string) => T) {
    this.#path = path
    this.#parse = parse
  }

  value(now: number): T {
    if (this.#value !== null && now < this.#checkAt) return this.#value
    this.#checkAt = now + CHECK_INTERVAL_MS
    let version = ''
    let text = ''
    try {
      const { ino, size, mtimeNs } = statSync(this.#path, { bigint: true })
      version = `${ino} ${size} ${mtimeNs}`
      if (version !== this.#version) text = readFileSync(this.#path, 'utf8')
    } catch (error) {
      if (!MISSING.has((error as NodeJS.ErrnoException).code)) return (this.#value ??= this.#parse(''))
      version = ''
    }
    const isChanged = version !== this.#version
    this.#version = version
    if (isChanged || this.#value === null) this.#value = this.#parse(text)
    return this.#value
  }
}
