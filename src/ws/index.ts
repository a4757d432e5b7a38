/** fd-broker/ws: WebSockets of the package `ws` move to the next version. */

import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import { checkOptions, hook, nameUpTo } from '../checks/options.js'
import { inspected } from '../checks/place.js'
import { absent, map, type ShapeOf } from '../checks/shape.js'
import { addTakenOver, takenOverFor } from '../connections/adapters/taken-over.js'
import { FdbError } from '../errors.js'
import { setMethod } from '../node/observed-events.js'
import type { ServerInside } from './internals.js'
import { type AnyHooks, MovedWebSockets } from './moved-web-sockets.js'

/** A `WebSocketServer` of the package `ws` 8. */
export interface WebSocketServerLike<Socket, Request> {
  readonly clients: ReadonlySet<Socket>
  handleUpgrade(
    request: Request,
    socket: Duplex,
    head: Buffer,
    callback: (client: Socket, request: Request) => void,
  ): void
}

export interface WebSocketHooks<Socket, Request> {
  /**
   * The name of this server, if a process has several without `path`: both versions must give a server the same name. Default: its options `path` or `port`.
   */
  readonly name?: string | undefined
  /**
   * Called for a WebSocket that is about to leave, at any byte of a frame, but not while the application gets a message. Returns the application's data about it (`new Uint8Array()` for none), or undefined if
   * it cannot leave now, for example because the application still works on a message; the hook is called again later. When the hook has returned data, the
   * application must forget `ws`: it emits no more events, not even 'close'. Messages that the application has sent still reach the client. If the WebSocket cannot move, it comes back through {@link restore} in this process.
   */
  serialize?(ws: Socket, request: Request): Uint8Array | undefined
  /**
   * Continues a WebSocket: in the next process, or in this one if it could not move. `ws` is a new, open WebSocket without listeners of the application; no event of the server precedes. `request` is a copy of the upgraded request.
   */
  restore?(ws: Socket, data: Uint8Array, request: Request): void
  /** Called before a WebSocket that has not moved is closed with code 1012 (or 1001 if the service ends). The hook may send a last message, or close it itself. */
  cut?(ws: Socket): void
}

type Hooks = WebSocketHooks<never, never>

const HOOKS = map({
  name: absent(nameUpTo(200)),
  serialize: absent(hook<Hooks['serialize']>()),
  restore: absent(hook<Hooks['restore']>()),
  cut: absent(hook<Hooks['cut']>()),
} satisfies ShapeOf<Hooks>)

/**
 * Moves the WebSockets of `wss` to the next version in an upgrade, at any byte. Without `serialize` and `restore` they do not move: in an upgrade they are closed one after the other with code 1012, spread over `drain.timeout`. Call it before the server's
 * first connection. Throws ERR_FDB_OPTION.
 */
export function moveWebSockets<Socket extends object, Request extends IncomingMessage>(
  wss: WebSocketServerLike<Socket, Request>,
  hooks: WebSocketHooks<Socket, Request> = {},
): void {
  checkOptions('moveWebSockets()', hooks, HOOKS)
  if ((hooks.serialize === undefined) !== (hooks.restore === undefined))
    throw new FdbError('ERR_FDB_OPTION', 'give moveWebSockets() both serialize() and restore(), or none')
  const inside = wss as unknown as ServerInside
  if (typeof inside?.handleUpgrade !== 'function' || typeof inside.options?.WebSocket !== 'function')
    throw new FdbError(
      'ERR_FDB_OPTION',
      `${inspected(wss)} is no server of WebSockets: give moveWebSockets() a WebSocketServer of the package ws 8`,
    )
  const { path, port, server = null } = inside.options as ServerFacts
  const name = hooks.name ?? path ?? (port ? `:${port}` : '')
  const protocol = `ws/1 ${name}`
  const same = takenOverFor(server, protocol)
  if (same !== undefined && same.server === server)
    throw new FdbError(
      'ERR_FDB_OPTION',
      `moveWebSockets() was already called for a server with the name "${name}": give each the option "name"`,
    )
  const moved = new MovedWebSockets(inside, protocol, server, hooks as unknown as AnyHooks)
  const remove = addTakenOver(moved)
  setMethod(
    inside as never as { handleUpgrade: ServerInside['handleUpgrade'] },
    'handleUpgrade',
    moved.handleUpgrade,
  )
  inside.once('close', remove)
}

interface ServerFacts {
  readonly path?: string | null
  readonly port?: number | null
  readonly server?: Server | null
}
