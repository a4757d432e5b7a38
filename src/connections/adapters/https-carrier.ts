import type http from 'node:http'
import type net from 'node:net'
import type tls from 'node:tls'
import { FdbError } from '../../errors.js'
import type { OwnedFd } from '../../kernel/index.js'
import { nextBytes, pauseReading, resumeReading, stopReading, timeoutLeft } from '../../node/socket-handle.js'
import { underlyingSocket } from '../../node/tls-internals.js'
import type { fdbroker } from '../../proto/connections.js'
import { NO_BYTES } from '../../proto/message.js'
import { QUIET_MS, type TlsPosition, TlsPositions } from '../../tls13/exporter.js'
import { HEADER_BYTES } from '../../tls13/protection.js'
import { isRecordHeader, nextPosition, secretBytesOf, type TrafficState } from '../../tls13/record-layer.js'
import { movesTls } from '../../tls13/self-test.js'
import { factsOf, isMovedTls, MovedTlsSocket, type TlsFacts } from '../../tls13/tls-socket.js'
import type { HttpCarrier } from './http-carrier.js'
import { connectionOf, openSocket, publish } from './node-socket.js'
import type { Connections } from './open-sockets.js'

type Record = fdbroker.connections.TlsPosition.$Properties

/** How long a busy connection is not read at most, and the interval at which it is looked at, in milliseconds. */
const HOLD_MS = 2 * QUIET_MS
const LOOK_MS = 5

interface Deps {
  /** The sockets below. */
  readonly below: Connections
  /** Called once if the connections of this server cannot move on this Node. */
  readonly failed: (error: FdbError) => void
}

/** TLS 1.3 connections of an `https.Server`: Node's own `TLSSocket`s, and those that have moved before. */
export class HttpsCarrier implements HttpCarrier {
  readonly protocol = 'node-https/1'
  readonly kind = 'https'
  readonly event = 'secureConnection'
  readonly #server: tls.Server
  readonly #deps: Deps
  readonly #positions = new TlsPositions()
  readonly #stopFollowing: () => void
  /** The result of the test, or null before it. */
  #works: boolean | null = null
  #tests = false
  #isReleased = false
  /** How many bytes each idle connection had read, and since when. */
  readonly #looked = new WeakMap<net.Socket, { readonly bytes: number; readonly quietAt: number }>()
  #looks: NodeJS.Timeout | undefined
  /** The busy connections that are not read, each until a time (performance.now()). */
  readonly #held = new Map<net.Socket, number>()
  #review: NodeJS.Timeout | undefined

  constructor(server: tls.Server, deps: Deps) {
    this.#server = server
    this.#deps = deps
    this.#stopFollowing = this.#positions.follow(server)
  }

  /** For each connection after its handshake. */
  secured(socket: net.Socket): void {
    this.#positions.secured(socket as tls.TLSSocket)
  }

