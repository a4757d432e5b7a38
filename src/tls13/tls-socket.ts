import type net from 'node:net'
import { Duplex } from 'node:stream'
import type tls from 'node:tls'
import { nodeCrypto } from '../base/lazy.js'
import { nextBytes, stopReading, timeoutLeft, unwrittenBytes } from '../node/socket-handle.js'
import { UNSENT_BYTES, unsentBytes, waitingBytes } from '../node/unsent-bytes.js'
import { AlertReceived, MOST_CONTENT, RecordError, RecordLayer, type TrafficState } from './record-layer.js'

/** Facts of a TLS connection for the application. */
export interface TlsFacts {
  readonly authorized: boolean
  readonly authorizationError: string | null
  /** The name that the client has asked for, or false. */
  readonly servername: string | false
  readonly alpnProtocol: string | false
  readonly isSessionReused: boolean
  /** The client's certificate and those of its issuers, DER. */
  readonly certificates: readonly Uint8Array[]
}

export function factsOf(socket: tls.TLSSocket): TlsFacts {
  const { authorized, authorizationError, alpnProtocol } = socket
  const { servername } = socket as unknown as { servername: string | false | null }
  return {
    authorized,
    authorizationError: (authorizationError as unknown as string | null) ?? null,
    servername: servername || false,
    alpnProtocol: alpnProtocol || false,
    isSessionReused: socket.isSessionReused(),
    certificates: chainOf(socket.getPeerCertificate(true)),
  }
}

function chainOf(leaf: tls.DetailedPeerCertificate): Uint8Array[] {
  const chain = new Map<tls.DetailedPeerCertificate, Uint8Array>()
  for (let at = leaf; at && !chain.has(at); at = at.issuerCertificate) {
    const { raw } = at
    if (raw === undefined) break
    chain.set(at, raw)
  }
  return [...chain.values()]
}

const NOTHING = Buffer.alloc(0)
const MOST_AT_ONCE = 8 * MOST_CONTENT

type Done = (error?: Error | null) => void

/**
 * A server's TLS 1.3 connection that was moved from a `tls.TLSSocket`: looks like one, and protects its records itself. Methods that need the handshake (`getSession()`, `exportKeyingMaterial()`,
 * `renegotiate()`) are missing.
 */
export class MovedTlsSocket extends Duplex {
  readonly encrypted = true
  readonly authorized: boolean
  readonly authorizationError: string | null
  readonly servername: string | false
  readonly alpnProtocol: string | false
  readonly secureConnecting = false
  readonly connecting = false
  readonly pending = false
  bytesRead = 0
  bytesWritten = 0
  readonly facts: TlsFacts
  readonly #raw: net.Socket
  readonly #layer: RecordLayer
  #fragment = MOST_CONTENT
  /** The bytes of the current write that are not sealed. */
  #rest: readonly Buffer[] = []
  /** Another process has the connection, and writes the waiting bytes. */
  #left = false

