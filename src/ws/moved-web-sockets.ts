import type http from 'node:http'
import type net from 'node:net'
import { GradualLeave } from '../base/gradual-leave.js'
import { hookBytes } from '../connections/adapters/application-socket.js'
import { type Leaving, type TakenOver, takeOver } from '../connections/adapters/taken-over.js'
import { decoded, MAX_RECORD_BYTES } from '../connections/movable.js'
import { FdbError } from '../errors.js'
import { REBUILT_REQUEST, rebuiltRequest } from '../node/rebuilt-request.js'
import { readBuffered } from '../node/socket-handle.js'
import { succeedUnfinishedWrites, UNSENT_BYTES, unsentBytes } from '../node/unsent-bytes.js'
import { fdbroker } from '../proto/connections.js'
import {
  type DeflateParams,
  follow,
  Hold,
  inflationOf,
  isAtRest,
  lacking,
  OPEN,
  openWebSocket,
  otherExtensions,
  type ServerInside,
  type WebSocketInside,
} from './internals.js'

/** The hooks, without the application's types. */
export interface AnyHooks {
  serialize?(ws: WebSocketInside, request: http.IncomingMessage): Uint8Array | undefined
  restore?(ws: WebSocketInside, data: Uint8Array, request: http.IncomingMessage): void
  cut?(ws: WebSocketInside): void
}

/** A held WebSocket that does not leave within this time (milliseconds) continues here. */
const HOLD_MS = 500
/** Maximum WebSockets that are held at first while a message of theirs is compressed or inflated: as many as leave in two slices. One more for each that has left, half as many after one that has not. */
const FEWEST_HELD = 64
/** Bytes of a record for everything but the messages: headers, the window, the application's data. */
const OTHER_BYTES = 512 * 1024
/** The codes with which WebSockets are closed: "service restart", "going away" (RFC 6455). */
const CODES = { replaced: 1012, ended: 1001 } as const

const { WebSocket: WebSocketRecord } = fdbroker.connections

interface Facts {
  readonly ws: WebSocketInside
  readonly socket: net.Socket
  readonly request: http.IncomingMessage
  /** The listeners of 'close' that belong to the server. */
  readonly own: readonly (() => void)[]
  hold: Hold | null
  holdEnds: NodeJS.Timeout | undefined
  movable: (socket: net.Socket) => void
  /** Why it has not left. */
  reason: string
}

/**
 * The WebSockets of one WebSocketServer. One moves in two calls: {@link serialize} in the old process makes its record (headers, the unread and unsent
 * bytes, the place within a frame, the window of permessage-deflate, the application's data), and {@link restore} in the next process opens it again on the
 * same socket. `HttpServerConnections` sends the record with the descriptor (`#departTaken()`, `#arriveTaken()`). While a message is being compressed or inflated it is held until that is done.
 */
export class MovedWebSockets implements TakenOver {
  readonly protocol: string
  readonly server: net.Server | null
  readonly #wss: ServerInside
  readonly #hooks: AnyHooks
  readonly #handleUpgrade: ServerInside['handleUpgrade']
  readonly #open = new WeakMap<net.Socket, Facts>()
  readonly #held = new Set<Facts>()
  #mostHeld = FEWEST_HELD
  /** The internal that the installed release of `ws` or of Node lacks; undefined until the test. */
  #lacks: string | null | undefined
  #reported = false
  #why: Leaving | null = null
  readonly #leave = new GradualLeave<Facts>(facts => this.#close(facts))

  constructor(wss: ServerInside, protocol: string, server: net.Server | null, hooks: AnyHooks) {
    this.#wss = wss
    this.protocol = protocol
    this.server = server
    this.#hooks = hooks
    this.#handleUpgrade = wss.handleUpgrade
  }

