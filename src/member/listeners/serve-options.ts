import type net from 'node:net'
import { Server } from 'node:net'
import { checkOptions, hook } from '../../checks/options.js'
import { inspected, wrongOption } from '../../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../../checks/shape.js'
import { boolean, oneOf, unchecked } from '../../checks/values.js'
import { checkProtocol, type SocketProtocol } from '../../connections/adapters/application-socket.js'
import type { HttpHooks } from '../../connections/adapters/http-server.js'
import type { MovableConnections } from '../../connections/movable.js'
import { FdbError } from '../../errors.js'
import { isHttpServer, isHttpsServer } from '../../node/http-connections.js'
import type { DrainCounts } from './forced-closes.js'

/** A server that this library can attach to a listener. */
export type ServableServer = net.Server

/**
 * Handles the connections of a server, for example in a relay or for another protocol. The library calls these functions instead of tracking
 * the server's sockets. No function may throw.
 */
export interface ConnectionKeeper {
  /** The number of open connections. */
  readonly connections: number
  /** Returns the number of connections by their activity, for `status`. Called seldom. */
  kinds?(): Readonly<Record<string, number>>
  /** The protocol of the clients (`https`, `tcp`), for `status`. */
  readonly scheme?: string | undefined
  /** Another process serves. Tell the clients that their connections will end, but close none with a request in flight. May be called twice. */
  announce(): void
  /** This process serves again. Undo {@link announce} where possible; connections that the other process refused may be offered again. */
  resume?(): void
  /** The service ends. Close connections between two requests, and no others. Called after {@link announce}. */
  endIdle?(): void
  /** Resolves when no connection is left. Called when the server accepts no new ones. */
  emptied(): Promise<void>
  /**
   * `drain.timeout` has passed. Close the remaining connections, and return their counts. If closing takes time, {@link emptied} resolves
   * when all have ended.
   */
  cut(): DrainCounts
  /** Returns what {@link cut} would close now. Without it the metrics do not count connections that end during a drain. */
  remaining?(): DrainCounts
  /** The connections that can move to another process, for each format of their records. While they may move, {@link announce} is not called. */
  readonly moving?: MovableConnections | readonly MovableConnections[] | undefined
}

/** How a server's connections continue in the next process, or end here. Give at most one of `http`, `socket` and `keeper`. */
export interface ServeOptions {
  /**
   * Default: connections of an `http.Server` move if Node's own 'connection' listener gets them first, and those of a `net.Server` if
   * `socket` is given. `false`: the connections remain in this process until they end, and the end is announced to the clients. `true`:
   * connections of an `http.Server` move even if another 'connection' listener gets them first (PROXY protocol, sniffers). That listener is
   * not called for connections that arrive by a move, so `http.serialize` and `http.restore` must transfer its data.
   */
  readonly move?: boolean | undefined
  /** Hooks for an `http.Server`. */
  readonly http?: HttpHooks | undefined
  /** The protocol of a `net.Server`. */
  readonly socket?: SocketProtocol | undefined
  /** Handles the connections of any server; the library ignores the server's sockets. */
  readonly keeper?: ConnectionKeeper | undefined
  /**
   * `on`: connections with TLS 1.3 move, those of an `https.Server` between two requests, those of a `tls.Server` with the hooks `socket`. The traffic secrets then pass to the process that takes them, over a Unix socket, and only to
   * a process of the same user. Default `off`: they remain in this process until they end.
   */
  readonly tls?: { readonly move?: 'off' | 'on' | undefined } | undefined
}

const OPTIONS = map({
  move: absent(boolean),
  http: absent(unchecked<HttpHooks>()),
  socket: absent(unchecked<SocketProtocol>()),
  keeper: absent(unchecked<ConnectionKeeper>()),
  tls: absent(map({ move: optional(oneOf('off', 'on'), 'off') })),
} satisfies ShapeOf<ServeOptions>)
const HTTP = map({
  serialize: absent(hook()),
  restore: absent(hook()),
  upgraded: absent(unchecked()),
} satisfies ShapeOf<HttpHooks>)
const SOCKET = map({
  protocol: absent(unchecked()),
  serialize: absent(unchecked()),
  restore: absent(unchecked()),
} satisfies ShapeOf<SocketProtocol>)
const REQUIRED_OF_KEEPER = ['announce', 'emptied', 'cut'] as const

