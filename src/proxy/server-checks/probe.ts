import { connect, type NetConnectOpts } from 'node:net'
import { connectCheck, type HealthCheck } from '../../probing/health-check.js'
import { privateHttpCheck } from '../../probing/http-check.js'
import { type Destination, proxyHeader } from '../../relay/index.js'
import type { ServerCheckConfig } from './shape.js'

/** Makes the check of one server. Each run opens a connection of its own. */
export function probeOf(
  { http, status, host, port }: Pick<ServerCheckConfig, 'http' | 'status' | 'host' | 'port'>,
  destination: Destination,
): HealthCheck {
  const { address, authority, named, proxyProtocol, tls } = destination
  const options: NetConnectOpts =
    address.kind === 'unix'
      ? { path: address.path }
      : {
          host: address.host,
          port: port ?? address.port,
          ...(named !== undefined && { lookup: named.lookup }),
        }
  const open = (more?: { signal: AbortSignal }) => {
    const all = { ...options, ...more }
    const socket = tls?.connect(all) ?? connect(all)
    if (proxyProtocol !== undefined) socket.write(proxyHeader(proxyProtocol, null))
    return socket
  }
  if (http === null)
    return connectCheck(
      address.kind === 'unix' ? address.path : port === null ? authority : `${address.host}:${port}`,
      signal => open({ signal }),
      tls === undefined ? 'connect' : 'secureConnect',
    )
  return privateHttpCheck({
    path: http,
    host: host ?? authority,
    tls: false,
    status: status ?? undefined,
    connect: () => open(),
  })
}
