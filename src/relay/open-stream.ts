import net from 'node:net'
import { type OwnedFd, socketOver } from '../adapter.js'
import { remade } from '../node/socket-handle.js'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Dial } from './dial.js'
import { READ_BYTES, SocketStream } from './socket-stream.js'

/**
 * All sockets read into this memory, one after the other: each chunk is passed on before the next read. That saves an
 * allocation for each read, and a socket that is paused holds no bytes that nobody knows of.
 */
const READ_INTO = Buffer.allocUnsafeSlow(READ_BYTES)

/** Over a socket accepted by a `net.Server` (`pauseOnConnect` saves it work) or a TLS server, not yet read from. */
export function acceptedStream(socket: net.Socket, owner: StreamOwner, tally: Tally): ByteStream {
  const feed = new Feed()
  const made = remade(socket, { allowHalfOpen: true, readable: true, writable: true, onread: feed })
  if (made === null) return new SocketStream(socket, owner, tally)
  return (feed.stream = new SocketStream(made, owner, tally, { fed: true }))
}

/** Connects to a TCP or Unix address in the clear. */
export const dialSocket: Dial = ({ address }, owner, tally) => {
  const onread = new Feed()
  const socket =
    address.kind === 'unix'
      ? net.connect({ path: address.path, allowHalfOpen: true, onread })
      : net.connect({ host: address.host, port: address.port, allowHalfOpen: true, noDelay: true, onread })
  return (onread.stream = new SocketStream(socket, owner, tally, { fed: true }))
}

/**
 * Over the descriptor of a connected TCP or Unix stream socket, which it takes, and closes when it throws.
 * Reads nothing before it is asked to: otherwise each move would read a chunk more of a connection that is stopped.
 */
export function reopened(fd: OwnedFd, owner: StreamOwner, tally: Tally, remoteAddress?: string): ByteStream {
  const onread = new Feed()
  const options = {
    allowHalfOpen: true,
    readable: true,
    writable: true,
    manualStart: true,
    onread,
  }
  const socket = socketOver(fd, options)
  const input = { fed: true, reading: false, ...(remoteAddress !== undefined && { remoteAddress }) }
  return (onread.stream = new SocketStream(socket, owner, tally, input))
}

class Feed implements net.OnReadOpts {
  readonly buffer = READ_INTO
  stream: SocketStream | null = null
  /** Node may read once more when it was resumed and paused again within one turn: false stops that. */
  readonly callback = (bytes: number): boolean => this.stream!.received(READ_INTO.subarray(0, bytes))
}
