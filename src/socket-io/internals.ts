import { EventEmitter } from 'node:events'
import type http from 'node:http'
import net from 'node:net'
import { setMethod } from '../node/observed-events.js'
import { rebuiltRequest } from '../node/rebuilt-request.js'

/** Everything that fd-broker uses of the packages socket.io 4 and engine.io 6 and that is not their public API. {@link findClasses} tests it against the installed release. */

export interface Packet {
  readonly type: string
  readonly data?: string | Uint8Array | undefined
  readonly options?: { readonly compress?: boolean | undefined } | undefined
}

export interface EngineRequest extends http.IncomingMessage {
  _query: Readonly<Record<string, string>>
  /** The response, until the transport has taken it. */
  res?: http.ServerResponse | null
  websocket?: object
}

/** The parameters of a request's URL. */
export function queryOf(request: EngineRequest): Readonly<Record<string, string>> {
  return request._query
}

interface Transport extends EventEmitter {
  readonly name: string
  writable: boolean
  /** The WebSocket, of a websocket. */
  readonly socket?: object
  /** The poll that waits for packets, and the request that sends some, of polling. */
  readonly req?: object | null
  readonly dataReq?: object | null
  readonly parser: {
    decodePayload(text: string, each?: (packet: Packet) => void): Packet[] | undefined
  }
  onClose(): void
  onPacket(packet: Packet): void
  onRequest(request: EngineRequest): void
  send(packets: Packet[]): void
}

/** A session of engine.io. */
export interface Connection extends EventEmitter {
  readonly id: string
  readonly protocol: number
  readyState: string
  remoteAddress: string
  readonly request: EngineRequest
  readonly transport: Transport
  readonly upgrading: boolean
  upgraded: boolean
  writeBuffer: Packet[]
  cleanupFn: (() => void)[]
  hasRefreshedPingTimeout: boolean
  pingIntervalTimer: NodeJS.Timeout | null
  pingTimeoutTimer: NodeJS.Timeout | null
  close(discard?: boolean): void
  flush(): void
  onPacket(packet: Packet): void
  resetPingTimeout(): void
  schedulePing(): void
  sendPacket(type: string, data?: string | Uint8Array, options?: { compress?: boolean }): void
  write(data: string | Uint8Array, options: object): void
}

export type Verified = (error?: number, context?: object) => void

/** The server of engine.io. */
export interface Engine extends EventEmitter {
  readonly opts: { readonly pingInterval: number }
  readonly clients: Record<string, Connection>
  clientsCount: number
  readonly ws?: object
  verify: (request: EngineRequest, upgrade: boolean, done: Verified) => void
  close: () => unknown
  prepare(request: http.IncomingMessage): void
  createTransport(name: string, request: http.IncomingMessage): Transport
  handshake(name: string, request: object, refuse: () => void): Promise<unknown>
}

export interface SocketPacket {
  readonly type: number
  readonly data: unknown[]
  readonly id?: number | undefined
  nsp?: string
}

export interface Selected {
  readonly rooms: Set<string>
  readonly except?: Set<string> | undefined
  readonly flags?: {
    readonly local?: boolean
    readonly volatile?: boolean | undefined
    readonly compress?: boolean | undefined
  }
}

export interface Adapter {
  readonly rooms: Map<string, Set<string>>
  broadcast: (packet: SocketPacket, selected: Selected) => void
  addSockets: (selected: Selected, rooms: string[]) => void
  delSockets: (selected: Selected, rooms: string[]) => void
  disconnectSockets: (selected: Selected, close: boolean) => void
  delAll(id: string): void
}

export interface Namespace extends EventEmitter {
  readonly name: string
  readonly adapter: Adapter
  readonly sockets: Map<string, Socket>
}

/** A socket of socket.io. */
export interface Socket extends EventEmitter {
  readonly id: string
  readonly pid?: string
  connected: boolean
  data: unknown
  handshake: Readonly<Record<string, unknown>>
  readonly nsp: Namespace
  readonly client: Client
  readonly rooms: Set<string>
  readonly acks: Map<number, unknown>
  join: (rooms: string | string[]) => unknown
  leave: (room: string) => unknown
  disconnect: (close?: boolean) => unknown
  onack: (packet: SocketPacket) => void
  /** Returns the function by which a handler answers the event with this number. */
  ack: (id: number) => (...args: unknown[]) => void
  packet(packet: SocketPacket, flags: object): void
  emitReserved(event: string, ...args: unknown[]): void
}

