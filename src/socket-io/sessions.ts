import { FdbError } from '../errors.js'
import { msgpack } from '../state/codec.js'
import { moveWebSockets } from '../ws/index.js'
import { OPEN, type WebSocketInside } from '../ws/internals.js'
import { Exchange, type Message, type Numbered } from './exchange.js'
import { type Found, findNamespaces } from './found-namespaces.js'
import {
  type Adapter,
  announce,
  answerPoll,
  type Classes,
  type Client,
  type Connection,
  castLocally,
  connectingSockets,
  detach,
  type Engine,
  type EngineRequest,
  findClasses,
  type IoInside,
  isAtRest,
  isLocalAdapter,
  type Namespace,
  namespaceOf,
  namespacesOf,
  nextId,
  openClient,
  openConnection,
  openSocket,
  override,
  type Packet,
  queryOf,
  raiseIds,
  receive,
  requestRecord,
  type Selected,
  type Socket,
  type SocketPacket,
  type SocketRecord,
  TESTED_SOCKET_IO,
} from './internals.js'
import { OwedAnswers } from './owed-answers.js'
import { plainCopy } from './plain-copy.js'
import { change, fromRecord, isOwn, isSelected, toRecord } from './selection.js'
import { newest, type Seen, type SessionRecord } from './session-record.js'
import { ARRIVE_MS, redirect, WaitingRequests } from './waiting-requests.js'

/** A session of this process. */
interface Session {
  readonly conn: Connection
  client: Client | null
  unread: (string | Uint8Array)[]
  /** The messages that the session got in the process from which it came. */
  readonly seen: Seen
  /** When the last ping was sent (performance.now()); null while the client has not answered it. */
  pingedAt: number
  answered: boolean
  /** The session does not leave before (performance.now()), because it could not. */
  staysUntil: number
}

/** A WebSocket that continues, and its upgraded request. */
interface WebSocketOf {
  readonly socket: WebSocketInside
  readonly request: EngineRequest
}

/** The reason with which sockets leave this process: one of those after which socket.io itself recovers a socket. */
const REASON = 'server shutting down'
/** Acknowledgements that a next process asks for are numbered from here on. */
const ID_STEP = 1_000_000
/** Polling sessions that leave in one turn. */
const MOST_LEAVING = 100
/** A session that could not be given leaves after this time, so that its sockets do not end and begin all the time (milliseconds). */
const GIVE_AGAIN_MS = 1_000
const DISCONNECT = 1
const ACK = 3

/** The sessions of one server of socket.io. */
export class Sessions {
  readonly #io: IoInside
  readonly #engine: Engine
  readonly #exchange: Exchange
  readonly #waiting = new WaitingRequests()
  readonly #mostBytes: number
  readonly #codec = msgpack<SessionRecord>()
  readonly #sessions = new Map<Connection, Session>()
  readonly #byWebSocket = new WeakMap<object, Connection>()
  /** Sockets that have left, which may wait for acknowledgements. */
  readonly #away = new Map<string, Socket>()
  readonly #owed = new OwedAnswers()
  /** Sessions that have left: the engine has a stand-in for each. */
  readonly #standIns = new Set<string>()
  #classes: Classes | null = null
  #webSockets: object | null = null