  /** Owns `raw`, from which nothing is read until this is read. Throws for an unknown suite. */
  constructor(raw: net.Socket, state: TrafficState, facts: TlsFacts) {
    super({ allowHalfOpen: raw.allowHalfOpen, highWaterMark: raw.writableHighWaterMark })
    this.#raw = raw
    this.#layer = new RecordLayer(state)
    this.facts = facts
    this.authorized = facts.authorized
    this.authorizationError = facts.authorizationError
    this.servername = facts.servername
    this.alpnProtocol = facts.alpnProtocol
    // Sends its own FIN after close_notify.
    raw.allowHalfOpen = true
    raw.pause()
    raw.on('data', (bytes: Buffer) => this.#receive(bytes))
    raw.on('end', () => this.#ended())
    raw.on('error', error => this.destroy(error))
    raw.on('close', () => this.#closed())
    raw.on('timeout', () => this.emit('timeout'))
    // Records that were received and not opened before the move.
    if (state.received.length > 0) setImmediate(() => this.#receive(NOTHING))
  }

  /** The connection below, whose bytes are encrypted. */
  get below(): net.Socket {
    return this.#raw
  }

  #receive(bytes: Buffer): void {
    if (this.destroyed || this.readableEnded) return
    const wasClosed = this.#layer.isClosed
    let isFull = false
    try {
      this.#layer.receive(bytes, content => {
        this.bytesRead += content.length
        if (!this.push(content)) isFull = true
      })
    } catch (error) {
      this.#fail(error as Error)
      return
    }
    // A listener may have destroyed this socket.
    if (this.destroyed) return
    if (isFull) this.#raw.pause()
    if (this.#layer.isClosed && !wasClosed) this.push(null)
  }

  /** As Node does, takes the client's FIN for its end, unless it comes amid a record. */
  #ended(): void {
    // The records that came with the move may not be opened yet.
    this.#receive(NOTHING)
    if (this.#layer.isClosed || this.destroyed) return
    if (this.#layer.isInRecord) this.destroy(new ConnectionCut())
    else this.push(null)
  }

  /** If both sides have ended, this closes itself when what waits here is read. */
  #closed(): void {
    const isWhole = this.#raw.readableEnded && this.writableFinished
    if (!isWhole || this.readableEnded) this.destroy()
  }

  #fail(error: Error): void {
    if (error instanceof RecordError) this.#raw.write(this.#layer.sealAlert(error.alert))
    else if (!(error instanceof AlertReceived)) {
      // The exception of a listener. A program may survive it; the next records are opened as without it.
      setImmediate(() => (this.#raw.readableEnded ? this.#ended() : this.#receive(NOTHING)))
      throw error
    }
    this.destroy(error)
  }

  override _read(): void {
    this.#raw.resume()
  }

  override pause(): this {
    super.pause()
    this.#raw.pause()
    return this
  }

  override resume(): this {
    super.resume()
    this.#raw.resume()
    return this
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    this.#sendAll([chunk], done)
  }

  override _writev(chunks: { chunk: Buffer }[], done: Done): void {
    const parts = chunks.map(({ chunk }) => chunk)
    // A large body is not copied.
    const isLarge = parts.some(({ length }) => length > MOST_AT_ONCE)
    this.#sendAll(isLarge ? parts : [Buffer.concat(parts)], done)
  }

  #sendAll(parts: readonly Buffer[], done: Done): void {
    this.bytesWritten += parts.reduce((sum, { length }) => sum + length, 0)
    this.#rest = parts
    this.#send(done)
  }

  /** Seals no more at once than the processor's cache keeps. */
  #send(done: Done): void {
    const [content = NOTHING, ...others] = this.#rest
    this.#rest = content.length > MOST_AT_ONCE ? [content.subarray(MOST_AT_ONCE), ...others] : others
    const parts = this.#layer.seal(content.subarray(0, MOST_AT_ONCE), this.#fragment)
    const last = parts.pop() ?? NOTHING
    const raw = this.#raw
    raw.cork()
    for (const part of parts) raw.write(part)
    raw.write(last, error => {
      if (error || this.#rest.length === 0 || this.destroyed) done(this.#left ? null : error)
      else this.#send(done)
    })
    raw.uncork()
  }

  override _final(done: Done): void {
    this.#raw.end(this.#layer.sealClose(), () => done())
  }

  override _destroy(error: Error | null, done: Done): void {
    this.#layer.wipe()
    this.#raw.destroy()
    done(error)
  }

  /** With everything sent, if the caller keeps the bytes that can be read. */
  get canLeaveUnread(): boolean {
    const raw = this.#raw
    const isSent = this.writableLength === 0 && raw.writableLength === 0 && unwrittenBytes(raw) === 0
    return isSent && this.canLeaveUnsent
  }

  /** At any byte in both directions, if the caller keeps the bytes that can be read and {@link unsentBytes}. */
  get canLeaveUnsent(): boolean {
    const raw = this.#raw
    const isOpen = !this.destroyed && this.writable && raw.writable && !raw.readableEnded
    return isOpen && this.#layer.canLeave && (raw.writableLength === 0 || this.#sealed() !== null)
  }

  /** Whether bytes have arrived that were not opened. */
  get hasArrived(): boolean {
    return this.#layer.isInRecord || this.#raw.readableLength > 0 || nextBytes(this.#raw, 1).length > 0
  }

  /** Returns the bytes that were written and not sealed. */
  unsentBytes(): Buffer {
    return Buffer.concat([...this.#rest, waitingBytes(this)])
  }

  #sealed(): Buffer | null {
    if (this.#raw.writableLength === 0) return NOTHING
    return UNSENT_BYTES.works ? unsentBytes(this.#raw) : null
  }

  /** Sends what the process before has sealed. */
  flush(): void {
    const sealed = this.#layer.takeSealed()
    if (sealed.length > 0) this.#raw.write(sealed)
  }

  /** Ends this socket without a message to the client, and returns its position. */
  takeState(): TrafficState {
    this.#left = true
    stopReading(this.#raw)
    this.#raw.removeAllListeners('data')
    const unread: Buffer[] = []
    for (let chunk = this.#raw.read(); chunk !== null; chunk = this.#raw.read()) unread.push(chunk as Buffer)
    const state = this.#layer.takeState(Buffer.concat(unread), this.#sealed() ?? NOTHING)
    this.destroy()
    return state
  }

  /** The milliseconds until the socket's own timeout, or Infinity without one. */
  get timeoutLeft(): number {
    return timeoutLeft(this.#raw)
  }

  // The interface of a net.Socket.

  get timeout(): number | undefined {
    return this.#raw.timeout
  }

  setTimeout(ms: number, listener?: () => void): this {
    this.#raw.setTimeout(ms)
    if (listener !== undefined) {
      if (ms === 0) this.removeListener('timeout', listener)
      else this.once('timeout', listener)
    }
    return this
  }

  setNoDelay(on?: boolean): this {
    this.#raw.setNoDelay(on)
    return this
  }

  setKeepAlive(on?: boolean, initialDelay?: number): this {
    this.#raw.setKeepAlive(on, initialDelay)
    return this
  }

  ref(): this {
    this.#raw.ref()
    return this
  }

  unref(): this {
    this.#raw.unref()
    return this
  }

  address(): object {
    return this.#raw.address()
  }

  destroySoon(): void {
    if (this.writable) this.end()
    if (this.writableFinished) this.destroy()
    else this.once('finish', () => this.destroy())
  }

  resetAndDestroy(): this {
    this.#raw.resetAndDestroy()
    return this
  }

  get readyState(): string {
    return this.#raw.readyState
  }

  get remoteAddress(): string | undefined {
    return this.#raw.remoteAddress
  }

  get remoteFamily(): string | undefined {
    return this.#raw.remoteFamily
  }

  get remotePort(): number | undefined {
    return this.#raw.remotePort
  }

  get localAddress(): string | undefined {
    return this.#raw.localAddress
  }

  get localFamily(): string | undefined {
    return this.#raw.localFamily
  }

  get localPort(): number | undefined {
    return this.#raw.localPort
  }

  // The interface of a tls.TLSSocket.

  getProtocol(): string {
    return 'TLSv1.3'
  }

  getCipher(): tls.CipherNameAndProtocol {
    const { suite } = this.#layer
    return { name: suite, standardName: suite, version: 'TLSv1.3' }
  }

  getPeerCertificate(detailed = false): object {
    const certificates = this.facts.certificates.map(der =>
      new (nodeCrypto().X509Certificate)(der).toLegacyObject(),
    )
    const [leaf] = certificates as unknown as { issuerCertificate?: object }[]
    if (leaf === undefined) return {}
    if (detailed)
      for (const [i, certificate] of certificates.entries())
        Object.assign(certificate, { issuerCertificate: certificates[i + 1] ?? certificate })
    return leaf
  }

  getPeerX509Certificate(): unknown {
    const [der] = this.facts.certificates
    return der && new (nodeCrypto().X509Certificate)(der)
  }

  getEphemeralKeyInfo(): null {
    return null
  }

  getSharedSigalgs(): string[] {
    return []
  }

  getSession(): undefined {}

  getTLSTicket(): undefined {}

  getFinished(): undefined {}

  getPeerFinished(): undefined {}

  isSessionReused(): boolean {
    return this.facts.isSessionReused
  }

  setMaxSendFragment(bytes = MOST_CONTENT): boolean {
    if (!(bytes >= 512 && bytes <= MOST_CONTENT)) return false
    this.#fragment = bytes
    return true
  }

  disableRenegotiation(): void {}

  enableTrace(): void {}
}

/** The client's end came amid a record. */
class ConnectionCut extends Error {
  readonly code = 'ECONNRESET'

  constructor() {
    super('the TLS connection was cut amid a record')
  }
}

export function isMovedTls(socket: unknown): socket is MovedTlsSocket {
  return socket instanceof MovedTlsSocket
}
