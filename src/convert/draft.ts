/** A line, or a key, of a configuration file of another server. */
export interface SourceLine {
  readonly file: string
  /** A number, or the path of a key where the parser knows no numbers. */
  readonly place: number | string
  readonly text: string
}

/**
 * The fate of a line: `said` by the new configuration; `near`: said, with a difference; `own`: the proxy does so without being told, or does not need it;
 * `missing`: without a counterpart.
 */
export type Outcome = 'said' | 'near' | 'own' | 'missing'

/** The fate of one line; `why` is empty if it is said. */
export interface Remark {
  readonly line: SourceLine
  readonly outcome: Outcome
  readonly why: string
  /** All differences of the line; `why` is the first of the heaviest. */
  readonly whys: readonly string[]
}

export interface ListenerDraft {
  readonly name: string
  readonly address: string
  tls?: true
  http2?: true
  forward?: string
  idle?: string
  clientCa?: { file: string; required: boolean; revoked?: string[] }
  proxyProtocol?: string[]
}

/** Which requests a route takes, as the proxy's configuration says it. */
export interface Match {
  readonly listener?: string
  readonly host: string
  readonly path: string
  /** Sorted. */
  readonly when: readonly string[]
}

/** Where requests go, and what is changed: all other keys of a route. */
export type Action = Readonly<Record<string, unknown>>

export interface RouteDraft extends Match {
  readonly action: Action
}

export type Section = Record<string, unknown>

/** Whether an action refuses requests. */
export const refuses = ({ respond }: Action) =>
  ((respond as { status?: number } | undefined)?.status ?? 0) >= 400

/** The action of a route whose guard cannot be said: it must not let anybody in. */
export const CLOSED: Action = { respond: { status: 403 } }

/** A configuration of the proxy in the making, and what became of the lines of the other server's. */
export class Draft {
  readonly listeners = new Map<string, ListenerDraft>()
  readonly upstreams = new Map<string, Section>()
  readonly routes: RouteDraft[] = []
  readonly certificates: { cert: string; key: string; names?: string[] }[] = []
  leavesOut = false
  readonly #upstreamKeys = new Map<string, string>()
  readonly #settings = new Map<string, Section | string | number | boolean>()
  readonly #fates = new Map<SourceLine, { readonly outcome: Outcome; readonly whys: string[] }>()

  said(line: SourceLine): void {
    this.#remark(line, 'said', '')
  }

  near(line: SourceLine, difference: string): void {
    this.#remark(line, 'near', difference)
  }

  own(line: SourceLine, why: string): void {
    this.#remark(line, 'own', why)
  }

  missing(line: SourceLine, why: string): void {
    this.#remark(line, 'missing', why)
  }

  /** The fates of all lines, in the order of the first call for each. A line that is said once and missing another time is missing, with all differences named. */
  get remarks(): Remark[] {
    return [...this.#fates].map(([line, { outcome, whys }]) => ({
      line,
      outcome,
      why: whys.join('; '),
      whys,
    }))
  }

  has(line: SourceLine): boolean {
    return this.#fates.has(line)
  }

  outcomeOf(line: SourceLine): Outcome | undefined {
    return this.#fates.get(line)?.outcome
  }

  #remark(line: SourceLine, outcome: Outcome, why: string): void {
    const known = this.#fates.get(line)
    if (known === undefined || WEIGHT[outcome] > WEIGHT[known.outcome]) {
      const before = known !== undefined && WEIGHT[known.outcome] >= WEIGHT.near ? known.whys : []
      this.#fates.set(line, { outcome, whys: [...new Set([why, ...before])] })
    } else if (WEIGHT[outcome] >= WEIGHT.near && !known.whys.includes(why)) known.whys.push(why)
  }

  /** Returns the listener of an address, made if there is none. */
  listener(address: string): ListenerDraft {
    const known = this.listeners.get(address)
    if (known !== undefined) return known
    const made: ListenerDraft = { name: this.#listenerName(address), address }
    this.listeners.set(address, made)
    return made
  }

  /** Removes a listener whose guard cannot be said. */
  leaveOut({ address }: ListenerDraft): void {
    this.listeners.delete(address)
    this.leavesOut = true
  }

  #listenerName(address: string): string {
    const port = /:(\d+)$/.exec(address)?.[1]
    const wanted =
      port === undefined ? 'unix' : port === '80' ? 'http' : port === '443' ? 'https' : `port-${port}`
    const taken = new Set([...this.listeners.values()].map(({ name }) => name))
    let name = wanted
    for (let number = 2; taken.has(name); number += 1) name = `${wanted}-${number}`
    return name
  }

  /** The name of the upstream for these servers: theirs, unless another upstream has it. */
  upstreamName(scheme: string, authority: string): string {
    const key = `${scheme} ${authority}`
    const plain = authority.replaceAll(/[^\w.-]+/g, '-').replaceAll(/^-|-$/g, '')
    const wanted = scheme === 'https' ? `${plain}-tls` : plain
    let name = wanted
    for (let number = 2; (this.#upstreamKeys.get(name) ?? key) !== key; number += 1)
      name = `${wanted}-${number}`
    this.#upstreamKeys.set(name, key)
    return name
  }

  certificate(cert: string, key: string, names: readonly string[]): void {
    const known = this.certificates.find(each => each.cert === cert && each.key === key)
    if (known === undefined)
      this.certificates.push({ cert, key, ...(names.length > 0 && { names: [...names] }) })
    else if (known.names !== undefined) {
      if (names.length === 0) delete known.names
      else known.names = [...new Set([...known.names, ...names])]
    }
  }

  /** Sets a key, as `timeouts.idle`. */
  set(key: string, value: string | number | boolean | Section): void {
    this.#settings.set(key, value)
  }

  /** Sets a key for all, and says the line: with a difference if another line has set another value. */
  setForAll(line: SourceLine, key: string, value: string): void {
    if ((this.get(key) ?? value) === value) this.said(line)
    else this.near(line, `there is one ${key} for all`)
    this.set(key, value)
  }

  get(key: string): unknown {
    return this.#settings.get(key)
  }

  /** The whole configuration. */
  document(service: string): Section {
    const document: Section = { service }
    const top = new Map(this.#settings)
    for (const [key, value] of top) if (!key.includes('.')) document[key] = value
    document.listeners = [...this.listeners.values()]
    if (this.upstreams.size > 0) document.upstreams = Object.fromEntries(this.upstreams)
    if (this.routes.length > 0) document.routes = this.routes.map(routeDocument)
    if (this.certificates.length > 0) document.tls = { certificates: this.certificates }
    for (const [key, value] of top) {
      const [first, second] = key.split('.')
      if (second === undefined) continue
      const section = (document[first!] ??= {}) as Section
      section[second] = value
    }
    return document
  }
}

const WEIGHT: Record<Outcome, number> = { own: 0, said: 1, near: 2, missing: 3 }

function routeDocument({ listener, host, path, when, action }: RouteDraft): Section {
  return {
    host,
    ...(path !== '/' && { path }),
    ...(listener !== undefined && { listener }),
    ...(when.length > 0 && { when }),
    ...action,
  }
}

/** Puts a key into a section of a section. */
export function put(into: Section, section: string, key: string, value: unknown): void {
  const inner = (into[section] ??= {}) as Section
  inner[key] = value
}
