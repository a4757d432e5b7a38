/** Which pages of other sites may use the answers of a route (CORS, in the Fetch standard): the key `routes[].cors`. */
import { shortJson } from '../../checks/place.js'
import { map, optional, required } from '../../checks/shape.js'
import { boolean, duration, InvalidValue, list, refine, text } from '../../checks/values.js'
import type { Decision } from '../../relay/index.js'
import type { ConditionFacts } from './conditions.js'
import { headerName } from './header-name.js'

export interface Cors {
  readonly origins: readonly string[]
  readonly methods: readonly string[]
  readonly headers: readonly string[]
  readonly expose: readonly string[]
  readonly credentials: boolean
  /** Milliseconds. */
  readonly maxAge: number
}

const ANY = '*'
type CorsFacts = Pick<ConditionFacts, 'method' | 'fields'>

function origin(given: string): string | InvalidValue {
  if (given === ANY) return given
  const url = URL.canParse(given) ? new URL(given) : null
  if (url !== null && /^https?:$/.test(url.protocol) && url.origin === given.toLowerCase()) return url.origin
  return new InvalidValue(`${shortJson(given)} is no origin: write https://app.example.com, or "*" for all`)
}

function method(given: string): string | InvalidValue {
  return /^[A-Z]{1,32}$/.test(given) ? given : new InvalidValue(`${shortJson(given)} is no method (GET)`)
}

const names = list(text('a header name', headerName), { most: 100 })

export const corsShape = {
  origins: required(
    list(text('an origin', origin), { least: 1, most: 100 }),
    'sites whose pages may use the answers: `https://app.example.com`, or `*`',
  ),
  methods: optional(
    list(text('a method', method), { least: 1, most: 32 }),
    ['GET', 'HEAD', 'POST'],
    'methods that these pages may use',
  ),
  headers: optional(names, [], 'headers that these pages may send, besides the usual ones'),
  expose: optional(names, [], 'headers of answers that these pages may read, besides the usual ones'),
  credentials: optional(boolean, false, 'whether browsers send cookies and passwords along'),
  maxAge: optional(duration(1000), '10m', 'how long browsers may keep the answer to their question'),
}

export const cors = refine(map(corsShape), (given, place): Cors | undefined =>
  given.credentials && given.origins.includes(ANY)
    ? place.at('origins').wrong('no browser accepts "*" with credentials; name the origins')
    : given,
)

const PREFIX = 'Access-Control-'
/** The headers of servers that the proxy replaces, in lower case, without {@link PREFIX}. */
const PARTS = [
  'allow-origin',
  'allow-credentials',
  'expose-headers',
  'allow-methods',
  'allow-headers',
  'max-age',
]
const OWN = new Set(PARTS.map(part => PREFIX.toLowerCase() + part))

/** Answers the questions of browsers, and tells them by each answer which pages may use it. */
export class CorsRule {
  readonly #cors: Cors
  readonly #isOpen: boolean

  constructor(cors: Cors) {
    this.#cors = cors
    this.#isOpen = cors.origins.includes(ANY)
  }

  /** Returns the answer to a browser that asks whether it may send a request (a preflight); null for any other request. */
  preflight({ method, fields }: CorsFacts): Decision | null {
    const origin = fields.get('origin')
    const wanted = fields.get('access-control-request-method')
    if (method !== 'OPTIONS' || origin === undefined || wanted === undefined) return null
    const { methods, headers, maxAge } = this.#cors
    if (!this.#allows(origin) || !methods.includes(wanted))
      return { kind: 'refuse', status: 403, reason: 'cors-refused', headers: this.#vary }
    const allowed: [string, string][] = [
      [`${PREFIX}Allow-Methods`, methods.join(', ')],
      ...(headers.length > 0 ? [[`${PREFIX}Allow-Headers`, headers.join(', ')] as [string, string]] : []),
      [`${PREFIX}Max-Age`, String(Math.floor(maxAge / 1000))],
    ]
    return { kind: 'respond', status: 204, headers: [...this.#headers(origin), ...allowed] }
  }

  /** Returns the decision about a request, with headers for the page that has sent it. */
  answered(decision: Decision, { fields }: CorsFacts): Decision {
    const headers = this.#headers(fields.get('origin'))
    if (decision.kind !== 'upstream') {
      const own = decision.kind === 'respond' && { ownHeaders: headers }
      return { ...decision, ...own, headers: [...(decision.headers ?? []), ...headers] }
    }
    const { options } = decision
    const { set = {}, remove = [] } = options?.fields?.response ?? {}
    const kept = headers.filter(([name]) => name !== 'Vary')
    const others = Object.entries(set).filter(([name]) => !OWN.has(name.toLowerCase()))
    const all = { ...Object.fromEntries(others), ...Object.fromEntries(kept) }
    const present = new Set(Object.keys(all).map(name => name.toLowerCase()))
    const removed = new Set([...remove.map(name => name.toLowerCase()), ...OWN])
    const response = {
      set: all,
      remove: [...removed].filter(name => !present.has(name)),
      add: Object.fromEntries(this.#vary),
    }
    return {
      ...decision,
      options: { ...options, fields: { ...options?.fields, response }, ownHeaders: headers },
    }
  }

  #allows(origin: string): boolean {
    return this.#isOpen || this.#cors.origins.includes(origin)
  }

  /** The answer depends on the origin, as caches must know. */
  get #vary(): readonly [string, string][] {
    return this.#isOpen ? [] : [['Vary', 'Origin']]
  }

  #headers(origin: string | undefined): [string, string][] {
    const headers: [string, string][] = [...this.#vary]
    if (origin === undefined || !this.#allows(origin)) return headers
    const { credentials, expose } = this.#cors
    headers.push([`${PREFIX}Allow-Origin`, this.#isOpen ? ANY : origin])
    if (credentials) headers.push([`${PREFIX}Allow-Credentials`, 'true'])
    if (expose.length > 0) headers.push([`${PREFIX}Expose-Headers`, expose.join(', ')])
    return headers
  }
}
