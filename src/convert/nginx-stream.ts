import type { Draft } from './draft.js'
import type { Directive } from './nginx-syntax.js'
import { serversOf } from './nginx-upstream.js'
import { effective } from './nginx-values.js'
import { listenerAddress, timeOf } from './values.js'

/** Translates a `stream` block: each server is a listener that forwards whole connections. */
export function translateStream(draft: Draft, block: readonly Directive[]): void {
  const upstreams = new Map(
    block.filter(({ name }) => name === 'upstream').map(each => [each.args[0]!, each] as const),
  )
  for (const server of block.filter(({ name }) => name === 'server')) {
    draft.said(server)
    const own = server.block ?? []
    const one = (name: string) => own.find(each => each.name === name)
    const [listen, pass] = [one('listen'), one('proxy_pass')]
    if (listen === undefined || pass === undefined) continue
    const scheme = listen.args.includes('udp') ? 'udp' : 'tcp'
    const address = listenerAddress(listen.args[0]!)?.replace(/^tcp:/, `${scheme}:`) ?? null
    if (
      address === null ||
      listen.args.includes('ssl') ||
      (scheme === 'udp' && address.startsWith('unix:'))
    ) {
      draft.missing(listen, 'only connections without TLS are forwarded')
      continue
    }
    const target = pass.args[0]!
    if (target.includes('$')) {
      draft.missing(pass, 'servers cannot be chosen by a variable')
      continue
    }
    const access = [...effective([own, block], 'allow'), ...effective([own, block], 'deny')]
    if (access.some(each => each.name === 'deny')) {
      for (const each of [listen, pass, ...access])
        draft.missing(each, 'the listener is left out: it cannot refuse connections')
      draft.leaveOut(draft.listener(address))
      continue
    }
    const name = draft.upstreamName(scheme, target)
    const upstream = serversOf(draft, upstreams.get(target), target, scheme)
    const [protocol, connect, idle] = [
      one('proxy_protocol'),
      one('proxy_connect_timeout'),
      one('proxy_timeout'),
    ]
    if (protocol !== undefined) {
      draft.said(protocol)
      if (protocol.args[0] === 'on' && scheme === 'udp')
        draft.missing(protocol, 'datagrams have no PROXY header')
      else if (protocol.args[0] === 'on') upstream.proxyProtocol = 'v1'
    }
    if (connect !== undefined) {
      draft.said(connect)
      if (scheme === 'tcp') upstream.timeouts = { connect: timeOf(connect.args[0]!, 's') }
    }
    const listener = draft.listener(address)
    if (idle !== undefined && scheme === 'udp') {
      draft.said(idle)
      listener.idle = timeOf(idle.args[0]!, 's')!
    } else if (idle !== undefined) {
      draft.near(idle, 'one limit for all tunnels')
      draft.set('timeouts.tunnel', timeOf(idle.args[0]!, 's')!)
    }
    draft.upstreams.set(name, upstream)
    listener.forward = name
    draft.said(listen)
    draft.said(pass)
  }
}
