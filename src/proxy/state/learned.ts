import type { Logger, Member, Section } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { messageSection } from '../entries/message-section.js'
import type { ResolvedName } from '../names/names.js'
import type { Upstreams } from '../upstreams/upstreams.js'

type DownMessage = fdbroker.proxy.ServerDown
type NameMessage = fdbroker.proxy.ServerName

const { ServerDown, ServerName } = fdbroker.proxy

const DOWN = 'servers.down'
const NAMES = 'servers.names'

const downSection = messageSection<DownMessage, fdbroker.proxy.ServerDown.$Properties>(ServerDown)
const namesSection = messageSection<NameMessage, fdbroker.proxy.ServerName.$Properties>(ServerName)

/** The time of an unchanged name in the state may be this old: a name with a short TTL is not written at each lookup. */
const NAME_AGE_MS = 60_000

/** The knowledge of a service about servers in the state: down servers, and addresses of names. Other workers and the next version need not learn it again. */
export class LearnedState {
  readonly #down: Section<DownMessage>
  readonly #names: Section<NameMessage>
  readonly #logger: Logger
  /** The entries of {@link #down} that this process has made, also those that are not in the log yet. */
  readonly #made = new Set<string>()
  #unsubscribe: (() => void)[] = []

  constructor(member: Member, logger: Logger) {
    this.#down = member.section(DOWN, downSection)
    this.#names = member.section(NAMES, namesSection)
    this.#logger = logger
  }

  /** Applies the entries of the state, and later changes of other processes. */
  follow(upstreams: Upstreams): void {
    const apply = (key: string): void => {
      const space = key.indexOf(' ')
      const until = this.#down.get(key)?.until
      const ms = until === undefined ? null : until - Date.now()
      upstreams.applyHealth(key.slice(0, space), key.slice(space + 1), ms)
    }
    for (const key of this.#down.keys()) this.#read(DOWN, key, () => apply(key))
    this.#unsubscribe.push(
      this.#down.onChange(change => {
        if (change.op !== 'clear') this.#read(DOWN, change.key, () => apply(change.key))
      }),
    )
  }

  /** `ms`: how long the server gets no requests; null: it is up. */
  recordHealth(upstream: string, server: string, ms: number | null): void {
    const key = `${upstream} ${server}`
    if (ms !== null) {
      this.#made.add(key)
      this.#write(this.#down.put(key, ServerDown.create({ until: Math.round(Date.now() + ms) })))
    } else if (this.#made.delete(key) || this.#down.has(key)) this.#write(this.#down.delete(key))
  }

  /** Returns null if no process has looked up the name with these name servers. */
  name(host: string, resolver: readonly string[]): ResolvedName | null {
    const found = this.#read(NAMES, host, () => this.#names.get(host)) ?? null
    if (found === null || found.addresses.length === 0 || found.resolver.join() !== resolver.join())
      return null
    return { addresses: found.addresses, ttlMs: found.validUntil - Date.now() }
  }

  /** `found`: null if the name has no address. */
  recordName(host: string, resolver: readonly string[], found: ResolvedName | null): void {
    if (found === null) {
      if (this.#names.has(host)) this.#write(this.#names.delete(host))
      return
    }
    const before = this.name(host, resolver)
    const isSame = before?.addresses.toSorted().join() === found.addresses.toSorted().join()
    if (isSame && before !== null && before.ttlMs > -NAME_AGE_MS) return
    const { addresses, ttlMs } = found
    const validUntil = Math.round(Date.now() + ttlMs)
    const message = { addresses: [...addresses], validUntil, resolver: [...resolver] }
    this.#write(this.#names.put(host, ServerName.create(message)))
  }

  /** Deletes entries of servers that are not configured any more. */
  async prune(
    isServer: (upstream: string, server: string) => boolean,
    isHost: (host: string) => boolean,
  ): Promise<void> {
    for (const key of [...this.#down.keys()]) {
      const space = key.indexOf(' ')
      if (!isServer(key.slice(0, space), key.slice(space + 1))) await this.#down.delete(key)
    }
    for (const host of [...this.#names.keys()]) if (!isHost(host)) await this.#names.delete(host)
  }

  stop(): void {
    for (const unsubscribe of this.#unsubscribe.splice(0)) unsubscribe()
  }

  #read<T>(section: string, key: string, read: () => T): T | undefined {
    try {
      return read()
    } catch (error) {
      this.#logger.warn({ err: error, section, key }, 'an entry of the state cannot be read and is not used')
      return undefined
    }
  }

  /** A process that may not write, for example because it is about to end, only keeps its knowledge to itself. */
  #write(written: Promise<unknown>): void {
    written.catch(error =>
      this.#logger.debug(
        { err: error },
        'what this process learned about a server could not be written to the state',
      ),
    )
  }
}
