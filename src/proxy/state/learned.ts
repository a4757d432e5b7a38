import type { Logger, Member, Section } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { messageSection } from '../entries/message-section.js'
import type { ResolvedName } from '../names/names.js'
import { UNCHECKED, type Verdict } from '../server-checks/verdict.js'
import type { Upstreams } from '../upstreams/upstreams.js'

type DownMessage = fdbroker.proxy.ServerDown
type CheckMessage = fdbroker.proxy.ServerCheck
type NameMessage = fdbroker.proxy.ServerName

const { ServerDown, ServerCheck, ServerName } = fdbroker.proxy

const DOWN = 'servers.down'
const CHECKS = 'servers.checks'
const NAMES = 'servers.names'

const downSection = messageSection<DownMessage, fdbroker.proxy.ServerDown.$Properties>(ServerDown)
const checksSection = messageSection<CheckMessage, fdbroker.proxy.ServerCheck.$Properties>(ServerCheck)
const namesSection = messageSection<NameMessage, fdbroker.proxy.ServerName.$Properties>(ServerName)

/** The time of an unchanged name in the state may be this old: a name with a short TTL is not written at each lookup. */
const NAME_AGE_MS = 60_000

function serverKey(upstream: string, server: string): string {
  return `${upstream} ${server}`
}

function parseServerKey(key: string): { upstream: string; server: string } {
  const space = key.indexOf(' ')
  return { upstream: key.slice(0, space), server: key.slice(space + 1) }
}

/** The knowledge of a service about servers in the state: down servers, results of active checks, and addresses of names. Other workers and the next version need not learn it again. */
export class LearnedState {
  readonly #down: Section<DownMessage>
  readonly #checks: Section<CheckMessage>
  readonly #names: Section<NameMessage>
  readonly #logger: Logger
  /** The entries of {@link #down} that this process has made, also those that are not in the log yet. */
  readonly #made = new Set<string>()
  #unsubscribe: (() => void)[] = []
  #applyVerdicts = () => {}

  constructor(member: Member, logger: Logger) {
    this.#down = member.section(DOWN, downSection)
    this.#checks = member.section(CHECKS, checksSection)
    this.#names = member.section(NAMES, namesSection)
    this.#logger = logger
  }

  /** Applies the entries of the state, and later changes of other processes. */
  follow(upstreams: Upstreams): void {
    const servers = () => upstreams.servers()
    this.#followed(DOWN, this.#down, servers, (upstream, server, entry) =>
      upstreams.applyHealth(upstream, server, entry === undefined ? null : entry.until - Date.now()),
    )
    this.#applyVerdicts = this.#followed(CHECKS, this.#checks, servers, (upstream, server, entry) =>
      upstreams.findConfigured(upstream)?.applyVerdict(server, entry ?? UNCHECKED),
    )
  }

  /** Applies the results of active checks again: the configuration has other servers or checks. */
  refreshVerdicts(): void {
    this.#applyVerdicts()
  }

  /** Applies all entries of a section, and later changes. Returns a function that applies all entries again. */
  #followed<M>(
    name: string,
    section: Section<M>,
    servers: () => Iterable<{ upstream: string; server: string }>,
    apply: (upstream: string, server: string, entry: M | undefined) => void,
  ): () => void {
    const applyKey = (key: string) =>
      this.#read(name, key, () => {
        const { upstream, server } = parseServerKey(key)
        apply(upstream, server, section.get(key))
      })
    const applyAll = () => {
      for (const key of section.keys()) applyKey(key)
    }
    const forgetAll = () => {
      for (const { upstream, server } of servers()) apply(upstream, server, undefined)
    }
    applyAll()
    this.#unsubscribe.push(
      section.onChange(change => {
        if (change.op === 'clear') forgetAll()
        else applyKey(change.key)
      }),
    )
    return applyAll
  }

  /** `ms`: how long the server gets no requests; null: it is up. */
  recordHealth(upstream: string, server: string, ms: number | null): void {
    const key = serverKey(upstream, server)
    if (ms !== null) {
      this.#made.add(key)
      this.#write(this.#down.put(key, ServerDown.create({ until: Math.round(Date.now() + ms) })))
    } else if (this.#made.delete(key) || this.#down.has(key)) this.#write(this.#down.delete(key))
  }

  recordVerdict(upstream: string, server: string, verdict: Verdict): void {
    this.#write(this.#checks.put(serverKey(upstream, server), ServerCheck.create({ ...verdict })))
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
    isChecked: (upstream: string, server: string) => boolean,
    isHost: (host: string) => boolean,
  ): Promise<void> {
    for (const [section, isNeeded] of [
      [this.#down, isServer],
      [this.#checks, isChecked],
    ] as const)
      for (const key of [...section.keys()]) {
        const { upstream, server } = parseServerKey(key)
        if (!isNeeded(upstream, server)) await section.delete(key)
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
