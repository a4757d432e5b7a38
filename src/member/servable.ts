import http from 'node:http'
import net from 'node:net'
import { checkKeys, type Keys, shown, wrongOption } from '../check-option.js'
import { checkProtocol, type SocketProtocol } from '../connections/application-socket.js'
import type { HttpHooks } from '../connections/http-server.js'
import { FdbError } from '../errors.js'
import type { ConnectionKeeper, ServableServer, ServedConnections } from './served.js'

const HTTP: Keys<HttpHooks> = { serialize: true, restore: true, upgraded: true }
const SOCKET: Keys<SocketProtocol> = { protocol: true, serialize: true, restore: true }
/** What a {@link ConnectionKeeper} must have. */
const KEEPER = ['announce', 'emptied', 'cut'] as const
/** Where frameworks have their server. */
const SERVERS = ['server', 'httpServer', 'listener'] as const

/** Throws ERR_FDB_NOT_A_SERVER: many things that answer requests are no servers, and nobody would accept for them. */
export function checkServer(server: unknown): asserts server is ServableServer {
  if (server instanceof net.Server) return
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
    if (app[name] instanceof net.Server) return `app.${name}, which is its server (app is what was given)`
  if (has('getHttpServer')) return 'app.getHttpServer(), behind await app.init() (app is what was given)'
  if (has('callback')) return 'http.createServer(app.callback()) (app is what was given)'
  if (has('fetch'))
    return 'a server made for its fetch(), such as createAdaptorServer(app) of @hono/node-server'
  if (has('handleUpgrade')) return 'the http.Server whose upgrades it handles'
  if (has('bind') && has('send')) return 'a stream server; a UDP socket binds to listener.borrow() by itself'
  return own
}

/** Throws ERR_FDB_OPTION unless these fit the server. Answers the keeper, if it is one. */
export function checkConnections(
  server: ServableServer,
  connections: ServedConnections,
): ConnectionKeeper | null {
  if (typeof connections === 'object' && connections !== null && 'announce' in connections) {
    for (const name of KEEPER)
      if (typeof connections[name] !== 'function') throw wrongOption(name, connections[name], 'a function')
    return connections
  }
  checkHooks(server, connections as HttpHooks | SocketProtocol)
  return null
}

function checkHooks(server: ServableServer, hooks: HttpHooks | SocketProtocol): void {
  const isHttp = server instanceof http.Server
  if ('setTicketKeys' in server || 'updateSettings' in server) {
    checkKeys('serve()', hooks, { ...HTTP, ...SOCKET })
    if (Object.keys(hooks).length === 0) return
    throw new FdbError(
      'ERR_FDB_OPTION',
      'connections of a TLS or HTTP/2 server cannot go on in another process: give hooks with net and http servers only',
    )
  }
  if (!isHttp) {
    checkKeys('serve()', hooks, SOCKET)
    if (Object.keys(hooks).length > 0) checkProtocol(hooks as SocketProtocol)
    return
  }
  if (typeof hooks === 'object' && hooks !== null && 'protocol' in hooks) {
    throw new FdbError(
      'ERR_FDB_OPTION',
      'the connections of an http.Server speak HTTP: leave out "protocol", or give hooks for those that the application takes over as "upgraded"',
    )
  }
  checkKeys('serve()', hooks, HTTP)
  const { serialize, restore, upgraded } = hooks as HttpHooks
  for (const [name, hook] of Object.entries({ serialize, restore }))
    if (hook !== undefined && typeof hook !== 'function') throw wrongOption(name, hook, 'a function')
  if (upgraded !== undefined) checkKeys('upgraded', upgraded, SOCKET)
}
