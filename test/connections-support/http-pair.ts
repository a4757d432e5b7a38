import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { onTestFinished } from 'vitest'
import type { HttpHooks } from '../../src/connections/adapters/http-server.js'
import type { Arrival, Departure, MovableConnections, MoveWhich } from '../../src/connections/movable.js'
import { AttachedServer } from '../../src/member/listeners/attached-server.js'
import type { ServeOptions } from '../../src/member/listeners/serve-options.js'

/** A server as a listener has it, and what went wrong in its hooks. */
export interface Place<Server extends net.Server = net.Server> {
  readonly server: Server
  readonly served: AttachedServer
  readonly moving: MovableConnections
  readonly faults: unknown[]
  /** That it has had. */
  readonly sockets: readonly net.Socket[]
}

/** Listens on `path` or on a port of its own. Closed at the end of the test. */
export async function place<Server extends net.Server>(
  server: Server,
  options?: ServeOptions,
  path?: string,
): Promise<Place<Server>> {
  const faults: unknown[] = []
  const sockets: net.Socket[] = []
  server.on('connection', socket => sockets.push(socket))
  const served = new AttachedServer(server, options, error => faults.push(error))
  if (path === undefined) server.listen(0, '127.0.0.1')
  else server.listen(path)
  await once(server, 'listening')
  onTestFinished(() => {
    served.release()
    served.cut()
    net.Server.prototype.close.call(server)
  })
  return { server, served, moving: served.moving[0]!, faults, sockets }
}

export function httpPlace(
  name: string,
  options: http.ServerOptions = {},
  hooks?: HttpHooks,
): Promise<Place<http.Server>> {
  return place(
    http.createServer({ keepAliveTimeout: 30_000, ...options }, (request, response) => {
      response.end(`${name} ${request.url}`)
    }),
    hooks && { http: hooks },
  )
}

/** Moves connections as the engine does, in one process. Returns how many have gone over. */
export function carry(from: Place, to: Place, which: MoveWhich = 'auto'): number {
  const departures = taken(from, which)
  giveBack(to, departures, 'moved')
  return departures.length
}

/** Takes connections out of the server, without an owner. */
export function taken(from: Place, which: MoveWhich = 'auto'): Departure[] {
  const departures: Departure[] = []
  for (let each = from.moving.departures(which), next = each.next(); !next.done; next = each.next())
    if (next.value !== null) departures.push(next.value)
  return departures
}

/** Connections of another process come as bytes. */
export function giveBack({ moving }: Place, departures: readonly Departure[], how: Arrival): void {
  for (const departure of departures) {
    const { record, fds } = departure
    moving.arrive(how === 'moved' ? moving.check(Buffer.from(record), fds)! : departure, how)
  }
}

/** Resolves when a connection that could not leave may be able to. */
export function mayMove({ moving }: Place): Promise<void> {
  return new Promise(resolve => {
    moving.onMovable = () => {
      moving.onMovable = null
      resolve()
    }
  })
}