/** A client of socket.io: the sockets of one session. */
export interface Client {
  readonly conn: Connection
  readonly sockets: Map<string, Socket>
  readonly nsps: Map<string, Socket>
  readonly decoder: EventEmitter
  writeToEngine: (packets: unknown, options: { compress?: boolean; volatile?: boolean }) => void
  connect(namespace: string, auth: object): void
}

/** A server of socket.io, with its private side. */
export interface IoInside {
  readonly engine?: Engine
  readonly sockets: Namespace
  readonly httpServer?: EventEmitter
  path(): string
  onconnection(conn: object): unknown
}

interface PrivateNamespace {
  _ids: number
  readonly _preConnectSockets: Map<string, Socket>
  _createSocket(client: object, auth: object): Promise<Socket>
  emitReserved(event: string, socket: Socket): void
}

interface PrivateIo {
  readonly _nsps: Map<string, Namespace & PrivateNamespace>
  _checkNamespace(name: string, auth: object, done: (namespace: false | Namespace) => void): void
}

export interface Classes {
  readonly Connection: new (
    id: string,
    engine: Engine,
    transport: Transport,
    request: object,
    protocol: number,
  ) => Connection
  readonly Client: new (io: IoInside, conn: Connection) => Client & { connectTimeout?: NodeJS.Timeout }
  readonly Socket: new (nsp: Namespace, client: Client, auth: unknown, session: PreviousSession) => Socket
}

interface PreviousSession {
  readonly sid: string
  readonly pid: string | undefined
  readonly rooms: readonly string[]
  readonly data: unknown
  readonly missedPackets: readonly unknown[]
}

/** The release of socket.io whose internals are those of this file. */
export const TESTED_SOCKET_IO = '4.8'

const PROBE = 'probe'

function standInTransport(): Transport {
  const methods = { name: 'polling', writable: false, close() {}, discard() {}, onRequest() {}, send() {} }
  return Object.assign(new EventEmitter(), methods) as unknown as Transport
}

/** Lets the server make a session that no client has. */
async function probeConnection(engine: Engine): Promise<Connection> {
  let made: Connection | undefined
  const standIn = Object.create(engine, {
    opts: { value: { ...engine.opts, initialPacket: undefined } },
    clients: { value: {} },
    clientsCount: { value: 0, writable: true },
    generateId: { value: () => PROBE },
    createTransport: { value: standInTransport },
    emit: {
      value: (_event: string, conn: Connection) => {
        made = conn
      },
    },
  }) as Engine
  await standIn.handshake('polling', { _query: { EIO: '4' }, connection: {}, headers: {} }, () => {})
  if (made === undefined) throw new Error('no session')
  clearTimeout(made.pingIntervalTimer!)
  return made
}

function probeClient(io: IoInside): Client {
  let made: Client | undefined
  const namespace = {
    _add: (client: Client) => {
      made = client
    },
  }
  const standIn = Object.create(io, {
    _nsps: { value: { has: () => true } },
    of: { value: () => namespace },
  }) as IoInside
  standIn.onconnection(Object.assign(new EventEmitter(), { id: PROBE, protocol: 3, readyState: 'closed' }))
  const client = made as Client & { connectTimeout?: NodeJS.Timeout }
  clearTimeout(client.connectTimeout)
  return client
}

async function probeSocket({ sockets }: IoInside, conn: Connection): Promise<Socket> {
  const client = { conn, request: { headers: {}, connection: {} } }
  return await (sockets as unknown as PrivateNamespace)._createSocket(client, {})
}

/** Returns the classes of the installed release, or the name of what it lacks. */
export async function findClasses(io: IoInside): Promise<Classes | string> {
  let name = 'a server of engine.io with handshake() and verify()'
  try {
    const conn = await probeConnection(io.engine!)
    const [opened] = conn.writeBuffer
    const timers = 'pingIntervalTimer' in conn && 'pingTimeoutTimer' in conn
    if (opened?.type !== 'open' || !Array.isArray(conn.cleanupFn) || !timers) return name
    if (typeof io.engine!.verify !== 'function') return name
    name = 'a Client with conn, sockets, nsps, decoder and writeToEngine()'
    const client = probeClient(io)
    if (!(client.sockets instanceof Map && client.nsps instanceof Map)) return name
    if (typeof client.writeToEngine !== 'function' || typeof client.decoder.on !== 'function') return name
    name = 'a Socket with ack()'
    const probed = await probeSocket(io, conn)
    if (typeof (probed as Partial<Socket>).ack !== 'function') return name
    name = 'a Socket that continues a previous session'
    const classes = {
      Connection: conn.constructor,
      Client: client.constructor,
      Socket: probed.constructor,
    } as unknown as Classes
    const nsp = io.sockets as Namespace & PrivateNamespace
    const session = { sid: PROBE, pid: undefined, rooms: [], data: 1, missedPackets: [] }
    const socket = new classes.Socket(
      nsp,
      { conn, request: { headers: {}, connection: {} } } as never,
      {},
      session,
    )
    const { recovered } = socket as Socket & { recovered?: boolean }
    const continues = recovered === true && socket.id === PROBE && socket.data === 1
    return continues && nsp._preConnectSockets instanceof Map && typeof nsp._ids === 'number' ? classes : name
  } catch {
    return name
  }
}

