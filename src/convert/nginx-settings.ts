import type { Draft, ListenerDraft, Section } from './draft.js'
import type { Directive } from './nginx-syntax.js'
import { effective, effectiveOne, fileOf, type Levels } from './nginx-values.js'
import { bytesOf, sizeOf, timeOf } from './values.js'

/** Where requests of a server block come in. */
export interface Entry {
  readonly listener: ListenerDraft
  /** The hosts that no server before has there. */
  readonly names: Set<string>
  /** Whether it takes requests whose host no server has. */
  isDefault: boolean
}

export interface Server {
  readonly block: readonly Directive[]
  readonly names: readonly string[]
  readonly entries: readonly Entry[]
}

/** Whether a listener of the server gets the address of its clients by the PROXY protocol. */
export function isProxied({ entries }: Server): boolean {
  return entries.some(({ listener }) => listener.proxyProtocol !== undefined)
}

/** Whether the requests of a server get the same at each of its listeners. */
export function isAlikeEverywhere({ block, entries }: Server): boolean {
  const differs = (of: (entry: Entry) => unknown) => new Set(entries.map(of)).size > 1
  const asks = block.some(({ name, args }) => name === 'if' && /\$(?:scheme|https)\b/.test(args.join(' ')))
  return !differs(each => each.isDefault) && !(asks && differs(({ listener }) => listener.tls))
}

/** The CAs whose certificates clients must show, or may; null if the server asks for none. */
export function clientCaOf(
  block: readonly Directive[],
  http: readonly Directive[],
): { readonly file: string; readonly required: boolean; readonly directive: Directive } | null {
  const levels: Levels = [block, http]
  const verify = effectiveOne(levels, 'ssl_verify_client')?.args[0] ?? 'off'
  const directive =
    effectiveOne(levels, 'ssl_client_certificate') ?? effectiveOne(levels, 'ssl_trusted_certificate')
  if (verify === 'off' || directive === undefined) return null
  return { file: fileOf(directive), required: verify === 'on', directive }
}

/** Certificates, limits and logs of servers, which the proxy has for all of them together. */
export class Settings {
  readonly #draft: Draft
  readonly #http: readonly Directive[]
  #isTold = false

  constructor(draft: Draft, http: readonly Directive[]) {
    this.#draft = draft
    this.#http = http
  }

