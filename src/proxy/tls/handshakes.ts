import type { Socket } from 'node:net'
import type { SecureContext, Server, TLSSocket } from 'node:tls'
import { afterReading } from '../../base/after-reading.js'
import { CountByKey } from '../../base/count-by-key.js'
import { nodeTls } from '../../base/lazy.js'
import { type Logger, type TicketKeyPair, useTicketKeys } from '../../index.js'
import { expectedTls, expectTls } from '../../node/openssl.js'
import { underlyingSocket } from '../../node/tls-internals.js'
import { certificateOf } from '../../relay/index.js'
import type { TlsCarrier } from '../../tls13/tls-carrier.js'
import type { CertificateTable } from './certificate-table.js'
import { type ClientCa, caOptions } from './client-ca.js'
import { HelloReader } from './client-hello.js'
import type { CertificateMaterial } from './material.js'

export interface HandshakeSettings {
  /** Time limit for a handshake in milliseconds, and for reading the server name before it. */
  readonly timeout: number
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
  readonly ticketKeys: TicketKeyPair
  readonly carrier: TlsCarrier | null
}

export interface HandshakeOptions {
  certificates: CertificateTable
  settings: HandshakeSettings
  counts: HandshakeCounts
  /** Names of ALPN, the preferred first. Clients whose list has none of them are refused. Empty: all clients are served. */
  protocols: readonly string[]
  clientCa: ClientCa | null
  /** Gets each connection by which an authority asks for a proof of a name (TLS-ALPN-01), and its first bytes, instead of a handshake; null: none. */
  onChallenge: OnChallenge | null
  /**
   * Called after a successful handshake. `raw` is the socket that was given to {@link Handshakes.start}, if known. `asked`: the {@link ClientCa.id} by which the
   * client was asked for a certificate, or ''.
   */
  onSecure: (socket: TLSSocket, raw: Socket | undefined, asked: string) => void
  /** Called after each handshake, successful or not, and after `onSecure`. */
  onEnd: () => void
}

export type OnChallenge = (raw: Socket, hello: Buffer) => void

/** The one name of ALPN in the ClientHello of an authority (RFC 8737). */
const CHALLENGE = 'acme-tls/1'

/** The session id context is the same for all versions, so that clients can resume sessions. Different services have different ticket keys. */
const SESSIONS = 'fd-broker proxy'

/** A `tls.Server` that does not listen: it only does handshakes. */
interface HandshakeServer {
  readonly server: Server
  readonly defaultCertificate: CertificateMaterial | undefined
}

/**
 * Does the TLS handshakes of one listener. New settings apply to new handshakes. Uses one `tls.Server` for each kind of key, because with RSA and
 * ECDSA in one server OpenSSL may choose the default certificate instead of the requested one.
 */
export class Handshakes {
  readonly #options: HandshakeOptions
  readonly #handshaking = new Set<Socket>()
  readonly #serverByKeyKind = new Map<string, HandshakeServer>()
  #settings: HandshakeSettings
  #protocols: readonly string[]
  #clientCa: ClientCa | null
  onChallenge: OnChallenge | null
  /** Sockets of this process itself, which shows no certificate. */
  readonly #own = new WeakSet<Socket>()

  constructor(options: HandshakeOptions) {
    this.#options = options
    this.#settings = options.settings
    this.#protocols = options.protocols
    this.#clientCa = options.clientCa
    this.onChallenge = options.onChallenge
  }

  get size(): number {
    return this.#handshaking.size
  }

  configure(settings: HandshakeSettings): void {
    this.#settings = settings
    this.#serverByKeyKind.clear()
  }

