import { isIP, type NetConnectOpts, type Socket } from 'node:net'
import type { ConnectionOptions, SecureContext } from 'node:tls'
import { nodeTls } from '../../base/lazy.js'
import type { ServerTls } from '../../relay/index.js'
import { contextOf, type ServerTlsConfig } from './tls-shape.js'

/** The TLS of one upstream with its servers. */
export class UpstreamTls {
  /** Equal settings have equal ids, with the contents of the files. */
  readonly id: string
  readonly #config: ServerTlsConfig
  readonly #context: SecureContext

  /** Throws for files that OpenSSL refuses. */
  constructor(config: ServerTlsConfig, id: string) {
    this.id = id
    this.#config = config
    this.#context = contextOf(config)
  }

  /** `http`: the server takes requests. */
  server(host: string, http: boolean): ServerTls {
    const { name, verify } = this.#config
    const expected = name ?? host
    const { checkServerIdentity, connect } = nodeTls()
    const options: ConnectionOptions = {
      secureContext: this.#context,
      rejectUnauthorized: verify,
      checkServerIdentity: (_host, certificate) => checkServerIdentity(expected, certificate),
      // A server name must not be an IP address (RFC 6066).
      servername: isIP(expected) === 0 ? expected : '',
      ...(http && { ALPNProtocols: ['http/1.1'] }),
    }
    let session: Buffer | undefined
    return {
      id: this.id,
      connect(to: NetConnectOpts): Socket {
        const socket = connect({ ...to, ...options, session } as ConnectionOptions)
        socket.on('session', made => {
          session = made
        })
        socket.once('connect', () => socket.setNoDelay(true))
        socket.once('error', () => {
          session = undefined
        })
        return socket
      },
    }
  }
}
