import type { Socket } from 'node:net'
import type { SecureContext, Server, TLSSocket } from 'node:tls'
import { nodeTls } from '../../base/lazy.js'
import { type Logger, type TicketKeyPair, useTicketKeys } from '../../index.js'
import { socketBelow } from '../../node/tls-insides.js'
import type { CertificateTable } from './certificate-table.js'
import { MOST_HELLO_BYTES, serverNameOf } from './client-hello.js'
import type { CertificateMaterial } from './material.js'

export interface HandshakeSettings {
  /** Milliseconds for a handshake, whatever moves; also for reading the server name ahead. */
  readonly timeout: number
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
  readonly ticketKeys: TicketKeyPair
}

export interface HandshakeOptions {
  certificates: CertificateTable
  settings: HandshakeSettings
  counts: HandshakeCounts
  /** Clients speak HTTP/1: those that want only another protocol are refused. */
  http: boolean
  /** `raw`: the socket given to {@link Handshakes.start}, if known. */
  onSecure: (socket: TLSSocket, raw: Socket | undefined) => void
  /** Called after each handshake, successful or not, behind `onSecure`. */
  onEnd: () => void
}

/** The session id context, equal in every version and command line; ticket keys keep services apart. */
const SESSIONS = 'fd-broker proxy'

/** A server of Node that only does handshakes, with its default certificate. */
interface HandshakeServer {
  readonly server: Server
  readonly own: CertificateMaterial | undefined
}

/**
 * Does the TLS handshakes of one listener. New settings apply to new handshakes. Each kind of key has a server of its own: with RSA and ECDSA in one, OpenSSL
 * may choose the default instead of the requested certificate.
 */
export class Handshakes {
  readonly #certificates: CertificateTable
  readonly #counts: HandshakeCounts
  readonly #onSecure: HandshakeOptions['onSecure']
  readonly #onEnd: () => void
  readonly #underWay = new Set<Socket>()
  /** By kind of key. */
  readonly #servers = new Map<string, HandshakeServer>()
  #settings: HandshakeSettings
  #http: boolean

  constructor(options: HandshakeOptions) {
    this.#certificates = options.certificates
    this.#counts = options.counts
    this.#onSecure = options.onSecure
    this.#onEnd = options.onEnd
    this.#settings = options.settings
    this.#http = options.http
  }

  get size(): number {
    return this.#underWay.size
  }

  configure(settings: HandshakeSettings): void {
    this.#settings = settings
    this.#servers.clear()
  }