  set protocols(protocols: readonly string[]) {
    if (String(protocols) === String(this.#protocols)) return
    this.#protocols = protocols
    this.#serverByKeyKind.clear()
  }

  set clientCa(clientCa: ClientCa | null) {
    const before = this.#clientCa
    if (clientCa?.contents === before?.contents && clientCa?.required === before?.required) return
    this.#clientCa = clientCa
    this.#serverByKeyKind.clear()
  }

  /** Takes over a socket from which nothing was read; it may be paused. `isOwn`: the client is this process itself. */
  start(raw: Socket, isOwn = false): void {
    this.#handshaking.add(raw)
    if (isOwn) this.#own.add(raw)
    // A client that sends FIN before the end of its handshake will not complete it.
    raw.allowHalfOpen = false
    // If the set still has the socket, the handshake failed, or it succeeded and `underlyingSocket()` did not find the socket.
    raw.once('close', () => {
      if (this.#handshaking.delete(raw)) this.#options.onEnd()
    })
    const { certificates, counts } = this.#options
    if (certificates.kinds.size < 2 && this.onChallenge === null) {
      this.#handshake(raw, certificates.defaultCertificate)
      return
    }
    readHello(raw, this.#settings.timeout, (hello, name, failed) => {
      if (failed !== null) counts.countFailed(failed)
      else if (String(hello.protocols) === CHALLENGE && this.onChallenge !== null)
        this.#pass(raw, hello, this.onChallenge)
      else {
        raw.unshift(hello.bytes)
        this.#handshake(raw, certificates.find(name ?? ''))
      }
    })
  }

  /** The receiver counts the connection from now on: it must not be counted twice. */
  #pass(raw: Socket, hello: HelloReader, onChallenge: OnChallenge): void {
    const early: Buffer[] = [hello.bytes]
    for (let rest = raw.read(); rest !== null; rest = raw.read()) early.push(rest)
    this.#handshaking.delete(raw)
    onChallenge(raw, Buffer.concat(early))
    this.#options.onEnd()
  }

  cut(): void {
    for (const raw of [...this.#handshaking]) raw.destroy()
  }

  #handshake(raw: Socket, wanted: CertificateMaterial | undefined): void {
    const keyKind = wanted?.keyKind ?? ''
    const clientCa = this.#own.has(raw) ? null : this.#clientCa
    const kind = clientCa === this.#clientCa ? keyKind : `${keyKind} own`
    const defaultCertificate = this.#options.certificates.kinds.get(keyKind)
    let entry = this.#serverByKeyKind.get(kind)
    if (entry === undefined || entry.defaultCertificate !== defaultCertificate) {
      try {
        entry = { defaultCertificate, server: this.#makeServer(defaultCertificate, clientCa) }
      } catch (error) {
        // The program has given settings that no `tls.Server` can have.
        this.#options.counts.countFailed(failureOf(error as Error))
        raw.destroy()
        return
      }
      this.#serverByKeyKind.set(kind, entry)
    }
    // So that an HTTP/2 session can end in two steps.
    expectTls()
    entry.server.emit('connection', raw)
    expectedTls(raw)
  }

  #makeServer(defaultCertificate: CertificateMaterial | undefined, clientCa: ClientCa | null): Server {
    const { counts, onSecure, onEnd } = this.#options
    const { timeout, minVersion, ticketKeys, carrier } = this.#settings
    const contextFor = this.#contextsFor(clientCa)
    const server = nodeTls().createServer({
      cert: defaultCertificate?.chain,
      key: defaultCertificate?.key,
      minVersion,
      // A session tells that its client was verified.
      sessionIdContext: clientCa === null ? SESSIONS : `${SESSIONS} ${clientCa.id}`,
      ...(clientCa !== null && {
        ...caOptions(clientCa),
        requestCert: true,
        rejectUnauthorized: clientCa.required,
      }),
      handshakeTimeout: timeout,
      ...(this.#protocols.length > 0 && { ALPNProtocols: [...this.#protocols] }),
      SNICallback: (name, done) => this.#chooseCertificate(name, defaultCertificate, contextFor, done),
    })
    useTicketKeys(server, ticketKeys)
    carrier?.follow(server)
    server.on('secureConnection', socket => {
      if (!this.#mayPass(socket, clientCa)) {
        counts.countFailed(clientFailureOf(socket))
        socket.destroy()
        return
      }
      counts.countCompleted(socket.isSessionReused())
      // HTTP/2 does not move.
      if (socket.alpnProtocol !== 'h2') carrier?.secured(socket, true)
      const raw = underlyingSocket(socket)
      // The relay counts the connection from now on: it must not be counted twice.
      const counted = raw !== undefined && this.#handshaking.delete(raw)
      onSecure(socket, raw, clientCa?.id ?? '')
      if (counted) onEnd()
    })
    server.on('tlsClientError', (error, socket) => {
      counts.countFailed(socket.authorizationError ? clientFailureOf(socket) : failureOf(error))
      socket.destroy()
    })
    return server
  }

  /** Reports whether the client has shown what its handshake has asked for, and this listener asks for now. */
  #mayPass(socket: TLSSocket, clientCa: ClientCa | null): boolean {
    const raw = underlyingSocket(socket)
    const wanted = raw !== undefined && this.#own.has(raw) ? null : this.#clientCa
    if (wanted === null) return true
    if (clientCa?.id !== wanted.id) return !wanted.required
    if (certificateOf(socket) !== undefined) return true
    return !wanted.required && socket.getPeerX509Certificate() === undefined
  }

  /** A context replaces the CAs of its server too: without any, OpenSSL would verify clients by Node's own. */
  #contextsFor(clientCa: ClientCa | null): (material: CertificateMaterial) => SecureContext {
    const { certificates } = this.#options
    if (clientCa === null) return material => certificates.contextFor(material)
    const contexts = new WeakMap<CertificateMaterial, SecureContext>()
    return material => {
      const { chain: cert, key } = material
      const known = contexts.get(material)
      if (known !== undefined) return known
      const context = nodeTls().createSecureContext({ cert, key, ...caOptions(clientCa) })
      contexts.set(material, context)
      return context
    }
  }

  #chooseCertificate(
    name: string,
    defaultCertificate: CertificateMaterial | undefined,
    contextFor: (material: CertificateMaterial) => SecureContext,
    done: (error: Error | null, context?: SecureContext) => void,
  ): void {
    const { certificates } = this.#options
    try {
      const material = certificates.find(name)
      if (material === undefined || material === defaultCertificate) done(null)
      else done(null, contextFor(material))
    } catch (error) {
      done(error as Error)
    }
  }
}

