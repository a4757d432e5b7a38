import { checkOptions } from '../checks/options.js'
import { absent, map, required, type ShapeOf } from '../checks/shape.js'
import { list, predicate } from '../checks/values.js'
import { FdbError } from '../errors.js'
import { runInSlices } from '../state/time-slices.js'
import { EtcdGateway, type EtcdTls, type EtcdUser } from './etcd-gateway.js'
import type { KnownKeys, Source, SourceBatch, SourceChange, SourceEntry } from './source.js'

/** Entries in one answer. etcd counts the rest for each: 100,000 entries in pages of 1,000 took it twice the time of pages of 5,000, and larger ones no less. */
const PAGE = 5_000
/** How often this process asks, beside a watch, whether its host still answers: a watch on a host without its cluster is silent for ever. */
const PING_MS = 15_000
const RANGE = '/v3/kv/range'
const TRANSACTION = '/v3/kv/txn'
const WATCH = '/v3/watch'

export interface EtcdSourceOptions {
  /** `http://HOST:2379` or `https://…`, one or several of the same cluster. */
  hosts: readonly string[]
  /** The keys of the section are those of the store without this prefix. */
  prefix: string
  user?: EtcdUser | undefined
  /** For `https:`: the store's CA, and a client certificate. */
  tls?: EtcdTls | undefined
}

const isText = (value: unknown) => typeof value === 'string' && value !== ''
const OPTIONS = map({
  hosts: required(
    list(
      predicate<string>(
        'a URL such as http://127.0.0.1:2379',
        value => isText(value) && /^https?:$/.test(protocolOf(value)),
      ),
      { least: 1, most: 64 },
    ),
  ),
  prefix: required(predicate<string>('a text, for example /shop/prices/', isText)),
  user: absent(
    map({
      name: required(predicate<string>('a text', isText)),
      password: required(predicate<string>('a text', isText)),
    }),
  ),
  tls: absent(
    predicate<EtcdTls>(
      'an object with any of ca, cert, key, servername',
      value => typeof value === 'object' && value !== null,
    ),
  ),
} satisfies ShapeOf<EtcdSourceOptions>)

/** The keys below a prefix of etcd 3.4 or later. Every process of a machine may have one; each needs a connection and asks the store every 15 s. */
export class EtcdSource implements Source {
  readonly id: string
  readonly #gateway: EtcdGateway
  readonly #prefix: Buffer
  #newest: string | null = null

