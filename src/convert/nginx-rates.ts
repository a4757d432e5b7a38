import type { Action, Draft } from './draft.js'
import { addressIsOfHeader } from './nginx-access.js'
import type { Directive } from './nginx-syntax.js'
import { effectiveOne, keyOf, type Levels, takesUnderscores } from './nginx-values.js'

/** Limits of requests: `limit_req` and the zones that it names. */
export class Rates {
  readonly #draft: Draft
  readonly #zones = new Map<string, { requests: number; per: string; by: string }>()

  constructor(draft: Draft) {
    this.#draft = draft
  }

  zone(directive: Directive): void {
    const { args } = directive
    const value = (name: string) => args.find(each => each.startsWith(`${name}=`))?.slice(name.length + 1)
    const [, requests, unit] = /^(\d+)r\/([sm])$/.exec(value('rate') ?? '') ?? []
    const zone = /^([^:]+)/.exec(value('zone') ?? '')?.[1]
    const variable = args[0] ?? ''
    const by = /^\$(?:server_name|host)$/.test(variable) ? 'all' : keyOf(variable)
    if (requests === undefined || zone === undefined || by === null)
      this.#draft.missing(directive, 'requests are counted by address, header or cookie')
    else {
      this.#draft.said(directive)
      this.#zones.set(zone, { requests: Number(requests), per: unit === 's' ? '1s' : '1m', by })
    }
  }

  at(levels: Levels): Action {
    const directive = effectiveOne(levels, 'limit_req')
    const zone = directive?.args.find(each => each.startsWith('zone='))?.slice(5)
    const known = this.#zones.get(zone ?? '')
    if (directive === undefined) return {}
    if (known === undefined) {
      this.#draft.missing(directive, 'its zone is not known')
      return {}
    }
    const burst = Number(directive.args.find(each => each.startsWith('burst='))?.slice(6) ?? 0)
    if (burst === 0 || directive.args.includes('nodelay')) this.#draft.said(directive)
    else this.#draft.near(directive, 'requests within the burst are not delayed')
    if (known.by === 'address' && addressIsOfHeader(levels))
      this.#draft.near(directive, 'the client’s address is that of the connection')
    if (/^header:.*-/.test(known.by) && takesUnderscores(levels))
      this.#draft.missing(directive, 'a header with _ in its name is not counted')
    return { rateLimit: { ...known, burst: burst + 1, name: zone } }
  }
}
