import type net from 'node:net'
import type tls from 'node:tls'
import { FdbError } from '../errors.js'
import { nextBytes, pauseReading, resumeReading, stopReading } from '../node/socket-handle.js'
import { hasCertificate, namedContextOf, secureContextOf } from '../node/tls-internals.js'
import { QUIET_MS, type TlsPosition, TlsPositions } from './exporter.js'
import { type PositionRecord, toFacts, toRecord, toState } from './position-record.js'
import { HEADER_BYTES } from './protection.js'
import { isRecordHeader, nextPosition } from './record-layer.js'
import { movesTls } from './self-test.js'
import { factsOf, isMovedTls, MovedTlsSocket } from './tls-socket.js'

/** How long a busy connection is not read at most, and the interval at which it is looked at, in milliseconds. */
const HOLD_MS = 2 * QUIET_MS
const LOOK_MS = 5

/** TLS 1.3 connections of a server: Node's own `TLSSocket`s, and those that have moved before. */
export class TlsCarrier {
  readonly #failed: (error: FdbError) => void
  readonly #positions = new TlsPositions()
  /** The server whose certificate the test uses. */
  #server: tls.Server | null = null
  /** The result of the last test, or null before it. */
  #works: boolean | null = null
  /** The certificate and settings of the last test: a program may have replaced them. */
  #tested: tls.SecureContext | undefined
  /** The certificate and settings of the first connection that got some for its server name. */
  #named: tls.SecureContext | undefined
  #isTesting = false
  /** Called after the test for which departures wait. */
  #ready: (() => void) | null = null
  #isReleased = false
  /** How many bytes each idle connection had read, and since when. */
  readonly #looked = new WeakMap<net.Socket, { readonly bytes: number; readonly quietAt: number }>()
  #looks: NodeJS.Timeout | undefined
  /** The busy connections that are not read, each until a time (performance.now()). */
  readonly #held = new Map<net.Socket, number>()
  #review: NodeJS.Timeout | undefined

  /** `failed`: called after each test that failed when connections were to leave: they cannot move on this Node. */
  constructor(failed: (error: FdbError) => void) {
    this.#failed = failed
  }