  constructor(io: IoInside, engine: Engine, name: string, closed: () => void) {
    this.#io = io
    this.#engine = engine
    this.#mostBytes = (engine.opts as { maxHttpBufferSize?: number }).maxHttpBufferSize ?? 1e6
    this.#exchange = new Exchange(`socket.io ${name}`, {
      onMessage: numbered => this.#onMessage(numbered),
      onSession: record => this.#take(record),
      onServing: () => {
        for (const id of this.#standIns) if (this.#own(id) === undefined) delete engine.clients[id]
        this.#standIns.clear()
        for (const [key, socket] of this.#away) if (socket.acks.size === 0) this.#away.delete(key)
      },
      onTurn: () => this.#turn(),
      owes: () => [...this.#away.values()].some(socket => this.#owed.has(socket)),
    })
    void findClasses(io).then(found => {
      if (typeof found !== 'string') this.#classes = found
      else this.#exchange.warn(lacksError(found), 'sessions of socket.io do not move')
    })
    engine.on('connection', (conn: Connection) => this.#add(conn, {}))
    for (const nsp of namespacesOf(io)) this.#follow(nsp)
    io.sockets.on('new_namespace', (nsp: Namespace) => this.#follow(nsp))
    override(engine, 'verify', verify => (request, upgrade, done) => {
      const { sid } = queryOf(request)
      const { role, shared } = this.#exchange
      const known = !sid || Object.hasOwn(engine.clients, sid) || role === 'alone'
      if (!known && role === 'draining' && !upgrade) this.#redirect(request)
      else if (!known && role !== 'draining' && (role === 'waiting' || shared))
        this.#waiting.add(request, upgrade, then => verify(request, upgrade, then), done)
      // A client whose upgrade is refused polls on.
      else verify(request, upgrade, done)
    })
    override(engine, 'close', close => () => {
      const result = close()
      this.#exchange.close()
      closed()
      return result
    })
    this.#moveWebSockets(name)
    // engine.io makes a new server of WebSockets then.
    io.httpServer?.on('listening', () => process.nextTick(() => this.#moveWebSockets(name)))
  }

  #moveWebSockets(name: string): void {
    const { ws } = this.#engine
    if (ws === undefined || ws === this.#webSockets) return
    this.#webSockets = ws
    moveWebSockets(ws as never, {
      name: `socket.io ${name}`,
      serialize: (socket: object) => this.#serialize(socket),
      restore: (socket: WebSocketInside, data: Uint8Array, request: EngineRequest) =>
        this.#open(this.#codec.decode(data), { socket, request }),
    })
  }

  #add(conn: Connection, seen: Seen): Session {
    const session: Session = {
      conn,
      client: null,
      unread: [],
      seen,
      pingedAt: performance.now(),
      answered: true,
      staysUntil: 0,
    }
    this.#sessions.set(conn, session)
    const bind = () => {
      const { socket } = conn.transport
      if (socket !== undefined) this.#byWebSocket.set(socket, conn)
    }
    bind()
    conn.on('upgrade', bind)
    conn.on('packetCreate', ({ type }: Packet) => {
      if (type !== 'ping') return
      session.pingedAt = performance.now()
      session.answered = false
    })
    conn.on('heartbeat', () => {
      session.pingedAt = performance.now()
      session.answered = true
    })
    conn.once('close', () => this.#sessions.delete(conn))
    return session
  }

  /** Keeps the parts of a message until the decoder has all of them. */
  #followDecoder(session: Session, client: Client): void {
    session.client = client
    let decoded = false
    client.decoder.on('decoded', () => {
      decoded = true
    })
    session.conn.on('data', (part: string | Uint8Array) => {
      session.unread = decoded ? [] : [...session.unread, part]
      decoded = false
    })
  }

  #follow(nsp: Namespace): void {
    nsp.on('connect', (socket: Socket) => {
      const session = this.#sessions.get(socket.client.conn)
      if (session?.client === null) this.#followDecoder(session, socket.client)
      this.#owed.follow(socket)
    })
    const { adapter } = nsp
    if (!isLocalAdapter(adapter)) return
    const { name: namespace } = nsp
    override(adapter, 'broadcast', broadcast => (packet, selected) => {
      broadcast(packet, selected)
      if (selected.flags?.local || !this.#exchange.shared || isOwn(nsp, selected)) return
      const { data, id, type } = packet
      void this.#exchange.send({
        kind: 'cast',
        namespace,
        packet: { type, data: data.map(plainCopy), id },
        selected: toRecord(selected),
      })
    })
    const change = (
      kind: 'join' | 'leave' | 'disconnect',
      selected: Selected,
      rooms: string[],
      close: boolean,
    ) => {
      if (selected.flags?.local) return
      void this.#exchange.send({
        kind: 'change',
        namespace,
        selected: toRecord(selected),
        change: kind,
        rooms,
        close,
      })
    }
    override(adapter, 'addSockets', add => (selected, rooms) => {
      add(selected, rooms)
      change('join', selected, rooms, false)
    })
    override(adapter, 'delSockets', remove => (selected, rooms) => {
      remove(selected, rooms)
      change('leave', selected, rooms, false)
    })
    override(adapter, 'disconnectSockets', disconnect => (selected, close) => {
      change('disconnect', selected, [], close)
      disconnect(selected, close)
    })
  }