  set http(http: boolean) {
    if (http === this.#http) return
    this.#http = http
    this.#servers.clear()
  }

  /** Takes a socket that was not read from; `pauseOnConnect` is fine. */
  start(raw: Socket): void {
    this.#underWay.add(raw)
    // A client that sends FIN before the end of its handshake will not complete it.
    raw.allowHalfOpen = false
    raw.once('close', () => this.#socketClosed(raw))
    if (this.#certificates.kinds.size < 2) {
      this.#handshake(raw, this.#certificates.standard)
      return
    }
    peekServerName(raw, this.#settings.timeout, (name, failed) => {
      if (failed !== null) this.#counts.failed(failed)
      else this.#handshake(raw, this.#certificates.find(name ?? ''))
    })
  }

  cut(): void {
    for (const raw of [...this.#underWay]) raw.destroy()
  }

  #handshake(raw: Socket, wanted: CertificateMaterial | undefined): void {
    const kind = wanted?.keyKind ?? ''
    const own = this.#certificates.kinds.get(kind)
    let entry = this.#servers.get(kind)
    if (entry === undefined || entry.own !== own) {
      this.#servers.set(kind, (entry = { own, server: this.#makeServer(own) }))
    }
    entry.server.emit('connection', raw)
  }

  #makeServer(own: CertificateMaterial | undefined): Server {
    const { timeout, minVersion, ticketKeys } = this.#settings
    const server = nodeTls().createServer({
      cert: own?.chain,
      key: own?.key,
      minVersion,
      sessionIdContext: SESSIONS,
      handshakeTimeout: timeout,
      ...(this.#http && { ALPNProtocols: ['http/1.1'] }),
      SNICallback: (name, done) => this.#chooseCertificate(name, own, done),
    })
    useTicketKeys(server, ticketKeys)
    server.on('secureConnection', socket => {
      this.#counts.completed(socket.isSessionReused())
      const raw = socketBelow(socket)
      // It becomes a client, and must not count twice.
      const counted = raw !== undefined && this.#underWay.delete(raw)
      this.#onSecure(socket, raw)
      if (counted) this.#onEnd()
    })
    server.on('tlsClientError', (error, socket) => {
      this.#counts.failed(failureOf(error))
      socket.destroy()
    })
    return server
  }

  #chooseCertificate(
    name: string,
    own: CertificateMaterial | undefined,
    done: (error: Error | null, context?: SecureContext) => void,
  ): void {
    try {
      const material = this.#certificates.find(name)
      if (material === undefined || material === own) done(null)
      else done(null, this.#certificates.contextFor(material))
    } catch (error) {
      done(error as Error)
    }
  }

  /** A socket without a known raw one counts until it closes. */
  #socketClosed(raw: Socket | undefined): void {
    if (raw !== undefined && this.#underWay.delete(raw)) this.#onEnd()
  }
}

type PeekEnd = 'timeout' | 'broken-off'

/** Reads ahead the server name that a client requests. `done` gets the name (null: none), or why it failed: then the socket is closed. */
function peekServerName(
  raw: Socket,
  timeoutMs: number,
  done: (name: string | null, failed: PeekEnd | null) => void,
): void {
  let received = Buffer.alloc(0)
  let late = false
  const readHello = () => {
    for (let chunk = raw.read(); chunk !== null; chunk = raw.read()) {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
    }
    const name = serverNameOf(received)
    if (name === undefined && received.length < MOST_HELLO_BYTES) return
    cleanUp()
    raw.unshift(received)
    done(name ?? null, null)
  }
  const onClose = () => {
    cleanUp()
    done(null, late ? 'timeout' : 'broken-off')
  }
  const ignore = () => {}
  const timer = setTimeout(() => {
    late = true
    raw.destroy()
  }, timeoutMs)
  const cleanUp = () => {
    clearTimeout(timer)
    raw.off('readable', readHello).off('close', onClose).off('error', ignore)
  }
  raw.on('readable', readHello).on('close', onClose).on('error', ignore)
}

/** One line of the log for the failures of this time: strangers must not fill it. */
const LOG_INTERVAL_MS = 10_000
/** Further kinds count as `other`. */
const MOST_KINDS = 32

/** `timeout`, `broken-off`, `no-tls` (a plain request, for example), or OpenSSL's name. */
function failureOf(error: Error): string {
  const { code = 'unknown' } = error as NodeJS.ErrnoException
  switch (code) {
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return 'timeout'
    case 'ECONNRESET':
    case 'EPIPE':
      return 'broken-off'
    case 'ERR_SSL_HTTP_REQUEST':
    case 'ERR_SSL_WRONG_VERSION_NUMBER':
      return 'no-tls'
    default:
      return code
        .replace(/^ERR_SSL_/, '')
        .toLowerCase()
        .replaceAll('_', '-')
  }
}

export class HandshakeCounts {
  readonly #logger: Pick<Logger, 'warn'>
  readonly #failures = new Map<string, number>()
  #completed = 0
  #resumed = 0
  #unreported = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined

  constructor(logger: Pick<Logger, 'warn'>) {
    this.#logger = logger
  }

  completed(resumed: boolean): void {
    this.#completed++
    if (resumed) this.#resumed++
  }

  failed(why: string): void {
    const kind = this.#failures.has(why) || this.#failures.size < MOST_KINDS ? why : 'other'
    this.#failures.set(kind, (this.#failures.get(kind) ?? 0) + 1)
    this.#unreported.set(kind, (this.#unreported.get(kind) ?? 0) + 1)
    this.#timer ??= setTimeout(() => this.#logFailures(), LOG_INTERVAL_MS).unref()
  }

  get report(): { completed: number; resumed: number; failed: Record<string, number> } {
    return { completed: this.#completed, resumed: this.#resumed, failed: Object.fromEntries(this.#failures) }
  }

  #logFailures(): void {
    this.#timer = undefined
    const failed = Object.fromEntries(this.#unreported)
    this.#unreported = new Map()
    this.#logger.warn({ failed }, 'TLS handshakes failed')
  }
}
