import { type Authority, type FieldEditOptions, FieldEdits, type RequestHead } from '../http1/index.js'
import type { ClientOrigin } from './destination.js'

/** A route's edits of field lines. Do not change the object: {@link EditCache} prepares it once. */
export interface FieldRules {
  request?: FieldEditOptions
  response?: FieldEditOptions
}

const NONE: FieldRules = {}

/** Caches the prepared edits of each set of rules. {@link get} is fastest for the rules of the last call. */
class EditCache {
  readonly #prepare: (rules: FieldRules) => FieldEdits
  readonly #all = new WeakMap<FieldRules, FieldEdits>()
  #lastRules: FieldRules | null = null
  #last!: FieldEdits

  constructor(prepare: (rules: FieldRules) => FieldEdits) {
    this.#prepare = prepare
  }

  get(rules: FieldRules): FieldEdits {
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

/** The prepared edits of all routes, combined with those of the relay. */
export class RouteEdits {
  readonly #requests: EditCache
  readonly #responses: EditCache

  /** `trusted`: the clients are proxies and may send X-Forwarded-* of their own clients. `response`: edits of every response; a route can override them. */
  constructor(trusted: boolean, response: FieldEditOptions = {}) {
    this.#requests = new EditCache(rules => requestEdits(rules.request, trusted))
    this.#responses = new EditCache(rules => responseEdits(rules.response, response))
  }

  request(rules: FieldRules = NONE): FieldEdits {
    return this.#requests.get(rules)
  }

  response(rules: FieldRules = NONE): FieldEdits {
    return this.#responses.get(rules)
  }
}

function responseEdits(
  { set = {}, remove = [] }: FieldEditOptions = {},
  always: FieldEditOptions,
): FieldEdits {
  const own = new Set([...Object.keys(set), ...remove].map(name => name.toLowerCase()))
  const ours = Object.entries(always.set ?? {}).filter(([name]) => !own.has(name.toLowerCase()))
  return new FieldEdits({ remove, set: { ...Object.fromEntries(ours), ...set } })
}

export interface ForwardedOptions {
  /**
   * `replace` (default): the relay overwrites these fields, so that a client cannot forge them. `append`, for a relay behind another proxy: the relay
   * appends the client's address, and keeps protocol and host.
   */
  client?: 'replace' | 'append'
  /** X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host; default true. */
  xForwarded?: boolean
  /** Forwarded (RFC 7239); default false. */
  forwarded?: boolean
}

/** Includes all spellings with `_`, because some servers read `_` as `-`. */
const NAMES = ['X-Forwarded-For', 'X-Forwarded-Proto', 'X-Forwarded-Host', 'Forwarded'].flatMap(spellings)

/** Other fields that servers trust because only a proxy should send them. CGI turns `Proxy` into HTTP_PROXY. */
const FORGED = [
  'X-Real-IP',
  'X-Forwarded-Port',
  'X-Forwarded-Prefix',
  'X-Forwarded-Server',
  'X-Original-URL',
  'X-Original-Host',
  'X-Rewrite-URL',
  'Proxy',
].flatMap(spellings)

function spellings(name: string): string[] {
  const at = name.indexOf('-')
  if (at < 0) return [name]
  const front = name.slice(0, at)
  return spellings(name.slice(at + 1)).flatMap(rest => [`${front}-${rest}`, `${front}_${rest}`])
}

/** Returns a route's edits, which also remove the fields that {@link Forwarder} writes. Without `trusted` they remove {@link FORGED} too. */
export function requestEdits(options: FieldEditOptions = {}, trusted = false): FieldEdits {
  const own = new Set(
    [...(options.remove ?? []), ...Object.keys(options.set ?? {})].map(name => name.toLowerCase()),
  )
  const remove = [
    ...(options.remove ?? []),
    ...(trusted ? NAMES : [...NAMES, ...FORGED]).filter(name => !own.has(name.toLowerCase())),
  ]
  return new FieldEdits({ ...options, remove })
}

const MAX_CLIENTS = 1024

/** The lines of a client's last request. */
interface KnownLines {
  readonly authority: Readonly<Authority> | undefined
  readonly minor: number
  readonly scheme: ClientOrigin['scheme']
  readonly lines: Uint8Array
}

/** Writes the field lines about the client. Caches the lines of each client's last request, because the next request usually needs the same. */
export class Forwarder {
  readonly #append: boolean
  readonly #x: boolean
  readonly #rfc: boolean
  readonly #via: readonly [string, string]
  readonly #knownLines = new Map<string, KnownLines>()

  /** `via`: the Via line by the minor version of the request. */
  constructor(options: ForwardedOptions = {}, via: readonly [string, string] = ['', '']) {
    this.#append = options.client === 'append'
    this.#x = options.xForwarded ?? true
    this.#rfc = options.forwarded ?? false
    this.#via = via
  }

  /** Returns the lines to append. `client` is an IP address or ''. */
  lines(head: RequestHead, client: string, origin: ClientOrigin): Uint8Array {
    const { authority, minor } = head
    const { scheme } = origin
    const known = this.#knownLines.get(client)
    if (
      known !== undefined &&
      known.authority === authority &&
      known.minor === minor &&
      known.scheme === scheme
    )
      return known.lines
    const lines = Buffer.from(this.#format(head, client, origin), 'latin1')
    if (this.#append) return lines
    if (this.#knownLines.size >= MAX_CLIENTS) this.#knownLines.clear()
    this.#knownLines.set(client, { authority, minor, scheme, lines })
    return lines
  }

  #format(head: RequestHead, client: string, origin: ClientOrigin): string {
    const by = client === '' ? 'unknown' : client
    const host = head.authority === undefined ? '' : hostText(head.authority)
    let lines = ''
    if (this.#x) {
      const before = this.#clientValue(head, 'x-forwarded-for')
      const proto = this.#clientValue(head, 'x-forwarded-proto') ?? origin.scheme
      const forHost = this.#clientValue(head, 'x-forwarded-host') ?? host
      lines = `X-Forwarded-For: ${before === undefined ? by : `${before}, ${by}`}\r\nX-Forwarded-Proto: ${proto}\r\n`
      if (forHost !== '') lines += `X-Forwarded-Host: ${forHost}\r\n`
    }
    if (this.#rfc) {
      const before = this.#clientValue(head, 'forwarded')
      const node = by.includes(':') ? `"[${by}]"` : by
      const element = `for=${node};proto=${origin.scheme}${host === '' ? '' : `;host="${host}"`}`
      lines += `Forwarded: ${before === undefined ? element : `${before}, ${element}`}\r\n`
    }
    return lines + this.#via[head.minor]
  }

  #clientValue(head: RequestHead, name: string): string | undefined {
    return this.#append ? head.fields.get(name) || undefined : undefined
  }
}

function hostText({ host, port }: { host: string; port: number | undefined }): string {
  return port === undefined ? host : `${host}:${port}`
}
