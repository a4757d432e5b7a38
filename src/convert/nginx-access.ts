/** Guards of nginx's access phase: addresses, passwords, services that are asked, and how they go together. */
import type { Draft } from './draft.js'
import { networkOf } from './networks.js'
import { moduleGuards } from './nginx-guards.js'
import type { Directive } from './nginx-syntax.js'
import { effective, effectiveOne, type Levels } from './nginx-values.js'

/** A kind of requests, the first that fits counts: `open` needs no password, `asked` what else guards the location, `closed` gets nothing. */
export interface Admission {
  readonly when: readonly string[]
  readonly gets: 'open' | 'asked' | 'closed'
}

export interface Access {
  readonly admissions: readonly Admission[]
  /** Whether requests need a password that cannot be said. */
  readonly needsPassword: boolean
}

/** Returns which requests pass at these levels, and says what becomes of the directives. */
export function accessOf(draft: Draft, levels: Levels, proxied: boolean): Access {
  const needsPassword = passwordOf(draft, levels)
  const service = effectiveOne(levels, 'auth_request')
  const asks = needsPassword || (service !== undefined && service.args[0] !== 'off')
  const satisfy = effectiveOne(levels, 'satisfy')
  const any = satisfy?.args[0] === 'any'
  const list = addressesOf(levels)
  if (satisfy !== undefined) draft.said(satisfy)
  const rest: Admission = { when: [], gets: 'asked' }
  if (!list.some(({ name }) => name === 'deny') && !any) {
    for (const each of list) draft.said(each)
    return { admissions: [rest], needsPassword }
  }
  const networks = list.map(({ args }) => (args[0] === 'all' ? 'all' : networkOf(args[0] ?? '')))
  const why = addressIsAnother(levels, proxied)
    ? 'the client’s address is another'
    : networks.includes(null)
      ? 'addresses are networks'
      : null
  if (why !== null && list.length > 0) {
    for (const each of list) draft.missing(each, `${why}: the route answers 403 until it has a guard`)
    return { admissions: [{ when: [], gets: any && asks ? 'asked' : 'closed' }], needsPassword }
  }
  const admissions: Admission[] = []
  for (const [at, each] of list.entries()) {
    const gets = each.name === 'allow' ? (any ? 'open' : 'asked') : any && asks ? 'asked' : 'closed'
    const network = networks[at]!
    draft.said(each)
    if (network === 'all') {
      for (const one of list.slice(at + 1)) draft.own(one, 'no request gets there')
      return { admissions: [...admissions, { when: [], gets }], needsPassword }
    }
    const last = admissions.at(-1)
    if (last?.gets === gets) admissions.pop()
    const known = last?.gets === gets ? last.when[0]!.slice('address='.length).split('|') : []
    admissions.push({ when: [`address=${[...new Set([...known, network])].sort().join('|')}`], gets })
  }
  return { admissions: [...admissions, rest], needsPassword }
}

/** `allow` and `deny`, in their order, of the innermost level that has any. */
function addressesOf(levels: Levels): readonly Directive[] {
  for (const level of levels) {
    const all = level.filter(({ name }) => name === 'allow' || name === 'deny')
    if (all.length > 0) return all
  }
  return []
}

/** Whether nginx takes the client's address from a header, or that of a load balancer. `proxied`: PROXY headers say it. */
function addressIsAnother(levels: Levels, proxied: boolean): boolean {
  return addressIsOfHeader(levels) || proxied !== (trusts(levels) && isOfConnection(levels))
}

/** Whether nginx takes the client's address from a header: the proxy has that of the connection. */
export const addressIsOfHeader = (levels: Levels) => trusts(levels) && !isOfConnection(levels)

const trusts = (levels: Levels) => effective(levels, 'set_real_ip_from').length > 0
const isOfConnection = (levels: Levels) =>
  effectiveOne(levels, 'real_ip_header')?.args[0] === 'proxy_protocol'

/** Reports whether requests need a password, or are guarded by a module. */
function passwordOf(draft: Draft, levels: Levels): boolean {
  const basic = effectiveOne(levels, 'auth_basic')
  const closing = moduleGuards(levels)
  for (const each of closing) draft.missing(each, 'the route answers 403 until it has a guard')
  if (basic === undefined) return closing.length > 0
  if (basic.args[0] === 'off') {
    draft.said(basic)
    return closing.length > 0
  }
  for (const each of [basic, ...effective(levels, 'auth_basic_user_file')])
    draft.missing(
      each,
      'give the route basicAuth, with the SHA-256 of the passwords; until then it answers 403',
    )
  return true
}