export interface RequestRecord {
  readonly url: string
  readonly httpVersion: string
  readonly rawHeaders: readonly string[]
  readonly address: string
}

export function requestRecord({ request, remoteAddress }: Connection): RequestRecord {
  const { url = '', httpVersion, rawHeaders } = request
  return { url, httpVersion, rawHeaders, address: remoteAddress }
}

/** Returns a copy of the request with which a session began, without an open connection. */
export function sessionRequest(engine: Engine, record: RequestRecord): EngineRequest {
  const socket = new net.Socket()
  Object.defineProperty(socket, 'remoteAddress', { value: record.address })
  const request = rebuiltRequest(socket, record)
  engine.prepare(request)
  return request as EngineRequest
}

export interface ConnectionRecord {
  readonly id: string
  readonly protocol: number
  readonly upgraded: boolean
  readonly request: RequestRecord
  /** Packets that wait for the client. */
  readonly written: readonly {
    readonly type: string
    readonly data?: string | Uint8Array
    readonly compress: boolean
  }[]
  /** Milliseconds until the next ping; null: the client has not answered the last one. */
  readonly pingInMs: number | null
}

/** Continues a session of engine.io. `ws` and its upgraded request: null for polling. */
export function openConnection(
  engine: Engine,
  classes: Classes,
  record: ConnectionRecord,
  ws: { readonly socket: object; readonly request: http.IncomingMessage } | null,
): Connection {
  const { id, protocol } = record
  const request = sessionRequest(engine, record.request)
  let upgraded: http.IncomingMessage = request
  if (ws !== null) {
    engine.prepare(ws.request)
    upgraded = Object.assign(ws.request, { websocket: ws.socket })
  }
  const transport = engine.createTransport(ws === null ? 'polling' : 'websocket', upgraded)
  // The packet that opens a session waits then, and is dropped.
  transport.writable = false
  const conn = new classes.Connection(id, engine, transport, request, protocol)
  conn.remoteAddress = record.request.address
  conn.upgraded = record.upgraded
  conn.writeBuffer = record.written.map(({ type, data, compress }) => ({
    type,
    data: typeof data === 'object' ? Buffer.from(data) : data,
    options: { compress },
  }))
  transport.on('headers', (headers, from) => void engine.emit('headers', headers, from))
  engine.clients[id] = conn
  engine.clientsCount++
  conn.once('close', () => {
    if (engine.clients[id] === conn) delete engine.clients[id]
    engine.clientsCount--
  })
  if (protocol !== 3) continuePings(conn, record.pingInMs)
  transport.writable = ws !== null
  return conn
}

/** The first ping comes when it would have come; later ones at their interval. */
function continuePings(conn: Connection, inMs: number | null): void {
  if (inMs === null) {
    conn.resetPingTimeout()
    return
  }
  clearTimeout(conn.pingIntervalTimer!)
  conn.pingIntervalTimer = setTimeout(() => {
    conn.hasRefreshedPingTimeout = false
    conn.sendPacket('ping')
    conn.resetPingTimeout()
    conn.schedulePing()
  }, inMs)
}

/** Takes a session from its transport and from the server, without an event. `standIn` gets its later requests. */
export function detach(engine: Engine, conn: Connection, standIn: object): void {
  for (const clean of conn.cleanupFn.splice(0)) clean()
  clearTimeout(conn.pingIntervalTimer!)
  clearTimeout(conn.pingTimeoutTimer!)
  conn.transport.on('error', () => {})
  conn.writeBuffer = []
  engine.clients[conn.id] = standIn as Connection
  engine.clientsCount--
}

/** Answers a poll that waits, so that the client polls again over another connection. */
export function answerPoll({ transport }: Connection): void {
  if (!transport.writable) return
  transport.once('headers', (headers: Record<string, string>) => {
    headers['Connection'] = 'close'
  })
  transport.send([{ type: 'noop' }])
}

