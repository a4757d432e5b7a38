import http from 'node:http'
import type net from 'node:net'
import { expect, onTestFinished } from 'vitest'
import { type ClientOptions, type ServerOptions, WebSocket, WebSocketServer } from 'ws'
import { takenOverOf } from '../../src/connections/adapters/taken-over.js'
import { moveWebSockets, type WebSocketHooks } from '../../src/ws/index.js'
import { until } from '../processes/until.js'
import { type Place, place } from './http-pair.js'

export { moveWebSockets, takenOverOf }

type Hooks = WebSocketHooks<WebSocket, http.IncomingMessage>

function isSecure(server: net.Server): boolean {
  return 'setTicketKeys' in server
}

interface Visit {
  count: number
}

/** A server that numbers the messages of each WebSocket: `NAME COUNT TEXT`. */
export class Numbering {
  readonly wss: WebSocketServer
  readonly #server: http.Server
  readonly visits = new Map<WebSocket, Visit>()
  readonly #name: string
  /** The requests with which WebSockets arrived. */
  readonly requests: http.IncomingMessage[] = []

  constructor(
    name: string,
    options: ServerOptions = {},
    hooks: Partial<Hooks> = {},
    Server: new (options: ServerOptions) => WebSocketServer = WebSocketServer,
    server: http.Server = http.createServer(),
  ) {
    this.#name = name
    this.#server = server
    this.wss = new Server({ server: this.#server, ...options })
    this.wss.on('connection', ws => this.visit(ws, { count: 0 }))
    moveWebSockets(this.wss, {
      serialize: ws => Buffer.from(JSON.stringify(this.visits.get(ws))),
      restore: (ws, data, request) => {
        this.requests.push(request)
        this.visit(ws, JSON.parse(Buffer.from(data).toString()))
      },
      ...hooks,
    })
    onTestFinished(() => this.wss.close())
  }

  visit(ws: WebSocket, visit: Visit): void {
    this.visits.set(ws, visit)
    ws.on('error', () => {})
    ws.on('message', (data, isBinary) => {
      const text = isBinary ? `${(data as Buffer).length} bytes` : String(data)
      ws.send(`${this.#name} ${++visit.count} ${text}`)
    })
  }

  /** The only WebSocket. */
  get only(): WebSocket {
    expect([...this.wss.clients]).toHaveLength(1)
    return [...this.wss.clients][0]!
  }

  place(): Promise<Place> {
    return place(this.#server, isSecure(this.#server) ? { tls: { move: 'on' } } : {})
  }
}

/** A client and the messages that it got. */
export class Client {
  readonly ws: WebSocket
  readonly got: string[] = []
  closed: number | null = null

  private constructor(ws: WebSocket) {
    this.ws = ws
    ws.on('message', data => this.got.push(String(data)))
    ws.on('error', () => {})
    ws.on('close', code => {
      this.closed = code
    })
    onTestFinished(() => ws.terminate())
  }

  static async to({ server }: Place, options: ClientOptions = {}, protocols: string[] = []): Promise<Client> {
    const { port } = server.address() as net.AddressInfo
    const url = `${isSecure(server) ? 'wss' : 'ws'}://127.0.0.1:${port}/path?q=1`
    const client = new Client(new WebSocket(url, protocols, { rejectUnauthorized: false, ...options }))
    await until('it is open', () => client.ws.readyState === WebSocket.OPEN)
    return client
  }

  /** The client's own socket, for bytes of a test. */
  get raw(): net.Socket {
    return socketOf(this.ws)
  }

  async next(count = 1): Promise<string[]> {
    await until(`${count} messages have come`, () => this.got.length >= count || this.closed !== null)
    return this.got.splice(0)
  }
}

export function socketOf(ws: WebSocket): net.Socket {
  return Reflect.get(ws, '_socket')
}
