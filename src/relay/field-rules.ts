import { type Authority, type FieldEditOptions, FieldEdits, type RequestHead } from '../http1/index.js'
import type { Origin } from './destination.js'

/** A route's edits of field lines. Treat it as frozen: it is prepared once. */
export interface FieldRules {
  request?: FieldEditOptions
  response?: FieldEditOptions
}

const NONE: FieldRules = {}

/** Caches the edits prepared for each set of rules; mostly the same ones are asked for again. */
class Prepared {
  readonly #prepare: (rules: FieldRules) => FieldEdits
  readonly #all = new WeakMap<FieldRules, FieldEdits>()
  #lastRules: FieldRules | null = null
  #last!: FieldEdits

  constructor(prepare: (rules: FieldRules) => FieldEdits) {
    this.#prepare = prepare
  }

  of(rules: FieldRules): FieldEdits {
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

/** The edits of all routes' heads, combined with those of one relay. */
export class FieldBook {
  readonly #requests: Prepared
  readonly #responses: Prepared

  /** `trusted`: its clients may name the clients before them. `response`: for every answer, unless its route says otherwise. */
  constructor(trusted: boolean, response: FieldEditOptions = {}) {
    this.#requests = new Prepared(rules => requestEdits(rules.request, trusted))
    this.#responses = new Prepared(rules => responseEdits(rules.response, response))
  }

  request(rules: FieldRules = NONE): FieldEdits {
    return this.#requests.of(rules)
  }

  response(rules: FieldRules = NONE): FieldEdits {
    return this.#responses.of(rules)
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
   * `replace` (default): a client cannot forge these fields. `append`, for a relay behind another one: the client's address is appended, protocol and host are
   * kept.
   */
  client?: 'replace' | 'append'
  /** X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host; default true. */
  xForwarded?: boolean
  /** Forwarded (RFC 7239); default false. */
  forwarded?: boolean
}

/** Some servers read `_` as `-`, so each spelling of a name is removed. */
const NAMES = ['X-Forwarded-For', 'X-Forwarded-Proto', 'X-Forwarded-Host', 'Forwarded'].flatMap(spellings)

/** Further fields that servers believe of a proxy. `Proxy` becomes HTTP_PROXY in CGI. */
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

/** A route's edits, which also remove the fields that {@link Forwarder} writes, and those that only `trusted` clients may send. */
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

const MOST_CLIENTS = 1024

/** The lines of a client's last request. */
interface KnownLines {
  readonly authority: Readonly<Authority> | undefined
  readonly minor: number
  readonly scheme: Origin['scheme']
  readonly lines: Uint8Array
}

/** Writes the field lines about the client, from values of the parser and the kernel. Mostly those of the client's last request fit. */
export class Forwarder {
  readonly #append: boolean
  readonly #x: boolean
  readonly #rfc: boolean
  readonly #via: readonly [string, string]
  readonly #knownLines = new Map<string, KnownLines>()

  /** `via`: the last line, by the minor version of the request. */
  constructor(options: ForwardedOptions = {}, via: readonly [string, string] = ['', '']) {
    this.#append = options.client === 'append'
    this.#x = options.xForwarded ?? true
    this.#rfc = options.forwarded ?? false
    this.#via = via
  }

  /** `client`: an IP address, or ''. */
  lines(head: RequestHead, client: string, origin: Origin): Uint8Array {
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
    if (this.#knownLines.size >= MOST_CLIENTS) this.#knownLines.clear()
    this.#knownLines.set(client, { authority, minor, scheme, lines })
    return lines
  }

  #format(head: RequestHead, client: string, origin: Origin): string {
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