  take({ block, entries, names }: Server): void {
    const draft = this.#draft
    const levels: Levels = [block, this.#http]
    const secure = entries.filter(({ listener }) => listener.tls === true)
    const certificates = effective(levels, 'ssl_certificate')
    const keys = effective(levels, 'ssl_certificate_key')
    for (const [at, each] of secure.length > 0 ? certificates.entries() : []) {
      const key = keys[at]
      if (key === undefined) continue
      draft.said(each)
      draft.said(key)
      draft.certificate(
        fileOf(each),
        fileOf(key),
        entries.some(entry => entry.isDefault) ? [] : names.filter(name => name !== '*'),
      )
    }
    const verify = effectiveOne(levels, 'ssl_verify_client')
    const ca = clientCaOf(block, this.#http)
    for (const name of ['ssl_client_certificate', 'ssl_verify_client']) {
      const directive = effectiveOne(levels, name)
      if (directive !== undefined) draft.said(directive)
    }
    if (ca !== null) {
      draft.near(verify!, 'for all hosts of the listener')
      draft.near(ca.directive, 'for all hosts of the listener')
      const lists = effectiveOne(levels, 'ssl_crl')
      if (lists !== undefined) draft.near(lists, 'for all hosts of the listener')
      for (const { listener } of secure) {
        const { file = ca.file, required = false, revoked = [] } = listener.clientCa ?? {}
        const all = [...new Set([...revoked, ...(lists === undefined ? [] : [fileOf(lists)])])]
        const known = all.length > 0 && { revoked: all }
        listener.clientCa = { file, required: required || ca.required, ...known }
      }
    }
    const protocols = effectiveOne(levels, 'ssl_protocols')
    if (protocols !== undefined) {
      draft.said(protocols)
      if (protocols.args.every(each => each === 'TLSv1.3')) draft.set('tls.minVersion', 'TLSv1.3')
    }
    this.#limits(levels)
  }

  #limits(levels: Levels): void {
    const draft = this.#draft
    const time = (name: string, key: string) => {
      const directive = effectiveOne(levels, name)
      const value = directive === undefined ? null : timeOf(directive.args[0] ?? '', 's')
      if (directive !== undefined && value !== null) draft.setForAll(directive, key, value)
    }
    time('keepalive_timeout', 'timeouts.idle')
    time('client_header_timeout', 'timeouts.head')
    time('client_body_timeout', 'timeouts.stall')
    time('send_timeout', 'timeouts.stall')
    // For the first server they look at all others too.
    if (!this.#isTold) {
      this.#bodies()
      this.#clients()
      this.#isTold = true
    }
    const heads = effectiveOne(levels, 'large_client_header_buffers')
    if (heads !== undefined) {
      draft.said(heads)
      draft.set('limits.headBytes', sizeOf(heads.args[1] ?? '') ?? '16k')
    }
    const log = effectiveOne(levels, 'access_log')
    if (log !== undefined) {
      if (log.args[0] === 'off') draft.said(log)
      else {
        draft.near(log, 'to stdout, or to the file of --access-log-file')
        draft.set('accessLog', true)
        if (log.args.length === 1 || log.args[1] === 'combined') draft.set('accessLine.format', 'combined')
      }
      for (const each of effective(levels, 'log_format')) draft.near(each, 'choose accessLine.fields')
    }
    const resolver = effectiveOne(levels, 'resolver')
    if (resolver !== undefined) {
      draft.said(resolver)
      draft.set('resolver.servers', resolver.args.filter(each => !each.includes('=')) as never)
    }
    this.#errorPages(levels)
  }

  /** The proxy has one limit for bodies: the largest. nginx has 1m where it is not told. */
  #bodies(): void {
    const all = this.#everyDirective('client_max_body_size')
    const sizes = all.map(each => sizeOf(each.args[0] ?? '') ?? '1m')
    for (const each of all) {
      if (new Set(sizes).size > 1) this.#draft.near(each, 'there is one limit for all, the largest')
      else this.#draft.said(each)
    }
    if (sizes.includes('0')) return
    this.#draft.set('limits.body', sizes.sort((a, b) => bytesOf(b) - bytesOf(a))[0] ?? '1m')
  }

  /** `limit_conn` by address: the proxy has one limit for all, the lowest. */
  #clients(): void {
    const zones = new Map(
      this.#everyDirective('limit_conn_zone')
        .filter(({ args }) => /^\$(?:binary_)?remote_addr$/.test(args[0] ?? ''))
        .map(each => [/^zone=([^:]+)/.exec(each.args[1] ?? '')?.[1], each] as const),
    )
    for (const each of this.#everyDirective('limit_conn')) {
      const zone = zones.get(each.args[0])
      const most = Number(each.args[1])
      if (zone === undefined || !Number.isInteger(most) || most < 1) continue
      this.#draft.said(zone)
      this.#draft.near(each, 'counts connections without a request too, and for all servers')
      const known = this.#draft.get('limits.connectionsPerClient') as number | undefined
      this.#draft.set('limits.connectionsPerClient', Math.min(most, known ?? most))
    }
  }

  #everyDirective(name: string): Directive[] {
    const within = (block: readonly Directive[]): Directive[] =>
      block.flatMap(each => (each.name === name ? [each] : each.block === null ? [] : within(each.block)))
    return within(this.#http)
  }

  #errorPages(levels: Levels): void {
    for (const directive of effective(levels, 'error_page')) {
      const codes = directive.args.filter(each => /^[45]\d\d$/.test(each))
      const page = directive.args.at(-1) ?? ''
      const root = this.#rootOf(page, levels)
      if (!page.startsWith('/') || root === null || directive.args.some(each => each.startsWith('='))) {
        this.#draft.missing(directive, 'errorPages needs the path of a file')
        continue
      }
      this.#draft.near(directive, 'for errors of the proxy itself')
      const pages = (this.#draft.get('errorPages') as Section | undefined) ?? {}
      for (const code of codes) pages[code] = `${root.replace(/\/$/, '')}${page}`
      this.#draft.set('errorPages', pages)
    }
  }

  #rootOf(page: string, levels: Levels): string | null {
    const location = levels[0]!.find(({ name, args }) => name === 'location' && args.at(-1) === page)
    const root = effectiveOne([location?.block ?? [], ...levels], 'root')
    if (root === undefined || root.args[0]!.includes('$')) return null
    return root.args[0]!
  }
}
