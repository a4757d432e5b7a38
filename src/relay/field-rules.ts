import {
  type Authority,
  CERTIFICATE_FIELDS,
  type FieldEditOptions,
  FieldEdits,
  FORGEABLE_FIELDS,
  type RequestHead,
} from '../http1/index.js'
import type { ClientOrigin } from './destination.js'

/** A route's edits of request and response heads. Do not change the object: {@link EditCache} prepares its edits only once. */
export interface FieldRules {
  request?: FieldEditOptions
  response?: FieldEditOptions
}

const NONE: FieldRules = {}

/** Prepares something of each {@link FieldRules} object once. {@link get} is fastest for the rules of its last call. */
class EditCache<T> {
  readonly #prepare: (rules: FieldRules) => T
  readonly #all = new WeakMap<FieldRules, T>()
  #lastRules: FieldRules | null = null
  #last!: T

  constructor(prepare: (rules: FieldRules) => T) {
    this.#prepare = prepare
  }

  get(rules: FieldRules): T {
    if (rules === this.#lastRules) return this.#last
    let edits = this.#all.get(rules)
    if (edits === undefined) {
      edits = this.#prepare(rules)
      this.#all.set(rules, edits)
    }
    this.#lastRules = rules
    this.#last = edits
    return edits
  }
}

/** The prepared edits of each route, combined with the relay's own edits. */
export class RouteEdits {
  readonly #requests: EditCache<FieldEdits>
  readonly #trustedRequests: EditCache<FieldEdits>
  readonly #responses: EditCache<FieldEdits>
  readonly #overridden: EditCache<ReadonlySet<string>>

  /** `response`: edits of every response; a route can override them. `certificates`: see {@link ForwardedOptions.certificates}. `replaced`: fields that the relay writes instead of all clients. */
  constructor(
    response: FieldEditOptions = {},
    certificates: ForwardedOptions['certificates'] = undefined,
    replaced: readonly string[] = [],
  ) {
    const own = replaced.flatMap(name => spellings(name.replaceAll('_', '-')))
    const guarded = [...own, ...(certificates === undefined ? [] : CERTIFICATE_FIELDS.flatMap(spellings))]
    const always = certificates === 'here' ? guarded : own
    this.#requests = new EditCache(rules => requestEdits(rules.request, false, guarded))
    this.#trustedRequests = new EditCache(rules => requestEdits(rules.request, true, always))
    const written = new Set(
      [...FORWARDED, ...CERTIFICATE_FIELDS, ...replaced].map(name => name.toLowerCase()),
    )
    this.#overridden = new EditCache(({ request: { set = {} } = {} }) => {
      const names = Object.keys(set).map(name => name.toLowerCase())
      return new Set(names.filter(name => written.has(name)))
    })
    this.#responses = new EditCache(rules => responseEdits(rules.response, response))
  }

  /** `trusted`: see {@link ForwardedOptions.trusts}. */
  request(rules: FieldRules = NONE, trusted = false): FieldEdits {
    return (trusted ? this.#trustedRequests : this.#requests).get(rules)
  }

  /** The lines that the relay does not add to a request, because the route sets these headers (lower case) itself. */
  overridden(rules: FieldRules = NONE): ReadonlySet<string> {
    return this.#overridden.get(rules)
  }

  response(rules: FieldRules = NONE): FieldEdits {
    return this.#responses.get(rules)
  }
}

const LINE_BEGIN = /(?<=\r\n)/

/** Returns the lines without those with these names (lower case). */
export function linesWithout(names: ReadonlySet<string>, lines: Uint8Array): Uint8Array {
  if (names.size === 0) return lines
  const all = Buffer.from(lines).toString('latin1').split(LINE_BEGIN)
  const kept = all.filter(line => !names.has(line.slice(0, line.indexOf(':')).toLowerCase()))
  return Buffer.from(kept.join(''), 'latin1')
}

function responseEdits(
  { set = {}, remove = [], add = {} }: FieldEditOptions = {},
  always: FieldEditOptions,
): FieldEdits {
  const own = new Set([...Object.keys(set), ...remove].map(name => name.toLowerCase()))
  const ours = Object.entries(always.set ?? {}).filter(([name]) => !own.has(name.toLowerCase()))
  return new FieldEdits({ remove, set: { ...Object.fromEntries(ours), ...set }, add })
}

export interface ForwardedOptions {
  /**
   * Reports whether the client with this IP address ('' for Unix sockets) is itself a proxy: then the relay appends the client's address to X-Forwarded-* and
   * Forwarded, and keeps protocol and host. The relay overwrites the fields of other clients, which could forge them. Default: no client is a proxy.
   */
  trusts?(client: string): boolean
  /** X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host; default true. */
  xForwarded?: boolean
  /** Forwarded (RFC 7239); default false. */
  forwarded?: boolean
  /**
   * Clients cannot forge {@link CERTIFICATE_FIELDS}: `here`: none, because the relay asks its clients for certificates and writes these fields itself;
   * `elsewhere`: none that is not trusted, because another relay of the same servers does so. Default: the relay passes them on as any other.
   */
  certificates?: 'here' | 'elsewhere'
}