/** Throws ERR_FDB_OPTION unless the options fit the server. */
export function checkServeOptions(server: ServableServer, options: ServeOptions): void {
  checkOptions('serve()', options, OPTIONS)
  const { http: hooks, socket, keeper, tls } = options
  const chosen = (['http', 'socket', 'keeper'] as const).filter(name => options[name] !== undefined)
  const movesTls = tls?.move === 'on'
  const canMoveTls = socket === undefined ? isHttpsServer(server) : isTlsServer(server)
  if (movesTls && (!canMoveTls || keeper !== undefined))
    throw wrong('tls: { move: "on" } of serve() is for an https.Server, or a tls.Server with "socket"')
  if (chosen.length > 1)
    throw wrong(`options "${chosen.join('" and "')}" of serve() exclude each other: give one`)
  if (keeper !== undefined) checkKeeper(keeper)
  else if (socket !== undefined || hooks !== undefined) checkHooks(server, hooks, socket, movesTls)
}

function checkKeeper(keeper: ConnectionKeeper): void {
  for (const name of REQUIRED_OF_KEEPER)
    if (typeof keeper?.[name] !== 'function')
      throw wrongOption(`keeper.${name}`, keeper?.[name], 'a function')
}

function checkHooks(
  server: ServableServer,
  hooks: HttpHooks | undefined,
  socket: SocketProtocol | undefined,
  movesTls: boolean,
): void {
  if (!movesTls && ('setTicketKeys' in server || 'updateSettings' in server)) {
    throw wrong(
      'connections of a TLS or HTTP/2 server cannot move to another process: give hooks for net and http servers only, or give tls: { move: "on" } for an https.Server or tls.Server',
    )
  }
  if (!isHttpServer(server) && !isHttpsServer(server)) {
    checkOptions('socket', socket ?? hooks, SOCKET)
    checkProtocol((socket ?? hooks) as SocketProtocol)
    return
  }
  if (hooks === undefined) {
    throw wrong(
      'an http.Server takes no "protocol" (option "socket"): omit it, or give it as http.upgraded for connections that the application upgrades',
    )
  }
  checkOptions('http', hooks, HTTP)
  const { upgraded } = hooks
  if (upgraded !== undefined) checkOptions('upgraded', upgraded, SOCKET)
}

/** Reports whether the server speaks TLS, and neither HTTP/1 nor HTTP/2. */
function isTlsServer(server: ServableServer): boolean {
  return 'setTicketKeys' in server && !('updateSettings' in server) && !isHttpsServer(server)
}

function wrong(message: string): FdbError {
  return new FdbError('ERR_FDB_OPTION', message)
}

/** The properties in which frameworks keep their `net.Server`. */
const SERVERS = ['server', 'httpServer', 'listener'] as const

/** Throws ERR_FDB_NOT_A_SERVER, for example for a framework's app, which cannot accept connections. */
export function checkServer(server: unknown): asserts server is ServableServer {
  if (server instanceof Server) return
  throw new FdbError('ERR_FDB_NOT_A_SERVER', `${inspected(server)} is no server: give ${remedy(server)}`)
}

function remedy(given: unknown): string {
  const own = 'one of net, http, https, http2 or tls'
  if (typeof given === 'function') {
    return 'http.createServer(app), where app is this function (a request handler, such as an Express app)'
  }
  if (typeof given !== 'object' || given === null) return own
  const app = given as Record<string, unknown>
  const has = (name: string) => typeof app[name] === 'function'
  if (has('then')) return 'what it resolves to: await it first'
  for (const name of SERVERS)
    if (app[name] instanceof Server) return `app.${name}, which is its server (app is the given object)`
  if (has('getHttpServer')) return 'app.getHttpServer(), after await app.init() (app is the given object)'
  if (has('callback')) return 'http.createServer(app.callback()) (app is the given object)'
  if (has('fetch'))
    return 'a server made for its fetch(), such as createAdaptorServer(app) of @hono/node-server'
  if (has('handleUpgrade')) return 'the http.Server whose upgrades it handles'
  if (has('bind') && has('send')) return 'a stream server; a UDP socket needs a listener with udp://'
  return own
}
