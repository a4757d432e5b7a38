import net from 'node:net'
import { isAddress } from '../base/lazy.js'
import { hasPolledSockets, keepAlive, type OwnedFd, socketOver } from '../kernel/index.js'
import { type Accepted, acceptedOf } from '../node/accepted.js'
import { descriptorOf, type PassedOn, SOCKET_HANDLE, setPassedOn } from '../node/socket-handle.js'
import type { PositionRecord } from '../tls13/position-record.js'
import { movedSocket, type TlsCarrier } from '../tls13/tls-carrier.js'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Destination, Dial } from './destination.js'
import { PolledStream } from './polled-stream.js'
import { shortageOf } from './shortage.js'
import { SocketStream } from './socket-stream.js'

type OnFault = ((error: unknown) => void) | undefined

/** Takes over a connection without TLS. If no descriptor is free or this system has no polled sockets, returns null and leaves `accepted` unchanged. `onFault` gets any other error. */
export function acceptedStream(
  accepted: Accepted,
  owner: StreamOwner,
  tally: Tally,
  onFault?: OnFault,
): ByteStream | null {
  if (!hasPolledSockets()) return null
  try {
    const { remoteAddress, remotePort = 0 } = accepted
    return new PolledStream(accepted, owner, tally, { reading: true, remoteAddress, remotePort })
  } catch (error) {
    if (shortageOf(error) === null) onFault?.(error)
    return null
  }
}

/** Takes over a socket of a TLS server or a `net.Server`. Nothing may have been read from the socket. For a `net.Server`, `pauseOnConnect` is the cheapest way. */
export function socketStream(
  socket: net.Socket,
  owner: StreamOwner,
  tally: Tally,
  onFault?: OnFault,
  carrier: TlsCarrier | null = null,
): ByteStream {
  const accepted = acceptedOf(socket)
  const stream = accepted === null ? null : acceptedStream(accepted, owner, tally, onFault)
  return stream ?? new SocketStream(socket, owner, tally, carrier)
}

export const dialSocket: Dial = (destination, owner, tally, first = null) => {
  const { address, tls } = destination
  if (tls !== undefined) return new SocketStream(connect(destination, first), owner, tally, null, tls.id)
  if (hasPolledSockets() && (address.kind === 'unix' || isAddress(address.host)))
    return new PolledStream(null, owner, tally, { reading: true, remoteAddress: '', address })
  if (hasPolledSockets() && SOCKET_HANDLE.works) return dialByName(destination, owner, tally, first)
  return new SocketStream(connect(destination, first), owner, tally)
}

/** Lets Node look up the name and connect, then takes the descriptor from Node's socket. */
function dialByName(
  destination: Destination,
  owner: StreamOwner,
  tally: Tally,
  first: string | null,
): ByteStream {
  const socket = connect(destination, first)
  const stream = new PolledStream(null, owner, tally, { reading: true, remoteAddress: '', dialling: socket })
  let failure: Error | null = null
  const onClose = () => stream.failConnect(failure)
  socket.on('error', error => {
    failure = error
  })
  socket.on('close', onClose)
  socket.once('connect', () => {
    socket.removeListener('close', onClose)
    stream.remoteAddress = socket.remoteAddress ?? ''
    stream.attach({ descriptor: descriptorOf(socket)!, close: () => socket.destroy() })
  })
  return stream
}

/** Node tries the next address of a name if the current address does not accept within this time. */
const NEXT_ADDRESS_MS = 500

function connect({ address, named, tls }: Destination, first: string | null): net.Socket {
  if (address.kind === 'unix') return net.connect({ path: address.path, allowHalfOpen: true })
  const { host, port } = address
  const common = { host, port, allowHalfOpen: true, noDelay: true }
  const lookup = named && {
    lookup: first === null ? named.lookup : beginningWith(first, named.lookup),
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: NEXT_ADDRESS_MS,
  }
  const options = { ...common, ...lookup }
  const socket = tls === undefined ? net.connect(options) : tls.connect(options)
  socket.once('connect', () => {
    const descriptor = descriptorOf(socket)
    if (descriptor !== null) keepAlive(descriptor)
  })
  if (named === undefined) return socket
  const failed = (ip: string) => named.tried(ip, false)
  socket.on('connectionAttemptFailed', failed)
  socket.on('connectionAttemptTimeout', failed)
  socket.once('connect', () => named.tried(socket.remoteAddress ?? '', true))
  return socket
}

/** Returns a lookup that gives one of the addresses first. */
function beginningWith(first: string, lookup: net.LookupFunction): net.LookupFunction {
  return (name, options, callback) =>
    lookup(name, options, (error, found, family) => {
      if (error !== null || typeof found === 'string') callback(error, found, family)
      else {
        const isFirst = ({ address }: { address: string }) => address === first
        callback(null, [...found.filter(isFirst), ...found.filter(each => !isFirst(each))])
      }
    })
}

/**
 * Makes a stream of a connected socket. Takes ownership of `fd`, and closes it before it throws. The stream does not read before
 * {@link ByteStream.setReading}: if the connection moves on at once, it needs to carry no bytes. Every system on which connections move has polled sockets.
 */
export function streamFromFd(
  fd: OwnedFd,
  owner: StreamOwner,
  tally: Tally,
  remoteAddress = '',
  remotePort = 0,
): ByteStream {
  return new PolledStream(fd, owner, tally, { reading: false, remoteAddress, remotePort })
}

/** As {@link streamFromFd}, for a connection whose TLS continues at a position, which must have passed `checkPosition()`. Without a carrier it cannot move again. */
export function tlsStreamFromFd(
  fd: OwnedFd,
  owner: StreamOwner,
  tally: Tally,
  position: PositionRecord,
  carrier: TlsCarrier | null,
  peer?: PassedOn,
): ByteStream {
  const options = { allowHalfOpen: true, manualStart: true }
  const socket = movedSocket(socketOver(fd, options), position)
  if (peer !== undefined) setPassedOn(socket as unknown as net.Socket, peer)
  socket.flush()
  const stream = new SocketStream(socket as unknown as net.Socket, owner, tally, carrier)
  stream.setReading(false)
  return stream
}
