import { isIPv6, type LookupFunction } from 'node:net'
import type { NamedHost } from '../../relay/index.js'
import { ParsedFile, parseHosts } from './hosts-file.js'
import { type DnsAnswer, NameServers, type NameServersOptions } from './name-servers.js'

export interface NamesOptions extends NameServersOptions {
  /** Default: /etc/hosts and /etc/resolv.conf. */
  hosts?: string
  resolvConf?: string
  /** Called when a lookup gives no address. */
  onFailure?: (name: string, code: string) => void
  shared?: SharedNames
}

export interface ResolvedName {
  readonly addresses: readonly string[]
  /** Milliseconds until the name must be looked up again; negative: since then. */
  readonly ttlMs: number
}

/** The names that the other processes of the service have looked up. `resolver`: the configured name servers. */
export interface SharedNames {
  name(host: string, resolver: readonly string[]): ResolvedName | null
  recordName(host: string, resolver: readonly string[], found: ResolvedName | null): void
}

const MAX_NAMES = 10_000
/** If the known addresses expired this long ago, a lookup waits up to {@link REFRESH_WAIT_MS} for new ones. */
const STALE_MS = 30_000
const REFRESH_WAIT_MS = 1_000

type LookupCallback = (error: NodeJS.ErrnoException | null, addresses: readonly string[]) => void

/** Resolves names with the hosts file, otherwise with DNS. Keeps addresses for their TTL, and longer if no name server answers. A slow lookup does not delay other names. */
export class Names {
  readonly #hosts: ParsedFile<ReturnType<typeof parseHosts>>
  readonly #servers: NameServers
  readonly #onFailure: NamesOptions['onFailure']
  readonly #shared: SharedNames | undefined
  #resolver: readonly string[]
  #closed = false
  readonly #known = new Map<string, KnownName>()

  constructor({
    hosts = '/etc/hosts',
    resolvConf = '/etc/resolv.conf',
    onFailure,
    shared,
    ...servers
  }: NamesOptions) {
    this.#hosts = new ParsedFile(hosts, parseHosts)
    this.#servers = new NameServers(resolvConf, servers)
    this.#onFailure = onFailure
    this.#shared = shared
    this.#resolver = servers.servers
  }

  /** Forgets all names if the name servers have changed, because the new ones may give other addresses. */
  configure(options: NameServersOptions): void {
    this.#resolver = options.servers
    if (this.#servers.configure(options)) this.#known.clear()
  }

  /** Looks up these names. Resolves when the addresses of each are known, or when its name servers have not answered in time. */
  async prepare(names: Iterable<string>): Promise<void> {
    const now = performance.now()
    const pending: (Promise<void> | null)[] = []
    for (const name of names) {
      const known = this.#knownName(name, now)
      if (known.addresses.length === 0) pending.push(known.pending)
    }
    await Promise.all(pending)
  }

  close(): void {
    this.#closed = true
    this.#servers.close()
  }

  /** `name` must be lower-case. */
  hostOf(name: string): NamedHost {
    const lookup: LookupFunction = (_name, options, callback) =>
      this.#lookup(name, (error, addresses) => {
        const all = addresses.map(address => ({ address, family: isIPv6(address) ? 6 : 4 }))
        if (error !== null) callback(error, '')
        else if (options.all) callback(null, all)
        else callback(null, all[0]!.address, all[0]!.family)
      })
    return {
      lookup,
      current: address => this.#knownName(name, performance.now()).addresses.includes(address),
      turn: () => {
        const now = performance.now()
        return this.#knownName(name, now).turn(now)
      },
      tried: (address, connected) =>
        this.#known.get(name)?.recordAttempt(address, connected, performance.now()),
    }
  }

  /** Never calls `done` before it returns. */
  #lookup(name: string, done: LookupCallback): void {
    const now = performance.now()
    const known = this.#knownName(name, now)
    const { pending, addresses, validUntil } = known
    const old = addresses.length > 0 && now >= validUntil + STALE_MS
    if (pending === null || (addresses.length > 0 && !old)) {
      process.nextTick(() => callBack(name, known, done))
      return
    }
    let called = false
    const callOnce = () => {
      if (called) return
      called = true
      clearTimeout(timer)
      callBack(name, known, done)
    }
    const timer = old ? setTimeout(callOnce, REFRESH_WAIT_MS).unref() : undefined
    void pending.then(callOnce)
  }

  /** Returns the known addresses, and refreshes them in the background if they have expired. */
  #knownName(name: string, now: number): KnownName {
    let known = this.#known.get(name)
    if (known === undefined) {
      known = new KnownName()
      const shared = this.#shared?.name(name, this.#resolver) ?? null
      if (shared !== null) known.restore(shared, now)
      if (this.#known.size >= MAX_NAMES) this.#known.delete(this.#known.keys().next().value!)
      this.#known.set(name, known)
    }
    const localAddresses = this.#hosts.value(now).get(name)
    if (localAddresses !== undefined) known.setLocal(localAddresses)
    else if (name === 'localhost' || name.endsWith('.localhost')) known.setLocal(LOOPBACK)
    else if (known.isDue(now)) this.#refresh(name, known, now)
    return known
  }

  #refresh(name: string, known: KnownName, now: number): void {
    const resolver = this.#resolver
    const pending = this.#servers.resolve(name, now).then(answer => {
      known.pending = null
      this.#learn(name, known, resolver, answer)
      if (answer.kind === 'addresses')
        void answer.late?.then(whole => {
          // A further lookup knows more.
          if (known.last === pending) this.#learn(name, known, resolver, whole)
        })
    })
    known.pending = pending
    known.last = pending
  }

  #learn(name: string, known: KnownName, resolver: readonly string[], answer: DnsAnswer): void {
    known.applyAnswer(answer, performance.now())
    if (this.#closed) return
    const { addresses } = known
    // The name servers may have changed meanwhile.
    if (this.#known.get(name) === known && answer.kind !== 'failed')
      this.#shared?.recordName(name, resolver, answer.kind === 'nothing' ? null : { ...answer, addresses })
    if (answer.kind !== 'addresses') this.#onFailure?.(name, answer.code)
  }
}

