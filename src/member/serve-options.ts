import type net from 'node:net'
import { Server } from 'node:net'
import { type Checks, checkOptions, flag, hook, shown, unchecked, wrongOption } from '../base/check-option.js'
import { checkProtocol, type SocketProtocol } from '../connections/adapters/application-socket.js'
import type { HttpHooks } from '../connections/adapters/http-server.js'
import type { MovableConnections } from '../connections/movable.js'
import { FdbError } from '../errors.js'
import { isHttpServer } from '../node/http-connections.js'
import type { DrainCounts } from './forced-closes.js'

/** A server that this library can attach to a listener. */
export type ServableServer = net.Server

/**
 * Handles the connections of a server itself: a relay, or a server of another protocol. The library asks it instead of looking into Node's
 * own servers. No call may throw.
 */
export interface ConnectionKeeper {
  /** Open now. */
  readonly connections: number
  /** The same by what they are doing, for `status`; asked seldom. */
  kinds?(): Readonly<Record<string, number>>
  /** The protocol of its clients (`https`, `tcp`), for `status`. */
  readonly scheme?: string
  /** Another process serves: tell the peers to go, close nothing that may have a request on the way. May come twice. */
  announce(): void
  /** This process serves again: what was announced may be taken back, and what was refused may be offered anew. */
  resume?(): void
  /** The service ends: close those that wait for a next request, and nothing that is under way. It is asked after {@link announce}. */
  endIdle?(): void
  /** Resolves when no connection is left; it is asked after {@link announce}, when no new one comes. */
  emptied(): Promise<void>
  /**
   * `drain.timeout` has passed: close what is left, and say what it was. It may take a moment to tell the peers as their
   * protocol asks: {@link emptied} resolves when all are gone.
   */
  cut(): DrainCounts
  /** Those that can go on in another process. Where they go there, {@link announce} waits until it is known that they stay. */
  readonly moving?: MovableConnections
}

/** How a server's connections go on in the next process, or end here. At most one of `http`, `socket` and `keeper`. */
export interface ServeOptions {
  /**
   * `false`: the connections of this server stay here until they end, and their peers are told to go. `true`: they move also
   * where something else than Node's own listener gets them first (PROXY protocol, sniffers): it is not asked again for those that
   * arrive, so what it knows of a connection is for `http.serialize` and `http.restore`. Default: they move where Node's
   * own listener gets them, and where hooks say how.
   */
  readonly move?: boolean
  /** For an `http.Server`. */
  readonly http?: HttpHooks
  /** For a `net.Server`. */
  readonly socket?: SocketProtocol
  /** For any: its sockets are not looked at here. */
  readonly keeper?: ConnectionKeeper
}

const OPTIONS: Checks<ServeOptions> = { move: flag, http: unchecked, socket: unchecked, keeper: unchecked }
const HTTP: Checks<HttpHooks> = { serialize: hook(), restore: hook(), upgraded: unchecked }
const SOCKET: Checks<SocketProtocol> = { protocol: unchecked, serialize: unchecked, restore: unchecked }
/** Methods that a {@link ConnectionKeeper} must have. */
const KEEPER = ['announce', 'emptied', 'cut'] as const

/** Throws ERR_FDB_OPTION unless the options fit the server. */
export function checkServeOptions(server: ServableServer, options: ServeOptions): void {
  checkOptions('serve()', options, OPTIONS)
  const { http: hooks, socket, keeper } = options
  const chosen = (['http', 'socket', 'keeper'] as const).filter(name => options[name] !== undefined)
  if (chosen.length > 1)
    throw wrong(`options "${chosen.join('" and "')}" of serve() exclude each other: give one`)
  if (keeper !== undefined) checkKeeper(keeper)
  else if (socket !== undefined || hooks !== undefined) checkHooks(server, hooks, socket)
}

function checkKeeper(keeper: ConnectionKeeper): void {
  for (const name of KEEPER)
    if (typeof keeper?.[name] !== 'function')
      throw wrongOption(`keeper.${name}`, keeper?.[name], 'a function')
}

function checkHooks(server: ServableServer, hooks?: HttpHooks, socket?: SocketProtocol): void {
  if ('setTicketKeys' in server || 'updateSettings' in server) {
    throw wrong(
      'connections of a TLS or HTTP/2 server cannot go on in another process: give hooks with net and http servers only',
    )
  }
  if (!isHttpServer(server)) {
    checkOptions('socket', socket ?? hooks, SOCKET)
    checkProtocol((socket ?? hooks) as SocketProtocol)
    return
  }
  if (hooks === undefined) {
    throw wrong(
      'the connections of an http.Server speak HTTP: leave out "protocol" (option "socket"), or give hooks for those that the application takes over as "upgraded"',
    )
  }
  checkOptions('http', hooks, HTTP)
  const { upgraded } = hooks
  if (upgraded !== undefined) checkOptions('upgraded', upgraded, SOCKET)
}

function wrong(message: string): FdbError {
  return new FdbError('ERR_FDB_OPTION', message)
}

/** Where frameworks have their server. */
const SERVERS = ['server', 'httpServer', 'listener'] as const

/** Throws ERR_FDB_NOT_A_SERVER: many objects that answer requests are no servers, and would accept no connection. */
export function checkServer(server: unknown): asserts server is ServableServer {
  if (server instanceof Server) return
  throw new FdbError('ERR_FDB_NOT_A_SERVER', `${shown(server)} is no server: give ${remedy(server)}`)
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
    if (app[name] instanceof Server) return `app.${name}, which is its server (app is what was given)`
  if (has('getHttpServer')) return 'app.getHttpServer(), behind await app.init() (app is what was given)'
  if (has('callback')) return 'http.createServer(app.callback()) (app is what was given)'
  if (has('fetch'))
    return 'a server made for its fetch(), such as createAdaptorServer(app) of @hono/node-server'
  if (has('handleUpgrade')) return 'the http.Server whose upgrades it handles'
  if (has('bind') && has('send')) return 'a stream server; a UDP socket binds to listener.borrow() by itself'
  return own
}
