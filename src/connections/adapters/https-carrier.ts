import type net from 'node:net'
import type tls from 'node:tls'
import type { FdbError } from '../../errors.js'
import type { OwnedFd } from '../../kernel/index.js'
import { HeldWrites } from '../../node/held-writes.js'
import { timeoutLeft } from '../../node/socket-handle.js'
import { underlyingSocket } from '../../node/tls-internals.js'
import { UNSENT_BYTES } from '../../node/unsent-bytes.js'
import { checkPosition, type PositionRecord } from '../../tls13/position-record.js'
import { movedSocket, TlsCarrier } from '../../tls13/tls-carrier.js'
import { isMovedTls, type MovedTlsSocket } from '../../tls13/tls-socket.js'
import type { HttpCarrier } from './http-carrier.js'
import { connectionOf, openSocket, publish } from './node-socket.js'
import type { Connections } from './open-sockets.js'

interface Deps {
  /** The sockets below. */
  readonly below: Connections
  /** Called once if the connections of this server cannot move on this Node. */
  readonly failed: (error: FdbError) => void
}

/** The TLS 1.3 connections of an `https.Server` or a `tls.Server`. */
export class HttpsCarrier extends TlsCarrier implements HttpCarrier {
  readonly protocol = 'node-https/1'
  readonly kind = 'https'
  readonly event = 'secureConnection'
  readonly check = checkPosition
  readonly #below: Connections
  readonly #stopFollowing: () => void
  readonly #writes = new HeldWrites<net.Socket>(socket => this.reasonOf(socket) !== 'sending')

  constructor(server: tls.Server, { below, failed }: Deps) {
    super(failed)
    this.#below = below
    this.#stopFollowing = this.follow(server)
  }

  override release(): void {
    super.release()
    this.#writes.releaseAll()
    this.#stopFollowing()
  }

  override canLeaveAmid(socket: net.Socket, ready: () => void): boolean {
    if (super.canLeaveAmid(socket, ready)) return true
    if (UNSENT_BYTES.works && this.reasonOf(socket) === 'sending') this.#writes.hold(socket, ready)
    return false
  }

  duplicate(socket: net.Socket): OwnedFd | null {
    return connectionOf(isMovedTls(socket) ? socket.below : socket)
  }

  override take(socket: net.Socket): PositionRecord {
    this.#removeRaw(socket)
    this.#writes.forget(socket)
    return super.take(socket)
  }

  #removeRaw(socket: net.Socket): void {
    const raw = isMovedTls(socket) ? socket.below : underlyingSocket(socket as tls.TLSSocket)
    if (raw !== undefined) this.#below.remove(raw)
  }

  abandon(socket: net.Socket): void {
    this.#removeRaw(socket)
    socket.destroy()
  }

  open(fd: OwnedFd, server: net.Server, tls: PositionRecord | null | undefined): net.Socket {
    const raw = openSocket(fd, server)
    this.#below.add(raw)
    return movedSocket(raw, tls ?? {}) as unknown as net.Socket
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
