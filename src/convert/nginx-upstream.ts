import { type Draft, put, type Section } from './draft.js'
import type { Directive } from './nginx-syntax.js'
import { keyOf } from './nginx-values.js'
import { onePerAddress, serverEntry, timeOf } from './values.js'

export type Scheme = 'http' | 'https' | 'tcp' | 'udp'

/** The server that a `proxy_pass` leads to; null if a variable chooses it. */
export function serverOf({ args }: Directive): { scheme: Scheme; authority: string; uri: string } | null {
  const [, scheme, authority, uri = ''] =
    /^(https?):\/\/(unix:[^:]+:?|[^/]+)(\/.*)?$/.exec(args[0] ?? '') ?? []
  if (authority === undefined || authority.includes('$') || uri.includes('$')) return null
  return { scheme: scheme as Scheme, authority, uri }
}

/** Translates an `upstream` block, or a lone server if there is none. */
export function serversOf(
  draft: Draft,
  block: Directive | undefined,
  authority: string,
  scheme: Scheme,
): Section {
  const upstream: Section = { servers: [] }
  if (block === undefined) {
    upstream.servers = [serverAddress(authority, scheme)]
    return upstream
  }
  draft.said(block)
  const members = (block.block ?? []).filter(({ name }) => name === 'server')
  upstream.servers = onePerAddress(members.flatMap(server => memberOf(draft, server, scheme, upstream)))
  for (const directive of block.block ?? [])
    if (directive.name !== 'server') balance(draft, directive, upstream)
  return upstream
}

/** The address of a server as the proxy writes it. */
export function serverAddress(authority: string, scheme: Scheme): string {
  if (authority.startsWith('unix:')) return authority.replace(/:$/, '')
  const port = scheme === 'https' ? 443 : 80
  return `${scheme}://${/:\d+$/.test(authority) ? authority : `${authority}:${port}`}`
}

function memberOf(draft: Draft, server: Directive, scheme: Scheme, upstream: Section): unknown[] {
  const [address, ...parameters] = server.args
  let weight: number | null = null
  let backup = false
  if (address === undefined) {
    draft.missing(server, 'it has no address')
    return []
  }
  draft.said(server)
  for (const parameter of parameters) {
    const [name, value = ''] = parameter.split('=')
    if (name === 'weight') weight = Number(value)
    else if (name === 'max_fails') put(upstream, 'health', 'failures', value === '0' ? 'off' : Number(value))
    else if (name === 'fail_timeout') put(upstream, 'health', 'coolDown', timeOf(value, 's'))
    else if (name === 'max_conns') upstream.connections = Number(value)
    else if (name === 'slow_start') upstream.slowStart = timeOf(value, 's')
    else if (name === 'down') {
      draft.near(server, 'left out: fd-broker servers drains and undrains servers')
      return []
    } else if (name === 'backup') backup = true
    else if (name !== 'resolve') draft.near(server, `without ${parameter}`)
  }
  const text = serverAddress(address, scheme)
  return [serverEntry(text, weight, backup)]
}

function balance(draft: Draft, directive: Directive, upstream: Section): void {
  const { name, args } = directive
  const said = (value: string) => {
    draft.said(directive)
    upstream.balance = value
  }
  if (name === 'least_conn') said('least-connections')
  else if (name === 'ip_hash') {
    said('hash:address')
    draft.near(directive, 'by the whole address')
  } else if (name === 'random') said(args[0] === 'two' ? 'two-choices' : 'random')
  else if (name === 'hash') {
    const key = keyOf(args[0]!)
    if (key !== null) said(`hash:${key}`)
    else draft.missing(directive, 'servers are chosen by an address, a header or a cookie')
  } else if (name === 'keepalive') {
    draft.said(directive)
    put(upstream, 'keepAlive', 'connections', Number(args[0]))
  } else if (name === 'keepalive_timeout') {
    draft.said(directive)
    put(upstream, 'keepAlive', 'idle', timeOf(args[0]!, 's'))
  } else if (name === 'queue') {
    draft.said(directive)
    const limit = args.find(each => each.startsWith('timeout='))?.slice(8)
    upstream.queue = {
      requests: Number(args[0]),
      ...(limit !== undefined && { timeout: timeOf(limit, 's') }),
    }
  } else if (name === 'sticky' && args[0] === 'cookie') {
    draft.said(directive)
    const expires = args.find(each => each.startsWith('expires='))?.slice(8)
    upstream.sticky = { cookie: args[1], ...(expires !== undefined && { maxAge: timeOf(expires, 's') }) }
  }
}
