/** fd-broker/socket.io: sessions of socket.io continue in the next version. */

import { checkOptions, nameUpTo } from '../checks/options.js'
import { inspected } from '../checks/place.js'
import { absent, map, type ShapeOf } from '../checks/shape.js'
import { FdbError } from '../errors.js'
import type { IoInside } from './internals.js'
import { Sessions } from './sessions.js'

/** A `Server` of the package socket.io 4. */
export interface SocketServerLike {
  path(): string
  of(name: string): object
}

export interface RecoverSocketsOptions {
  /** The name of this server, if a process has several with the same path: both versions must give a server the same name. Default: its path. */
  readonly name?: string | undefined
}

const OPTIONS = map({ name: absent(nameUpTo(200)) } satisfies ShapeOf<RecoverSocketsOptions>)

const recovered = new Set<string>()

/**
 * Lets the clients of `io` continue in the next version, by websocket and by polling, without a 'disconnect': with their id, rooms, `data` and
 * handshake. In the process that they leave, each socket emits 'disconnect' with the reason "server shutting down"; in the next one the namespace
 * emits 'connection', with `socket.recovered` true. Call it when `io` is attached to its http.Server, before the first client. Throws ERR_FDB_OPTION.
 */
export function recoverSockets(io: SocketServerLike, options: RecoverSocketsOptions = {}): void {
  const given = checkOptions('recoverSockets()', options, OPTIONS)
  const inside = io as unknown as IoInside
  if (typeof inside?.onconnection !== 'function' || typeof inside.path !== 'function')
    throw new FdbError(
      'ERR_FDB_OPTION',
      `${inspected(io)} is no server of socket.io: give recoverSockets() a Server of the package socket.io 4`,
    )
  const { engine } = inside
  if (engine === undefined)
    throw new FdbError(
      'ERR_FDB_OPTION',
      'recoverSockets() was called before the server of socket.io was attached to an http.Server: call it after new Server(httpServer), attach() or listen()',
    )
  const name = given.name ?? inside.path()
  if (recovered.has(name))
    throw new FdbError(
      'ERR_FDB_OPTION',
      `recoverSockets() was already called for a server with the name "${name}": give each the option "name"`,
    )
  recovered.add(name)
  new Sessions(inside, engine, name, () => recovered.delete(name))
}
