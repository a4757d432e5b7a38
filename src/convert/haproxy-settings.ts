/** Settings of sections of HAProxy: limits, times, pages for errors. */
import type { Action, Draft, Section } from './draft.js'
import type { Conditions } from './haproxy-conditions.js'
import type { HaproxySection, Statement } from './haproxy-syntax.js'
import { timeOf } from './values.js'

/** Limits and times that hold for the whole proxy. */
export function limitsOf(draft: Draft, all: readonly Statement[]): void {
  const keys: Readonly<Record<string, string>> = {
    client: 'timeouts.stall',
    'http-request': 'timeouts.head',
    'http-keep-alive': 'timeouts.idle',
    tunnel: 'timeouts.tunnel',
  }
  for (const statement of all) {
    const [first, second = '', text = ''] = statement.words
    const key = first === 'timeout' ? keys[second] : undefined
    const time = timeOf(text, 'ms')
    if (key !== undefined && time !== null) draft.setForAll(statement, key, time)
    else if (first === 'option' && /^(?:httplog|tcplog)$/.test(second)) {
      draft.near(statement, 'JSON lines on stdout, or in the file of --access-log-file')
      draft.set('accessLog', true)
    } else if (first === 'maxconn' && draft.get('limits.connections') === undefined) {
      draft.near(statement, 'for all listeners')
      draft.set('limits.connections', Number(second))
    } else if (first === 'maxconn') draft.near(statement, 'for all listeners: limits.connections')
  }
}

/** `track-sc0 src`, and refusals above a rate of requests, or a number of connections. */
export function clientLimits(
  draft: Draft,
  statements: readonly Statement[],
  conditions: Conditions,
): { readonly limit: Action; readonly limits: ReadonlySet<Statement> } {
  const limits = new Set<Statement>()
  const find = (pattern: RegExp) => statements.find(({ text }) => pattern.test(text))
  const table = find(/^stick-table /)
  const track = find(/^(?:http-request|tcp-request \w+) track-sc[012] src\b/)
  const [, per] = /http_req_rate\((\w+)\)/.exec(table?.text ?? '') ?? []
  const rates: number[] = []
  for (const each of statements) {
    if (!/^(?:http-request (?:deny|reject|tarpit)|tcp-request \w+ reject)\b/.test(each.text)) continue
    const test = conditions.only(each.words)
    const [, kind, most] =
      /^(?:src|sc[012]?)_(http_req_rate|conn_cur)(?:\([^)]*\))? gt (\d+)$/.exec(test ?? '') ?? []
    const counted = table !== undefined && (test?.startsWith('src') === true || track !== undefined)
    if (kind === undefined || !counted) continue
    if (kind === 'conn_cur') {
      draft.near(each, 'for all listeners, of each process')
      const known = draft.get('limits.connectionsPerClient') as number | undefined
      draft.set('limits.connectionsPerClient', Math.min(Number(most), known ?? Infinity))
    } else if (per !== undefined) {
      draft.near(each, 'a bucket, answered with 429: the lowest rate')
      rates.push(Number(most))
    } else continue
    limits.add(each)
    for (const one of [table, track]) if (one !== undefined) draft.said(one)
  }
  if (rates.length === 0) return { limit: {}, limits }
  const rate = { requests: Math.min(...rates), per: timeOf(per!, 'ms') }
  return { limit: { rateLimit: { ...rate, by: 'address', name: 'clients' } }, limits }
}

/** Pages for errors: of a section, or of the section for errors that it names. */
export function errorPagesOf(draft: Draft, statement: Statement, sections: readonly HaproxySection[]): void {
  const [first, second = '', path] = statement.words
  if (first === 'errorfiles') {
    const pages = sections.find(({ kind, name }) => kind === 'http-errors' && name === second)
    for (const each of pages?.statements ?? []) errorPagesOf(draft, each, sections)
    draft.near(statement, 'for errors of the proxy itself')
  } else if (first === 'errorfile' && /^[45]\d\d$/.test(second) && path?.startsWith('/') === true) {
    const pages = (draft.get('errorPages') ?? {}) as Section
    draft.near(statement, 'for errors of the proxy itself')
    draft.set('errorPages', { ...pages, [second]: path })
  }
}
