import { isAbsolute, join } from 'node:path'
import { type Draft, put, type Section } from './draft.js'
import { changePath } from './haproxy-paths.js'
import type { HaproxySection, Statement } from './haproxy-syntax.js'
import { sampleText } from './haproxy-values.js'
import { addHeader, removeHeader, setHeader } from './header-changes.js'
import { FRAMING, onePerAddress, serverEntry, timeOf } from './values.js'

/** Changes of requests and answers, as the keys of a route. */
export interface Changes {
  readonly request: Section
  readonly response: Section
}

/** Translates the servers and settings of a backend. `mode` is `tcp` or `http`; `inherited` are the statements of its defaults. */
export function upstreamOf(
  draft: Draft,
  { statements }: HaproxySection,
  inherited: readonly Statement[],
  mode: string,
  caBase: string,
): Section {
  const upstream: Section = { servers: [] }
  const all = [...inherited, ...statements]
  /** Hold for the servers behind them. */
  const common: string[] = []
  let checked = false
  const askers: { readonly server: Statement; readonly port: string | null }[] = []
  for (const server of all) {
    if (server.words[0] === 'default-server') common.push(...server.words.slice(1))
    if (!/^server(?:-template)?$/.test(server.words[0]!)) continue
    if (server.words[0] === 'server-template') {
      draft.missing(server, 'name each server, or use a name with several addresses')
      continue
    }
    const text = serverOf(draft, server, common, upstream, mode, caBase)
    if (text !== null) (upstream.servers as unknown[]).push(text)
    const isBackup = (each: unknown) => (each as Section | null)?.backup === true
    const backups = (upstream.servers as unknown[]).filter(isBackup).length
    if (isBackup(text) && backups > 1 && !all.some(each => each.text === 'option allbackups'))
      draft.near(server, 'all backup servers share the requests')
    const options = [...common, ...server.words]
    checked ||= isOn(options, 'check')
    if (text !== null) askers.push({ server, port: askedPort(options) })
  }
  upstream.servers = onePerAddress(upstream.servers as unknown[])
  for (const statement of all) settingOf(draft, statement, upstream, mode)
  checkOf(draft, all, upstream, checked)
  const port = askers[0]?.port ?? ''
  if (askers.every(each => each.port === null)) return upstream
  if (port !== '' && askers.every(each => each.port === port)) {
    upstream.check = { ...(typeof upstream.check === 'object' && upstream.check), port: Number(port) }
    return upstream
  }
  for (const asker of askers)
    if (asker.port !== null)
      draft.missing(
        asker.server,
        'its check asks an address or port of its own: leave out the servers that must get no requests',
      )
  ownPort(draft, all, upstream)
  return upstream
}

/** Whether an option is given and not taken back: the last word counts. */
const isOn = (options: readonly string[], name: string, off = `no-${name}`) =>
  options.lastIndexOf(name) > options.lastIndexOf(off)

/** Returns the port that the checks of a server ask; null if it is the server's own, '' for another address. */
function askedPort(words: readonly string[]): string | null {
  if (!isOn(words, 'check')) return null
  if (words.includes('addr')) return ''
  return words.includes('port') ? (words[words.lastIndexOf('port') + 1] ?? '') : null
}

/** Without the port of the checks, only connections to the servers' own ports are tried. */
function ownPort(draft: Draft, all: readonly Statement[], upstream: Section): void {
  for (const each of all)
    if (/^(?:option httpchk|http-check)\b/.test(each.text))
      draft.missing(each, 'checks ask the port of the server')
  const { interval, timeout, rise, fall } = upstream.check as Section
  const check = JSON.parse(JSON.stringify({ interval, timeout, rise, fall })) as Section
  upstream.check = Object.keys(check).length === 0 ? 'tcp' : check
}