  /**
   * Connections that `server` accepts from now on can move. Returns a function that ends this for later ones. The test begins while the program starts, because after a
   * Commit connections would wait for it.
   */
  follow(server: tls.Server): () => void {
    this.#server = server
    setImmediate(() => this.#test())
    return this.#positions.follow(server)
  }

  /** For each connection after its handshake. `isCounted`: JavaScript gets each record as a chunk, which makes the position exact at any moment. */
  secured(socket: net.Socket, isCounted = false): void {
    this.#positions.secured(socket as tls.TLSSocket, isCounted)
    if (this.#named !== undefined) return
    this.#named = namedContextOf(socket as tls.TLSSocket)
    if (this.#named !== undefined) setImmediate(() => this.#test())
  }

  release(): void {
    this.#isReleased = true
    clearTimeout(this.#looks)
    for (const socket of [...this.#held.keys()]) this.#release(socket)
  }

  /** Whether departures may begin; calls `ready` later if not. */
  mayBegin(ready: () => void): boolean {
    if (this.#server === null || this.#isTested) return true
    this.#ready = ready
    this.#test()
    return false
  }

  get #isTested(): boolean {
    return this.#works !== null && this.#tested === this.#context
  }

  /** A server may have certificates only for server names; then one of these is tested. */
  get #context(): tls.SecureContext | undefined {
    const own = this.#server === null ? undefined : secureContextOf(this.#server)
    return own !== undefined && hasCertificate(own) ? own : (this.#named ?? own)
  }

  #test(): void {
    if (this.#server === null) return
    if (this.#isTesting || this.#isReleased || this.#isTested) return
    const context = this.#context
    const isEarly = this.#ready === null
    // The first connection shows a certificate.
    if (isEarly && context !== undefined && !hasCertificate(context)) return
    this.#isTesting = true
    void movesTls(context).then(result => {
      this.#isTesting = false
      if (this.#isReleased) return
      const ready = this.#ready
      if (result === 'unknown' && isEarly) {
        // A program that starts may leave the test no turn within its limit, or no descriptor. The test before the first departure decides.
        if (ready !== null) this.#test()
        return
      }
      this.#ready = null
      this.#tested = context
      this.#works = result === 'works'
      if (result === 'unknown') this.#failed(cannotMove())
      ready?.()
    })
  }

  #positionOf(socket: net.Socket): TlsPosition | undefined {
    return this.#works === false ? undefined : this.#positions.of(socket as tls.TLSSocket)
  }

  /** Whether a connection can leave, now or later. */
  carries(socket: net.Socket): boolean {
    return isMovedTls(socket) || this.#positionOf(socket)?.isMovable === true
  }

  /** Whether a connection with everything sent and read can leave now; calls `ready` when it may, if it only needs time. */
  canLeave(socket: net.Socket, ready: () => void): boolean {
    if (socket.readableLength > 0) return false
    return isMovedTls(socket) ? socket.canLeaveUnread : this.#canLeaveSent(socket, ready, false)
  }

  /** As {@link canLeave}, also with bytes that can be read. */
  canLeaveUnread(socket: net.Socket, ready: () => void): boolean {
    return isMovedTls(socket) ? socket.canLeaveUnread : this.#canLeaveSent(socket, ready, true)
  }

  /** As {@link canLeave}, for a connection whose record has the bytes that were not read and, by `unsentBytes()`, those that were not sent. */
  canLeaveAmid(socket: net.Socket, ready: () => void): boolean {
    return this.#canLeave(socket, ready, true)
  }

  /** As {@link canLeaveAmid}, but not with writes that wait in a corked socket. */
  #canLeaveSent(socket: net.Socket, ready: () => void, holds: boolean): boolean {
    if (!this.#canLeave(socket, ready, holds)) return false
    if (socket.writableLength === 0) return true
    this.#lookLater(ready)
    return false
  }

  /** `holds`: does not read from a busy connection for a moment, which would never be quiet. */
  #canLeave(socket: net.Socket, ready: () => void, holds: boolean): boolean {
    if (socket.readableEncoding !== null) return false
    if (isMovedTls(socket)) return socket.canLeaveUnsent
    const position = this.#positionOf(socket)
    if (position === undefined || socket.destroyed || !socket.writable) return false
    const { stays } = position
    if (stays === null)
      return position.isExact || this.#isBetweenRecords(socket, position.bytesRead, ready, holds)
    if (stays === 'half-record' && holds && position.isExact) this.#readRecord(socket, position, ready)
    else if (stays === 'half-record' || stays === 'sending') this.#lookLater(ready)
    return false
  }

  /** The connection may leave later: the owner of `socket` gets the content now, which may change everything. */
  #readRecord(socket: net.Socket, position: TlsPosition, ready: () => void): void {
    this.#hold(socket, ready)
    position.readRecord()
    if (position.stays === null) ready()
  }

  #isBetweenRecords(socket: net.Socket, bytes: number, ready: () => void, holds: boolean): boolean {
    const now = performance.now()
    const last = this.#looked.get(socket)
    if (last?.bytes === bytes && now >= last.quietAt) return true
    const next = nextBytes(socket, HEADER_BYTES)
    if (isRecordHeader(next)) {
      this.#looked.set(socket, { bytes, quietAt: 0 })
      // Nothing may be read until the connection has left.
      this.#hold(socket, ready)
      return true
    }
    if (last?.bytes !== bytes) {
      this.#looked.set(socket, { bytes, quietAt: now + QUIET_MS })
      if (holds && last !== undefined && next.length < HEADER_BYTES) this.#hold(socket, ready)
    }
    this.#lookLater(ready)
    return false
  }

  #lookLater(ready: () => void): void {
    this.#looks ??= setTimeout(() => {
      this.#looks = undefined
      ready()
    }, QUIET_MS + 1).unref()
  }

  #hold(socket: net.Socket, ready: () => void): void {
    if (this.#held.has(socket)) return
    pauseReading(socket)
    this.#held.set(socket, performance.now() + HOLD_MS)
    this.#review ??= setInterval(() => {
      for (const [held, until] of this.#held) {
        const next = nextBytes(held, HEADER_BYTES)
        const isExact = this.#positionOf(held)?.isExact === true
        const isAmid = !isExact && next.length === HEADER_BYTES && !isRecordHeader(next)
        if (isAmid || held.destroyed || performance.now() >= until) this.#release(held)
      }
      ready()
    }, LOOK_MS).unref()
  }

  #release(socket: net.Socket): void {
    if (this.#held.delete(socket)) resumeReading(socket)
    if (this.#held.size > 0) return
    clearInterval(this.#review)
    this.#review = undefined
  }

  /** A response has ended, and the connection will not be read. A client sends its next request after the response, so nothing has arrived of it. */
  rests(socket: net.Socket): void {
    const position = this.#positionOf(socket)
    if (position !== undefined) this.#looked.set(socket, { bytes: position.bytesRead, quietAt: 0 })
  }

  /** Returns the reason why a connection stays, or null. */
  reasonOf(socket: net.Socket): string | null {
    if (isMovedTls(socket)) return null
    if (this.#works === false) return 'unsupported'
    const position = this.#positions.of(socket as tls.TLSSocket)
    return position === undefined ? 'handshake' : position.stays
  }

  /** Closes the socket without closing the connection, of which the caller has a dup, and returns its position. */
  take(socket: net.Socket): PositionRecord {
    if (isMovedTls(socket)) return toRecord(socket.takeState(), socket.facts)
    this.#release(socket)
    stopReading(socket)
    const facts = factsOf(socket as tls.TLSSocket)
    const state = this.#positions.of(socket as tls.TLSSocket)?.state()
    socket.destroy()
    // The caller has asked canLeave() in the same turn.
    if (!state) throw new Error('the position of a TLS connection is not known any more')
    return toRecord(nextPosition(state), facts)
  }
}

/** Makes a socket of an arrived connection, without reading yet. Owns `raw`. The record must have passed {@link checkPosition}. */
export function movedSocket(raw: net.Socket, record: PositionRecord): MovedTlsSocket {
  return new MovedTlsSocket(raw, toState(record), toFacts(record))
}

function cannotMove(): FdbError {
  const node = process.versions.node
  return new FdbError(
    'ERR_FDB_NODE',
    `TLS connections do not move, they drain: a test connection with this server's certificate could not be moved on Node ${node}; use Node 20 to 26 without settings of OpenSSL that change its records, or a release of fd-broker that supports this one`,
    { details: { internal: 'the records of TLS 1.3', node } },
  )
}
