import { lookup } from 'node:dns'
import net from 'node:net'
import { isClusterPrimary } from './bystander.js'
import { type ListenRequest, listenRequest } from './listen-request.js'
import { sayOnce } from './say.js'
import { listenAt, originalListen } from './unix-socket.js'

/** Decides how each server of the program listens. */
export interface Servers {
  /** Settles when it is known whether this process is a next version; null: that is known. */
  readonly undecided: Promise<unknown> | null
  /** Whether an address may be one that the version before hands over: then {@link adopt} is asked. */
  readonly adopts: boolean
  /** The server listens on the socket of the version before, as if it had bound it; false: there is none. */
  adopt(server: net.Server, request: ListenRequest): boolean
  /** The server is about to listen by itself. */
  listens(server: net.Server, request: ListenRequest): void
}

type Listen = (this: net.Server, ...args: unknown[]) => net.Server

/** Replaces `server.listen()` of every server of `net`, `http`, `https`, `http2` and `tls`. */
export function intercept(servers: Servers): void {
  const listen: Listen = function (...args) {
    const request = listenRequest(args)
    if ('why' in request) {
      if (request.why !== null) sayOnce(request.why)
      return Reflect.apply(originalListen, this, args)
    }
    if (isClusterPrimary()) {
      sayOnce(
        'the servers of node:cluster are left as they are: this program runs without upgrades (see fd-broker workers)',
      )
      return Reflect.apply(originalListen, this, args)
    }
    if (servers.undecided !== null) {
      void servers.undecided.then(() => Reflect.apply(listen, this, args))
      return this
    }
    if (this.listening) return Reflect.apply(originalListen, this, args)
    if (servers.adopts) adoptOr(this, request, args)
    else bind(this, request, args)
    return this
  }
  const own = Object.getOwnPropertyDescriptor(net.Server.prototype, 'listen')
  Object.defineProperty(listen, 'name', { value: originalListen.name })
  Object.defineProperty(net.Server.prototype, 'listen', { ...own, value: listen })

  const bind = (server: net.Server, request: ListenRequest, args: readonly unknown[]) => {
    servers.listens(server, request)
    if (request.path === undefined) Reflect.apply(originalListen, server, args)
    else listenAt(server, request.path, args)
  }

  const adoptOr = (server: net.Server, request: ListenRequest, args: readonly unknown[]) => {
    const { host } = request
    if (host === undefined || request.path !== undefined) {
      if (!servers.adopt(server, request)) bind(server, request, args)
      return
    }
    // As Node does, with an address too. The error for a name that is not known is left to it.
    lookup(host, (error, address) => {
      if (error !== null || !servers.adopt(server, { ...request, host: address })) bind(server, request, args)
    })
  }
}