function serverOf(
  draft: Draft,
  server: Statement,
  common: readonly string[],
  upstream: Section,
  mode: string,
  caBase: string,
): unknown {
  const [, , address = '', ...own] = server.words
  const options = [...common, ...own]
  const has = (name: string) => isOn(options, name)
  const value = (name: string) =>
    options.lastIndexOf(name) < 0 ? null : (options[options.lastIndexOf(name) + 1] ?? '')
  const file = (path: string) => (isAbsolute(path) ? path : join(caBase, path))
  draft.said(server)
  if (isOn(options, 'disabled', 'enabled')) {
    draft.near(server, 'left out: fd-broker servers drains and undrains servers')
    return null
  }
  if (has('ssl')) {
    const [ca, sni, cert] = [value('ca-file'), value('sni'), value('crt')]
    if (value('verify') === 'none') put(upstream, 'tls', 'verify', false)
    if (ca !== null && !ca.startsWith('@')) put(upstream, 'tls', 'ca', file(ca))
    const name = value('verifyhost') ?? /^str\((.*)\)$/.exec(sni ?? '')?.[1]
    if (name !== undefined) put(upstream, 'tls', 'name', name)
    if (cert !== null) upstream.tls = { ...(upstream.tls as Section), cert: file(cert), key: file(cert) }
  }
  const times = { interval: timeOf(value('inter') ?? '', 'ms'), rise: value('rise'), fall: value('fall') }
  const check: Section = {
    ...(times.interval !== null && { interval: times.interval }),
    ...(times.rise !== null && { rise: Number(times.rise) }),
    ...(times.fall !== null && { fall: Number(times.fall) }),
  }
  if (Object.keys(check).length > 0) upstream.check = { ...(upstream.check as Section), ...check }
  if (value('maxconn') !== null) upstream.connections = Number(value('maxconn'))
  if (value('slowstart') !== null) upstream.slowStart = timeOf(value('slowstart')!, 'ms')
  if (has('send-proxy-v2') || has('send-proxy-v2-ssl')) upstream.proxyProtocol = 'v2'
  else if (has('send-proxy')) upstream.proxyProtocol = 'v1'
  if (value('error-limit') !== null) put(upstream, 'health', 'failures', Number(value('error-limit')))
  const text = addressOf(address, mode, has('ssl'))
  const weight = value('weight')
  if (weight === '0') {
    draft.near(server, 'left out: a server has a weight of at least 1')
    return null
  }
  return serverEntry(text, weight === null ? null : Number(weight), has('backup'))
}

function addressOf(given: string, mode: string, secure: boolean): string {
  if (given.startsWith('/') || given.startsWith('unix@')) return `unix:${given.replace(/^unix@/, '')}`
  const scheme = mode === 'tcp' ? (secure ? 'tls' : 'tcp') : secure ? 'https' : 'http'
  const address = given.replace(/^ipv[46]@/, '')
  return `${scheme}://${/:\d+$/.test(address) ? address : `${address.replace(/:$/, '')}:${secure ? 443 : 80}`}`
}

const BALANCE: Readonly<Record<string, string>> = {
  roundrobin: 'round-robin',
  'static-rr': 'round-robin',
  leastconn: 'least-connections',
  source: 'hash:address',
}

function settingOf(draft: Draft, statement: Statement, upstream: Section, mode: string): void {
  const [first, second = '', third = ''] = statement.words
  if (first === 'balance') {
    const sample = second === 'hash' ? third : second
    // HAProxy draws two servers unless the line has a number.
    const [isRandom, draws = '2'] = /^random(?:\((\d+)\))?$/.exec(second) ?? []
    const [, kind, key] = /^(?:req\.)?(hdr|cook(?:ie)?)\(([\w-]+)\)$/.exec(sample) ?? []
    const random = isRandom && (Number(draws) < 2 ? 'random' : 'two-choices')
    const name = random ?? BALANCE[second] ?? (kind && `hash:${kind === 'hdr' ? 'header' : 'cookie'}:${key}`)
    if (name === undefined)
      draft.missing(statement, 'servers share by turns, connections, address, header or cookie')
    else {
      draft.said(statement)
      if (Number(draws) > 2) draft.near(statement, 'of two servers')
      if (name !== 'round-robin' && (mode !== 'tcp' || !/^hash:(?:header|cookie)/.test(name)))
        upstream.balance = name
    }
  } else if (first === 'timeout') timeoutOf(draft, statement, upstream)
  else if (first === 'cookie' && mode !== 'tcp') {
    if (!statement.words.includes('insert')) {
      draft.missing(statement, 'a sticky cookie is one of the proxy’s own (insert)')
      return
    }
    draft.said(statement)
    upstream.sticky = { cookie: second, ...(statement.words.includes('secure') && { secure: true }) }
  } else if (first === 'retries') {
    draft.said(statement)
    upstream.retry = Math.min(Number(second), 100)
  } else if (first === 'default-server') draft.said(statement)
}

function timeoutOf(draft: Draft, statement: Statement, upstream: Section): void {
  const [, what, text = ''] = statement.words
  const time = timeOf(text, 'ms')
  if (time === null) return
  if (what === 'connect') put(upstream, 'timeouts', 'connect', time)
  else if (what === 'server') put(upstream, 'timeouts', 'response', time)
  else if (what === 'check') upstream.check = { ...(upstream.check as Section), timeout: time }
  else return
  draft.said(statement)
}