/** Whether no request of a polling session is being read or answered, except for a poll that waits. */
export function isAtRest({ transport, upgrading, readyState }: Connection): boolean {
  const { dataReq, req, writable } = transport
  return readyState === 'open' && !upgrading && !dataReq && (writable || !req)
}

/** Passes what a client has sent by polling to its session. */
export function receive(conn: Connection, payload: string): void {
  const { transport } = conn
  const { parser } = transport
  const each = (packet: Packet) => {
    if (packet.type === 'close' && transport.name === 'polling') transport.onClose()
    else conn.onPacket(packet)
  }
  if (conn.protocol === 3) parser.decodePayload(payload, each)
  else for (const packet of parser.decodePayload(payload) ?? []) each(packet)
}

export function namespacesOf(io: IoInside): Iterable<Namespace> {
  return (io as unknown as PrivateIo)._nsps.values()
}

export function namespaceOf(io: IoInside, name: string): Namespace | undefined {
  return (io as unknown as PrivateIo)._nsps.get(name)
}

/** Calls `done` with the namespace, which may be made for it; with undefined if there is none. */
export function findNamespace(
  io: IoInside,
  name: string,
  auth: object,
  done: (namespace: Namespace | undefined) => void,
): void {
  const known = namespaceOf(io, name)
  if (known !== undefined) done(known)
  else (io as unknown as PrivateIo)._checkNamespace(name, auth, found => done(found || undefined))
}

/** Returns the sockets of the session whose connection the application's middleware has not accepted yet. */
export function connectingSockets(io: IoInside, conn: Connection): Socket[] {
  const found: Socket[] = []
  for (const nsp of (io as unknown as PrivateIo)._nsps.values())
    for (const socket of nsp._preConnectSockets.values()) if (socket.client.conn === conn) found.push(socket)
  return found
}

/** The number of the next acknowledgement that this namespace asks for. */
export function nextId(nsp: Namespace): number {
  return (nsp as unknown as PrivateNamespace)._ids
}

/** Numbers below `id` may be those of another process. */
export function raiseIds(nsp: Namespace, id: number): void {
  const own = nsp as unknown as PrivateNamespace
  own._ids = Math.max(own._ids, id)
}

export function openClient(io: IoInside, classes: Classes, conn: Connection): Client {
  const client = new classes.Client(io, conn)
  clearTimeout(client.connectTimeout)
  return client
}

export interface SocketRecord {
  readonly namespace: string
  readonly id: string
  readonly pid?: string | undefined
  readonly rooms: readonly string[]
  readonly data: unknown
  readonly handshake: Readonly<Record<string, unknown>>
}

export function openSocket(nsp: Namespace, client: Client, classes: Classes, record: SocketRecord): Socket {
  const { data, handshake, id, pid, rooms } = record
  const session = { sid: id, pid, rooms, data, missedPackets: [] }
  const socket = new classes.Socket(nsp, client, handshake['auth'] ?? {}, session)
  socket.handshake = handshake
  socket.connected = true
  nsp.sockets.set(id, socket)
  client.sockets.set(id, socket)
  client.nsps.set(nsp.name, socket)
  return socket
}

/** Lets the application handle a socket that continues. */
export function announce(socket: Socket): void {
  const nsp = socket.nsp as unknown as PrivateNamespace
  nsp.emitReserved('connect', socket)
  nsp.emitReserved('connection', socket)
}

/** Whether the adapter reaches the sockets of this process only. */
export function isLocalAdapter(adapter: Adapter): boolean {
  return ['Adapter', 'SessionAwareAdapter'].includes(adapter.constructor.name)
}

/** Sends a packet to the sockets of this process, without a copy for {@link https://socket.io/docs/v4/connection-state-recovery its own recovery}. */
export function castLocally(adapter: Adapter, packet: SocketPacket, selected: Selected): void {
  let prototype = Object.getPrototypeOf(adapter)
  for (let next = prototype; next?.broadcast !== undefined; next = Object.getPrototypeOf(next))
    prototype = next
  prototype.broadcast.call(adapter, packet, selected)
}

/** Replaces methods by others that get the replaced ones. */
export function override<T extends object, K extends keyof T>(
  object: T,
  key: K,
  make: (original: T[K]) => T[K],
): void {
  const original = (object[key] as (...args: never[]) => unknown).bind(object) as T[K]
  setMethod(object as never, key as never, make(original) as never)
}
