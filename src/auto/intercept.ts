import type dgram from 'node:dgram'
import { channel } from 'node:diagnostics_channel'
import { lookup } from 'node:dns'
import net from 'node:net'
import { seemToListen } from '../node/held-handle.js'
import { setMethod } from '../node/observed-events.js'
import type { Auto } from './auto.js'
import { isClusterPrimary } from './exclusion.js'
import { type ListenRequest, listenRequest } from './listen-request.js'
import { listenAt } from './path-server.js'
import { removeLeftPath, takeLeftPath } from './removed-paths.js'
import { printOnce } from './stderr.js'

type Listen = (this: net.Server, ...args: unknown[]) => net.Server

/** Replaces `server.listen()` of all servers of `net`, `http`, `https`, `http2` and `tls`. `listens` is called at each call; null: Node's own follows. */
export function intercept(listens: () => Auto | null): void {
  const listen: Listen = function (...args) {
    const request = listenRequest(args)
    const toNode = () => {
      if (request.path !== undefined) removeLeftPath(request.path)
      return Reflect.apply(originalListen, this, args)
    }
    if ('why' in request && request.why === null) return toNode()
    const auto = listens()
    if (auto === null) return toNode()
    if ('why' in request) {
      printOnce(request.why!)
      return toNode()
    }
    if (isClusterPrimary()) {
      printOnce(
        'servers of node:cluster are not handed over: this program runs without upgrades (see fd-broker workers)',
      )
      return toNode()
    }
    if (this.listening) return toNode()
    const { undecided } = auto
    if (undecided !== null) listenLater(this, request, undecided, () => Reflect.apply(listen, this, args))
    else if (auto.adopts) adoptOr(auto, this, request, args)
    else bind(auto, this, request, args)
    return this
  }
  const own = Object.getOwnPropertyDescriptor(net.Server.prototype, 'listen')
  Object.defineProperty(listen, 'name', { value: originalListen.name })
  Object.defineProperty(net.Server.prototype, 'listen', { ...own, value: listen })

  const bind = (auto: Auto, server: net.Server, request: ListenRequest, args: readonly unknown[]) => {
    auto.watch(server, request)
    if (request.path === undefined) Reflect.apply(originalListen, server, args)
    else {
      removeLeftPath(request.path)
      listenAt(server, request.path, args, originalListen)
    }
  }

  const adoptOr = (auto: Auto, server: net.Server, request: ListenRequest, args: readonly unknown[]) => {
    const { host } = request
    if (host === undefined || request.path !== undefined) {
      if (!auto.adopt(server, request)) bind(auto, server, request, args)
      else if (request.path !== undefined) takeLeftPath(request.path)
      return
    }
    // Node also calls lookup() for IP addresses. If the name is unknown, Node's own listen() reports the error.
    lookup(host, (error, address) => {
      if (error !== null || !auto.adopt(server, { ...request, host: address }))
        bind(auto, server, request, args)
    })
  }
}

/**
 * Calls `listen` when it is known whether this process is a next version. Meanwhile the server seems to listen, as after a call of Node's
 * own listen() without a host; its address has port 0 if the kernel is to choose the port.
 */
function listenLater(
  server: net.Server,
  { host, port, path }: ListenRequest,
  decided: Promise<unknown>,
  listen: () => void,
): void {
  const waits = host === undefined || path !== undefined ? seemToListen(server, path ?? port) : () => true
  void decided.then(() => {
    // In its own tick, so that an exception does not become a rejection of this promise.
    if (waits()) process.nextTick(listen)
  })
}

type Bind = (...args: unknown[]) => dgram.Socket

/** Warns about UDP sockets with a fixed port: they are not handed over, and the next version could not bind the port. */
export function warnAboutUdp(): void {
  channel('udp.socket').subscribe(message => {
    const { socket } = message as { readonly socket: dgram.Socket }
    const bind = socket.bind as Bind
    const bindWithWarning: Bind = (...args) => {
      const port = portOf(args[0])
      if (port > 0)
        printOnce(
          `the UDP port ${port} is not handed over: the next version can bind it only if both versions set the option "reuseAddr"`,
        )
      return Reflect.apply(bind, socket, args)
    }
    setMethod(socket, 'bind', bindWithWarning)
  })
}

/** Returns the port of a call of `bind()`; 0 if the kernel chooses it, or if the call is for a descriptor. */
function portOf(first: unknown): number {
  const port =
    typeof first === 'object' && first !== null ? (first as { readonly port?: unknown }).port : first
  return Math.max(Number(port) || 0, 0)
}

/** Node's own listen(), saved before it is replaced. */
const originalListen = net.Server.prototype.listen