  release(): void {
    this.#isReleased = true
    this.#stopFollowing()
    clearTimeout(this.#looks)
    for (const socket of [...this.#held.keys()]) this.#release(socket)
  }

  mayBegin(ready: () => void): boolean {
    if (this.#works !== null) return true
    if (!this.#tests) {
      this.#tests = true
      void movesTls(this.#server).then(result => {
        if (this.#isReleased) return
        this.#works = result === 'works'
        if (result === 'unknown') this.#deps.failed(cannotMove())
        ready()
      })
    }
    return false
  }

  #positionOf(socket: net.Socket): TlsPosition | undefined {
    return this.#works === false ? undefined : this.#positions.of(socket as tls.TLSSocket)
  }

  carries(socket: net.Socket): boolean {
    return isMovedTls(socket) || this.#positionOf(socket)?.isMovable === true
  }

  canLeave(socket: net.Socket, ready: () => void): boolean {
    if (isMovedTls(socket)) return socket.canLeave
    return socket.readableLength === 0 && this.#canLeave(socket, ready, false)
  }

  canLeaveAmid(socket: net.Socket, ready: () => void): boolean {
    return this.#canLeave(socket, ready, true)
  }

  /** `holds`: does not read from a busy connection for a moment, which would never be quiet. */
  #canLeave(socket: net.Socket, ready: () => void, holds: boolean): boolean {
    if (socket.readableEncoding !== null) return false
    if (isMovedTls(socket)) return socket.canLeaveUnsent
    const position = this.#positionOf(socket)
    if (position === undefined || socket.destroyed || !socket.writable) return false
    const { stays } = position
    if (stays === null) return this.#isBetweenRecords(socket, position.bytesRead, ready, holds)
    if (stays === 'half-record' || stays === 'sending') this.#lookLater(ready)
    return false
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
        const isAmid = next.length === HEADER_BYTES && !isRecordHeader(next)
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

  /** A client sends its next request after the response, so nothing has arrived of it. */
  rests(socket: net.Socket): void {
    const position = this.#positionOf(socket)
    if (position !== undefined) this.#looked.set(socket, { bytes: position.bytesRead, quietAt: 0 })
  }

  reasonOf(socket: net.Socket): string | null {
    if (isMovedTls(socket)) return null
    if (this.#works === false) return 'unsupported'
    const position = this.#positions.of(socket as tls.TLSSocket)
    return position === undefined ? 'handshake' : position.stays
  }

  duplicate(socket: net.Socket): OwnedFd | null {
    return connectionOf(isMovedTls(socket) ? socket.below : socket)
  }

  take(socket: net.Socket): Record {
    this.#removeRaw(socket)
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

  #removeRaw(socket: net.Socket): void {
    const raw = isMovedTls(socket) ? socket.below : underlyingSocket(socket as tls.TLSSocket)
    if (raw !== undefined) this.#deps.below.remove(raw)
  }

  abandon(socket: net.Socket): void {
    this.#removeRaw(socket)
    socket.destroy()
  }

  check(tls: Record | null | undefined): void {
    const bytes = secretBytesOf(tls?.suite ?? '')
    const isWhole = tls?.readSecret?.length === bytes && tls?.writeSecret?.length === bytes
    if (bytes !== undefined && isWhole) return
    throw new FdbError(
      'ERR_FDB_CONNECTION',
      'a TLS connection arrived with a cipher suite or keys that this version does not know: it stays in the process that sent it',
    )
  }

  open(fd: OwnedFd, server: http.Server, tls: Record | null | undefined): net.Socket {
    const raw = openSocket(fd, server)
    this.#deps.below.add(raw)
    return new MovedTlsSocket(raw, toState(tls ?? {}), toFacts(tls ?? {})) as unknown as net.Socket
  }

  publish(socket: net.Socket): void {
    const moved = socket as unknown as MovedTlsSocket
    publish(moved.below)
    moved.flush()
  }

  timeoutLeft(socket: net.Socket): number {
    return isMovedTls(socket) ? socket.timeoutLeft : timeoutLeft(socket)
  }
}

function toRecord(state: TrafficState, facts: TlsFacts): Record {
  return {
    ...state,
    authorized: facts.authorized,
    authorizationError: facts.authorizationError ?? '',
    servername: facts.servername || '',
    alpnProtocol: facts.alpnProtocol || '',
    sessionReused: facts.isSessionReused,
    certificates: [...facts.certificates],
  }
}

function toState(record: Record): TrafficState {
  return {
    suite: record.suite ?? '',
    readSecret: record.readSecret ?? NO_BYTES,
    readSequence: record.readSequence ?? 0,
    writeSecret: record.writeSecret ?? NO_BYTES,
    writeSequence: record.writeSequence ?? 0,
    sealed: record.sealed ?? NO_BYTES,
    unsent: record.unsent ?? NO_BYTES,
    received: record.received ?? NO_BYTES,
  }
}

function toFacts(record: Record): TlsFacts {
  return {
    authorized: record.authorized ?? false,
    authorizationError: record.authorizationError || null,
    servername: record.servername || false,
    alpnProtocol: record.alpnProtocol || false,
    isSessionReused: record.sessionReused ?? false,
    certificates: record.certificates ?? [],
  }
}

function cannotMove(): FdbError {
  const node = process.versions.node
  return new FdbError(
    'ERR_FDB_NODE',
    `TLS connections do not move, they drain: a test connection with this server's certificate could not be moved on Node ${node}; use Node 20 to 26 without settings of OpenSSL that change its records, or a release of fd-broker that supports this one`,
    { details: { internal: 'the records of TLS 1.3', node } },
  )
}