  /** A method in place of `wss.handleUpgrade`. */
  readonly handleUpgrade: ServerInside['handleUpgrade'] = (request, socket, head, done) => {
    this.#handleUpgrade.call(this.#wss, request, socket, head, (ws, upgraded) => {
      // Not a stream of HTTP/2.
      if ('remotePort' in socket) {
        this.#add(ws, socket as net.Socket, upgraded, ws.listeners('close'))
        if (this.#hooks.serialize !== undefined) follow(ws)
      }
      done(ws, upgraded)
    })
  }

  get moves(): boolean {
    return this.#hooks.serialize !== undefined && this.lacks === null
  }

  /** Returns the internal that the installed release of `ws` or of Node lacks, or null. */
  get lacks(): string | null {
    if (this.#lacks === undefined)
      this.#lacks = REBUILT_REQUEST.works ? lacking(this.#wss, this.#handleUpgrade) : REBUILT_REQUEST.name
    return this.#lacks
  }

  #add(
    ws: WebSocketInside,
    socket: net.Socket,
    request: http.IncomingMessage,
    own: readonly (() => void)[],
  ): Facts {
    const facts: Facts = {
      ws,
      socket,
      request,
      own,
      hold: null,
      holdEnds: undefined,
      movable: () => {},
      reason: 'open',
    }
    this.#open.set(socket, facts)
    takeOver(socket, this)
    socket.once('close', () => {
      this.#leave.forget(facts)
      // Held, it would never emit 'close'.
      this.#release(facts)
    })
    return facts
  }

  /** A message is being compressed or inflated, and of many such WebSockets only some are held. Each pass over all connections asks. */
  waits(socket: net.Socket): boolean {
    const facts = this.#open.get(socket)
    return facts !== undefined && this.#waits(facts)
  }

  #waits({ hold, ws }: Facts): boolean {
    if (ws.readyState !== OPEN) return false
    return hold === null ? this.#held.size >= this.#mostHeld && !isAtRest(ws) : !hold.isAtRest
  }

  serialize(socket: net.Socket, movable: (socket: net.Socket) => void): Uint8Array | null {
    const facts = this.#open.get(socket)
    if (facts === undefined || !this.moves) return null
    facts.movable = movable
    try {
      return this.#serialize(facts)
    } catch (error) {
      facts.reason = 'hook'
      this.#release(facts)
      throw error
    }
  }

  #serialize(facts: Facts): Uint8Array | null {
    const { ws, socket, request } = facts
    if (ws.readyState !== OPEN) return this.#stays(facts, 'closing')
    if (otherExtensions(ws).length > 0) return this.#stays(facts, 'extension')
    if (this.#waits(facts)) return null
    const hold = this.#hold(facts)
    // Leaves when nothing is being compressed or inflated.
    if (!hold.isAtRest) return null
    const size = hold.bytes + socket.writableLength + socket.readableLength
    if (size > MAX_RECORD_BYTES - OTHER_BYTES || (size > 0 && this.#unsent(socket) === null))
      return this.#stays(facts, 'sending')
    const returned = this.#hooks.serialize?.(ws, request)
    const data = returned === undefined ? undefined : hookBytes(returned)
    // The hook may have closed it.
    if (data === undefined || ws.readyState !== OPEN) return this.#stays(facts, 'open')
    return this.#take(facts, hold, data)
  }

  #unsent(socket: net.Socket): Buffer | null {
    if (socket.writableLength === 0) return Buffer.alloc(0)
    return UNSENT_BYTES.works ? unsentBytes(socket) : null
  }

  #stays(facts: Facts, reason: string): null {
    facts.reason = reason
    this.#release(facts)
    return null
  }

  #hold(facts: Facts): Hold {
    if (facts.hold !== null) return facts.hold
    const hold = new Hold(facts.ws, facts.socket, () => facts.movable(facts.socket))
    facts.hold = hold
    this.#held.add(facts)
    facts.holdEnds = setTimeout(() => {
      this.#mostHeld = Math.max(FEWEST_HELD, this.#mostHeld / 2)
      this.#release(facts)
    }, HOLD_MS).unref()
    return hold
  }

  #release(facts: Facts): void {
    const { hold } = facts
    this.#forget(facts)
    hold?.release()
  }

  #forget(facts: Facts): void {
    clearTimeout(facts.holdEnds)
    facts.hold = null
    this.#held.delete(facts)
  }

  #take(facts: Facts, hold: Hold, data: Uint8Array): Uint8Array {
    const { ws, socket, request } = facts
    socket.removeAllListeners('data').removeAllListeners('readable')
    const position = hold.position(readBuffered(socket))
    const inflation = inflationOf(ws)
    const record = WebSocketRecord.encode({
      received: position.received,
      queued: position.queued,
      continues: position.continues,
      compress: position.compress,
      data,
      subprotocol: ws.protocol,
      url: request.url ?? '',
      httpVersion: request.httpVersion,
      headers: request.rawHeaders,
      deflate: inflation && toDeflate(inflation.params, inflation.takeWindow()),
      unsent: this.#unsent(socket)!,
      paused: ws.isPaused,
      binaryType: ws.binaryType,
    }).finish()
    succeedUnfinishedWrites(socket)
    this.#mostHeld++
    this.#forget(facts)
    this.#open.delete(socket)
    hold.abandon(facts.own)
    return record
  }

  restore(socket: net.Socket, bytes: Uint8Array): void {
    const record = decoded(WebSocketRecord.decode, bytes)
    const { deflate, queued } = record
    const request = rebuiltRequest(socket, {
      url: record.url ?? '',
      httpVersion: record.httpVersion ?? '',
      rawHeaders: record.headers ?? [],
    })
    const { ws, hold, own } = openWebSocket(this.#wss, this.#handleUpgrade, socket, {
      subprotocol: record.subprotocol ?? '',
      deflate: deflate ? fromDeflate(deflate) : null,
      received: Buffer.from(record.received ?? []),
      queued: (queued ?? []).map(({ opcode, data, fin, compress }) => ({
        opcode: opcode ?? 0,
        data: Buffer.from(data ?? []),
        fin: fin ?? false,
        compress: compress ?? false,
      })),
      continues: record.continues ?? false,
      compress: record.compress ?? false,
    })
    const facts = this.#add(ws, socket, request, own)
    try {
      if (record.binaryType) ws.binaryType = record.binaryType
      if (record.paused) ws.pause()
      this.#hooks.restore?.(ws, record.data ?? new Uint8Array(0), request)
    } catch (error) {
      this.#open.delete(socket)
      hold.abandon(facts.own)
      throw error
    }
    if (record.unsent?.length) socket.write(record.unsent)
    hold.release()
  }

  reasonOf(socket: net.Socket): string {
    if (this.#hooks.serialize !== undefined && this.lacks !== null) return 'unsupported'
    return this.#open.get(socket)?.reason ?? 'open'
  }

  takeBack(): void {
    this.#mostHeld = FEWEST_HELD
    for (const facts of [...this.#held]) this.#release(facts)
  }

  leave(sockets: readonly net.Socket[], how: Leaving): void {
    this.#why = how
    if (this.#hooks.serialize !== undefined && this.lacks !== null && !this.#reported) {
      this.#reported = true
      how.failed(lacksError(this.lacks))
    }
    this.#leave.within(
      sockets.flatMap(socket => this.#open.get(socket) ?? []),
      how.withinMs,
    )
  }

  stay(): void {
    this.#leave.stop()
  }

  #close({ ws, socket }: Facts): void {
    const { why, failed } = this.#why!
    // The WebSocket may have left, or be on its way.
    if (socket.destroyed || ws.readyState !== OPEN) return
    try {
      this.#hooks.cut?.(ws)
    } catch (error) {
      failed(error)
    }
    if (ws.readyState === OPEN) ws.close(CODES[why])
  }
}

/** The releases of `ws` whose internals are those of `internals.ts`. */
export const TESTED_WS = '8.18 to 8.23'

/** Returns the internal that a release of `ws` lacks, or null. `ws`: the module. */
export function lackingOf(ws: { WebSocketServer?: new (options: object) => ServerInside }): string | null {
  if (ws.WebSocketServer === undefined) return 'WebSocketServer'
  return new MovedWebSockets(new ws.WebSocketServer({ noServer: true }), '', null, {}).lacks
}

function lacksError(internal: string): FdbError {
  return new FdbError(
    'ERR_FDB_WS',
    `WebSockets do not move, and are closed with code 1012: the installed release of the package ws, or this Node, has no ${internal} as ws ${TESTED_WS}; install one of these releases, or a release of fd-broker that supports this one`,
  )
}

type DeflateRecord = fdbroker.connections.Deflate.$Properties

function toDeflate(params: DeflateParams, window: Uint8Array): DeflateRecord {
  const { server_max_window_bits: server, client_max_window_bits: client } = params
  return {
    serverNoContextTakeover: params.server_no_context_takeover === true,
    clientNoContextTakeover: params.client_no_context_takeover === true,
    serverMaxWindowBits: server,
    clientMaxWindowBits: client,
    window,
  }
}

function fromDeflate(record: DeflateRecord): { params: DeflateParams; window: Buffer } {
  const { serverMaxWindowBits, clientMaxWindowBits } = record
  const params: DeflateParams = {
    ...(record.serverNoContextTakeover && { server_no_context_takeover: true }),
    ...(record.clientNoContextTakeover && { client_no_context_takeover: true }),
    ...(serverMaxWindowBits && { server_max_window_bits: serverMaxWindowBits }),
    ...(clientMaxWindowBits && { client_max_window_bits: clientMaxWindowBits }),
  }
  return { params, window: Buffer.from(record.window ?? []) }
}
