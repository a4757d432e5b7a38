import type net from 'node:net'

/** On Node 20 to 26 the handle of a server that listens tells its server of each connection so, by its own `this`. */
interface Insides {
  _handle: { onconnection?: (status: number, client: unknown) => void } | null
}

/**
 * What `from` accepts comes to `to` as if that had accepted it itself. `from` listens, and is closed before `to` stops listening. Where Node is
 * otherwise `to` gets it by its 'connection' event.
 */
export function acceptInto(from: net.Server, to: net.Server): void {
  const [source, target] = [from, to] as unknown as [Insides, Insides]
  from.on('connection', socket => to.emit('connection', socket))
  if (typeof source._handle?.onconnection !== 'function') return
  const usual = source._handle.onconnection
  source._handle.onconnection = function (status, client) {
    const own = target._handle
    if (typeof own?.onconnection === 'function') own.onconnection(status, client)
    else usual.call(this, status, client)
  }
}
