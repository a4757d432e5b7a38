import net from 'node:net'
import { type OwnedFd, polledSockets, socketOver } from '../kernel/index.js'
import { type Accepted, acceptedOf } from '../node/accepted.js'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Dial } from './dial.js'
import { PolledStream } from './polled-stream.js'
import { READ_INTO } from './read-into.js'
import { SocketStream } from './socket-stream.js'

/** Over a connection in the clear, which it takes. Null, and that is as before: there is no room for it, or this system cannot. */
export function acceptedStream(accepted: Accepted, owner: StreamOwner, tally: Tally): ByteStream | null {
  if (!polledSockets()) return null
  try {
    const { remoteAddress } = accepted
    return new PolledStream(accepted, owner, tally, { reading: true, remoteAddress })
  } catch {
    return null
  }
}

/** Over a socket accepted by a `net.Server` (`pauseOnConnect` saves it work) or a TLS server, not yet read from. */
export function socketStream(socket: net.Socket, owner: StreamOwner, tally: Tally): ByteStream {
  const accepted = acceptedOf(socket)
  const stream = accepted === null ? null : acceptedStream(accepted, owner, tally)
  return stream ?? new SocketStream(socket, owner, tally)
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
export function reopened(fd: OwnedFd, owner: StreamOwner, tally: Tally, remoteAddress = ''): ByteStream {
  if (polledSockets()) return new PolledStream(fd, owner, tally, { reading: false, remoteAddress })
  const onread = new Feed()
  const options = {
    allowHalfOpen: true,
    readable: true,
    writable: true,
    manualStart: true,
    onread,
  }
  const socket = socketOver(fd, options)
  const input = { fed: true, reading: false, remoteAddress }
  return (onread.stream = new SocketStream(socket, owner, tally, input))
}

class Feed implements net.OnReadOpts {
  readonly buffer = READ_INTO
  stream: SocketStream | null = null
  /** Node may read once more when it was resumed and paused again within one turn: false stops that. */
  readonly callback = (bytes: number): boolean => this.stream!.received(READ_INTO, bytes)
}