/** The active check of a backend, if its servers have one. */
function checkOf(draft: Draft, all: readonly Statement[], upstream: Section, checked: boolean): void {
  const check = (upstream.check ?? {}) as Section
  for (const statement of all) {
    const [first, second, ...rest] = statement.words
    if (first === 'option' && second === 'httpchk') {
      draft.said(statement)
      const [method = 'GET', path] = rest[0]?.startsWith('/') ? ['GET', rest[0]] : rest
      if (method !== 'GET') draft.near(statement, 'checks are GETs')
      check.http = path ?? '/'
      const [, host] = /Host:\s*([\w.-]+)/i.exec(statement.text) ?? []
      if (host !== undefined) check.host = host
    } else if (first === 'option' && second === 'tcp-check') draft.said(statement)
    else if (first === 'http-check' && second === 'expect') {
      const [, status] = /^status (\d{3})$/.exec(rest.join(' ')) ?? []
      if (status === undefined) draft.near(statement, '2xx and 3xx pass')
      else {
        draft.said(statement)
        check.status = Number(status)
      }
    } else if (first === 'http-check' && second === 'send') {
      const after = (name: string) => (rest.includes(name) ? rest[rest.indexOf(name) + 1] : undefined)
      const host = /^host$/i.test(after('hdr') ?? '') ? rest[rest.indexOf('hdr') + 2] : undefined
      if ((after('meth') ?? 'GET') === 'GET') draft.said(statement)
      else draft.near(statement, 'checks are GETs')
      if (after('uri') !== undefined) check.http = after('uri')
      if (host !== undefined) check.host = host
    }
  }
  if (checked) upstream.check = Object.keys(check).length === 0 ? 'tcp' : check
  else delete upstream.check
}

/** Takes a change of headers or of the path; false if the statement is none. `conditional`: it has a condition that cannot be said. */
export function changeOf(
  draft: Draft,
  statement: Statement,
  { request, response }: Changes,
  conditional: boolean,
): boolean {
  const [of = '', what = '', name = '', ...rest] = statement.words
  if (of !== 'http-request' && of !== 'http-response') return false
  if (!/^(?:set|add|del)-header$|^(?:set|replace)-path$|^replace-uri$/.test(what)) return false
  const end = rest.findIndex(word => word === 'if' || word === 'unless')
  const text = (end < 0 ? rest : rest.slice(0, end)).join(' ')
  if (of === 'http-request' && /^x-forwarded-(?:for|proto|host)$/i.test(name)) {
    draft.own(statement, 'the proxy says it always')
    return true
  }
  if (conditional) {
    draft.missing(statement, 'headers are changed for all requests of a route')
    return true
  }
  const into = of === 'http-request' ? request : response
  if (what.endsWith('-header') && !/^[\w!#$%&'*+.^`|~-]+$/.test(name)) {
    draft.missing(statement, `${name} is not the name of a header`)
    return true
  }
  if (what.endsWith('-header') && FRAMING.test(name)) {
    draft.own(statement, 'the proxy says it always')
    return true
  }
  if (what === 'add-header' && of === 'http-response' && /^set-cookie2?$/i.test(name)) {
    draft.missing(statement, 'it would replace the cookies of the server')
    return true
  }
  if (what === 'del-header' && rest[0] === '-m' && rest[1] !== 'str') {
    draft.missing(statement, 'headers are removed by their whole names')
    return true
  }
  if (what === 'del-header') {
    draft.said(statement)
    removeHeader(into, name)
  } else if (what.endsWith('-header')) {
    const value = sampleText(text)
    if (value === null) {
      draft.missing(statement, 'the proxy has no such variable')
      // Clients must not say in its place what HAProxy says.
      if (of === 'http-request' && what === 'set-header' && !/^host$/i.test(name)) removeHeader(into, name)
    } else {
      draft.said(statement)
      if (of === 'http-request' && /^host$/i.test(name)) {
        if (value !== '$host' && value.includes('$'))
          draft.missing(statement, 'the host of requests to servers has no variables')
        else request.host = value === '$host' ? undefined : value
      } else if (what === 'set-header') setHeader(into, name, value)
      else if (!addHeader(into, name, value))
        draft.near(statement, `it replaces the header of the ${into === request ? 'client' : 'server'}`)
    }
  } else changePath(draft, statement, request)
  return true
}
