import { isIPv6, type LookupFunction } from 'node:net'
import type { NamedHost } from '../../relay/index.js'
import { HostsFile } from './hosts-file.js'
import { KnownName } from './known-name.js'
import { NameServers, type NameServersOptions } from './name-servers.js'

export interface NamesOptions extends NameServersOptions {
  /** Default: /etc/hosts and /etc/resolv.conf. */
  hosts?: string
  resolvConf?: string
  /** The name servers did not give an address for the name. */
  onFailure?: (name: string, code: string) => void
}

const MOST_NAMES = 10_000
/** Addresses that were found but are this old are asked for again before they are used, for {@link ASKED_AGAIN_MS} at most. */
const STALE_MS = 30_000
const ASKED_AGAIN_MS = 1_000

type Done = (error: NodeJS.ErrnoException | null, addresses: readonly string[]) => void

/**
 * The addresses of the names of servers: of the hosts file, else of the name servers, for as long as these said. No name waits for another
 * one, and a name is asked for once at a time. While the name servers do not answer, the addresses known last are used.
 */
export class Names {
  readonly #hosts: HostsFile
  readonly #servers: NameServers
  readonly #onFailure: NamesOptions['onFailure']
  #closed = false
  readonly #known = new Map<string, KnownName>()

  constructor({
    hosts = '/etc/hosts',
    resolvConf = '/etc/resolv.conf',
    onFailure,
    ...servers
  }: NamesOptions) {
    this.#hosts = new HostsFile(hosts)
    this.#servers = new NameServers(resolvConf, servers)
    this.#onFailure = onFailure
  }

  /** Other name servers may give other addresses: what is known is forgotten. */
  configure(options: NameServersOptions): void {
    if (this.#servers.configure(options)) this.#known.clear()
  }

  close(): void {
    this.#closed = true
    this.#servers.close()
  }

  /** The name in small letters. */
  named(name: string): NamedHost {
    return {
      lookup: this.#lookupOf(name),
      current: address => this.#of(name, performance.now()).addresses.includes(address),
      tried: (address, connected) => this.#known.get(name)?.tried(address, connected, performance.now()),
    }
  }

  #lookupOf(name: string): LookupFunction {
    return (_name, options, callback) => {
      this.#find(name, (error, addresses) => {
        const all = addresses.map(address => ({ address, family: isIPv6(address) ? 6 : 4 }))
        if (error !== null) callback(error, '')
        else if (options.all) callback(null, all)
        else callback(null, all[0]!.address, all[0]!.family)
      })
    }
  }

  /** Calls back in a later turn. */
  #find(name: string, done: Done): void {
    const now = performance.now()
    const known = this.#of(name, now)
    const { asking, addresses, until } = known
    const old = addresses.length > 0 && now >= until + STALE_MS
    if (asking === null || (addresses.length > 0 && !old)) {
      process.nextTick(() => tell(name, known, done))
      return
    }
    let told = false
    const once = () => {
      if (told) return
      told = true
      clearTimeout(patience)
      tell(name, known, done)
    }
    const patience = old ? setTimeout(once, ASKED_AGAIN_MS).unref() : undefined
    void asking.then(once)
  }

  /** What is known now; asks the name servers if it is time. */
  #of(name: string, now: number): KnownName {
    let known = this.#known.get(name)
    if (known === undefined) {
      known = new KnownName()
      if (this.#known.size >= MOST_NAMES) this.#known.delete(this.#known.keys().next().value!)
      this.#known.set(name, known)
    }
    const here = this.#hosts.addresses(name, now)
    if (here.length > 0) known.own(here)
    else if (name === 'localhost' || name.endsWith('.localhost')) known.own(LOOPBACK)
    else if (known.due(now)) this.#ask(name, known, now)
    return known
  }

  #ask(name: string, known: KnownName, now: number): void {
    known.asking = this.#servers.ask(name, now).then(answer => {
      known.asking = null
      known.answered(answer, performance.now())
      if (answer.kind !== 'addresses' && !this.#closed) this.#onFailure?.(name, answer.code)
    })
  }
}

const LOOPBACK = ['127.0.0.1', '::1']

function tell(name: string, known: KnownName, done: Done): void {
  const addresses = known.inTurn(performance.now())
  if (addresses.length > 0) done(null, addresses)
  else {
    const { code = 'ENOTFOUND' } = known
    done(Object.assign(new Error(`${name}: ${code}`), { code, syscall: 'lookup', hostname: name }), [])
  }
}

interface Sayer {
  say(kind: string, facts: object, message: string): void
}

/** Logs each name that could not be looked up. */
export function serverNames(options: NameServersOptions, complaints: Sayer): Names {
  const onFailure = (name: string, code: string) =>
    complaints.say(`name ${name}`, { host: name, code }, 'the name of a server could not be looked up')
  return new Names({ ...options, onFailure })
}
