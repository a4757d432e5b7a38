import type { Inspected } from '../kernel/index.js'
import { formatEndpoint } from './spec.js'

/** What the kernel says of where a socket is. */
export type Addressed = Pick<Inspected, 'type' | 'family' | 'socketType' | 'address' | 'port' | 'abstract'>

/**
 * A kernel address in the notation of listener specifications: `tcp://127.0.0.1:8080`, `unix:/run/a.sock`,
 * `unix:@name`, `unix:` (unbound). Anything that is no socket is named by its type: `file`, `fifo`, ...
 */
export function formatAddress(identity: Addressed): string {
  const { type, family, socketType, address = '', port = 0, abstract = false } = identity
  if (type !== 'socket') return type
  if (family === 'unix') return formatEndpoint('unix', address, 0, abstract)
  if (family !== 'inet' && family !== 'inet6') return `socket (${family ?? 'unknown'} family)`
  if (socketType !== 'stream' && socketType !== 'dgram')
    return `socket (${family} ${socketType ?? 'unknown'})`
  return formatEndpoint(socketType === 'stream' ? 'tcp' : 'udp', address, port, false)
}