  /** Gives polling sessions to the process that serves. Returns whether something is left. */
  #turn(): boolean {
    let left = 0
    for (const session of [...this.#sessions.values()]) {
      const { conn } = session
      if (performance.now() < session.staysUntil || conn.transport.name !== 'polling') continue
      if (!isAtRest(conn) || !this.#mayLeave(session)) continue
      if (left++ === MOST_LEAVING) break
      this.#give(session)
    }
    for (const socket of this.#away.values()) if (socket.acks.size > 0) return true
    return this.#sessions.size > 0
  }

  #give(session: Session): void {
    const { conn } = session
    let record: SessionRecord
    try {
      record = this.#recordOf(session)
      this.#codec.encode(record)
    } catch (error) {
      session.staysUntil = Number.POSITIVE_INFINITY
      this.#exchange.warn(error, 'a session of socket.io cannot leave: its data cannot be encoded')
      return
    }
    this.#leave(session)
    answerPoll(conn)
    this.#exchange.give(record).catch(error => {
      this.#exchange.warn(error, 'a session of socket.io could not be given to the next version')
      this.#take(record)
      const back = this.#own(record.id)
      if (back !== undefined) back.staysUntil = performance.now() + giveAgainMs(error)
    })
  }

  #serialize(socket: object): Uint8Array | undefined {
    const conn = this.#byWebSocket.get(socket)
    const session = conn && this.#sessions.get(conn)
    if (session === undefined || conn!.readyState !== 'open' || conn!.upgrading) return undefined
    if (conn!.transport.socket !== socket || !this.#mayLeave(session)) return undefined
    const data = this.#codec.encode(this.#recordOf(session))
    this.#leave(session)
    return data
  }

  /** The application's middleware may be deciding about a namespace: if it is the first one, it is asked again in the next process. */
  #mayLeave({ client, conn }: Session): boolean {
    return this.#classes !== null && (client === null || connectingSockets(this.#io, conn).length === 0)
  }

  #recordOf(session: Session): SessionRecord {
    const { conn, client, unread, pingedAt, answered } = session
    const sockets = [...(client?.sockets.values() ?? [])]
    return {
      id: conn.id,
      protocol: conn.protocol,
      upgraded: conn.upgraded,
      request: requestRecord(conn),
      written: conn.writeBuffer.map(({ type, data, options }) => ({
        type,
        ...(data !== undefined && { data: plainCopy(data) as string | Uint8Array }),
        compress: options?.compress !== false,
      })),
      pingInMs: answered ? Math.max(0, pingedAt + this.#engine.opts.pingInterval - performance.now()) : null,
      sockets: sockets.map(({ id, pid, rooms, data, handshake, nsp }) => ({
        namespace: nsp.name,
        id,
        ...(pid !== undefined && { pid }),
        rooms: [...rooms],
        data,
        handshake: plainCopy(handshake) as SocketRecord['handshake'],
      })),
      connecting: connectingSockets(this.#io, conn).map(({ handshake, nsp }) => ({
        namespace: nsp.name,
        auth: handshake['auth'] as object,
      })),
      unread,
      ids: Object.fromEntries(sockets.map(({ nsp }) => [nsp.name, nextId(nsp)])),
      seen: newest(session.seen, this.#exchange.seen),
    }
  }

  /** The session continues elsewhere: what the application still sends goes there, and its sockets end here. */
  #leave({ conn, client }: Session): void {
    const { id } = conn
    this.#sessions.delete(conn)
    const { name } = conn.transport
    const onRequest = (request: EngineRequest) => this.#redirect(request)
    this.#standIns.add(id)
    detach(this.#engine, conn, {
      protocol: conn.protocol,
      upgrading: true,
      transport: { name, onRequest },
      close() {},
    })
    const send = (message: Message) => void this.#exchange.send(message)
    override(conn, 'close', () => () => send({ kind: 'end', session: id }))
    override(conn.transport, 'onPacket', () => packet => {
      const { type, data } = packet
      send({ kind: 'packet', session: id, packet: { type, data } })
    })
    if (client === null) {
      conn.readyState = 'closed'
      return
    }
    override(
      client,
      'writeToEngine',
      () =>
        (packets, { compress = true, volatile = false }) =>
          send({
            kind: 'out',
            session: id,
            packets: [packets].flat().map(plainCopy) as string[],
            compress,
            volatile,
          }),
    )
    for (const socket of client.sockets.values()) this.#end(socket, send)
  }

  #end(socket: Socket, send: (message: Message) => void): void {
    const { id, nsp } = socket
    const selected = { rooms: [id], except: [], volatile: false, compress: true }
    const change = (kind: 'join' | 'leave' | 'disconnect', rooms: string[], close: boolean) =>
      send({ kind: 'change', namespace: nsp.name, selected, change: kind, rooms, close })
    nsp.sockets.delete(id)
    this.#away.set(`${nsp.name} ${id}`, socket)
    socket.join = rooms => change('join', [rooms].flat(), false)
    socket.leave = room => change('leave', [room], false)
    override(socket, 'disconnect', () => (close = false) => {
      change('disconnect', [], close)
      return socket
    })
    process.nextTick(() => {
      try {
        socket.emitReserved('disconnecting', REASON)
      } finally {
        // The socket may be back already.
        if (!nsp.sockets.has(id)) nsp.adapter.delAll(id)
        socket.connected = false
        socket.emitReserved('disconnect', REASON)
      }
    })
  }

  #redirect(request: EngineRequest): void {
    const { sid = '' } = queryOf(request)
    redirect(request, this.#mostBytes, payload => this.#exchange.send({ kind: 'in', session: sid, payload }))
  }

  #take(record: SessionRecord): void {
    const { id } = record
    const taken = () => this.#exchange.taken(id)
    if (this.#own(id) !== undefined) {
      taken()
      return
    }
    try {
      this.#open(record, null, taken)
    } catch (error) {
      this.#warnLost(error)
      this.#waiting.giveUp(id)
      taken()
    }
  }

  /** The client connects again. */
  #warnLost(error: unknown): void {
    this.#exchange.warn(error, 'a session of socket.io could not be continued')
  }

  #own(id: string): Session | undefined {
    const conn = Object.hasOwn(this.#engine.clients, id) ? this.#engine.clients[id] : undefined
    return conn && this.#sessions.get(conn)
  }

  /**
   * Opens a session when its namespaces are known: the application may look them up. Until then a WebSocket is not read, and the requests of a client that polls wait. Throws the exception of
   * the application's function that is asked for a namespace. `opened`: called unless this throws.
   */
  #open(record: SessionRecord, ws: WebSocketOf | null, opened = () => {}): void {
    const classes = this.#classes
    if (classes === null) throw lacksError('the expected classes')
    const state: { at: 'first' | 'late' | 'open' } = { at: 'first' }
    findNamespaces(this.#io, record.sockets ?? [], ARRIVE_MS, found => {
      const isLate = state.at === 'late'
      state.at = 'open'
      if (isLate) this.#openLate(record, ws, classes, found)
      else this.#openIn(found!, record, ws, classes)
      opened()
    })
    if (state.at === 'open') return
    state.at = 'late'
    ws?.socket.pause()
  }

  /** `found`: null if the application has not answered. */
  #openLate(record: SessionRecord, ws: WebSocketOf | null, classes: Classes, found: Found | null): void {
    if (this.#own(record.id) !== undefined || (ws !== null && ws.socket.readyState !== OPEN)) return
    try {
      if (found === null) throw new Error('the application has not told in time whether a namespace exists')
      this.#openIn(found, record, ws, classes)
      ws?.socket.resume()
    } catch (error) {
      this.#warnLost(error)
      this.#waiting.giveUp(record.id)
      ws?.socket.terminate()
    }
  }

  #openIn(found: Found, record: SessionRecord, ws: WebSocketOf | null, classes: Classes): void {
    const conn = openConnection(this.#engine, classes, record, ws)
    const session = this.#add(conn, record.seen ?? {})
    if (record.pingInMs === null) session.answered = false
    else session.pingedAt -= Math.max(0, this.#engine.opts.pingInterval - (record.pingInMs ?? 0))
    const client = openClient(this.#io, classes, conn)
    this.#followDecoder(session, client)
    for (const [one, nsp] of found)
      if (nsp === undefined) conn.write(`${DISCONNECT}${one.namespace},`, {})
      else this.#openSocket(nsp, client, classes, one, record.ids?.[one.namespace] ?? 0)
    for (const part of record.unread ?? [])
      conn.emit('data', typeof part === 'string' ? part : Buffer.from(part))
    for (const numbered of this.#exchange.unseen(record.seen ?? {})) this.#deliver(numbered, session)
    this.#waiting.arrived(conn.id)
    process.nextTick(() => {
      for (const { namespace, auth } of record.connecting ?? []) client.connect(namespace, auth ?? {})
      conn.flush()
    })
  }

  #openSocket(nsp: Namespace, client: Client, classes: Classes, record: SocketRecord, ids: number): void {
    raiseIds(nsp, ids + ID_STEP)
    const socket = openSocket(nsp, client, classes, record)
    override(socket, 'onack', onack => packet => {
      if (socket.acks.has(packet.id!)) onack(packet)
      else this.#onForeignAck(socket, packet)
    })
    process.nextTick(() => {
      if (socket.connected) announce(socket)
    })
  }

  /** The process that has sent the event gets the answer. */
  #onForeignAck({ id: socket, nsp: { name: namespace } }: Socket, { id, data }: SocketPacket): void {
    const ack = { kind: 'ack', namespace, socket, id: id!, args: data.map(plainCopy) } as const
    if (!this.#answer(ack)) void this.#exchange.send(ack)
  }

  #answer({ namespace, socket, id, args }: Extract<Message, { kind: 'ack' }>): boolean {
    const away = this.#away.get(`${namespace} ${socket}`)
    if (!away?.acks.has(id)) return false
    away.onack({ type: ACK, id, data: args })
    return true
  }

  #onMessage(numbered: Numbered): void {
    const { message } = numbered
    switch (message.kind) {
      case 'cast':
      case 'change':
        this.#select(numbered, message)
        break
      case 'out':
      case 'in':
      case 'packet':
      case 'end': {
        const session = this.#own(message.session)
        if (session && isNew(numbered, session)) this.#deliver(numbered, session)
        break
      }
      case 'ack':
        this.#answer(message)
        break
    }
  }

  /** Delivers a message to the sockets of this process that have not got it where they were before. */
  #select(numbered: Numbered, message: Extract<Message, { kind: 'cast' | 'change' }>): void {
    const nsp = namespaceOf(this.#io, message.namespace)
    if (nsp === undefined) return
    const selected = fromRecord(message.selected)
    for (const session of this.#sessions.values())
      if (!isNew(numbered, session))
        for (const id of session.client?.sockets.keys() ?? []) selected.except!.add(id)
    if (message.kind === 'change') {
      for (const socket of [...nsp.sockets.values()])
        if (isSelected(socket, selected)) change(socket, message)
      return
    }
    remember(nsp.adapter, message, selected)
    castLocally(nsp.adapter, { ...message.packet, data: [...message.packet.data] }, selected)
  }

  #deliver({ message }: Numbered, { conn, client }: Session): void {
    switch (message.kind) {
      case 'cast':
      case 'change': {
        const socket = client?.nsps.get(message.namespace)
        const selected = fromRecord(message.selected)
        if (socket === undefined || !isSelected(socket, selected)) return
        if (message.kind === 'change') change(socket, message)
        else if (!selected.flags?.volatile)
          socket.packet(
            { ...message.packet, data: [...message.packet.data] },
            { compress: selected.flags?.compress },
          )
        return
      }
      case 'ack':
        return
      default:
        if (message.session !== conn.id) return
    }
    if (message.kind === 'end') conn.close()
    else if (message.kind === 'in') receive(conn, message.payload)
    else if (message.kind === 'packet') conn.onPacket({ ...message.packet })
    else if (!message.volatile || conn.transport.writable)
      for (const packet of message.packets)
        conn.write(typeof packet === 'string' ? packet : Buffer.from(packet), { compress: message.compress })
  }
}