type HelloEnd = 'timeout' | 'broken-off'

/** Reads a ClientHello. `done` gets the server name that the client requests, or null if there is none; if the socket closes first, the reason. */
function readHello(
  raw: Socket,
  timeoutMs: number,
  done: (hello: HelloReader, name: string | null, failed: HelloEnd | null) => void,
): void {
  const hello = new HelloReader()
  let timedOut = false
  const readHello = () => {
    let name: string | null | undefined
    while (name === undefined) {
      const chunk: Buffer | null = raw.read()
      if (chunk === null) break
      name = hello.add(chunk)
    }
    if (name === undefined) return
    cleanUp()
    done(hello, name, null)
  }
  const onClose = () => {
    cleanUp()
    done(hello, null, timedOut ? 'timeout' : 'broken-off')
  }
  const ignore = () => {}
  const timer = afterReading(timeoutMs, () => {
    timedOut = true
    raw.destroy()
  })
  const cleanUp = () => {
    timer.clear()
    raw.off('readable', readHello).off('close', onClose).off('error', ignore)
  }
  raw.on('readable', readHello).on('close', onClose).on('error', ignore)
}

/** All failures of such an interval are logged in one line, so that attackers cannot fill the log. */
const LOG_INTERVAL_MS = 10_000
/** Maximum number of kinds of failures; further kinds count as `other`. */
const MAX_KINDS = 32

/** Returns `timeout`, `broken-off`, `no-tls` (for example a plain request), or OpenSSL's name of the failure. */
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

/** Returns the reason why the certificate of a client is refused: `client-` and OpenSSL's name of it. */
function clientFailureOf(socket: TLSSocket): string {
  const other = socket.getPeerX509Certificate() === undefined ? 'certificate-missing' : 'cert-has-expired'
  const code = String(socket.authorizationError ?? other)
  return `client-${code.toLowerCase().replaceAll('_', '-')}`
}

export class HandshakeCounts {
  readonly #logger: Pick<Logger, 'warn'>
  readonly #failures = new CountByKey<string>()
  #completed = 0
  #resumed = 0
  readonly #unreported = new CountByKey<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(logger: Pick<Logger, 'warn'>) {
    this.#logger = logger
  }

  countCompleted(resumed: boolean): void {
    this.#completed++
    if (resumed) this.#resumed++
  }

  countFailed(why: string): void {
    const kind = this.#failures.has(why) || this.#failures.size < MAX_KINDS ? why : 'other'
    this.#failures.add(kind)
    this.#unreported.add(kind)
    this.#timer ??= setTimeout(() => this.#logFailures(), LOG_INTERVAL_MS).unref()
  }

  get report(): { completed: number; resumed: number; failed: Record<string, number> } {
    return { completed: this.#completed, resumed: this.#resumed, failed: Object.fromEntries(this.#failures) }
  }

  #logFailures(): void {
    this.#timer = undefined
    const failed = Object.fromEntries(this.#unreported)
    this.#unreported.clear()
    this.#logger.warn({ failed }, 'TLS handshakes failed')
  }
}
