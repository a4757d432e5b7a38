import type { Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import type { CertificateTable } from './certificate-table.js'
import { failureOf, type HandshakeCounts } from './handshake-counts.js'

/** What of a configuration handshakes are made with. */
export interface HandshakeSettings {
  /** Milliseconds for a handshake, however much moves. */
  readonly timeout: number
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
  readonly ticketKeys: Buffer
}

export interface HandshakeOptions {
  certificates: CertificateTable
  settings: HandshakeSettings
  counts: HandshakeCounts
  /** Its clients speak HTTP/1 over TLS: those that want only another protocol are refused. */
  http: boolean
  onSecure: (socket: TLSSocket) => void
  /** Called when a handshake has come to an end, whichever, after `onSecure`. */
  onEnd: () => void
}

/**
 * What sessions are called by. The same in every version, for whatever the command line is; the keys of their tickets tell
 * services apart, and clients are asked for nothing.
 */
const SESSIONS = 'fd-broker proxy'

/** Does the TLS handshakes of one listener's connections. New settings are for new handshakes; none is broken off. */
export class Handshakes {
  readonly #certificates: CertificateTable
  readonly #counts: HandshakeCounts
  readonly #onSecure: (socket: TLSSocket) => void
  readonly #onEnd: () => void
  readonly #underWay = new Set<Socket>()
  #settings: HandshakeSettings
  #http: boolean
  #server: Server

  constructor(options: HandshakeOptions) {
    this.#certificates = options.certificates
    this.#counts = options.counts
    this.#onSecure = options.onSecure
    this.#onEnd = options.onEnd
    this.#settings = options.settings
    this.#http = options.http
    this.#server = this.#make()
  }

  /** Under way now. */
  get size(): number {
    return this.#underWay.size
  }

  configure(settings: HandshakeSettings): void {
    this.#settings = settings
    this.#server = this.#make()
  }

  /** What is spoken over TLS. */
  set http(http: boolean) {
    if (http === this.#http) return
    this.#http = http
    this.#server = this.#make()
  }

  /** Takes a socket from which nothing has been read; a `pauseOnConnect` one will do. */
  begin(raw: Socket): void {
    this.#underWay.add(raw)
    // A client that ends before the handshake has does not come to its end.
    raw.allowHalfOpen = false
    raw.once('close', () => this.#ended(raw))
    this.#server.emit('connection', raw)
  }

  /** Breaks off all that are under way. */
  cut(): void {
    for (const raw of [...this.#underWay]) raw.destroy()
  }

  #make(): Server {
    const { timeout, minVersion, ticketKeys } = this.#settings
    const { chain: cert, key } = this.#certificates.standard ?? {}
    const server = createServer({
      cert,
      key,
      minVersion,
      ticketKeys,
      sessionIdContext: SESSIONS,
      handshakeTimeout: timeout,
      ...(this.#http && { ALPNProtocols: ['http/1.1'] }),
      SNICallback: (name, done) => this.#choose(name, done),
    })
    server.on('secureConnection', socket => {
      this.#counts.completed(socket.isSessionReused())
      this.#onSecure(socket)
      this.#ended(rawOf(socket))
    })
    server.on('tlsClientError', (error, socket) => {
      this.#counts.failed(failureOf(error))
      socket.destroy()
    })
    return server
  }

  #choose(name: string, done: Parameters<NonNullable<Parameters<typeof createServer>[0]['SNICallback']>>[1]) {
    try {
      done(null, this.#certificates.contextFor(name) ?? undefined)
    } catch (error) {
      done(error as Error)
    }
  }

  #ended(raw: Socket | undefined): void {
    if (raw !== undefined && this.#underWay.delete(raw)) this.#onEnd()
  }
}

/** Node gives the socket below no name; one that is not found counts until it closes. */
function rawOf(socket: TLSSocket): Socket | undefined {
  return (socket as unknown as { _parent?: Socket })._parent
}