/** The fields that {@link Forwarder} writes, also with `_` in their names, because some servers read `_` as `-`. */
const FORWARDED = ['X-Forwarded-For', 'X-Forwarded-Proto', 'X-Forwarded-Host', 'Forwarded'].flatMap(spellings)

/** All spellings of the further fields that a client must not forge. */
const FORGED = FORGEABLE_FIELDS.flatMap(spellings)

/** Returns the name with each choice of `-` and `_`: 2 to the power of the number of hyphens. */
export function spellings(name: string): string[] {
  const at = name.indexOf('-')
  if (at < 0) return [name]
  const front = name.slice(0, at)
  return spellings(name.slice(at + 1)).flatMap(rest => [`${front}-${rest}`, `${front}_${rest}`])
}

/** Returns a route's edits, and removes the {@link FORWARDED} fields, which {@link Forwarder} writes instead. Unless `trusted`, also removes the {@link FORGED} fields; `more`: in any case. */
export function requestEdits(
  options: FieldEditOptions = {},
  trusted = false,
  more: readonly string[] = [],
): FieldEdits {
  const own = new Set(
    [...(options.remove ?? []), ...Object.keys(options.set ?? {})].map(name => name.toLowerCase()),
  )
  const others = [...FORWARDED, ...(trusted ? [] : FORGED), ...more].map(name => name.toLowerCase())
  const remove = [...(options.remove ?? []), ...[...new Set(others)].filter(name => !own.has(name))]
  return new FieldEdits({ ...options, remove })
}

/** `lines[minor]` is the Via line for HTTP/1.minor, and the last one that for HTTP/2. */
export type ViaLines = readonly [string, string, string]
const HTTP2 = 2

const MAX_CLIENTS = 1024

interface KnownLines {
  readonly authority: Readonly<Authority> | undefined
  readonly minor: number
  readonly scheme: ClientOrigin['scheme']
  readonly lines: Uint8Array
}

/** Writes the X-Forwarded-*, Forwarded and Via lines of a request. Caches these lines for each client address, because the client's next request usually needs the same lines. */
export class Forwarder {
  readonly #x: boolean
  readonly #rfc: boolean
  readonly #via: ViaLines
  readonly #knownLines = new Map<string, KnownLines>()

  constructor(options: ForwardedOptions = {}, via: ViaLines = ['', '', '']) {
    this.#x = options.xForwarded ?? true
    this.#rfc = options.forwarded ?? false
    this.#via = via
  }

  /** Returns the lines to append to the head. `client`: the client's IP address, or ''. `trusted`: see {@link ForwardedOptions.trusts}. */
  lines(head: RequestHead, client: string, origin: ClientOrigin, trusted = false): Uint8Array {
    const { certificate } = origin
    if (certificate === undefined) return this.#ownLines(head, client, origin, trusted)
    return Buffer.concat([this.#ownLines(head, client, origin, trusted), certificate])
  }

  #ownLines(head: RequestHead, client: string, origin: ClientOrigin, trusted: boolean): Uint8Array {
    if (trusted) return Buffer.from(this.#format(head, client, origin, true), 'latin1')
    const { authority } = head
    const { scheme, http2 } = origin
    const minor = http2 === true ? HTTP2 : head.minor
    const known = this.#knownLines.get(client)
    if (
      known !== undefined &&
      known.authority === authority &&
      known.minor === minor &&
      known.scheme === scheme
    )
      return known.lines
    const lines = Buffer.from(this.#format(head, client, origin, false), 'latin1')
    if (this.#knownLines.size >= MAX_CLIENTS) this.#knownLines.clear()
    this.#knownLines.set(client, { authority, minor, scheme, lines })
    return lines
  }

  #format(head: RequestHead, client: string, origin: ClientOrigin, trusted: boolean): string {
    const given = (name: string) => (trusted ? head.fields.get(name) || undefined : undefined)
    const by = client === '' ? 'unknown' : client
    const host = head.authority === undefined ? '' : hostText(head.authority)
    let lines = ''
    if (this.#x) {
      const before = given('x-forwarded-for')
      const proto = given('x-forwarded-proto') ?? origin.scheme
      const forHost = given('x-forwarded-host') ?? host
      lines = `X-Forwarded-For: ${before === undefined ? by : `${before}, ${by}`}\r\nX-Forwarded-Proto: ${proto}\r\n`
      if (forHost !== '') lines += `X-Forwarded-Host: ${forHost}\r\n`
    }
    if (this.#rfc) {
      const before = given('forwarded')
      const node = by.includes(':') ? `"[${by}]"` : by
      const element = `for=${node};proto=${origin.scheme}${host === '' ? '' : `;host="${host}"`}`
      lines += `Forwarded: ${before === undefined ? element : `${before}, ${element}`}\r\n`
    }
    return lines + this.#via[origin.http2 === true ? HTTP2 : head.minor]
  }
}

function hostText({ host, port }: Authority): string {
  return port === undefined ? host : `${host}:${port}`
}
