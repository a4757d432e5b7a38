import type { Answer } from './name-servers.js'

const MOST_ADDRESSES = 64
const LEAST_TTL_MS = 1_000
const MOST_TTL_MS = 3_600_000
/** A name without an address is not asked for again for so long; node:dns does not tell the time that the zone says. */
const NOTHING_MS = 5_000
/** The same after name servers that did not answer. */
const FAILED_MS = 1_000
/** An address that could not be connected to comes behind the others for so long. */
const TROUBLED_MS = 10_000

/** What is known of one name. All times are on the clock of `performance`. */
export class KnownName {
  addresses: readonly string[] = []
  /** Why there is no address. */
  code: string | undefined
  /** What is known counts until then. */
  until = Number.NEGATIVE_INFINITY
  /** A question that is under way. */
  asking: Promise<void> | null = null
  #next = 0
  readonly #troubled = new Map<string, number>()

  /** It is time to ask. */
  due(now: number): boolean {
    return this.asking === null && now >= this.until
  }

  /** Takes addresses that this machine has by itself, until they change. */
  own(addresses: readonly string[]): void {
    if (this.addresses !== addresses) this.#take(addresses)
    this.until = Number.NEGATIVE_INFINITY
  }

  answered(answer: Answer, now: number): void {
    if (answer.kind === 'addresses') {
      this.#take([...new Set(answer.addresses)].slice(0, MOST_ADDRESSES))
      this.until = now + Math.min(MOST_TTL_MS, Math.max(LEAST_TTL_MS, answer.ttlMs))
      return
    }
    this.code = answer.code
    if (answer.kind === 'nothing') this.#take([])
    this.until = now + (answer.kind === 'nothing' ? NOTHING_MS : FAILED_MS)
  }

  /** Returns all addresses, each time from the next one on; those that failed last come behind the others. */
  inTurn(now: number): string[] {
    const { addresses } = this
    const first = addresses.length === 0 ? 0 : this.#next++ % addresses.length
    const turned = [...addresses.slice(first), ...addresses.slice(0, first)]
    if (this.#troubled.size === 0) return turned
    const isTroubled = (address: string) => (this.#troubled.get(address) ?? 0) > now
    return [...turned.filter(address => !isTroubled(address)), ...turned.filter(isTroubled)]
  }

  tried(address: string, connected: boolean, now: number): void {
    if (connected) this.#troubled.delete(address)
    else if (this.addresses.includes(address)) this.#troubled.set(address, now + TROUBLED_MS)
  }

  #take(addresses: readonly string[]): void {
    this.addresses = addresses
    for (const address of this.#troubled.keys())
      if (!addresses.includes(address)) this.#troubled.delete(address)
  }
}