  /** Throws ERR_FDB_OPTION. */
  constructor(options: EtcdSourceOptions) {
    const { hosts, prefix, user, tls } = checkOptions('new EtcdSource()', options, OPTIONS)
    this.id = `etcd ${prefix}`
    this.#prefix = Buffer.from(prefix)
    this.#gateway = new EtcdGateway(
      hosts.map(host => new URL(host)),
      tls ?? {},
      user ?? null,
    )
  }

  get newest(): string | null {
    return this.#newest
  }

  async *read(
    since: string | null,
    signal: AbortSignal,
    known: KnownKeys | null = null,
    unchanged: () => void = () => {},
  ): AsyncGenerator<SourceBatch, void> {
    let revision = since
    let forgotten = false
    while (!signal.aborted) {
      if (revision === null || forgotten) {
        const from = revision === null ? null : revisionOf(revision)
        const changes = from === null || known === null ? null : await this.#changesSince(from, known, signal)
        const batch = changes ?? (await this.contents(signal))
        revision = batch.revision
        forgotten = false
        yield batch
      }
      for await (const batch of this.#watch(revision, signal, unchanged)) {
        forgotten = batch === null
        if (batch === null) break
        revision = batch.revision
        yield batch
      }
    }
  }

  /**
   * The changes that the store has made since a revision, of which it has no events any more: the entries with a later revision, and the known keys that it does
   * not have. Null if the store counts from an earlier revision, or has keys that are not known.
   */
  async #changesSince(
    from: Revision,
    known: KnownKeys,
    signal: AbortSignal,
  ): Promise<{ changes: SourceChange[]; revision: string } | null> {
    const { entries, count, at } = await this.#range({ min_mod_revision: `${from.number + 1n}` }, signal)
    if (at.cluster !== from.cluster || at.number < from.number) return null
    const added = entries.filter(({ key }) => !known.has(key)).length
    const gone = known.size + added - count
    if (gone < 0) return null
    const changes: SourceChange[] = entries
    if (gone > 0) {
      const present = await this.#range({ keys_only: true, revision: `${at.number}` }, signal)
      for (const key of await runInSlices(keysWithout(known, present.entries), { signal }))
        changes.push({ key, value: null })
    }
    return { changes, revision: textOf(at) }
  }

  /**
   * @internal Makes changes in one transaction, after which the store must have so many entries. Rejects with ERR_FDB_SOURCE, without a change, if an entry has
   * changed since the revision. If an entry was removed meanwhile, rejects after the changes.
   */
  async change(
    changes: readonly SourceChange[],
    { revision, count }: { revision: string; count: number },
    signal: AbortSignal,
  ): Promise<void> {
    const all = { key: this.#prefix.toString('base64'), range_end: this.#end }
    const mod_revision = `${(revisionOf(revision)?.number ?? 0n) + 1n}`
    const success = changes.map(({ key: name, value }) => {
      const key = Buffer.concat([this.#prefix, Buffer.from(name)]).toString('base64')
      if (value === null) return { request_delete_range: { key } }
      return { request_put: { key, value: Buffer.from(value).toString('base64') } }
    })
    const transaction = {
      compare: [{ ...all, target: 'MOD', result: 'LESS', mod_revision }],
      success: [...success, { request_range: { ...all, count_only: true } }],
    }
    const answer = await this.#gateway.call(TRANSACTION, transaction, signal).catch((error: Error) => {
      throw error.message.includes('too many operations') ? tooMany(changes.length, error) : error
    })
    const [last] = ((answer.responses ?? []) as { response_range?: { count?: string } }[]).slice(-1)
    if (answer.succeeded === true && Number(last?.response_range?.count ?? 0) === count) return
    const why = answer.succeeded === true ? 'an entry was removed meanwhile' : 'nothing was changed'
    throw new FdbError('ERR_FDB_SOURCE', `the store has moved on, and ${why}: compare again`, {
      retryable: true,
    })
  }

  /** @internal All entries at one revision. */
  async contents(signal: AbortSignal): Promise<{ all: SourceEntry[]; revision: string }> {
    const { entries: all, at } = await this.#range({}, signal)
    return { all, revision: textOf(at) }
  }

  /** The entries of the prefix for which `limits` asks, at one revision; `count`: how many the prefix has. */
  async #range(
    limits: { min_mod_revision?: string; keys_only?: boolean; revision?: string },
    signal: AbortSignal,
  ): Promise<{ entries: SourceEntry[]; count: number; at: Revision }> {
    const found: SourceEntry[] = []
    let at: Revision | null = null
    let count = 0
    for (let from = this.#prefix, more = true; more; ) {
      const page = await this.#gateway.call(
        RANGE,
        {
          key: from.toString('base64'),
          range_end: this.#end,
          limit: PAGE,
          ...(at !== null && { revision: `${at.number}` }),
          ...limits,
        },
        signal,
      )
      if (at === null) {
        at = this.#note(page)
        count = Number(page.count ?? 0)
      }
      const entries = (page.kvs ?? []) as { key: string; value?: string }[]
      for (const { key, value = '' } of entries)
        found.push({ key: this.#keyOf(key), value: Buffer.from(value, 'base64') })
      const last = entries.at(-1)
      more = page.more === true && last !== undefined
      if (last !== undefined) from = Buffer.concat([Buffer.from(last.key, 'base64'), Buffer.of(0)])
    }
    return { entries: found, count, at: at as Revision }
  }

  /** Yields the changes after a revision; null, at the end, if the store does not have them. */
  async *#watch(
    since: string,
    signal: AbortSignal,
    unchanged: () => void,
  ): AsyncGenerator<{ changes: SourceChange[]; revision: string } | null, void> {
    const from = revisionOf(since)
    if (from === null) {
      yield null
      return
    }
    // The consumer of the last batch may have ended the reading: an abort before the listener below would have no effect.
    if (signal.aborted) return
    const own = new AbortController()
    const end = () => own.abort()
    signal.addEventListener('abort', end)
    let silent: unknown
    const pings = setInterval(() => {
      this.#gateway
        .call(RANGE, { key: this.#prefix.toString('base64'), keys_only: true, limit: 1 }, own.signal)
        .then(answer => this.#note(answer))
        .catch(error => {
          silent ??= error
          own.abort()
        })
    }, PING_MS).unref()
    try {
      const request = {
        key: this.#prefix.toString('base64'),
        range_end: this.#end,
        start_revision: `${from.number + 1n}`,
        progress_notify: true,
      }
      for await (const message of this.#gateway.stream(WATCH, { create_request: request }, own.signal)) {
        const newest = this.#note(message)
        if (message.compact_revision !== undefined && message.compact_revision !== '0') {
          yield null
          return
        }
        if (message.canceled === true) throw this.#gateway.cancelled(WATCH, message.cancel_reason)
        // A store that is a new one, or was restored from a backup, counts from an earlier revision, and would be silent until it comes to this one.
        if (newest.cluster !== from.cluster || newest.number < from.number) {
          yield null
          return
        }
        const events = message.events as Event[] | undefined
        if (events !== undefined && events.length > 0) yield this.#changesOf(events, newest.cluster)
        // A notification without events: all changes up to its revision were sent. After it a restart needs no older ones, which the store forgets.
        else if (message.created !== true) yield { changes: [], revision: textOf(newest) }
        else unchanged()
      }
      if (!signal.aborted) throw new FdbError('ERR_FDB_SOURCE', 'etcd closed the watch', { retryable: true })
    } catch (error) {
      throw silent ?? error
    } finally {
      clearInterval(pings)
      signal.removeEventListener('abort', end)
      own.abort()
    }
  }

  #changesOf(events: readonly Event[], cluster: string): { changes: SourceChange[]; revision: string } {
    // A message has all events of one or several revisions, in order. The last one of several changes of a key counts.
    const changes = new Map<string, SourceChange>()
    let number = 0n
    for (const { type, kv } of events) {
      const key = this.#keyOf(kv.key)
      changes.delete(key)
      changes.set(key, { key, value: type === 'DELETE' ? null : Buffer.from(kv.value ?? '', 'base64') })
      const at = BigInt(kv.mod_revision)
      if (at > number) number = at
    }
    return { changes: [...changes.values()], revision: textOf({ number, cluster }) }
  }

  /** Remembers the revision of the store. */
  #note(message: Record<string, unknown>): Revision {
    const { revision = '0', cluster_id: cluster = '' } = (message.header ?? {}) as Header
    const newest = { number: BigInt(revision), cluster }
    this.#newest = textOf(newest)
    return newest
  }

  #keyOf(base64: string): string {
    return Buffer.from(base64, 'base64').subarray(this.#prefix.length).toString()
  }

  /** The first key after all those with the prefix. */
  get #end(): string {
    const end = Buffer.from(this.#prefix)
    for (let at = end.length - 1; at >= 0; at--) {
      const byte = end[at] as number
      if (byte === 0xff) continue
      end[at] = byte + 1
      return end.subarray(0, at + 1).toString('base64')
    }
    return Buffer.of(0).toString('base64')
  }
}