function giveAgainMs(error: unknown): number {
  return FdbError.is(error) && error.code === 'ERR_FDB_STATE_LIMIT' ? Number.POSITIVE_INFINITY : GIVE_AGAIN_MS
}

function isNew({ origin, number }: Numbered, { seen }: Session): boolean {
  return number > (seen[origin] ?? 0)
}

/** With connectionStateRecovery the adapter keeps messages for clients that reconnect. */
function remember(adapter: Adapter, { packet }: Extract<Message, { kind: 'cast' }>, opts: Selected): void {
  const { packets } = adapter as { packets?: object[] }
  if (packets === undefined || packet.id !== undefined || opts.flags?.volatile) return
  packets.push({ id: packet.data.at(-1), opts, data: packet.data, emittedAt: Date.now() })
}

export { TESTED_SOCKET_IO }

/** Returns an error if the installed release of socket.io lacks something, or null. */
export async function lackingOf(io: object): Promise<FdbError | null> {
  const found = await findClasses(io as IoInside)
  return typeof found === 'string' ? lacksError(found) : null
}

function lacksError(what: string): FdbError {
  return new FdbError(
    'ERR_FDB_SOCKET_IO',
    `sessions of socket.io do not move, and their clients reconnect: the installed release of socket.io has no ${what} as socket.io ${TESTED_SOCKET_IO}; install that release, or a release of fd-broker that supports this one`,
  )
}
