import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http'
import type { Socket } from 'node:net'
import { nodeHttp, nodeTls } from '../base/lazy.js'
import type { HealthCheck } from './health-check.js'

const MAX_BODY_CHARACTERS = 100

export interface PrivateGet {
  readonly path: string
  /** The header `Host`; with TLS also the server name. */
  readonly host: string
  /** Whether to use TLS over the connection. The certificate is not verified: the connection reaches only this version. */
  readonly tls: boolean
  /** The expected status. Default: 200 to 399. */
  readonly status?: number | undefined
  /** Opens the connection. The check closes it. */
  connect(): Socket
}

/** Creates a check that sends a GET to `url`. If several versions share the address, another version may answer. */
export function httpCheck(url: string): HealthCheck {
  return {
    name: `GET ${url}`,
    run: signal => resultOf(then => nodeHttp().get(url, { agent: false, signal }, then), undefined),
  }
}

/** Creates a check that sends a GET over a connection to the checked version or server. */
export function privateHttpCheck({ path, host, tls, status, connect }: PrivateGet): HealthCheck {
  return {
    name: `GET ${path}${host === 'localhost' ? '' : ` of ${host}`}`,
    run: async signal => {
      const socket = connect()
      const destroy = () => socket.destroy()
      signal.addEventListener('abort', destroy, { once: true })
      const options: RequestOptions = {
        path,
        signal,
        headers: { host, connection: 'close' },
        createConnection: () => (tls ? secured(socket, host) : socket),
      }
      try {
        return await resultOf(then => nodeHttp().get(options, then), status)
      } finally {
        signal.removeEventListener('abort', destroy)
        // A server may never end its answer.
        socket.destroy()
      }
    },
  }
}

function secured(socket: Socket, host: string): Socket {
  const servername = host.replace(/:\d+$/, '')
  return nodeTls().connect({
    socket,
    rejectUnauthorized: false,
    ALPNProtocols: ['http/1.1'],
    // The server name must not be an IP address (RFC 6066).
    ...(/^[\d.]+$|^\[/.test(servername) ? {} : { servername }),
  })
}

function resultOf(
  send: (then: (answer: IncomingMessage) => void) => ClientRequest,
  wanted: number | undefined,
): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const request = send(answer => {
      const { statusCode = 0, statusMessage = '' } = answer
      const passes = wanted === undefined ? statusCode >= 200 && statusCode < 400 : statusCode === wanted
      const status = `${statusCode} ${statusMessage}`.trim()
      const fail = (body: string) => {
        const [line = ''] = body.split('\n')
        resolve(line.trim() === '' ? status : `${status} (${line.slice(0, MAX_BODY_CHARACTERS)})`)
      }
      if (passes) resolve(null)
      else answer.once('data', chunk => fail(String(chunk))).once('end', () => fail(''))
      // If the body breaks off, the reason is only the status.
      answer.on('error', () => fail(''))
      answer.resume()
    })
    request.on('error', reject)
  })
}