function* keysWithout(known: KnownKeys, entries: readonly SourceEntry[]) {
  const present = new Set<string>()
  for (const { key } of entries) {
    yield
    present.add(key)
  }
  const gone: string[] = []
  for (const key of known.keys()) {
    yield
    if (!present.has(key)) gone.push(key)
  }
  return gone
}

interface Header {
  readonly revision?: string
  readonly cluster_id?: string
}

/** A revision means nothing in another cluster. */
interface Revision {
  readonly number: bigint
  readonly cluster: string
}

function textOf({ number, cluster }: Revision): string {
  return `${number}@${cluster}`
}

function revisionOf(text: string): Revision | null {
  const [, number, cluster] = /^(\d+)@(.*)$/.exec(text) ?? []
  return number === undefined || cluster === undefined ? null : { number: BigInt(number), cluster }
}

interface Event {
  readonly type?: 'PUT' | 'DELETE'
  readonly kv: { readonly key: string; readonly value?: string; readonly mod_revision: string }
}

function tooMany(changes: number, cause: Error): FdbError {
  return new FdbError(
    'ERR_FDB_SOURCE',
    `these are ${changes} changes, and etcd takes at most 127, unless it runs with --max-txn-ops=${changes + 1} or more: nothing was changed`,
    { cause },
  )
}

function protocolOf(url: unknown): string {
  return URL.canParse(String(url)) ? new URL(String(url)).protocol : ''
}
