import { readFileSync } from 'node:fs'
import { withinLimit } from '../../base/limited-signal.js'
import { FdbError, type Logger, type Member, type Section } from '../../index.js'
import { EtcdSource } from '../../sources/etcd-source.js'
import { type FollowedSource, followSource, type SourceStatus } from '../../sources/follow-source.js'
import { HttpSource } from '../../sources/http-source.js'
import type { Source } from '../../sources/source.js'
import type { ProxyConfig } from '../config/schema.js'
import { type SourceConfig, storeOf } from '../config/source.js'
import { ROUTE_PREFIX, SOURCE, type SourceMessage, sourceSection } from '../entries/source-section.js'
import type { SharedConfig } from '../state/followed-config.js'
import { kindOf } from '../upstreams/address.js'
import { type UpstreamConfig, withTimeouts } from '../upstreams/shape.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import { type SharedPart, sharedPart, sourceEntry } from './entry.js'

/** Follows the store outside that several machines share. The table reads the routes from the section; other entries are parts of the configuration, and override those of the file. */
export class SourcedConfig implements SharedConfig {
  readonly #section: Section<SourceMessage>
  readonly #followed: FollowedSource
  readonly #logger: Logger
  /** The entries that are no routes. */
  readonly #parts = new Map<string, SharedPart>()
  readonly #timeouts: ProxyConfig['timeouts']
  #upstreams: Pick<Upstreams, 'adopt'> | null = null
  #changed: () => void = () => {}
  #scheduled: NodeJS.Immediate | null = null
  /** Parts have changed since {@link read}. */
  #stale = false
  #unsubscribe: () => void

  private constructor(
    member: Member,
    config: SourceConfig,
    timeouts: ProxyConfig['timeouts'],
    logger: Logger,
  ) {
    this.#timeouts = timeouts
    this.#logger = logger
    this.#section = member.section(SOURCE, sourceSection)
    for (const key of this.#section.keys()) this.#readPart(key)
    this.#unsubscribe = this.#section.onChange(({ op, key }) => {
      if (op === 'clear') this.#parts.clear()
      else if (!this.#readPart(key)) return
      this.#stale = true
      this.#scheduled ??= setImmediate(() => {
        this.#scheduled = null
        if (this.#stale) this.#changed()
      })
    })
    this.#followed = followSource(member, this.#section, sourceOf(config), { parse: sourceEntry, logger })
  }

  /** Resolves when the section has contents of the store, in a next version at once. Rejects with ERR_FDB_SOURCE after `timeout`. */
  static async open(
    member: Member,
    { source, timeouts }: { source: SourceConfig; timeouts: ProxyConfig['timeouts'] },
    logger: Logger,
    { timeout, signal = new AbortController().signal }: { timeout: number; signal: AbortSignal | undefined },
  ): Promise<SourcedConfig> {
    const sourced = new SourcedConfig(member, source, timeouts, logger)
    try {
      await withinLimit(signal, timeout, limited => sourced.#followed.contents(limited))
    } catch (cause) {
      sourced.stop()
      signal.throwIfAborted()
      const { failure, source } = sourced.status
      const why = failure?.message ?? 'it does not answer'
      throw new FdbError(
        'ERR_FDB_SOURCE',
        `${source} could not be read within ${timeout} ms, and the state has nothing of it: ${why}`,
        { retryable: true, cause },
      )
    }
    return sourced
  }

  get status(): SourceStatus {
    return this.#followed.status
  }

  /** Returns `own` with the parts of the store, which precede its own. */
  read(own: ProxyConfig): ProxyConfig {
    // Reading the size notifies the listeners of this turn's changes.
    void this.#section.size
    this.#stale = false
    const upstreams = new Map<string, UpstreamConfig>(own.upstreams.map(each => [each.name, each]))
    const limits = { ...own.limits }
    const certificates: ProxyConfig['tls']['certificates'] = []
    for (const [, part] of [...this.#parts].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if ('limits' in part) Object.assign(limits, part.limits)
      else if ('certificate' in part) certificates.push(part.certificate)
      else {
        const upstream = withTimeouts(part.upstream, own.timeouts)
        const before = upstreams.get(upstream.name)
        if (before === undefined || kindOf(before.servers) === kindOf(upstream.servers))
          upstreams.set(upstream.name, upstream)
        else
          this.#logger.warn(
            { upstream: upstream.name },
            'an upstream of the source is not used: that of the file is of another kind, http://, tcp:// or udp://',
          )
      }
    }
    const names = new Set(certificates.flatMap(each => each.names))
    // The first certificate of the file stays the default.
    const others = own.tls.certificates.map(each => ({
      ...each,
      names: each.names.filter(name => !names.has(name)),
    }))
    return {
      ...own,
      upstreams: [...upstreams.values()],
      limits,
      tls: { ...own.tls, certificates: [...others, ...certificates] },
    }
  }

  get adopted(): string[] {
    return [...this.#parts.values()].flatMap(part => ('upstream' in part ? part.upstream.name : []))
  }

  adoptInto(upstreams: Pick<Upstreams, 'adopt'>): void {
    this.#upstreams = upstreams
  }

  watch(changed: () => void): void {
    this.#changed = changed
    if (this.#stale) changed()
  }

  stop(): void {
    this.#unsubscribe()
    if (this.#scheduled !== null) clearImmediate(this.#scheduled)
  }

  /** Reads an entry that has changed. Returns false for a route. */
  #readPart(key: string): boolean {
    if (key.startsWith(ROUTE_PREFIX)) return false
    try {
      const stored = this.#section.get(key)
      if (stored === undefined) this.#parts.delete(key)
      else {
        const part = sharedPart(key, JSON.parse(stored.json))
        this.#parts.set(key, part)
        if ('upstream' in part) this.#upstreams?.adopt(withTimeouts(part.upstream, this.#timeouts))
      }
    } catch (error) {
      this.#parts.delete(key)
      this.#logger.warn(
        { err: error, key },
        'this version cannot use an entry of the source, and leaves it out',
      )
    }
    return true
  }
}

function sourceOf(config: SourceConfig): Source {
  return etcdOf(config) ?? new HttpSource({ url: config.url })
}

/** Returns null for an HTTP server. */
export function etcdOf({ url, user, passwordFile, ca, cert, key }: SourceConfig): EtcdSource | null {
  const store = storeOf(url)
  if (store.kind === 'http') return null
  const file = (path: string | undefined) => (path === undefined ? undefined : readFileSync(path))
  const password = file(passwordFile)?.toString().trim() ?? ''
  return new EtcdSource({
    hosts: store.hosts,
    prefix: store.prefix,
    tls: { ca: file(ca), cert: file(cert), key: file(key) },
    ...(user !== undefined && { user: { name: user, password } }),
  })
}