const LOOPBACK = ['127.0.0.1', '::1']

function callBack(name: string, known: KnownName, done: LookupCallback): void {
  const addresses = known.inTurn(performance.now())
  if (addresses.length > 0) done(null, addresses)
  else {
    const { code = 'ENOTFOUND' } = known
    done(Object.assign(new Error(`${name}: ${code}`), { code, syscall: 'lookup', hostname: name }), [])
  }
}

const MAX_ADDRESSES = 64
const MIN_TTL_MS = 1_000
const MAX_TTL_MS = 3_600_000
/** How long a name without an address is not looked up again: `node:dns` does not report the TTL of such an answer. */
const NOTHING_MS = 5_000
/** How long a name is not looked up again after a failed lookup. */
const FAILED_MS = 1_000
/** How long a name is not looked up again after a lookup without an answer about one of the address families. */
const INCOMPLETE_MS = 5_000
/** For this time after a failed attempt to connect, the address is tried last. */
const FAILED_LAST_MS = 10_000

/** The addresses of one name. Times are in milliseconds of `performance.now()`. */
export class KnownName {
  addresses: readonly string[] = []
  /** The DNS error code if the name has no address. */
  code: string | undefined
  validUntil = Number.NEGATIVE_INFINITY
  pending: Promise<void> | null = null
  /** The last lookup, also after its end. */
  last: Promise<void> | null = null
  #next = 0
  #turn = 0
  readonly #failedUntil = new Map<string, number>()

  isDue(now: number): boolean {
    return this.pending === null && now >= this.validUntil
  }

  /** Sets addresses of the hosts file, or of localhost. If the name is removed from the hosts file, a DNS lookup is due at once. */
  setLocal(addresses: readonly string[]): void {
    if (this.addresses !== addresses) this.#setAddresses(addresses)
    this.validUntil = Number.NEGATIVE_INFINITY
  }

  /** Takes over the addresses that another process has looked up. */
  restore({ addresses, ttlMs }: ResolvedName, now: number): void {
    this.#setAddresses(addresses)
    this.validUntil = now + Math.min(MAX_TTL_MS, ttlMs)
  }

  applyAnswer(answer: DnsAnswer, now: number): void {
    if (answer.kind === 'addresses') {
      const { missing } = answer
      // As long as no name server says otherwise, the name keeps its addresses of a family without an answer.
      const kept =
        missing === undefined ? [] : this.addresses.filter(each => isIPv6(each) === (missing === 6))
      this.#setAddresses([...new Set([...answer.addresses, ...kept])].slice(0, MAX_ADDRESSES))
      const most = missing === undefined ? MAX_TTL_MS : INCOMPLETE_MS
      this.validUntil = now + Math.min(most, Math.max(MIN_TTL_MS, answer.ttlMs))
      return
    }
    this.code = answer.code
    if (answer.kind === 'nothing') this.#setAddresses([])
    this.validUntil = now + (answer.kind === 'nothing' ? NOTHING_MS : FAILED_MS)
  }

  /** Returns all addresses, each time starting with another one (round robin). Addresses that failed recently come last. */
  inTurn(now: number): string[] {
    const { addresses } = this
    const first = addresses.length === 0 ? 0 : this.#next++ % addresses.length
    const turned = [...addresses.slice(first), ...addresses.slice(0, first)]
    if (this.#failedUntil.size === 0) return turned
    const failedRecently = (address: string) => (this.#failedUntil.get(address) ?? 0) > now
    return [...turned.filter(address => !failedRecently(address)), ...turned.filter(failedRecently)]
  }

  /** Returns the address whose turn it is, and passes over those that failed recently; null for fewer than two addresses. */
  turn(now: number): string | null {
    const { addresses } = this
    if (addresses.length < 2) return null
    for (let tried = 0; tried < addresses.length; tried++) {
      const address = addresses[this.#turn++ % addresses.length]!
      if (this.#failedUntil.size === 0 || (this.#failedUntil.get(address) ?? 0) <= now) return address
    }
    return addresses[this.#turn++ % addresses.length]!
  }

  recordAttempt(address: string, connected: boolean, now: number): void {
    if (connected) this.#failedUntil.delete(address)
    else if (this.addresses.includes(address)) this.#failedUntil.set(address, now + FAILED_LAST_MS)
  }

  #setAddresses(addresses: readonly string[]): void {
    this.addresses = addresses
    for (const address of this.#failedUntil.keys())
      if (!addresses.includes(address)) this.#failedUntil.delete(address)
  }
}
