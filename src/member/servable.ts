import net from 'node:net'
import { shown } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import type { ServableServer } from './serve-options.js'

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
