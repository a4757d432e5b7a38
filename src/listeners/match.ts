import type { Inspected } from '../kernel/index.js'
import type { ListenerSpec } from './spec.js'

/** Whether a socket is of the kind that is asked for: tcp and unix listen, udp does not. */
export function isOfKind(about: Inspected, { kind }: Pick<ListenerSpec, 'kind'>): boolean {
  const stream = about.socketType === 'stream' && about.accepting === true
  if (kind === 'unix') return about.family === 'unix' && stream
  const inet = about.family === 'inet' || about.family === 'inet6'
  return inet && (kind === 'tcp' ? stream : about.socketType === 'dgram')
}

/** Whether a socket of that kind is bound to this address. One of both families is at `0.0.0.0` too. */
export function isLocatedAt(about: Inspected, { kind, host, port, path, abstract }: ListenerSpec): boolean {
  const { address = '' } = about
  // libuv fills the name of an abstract one up to its full length, up to Node 20.
  if (kind === 'unix')
    return (
      (abstract ? address.replace(/\0+$/, '') : address) === path && (about.abstract ?? false) === abstract
    )
  if (about.port !== port) return false
  // ListenStream=PORT of systemd is every address of both families.
  const every = address === '::' && about.ipv6Only === false
  return address === host || (every && host === '0.0.0.0')
}
