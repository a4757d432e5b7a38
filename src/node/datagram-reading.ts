import type { Socket } from 'node:dgram'
import { nodeDgram } from '../base/lazy.js'
import { internal } from './internal.js'

/** The handle of a UDP socket on Node 20 to 26. */
interface DatagramHandle {
  recvStart(): number
  recvStop(): number
}

interface DatagramState {
  readonly handle: DatagramHandle | null
  receiving: boolean
}

function stateOf(socket: Socket): DatagramState | undefined {
  const key = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'state symbol')
  return key && (socket as unknown as Record<symbol, DatagramState>)[key]
}

export const DATAGRAM_READING = internal(
  'socket[Symbol(state symbol)].handle with recvStart and recvStop',
  'a dgram.Socket cannot be given to listener.serve(); use listener.borrow()',
  () => {
    const socket = nodeDgram().createSocket('udp4')
    const handle = stateOf(socket)?.handle
    const works = typeof handle?.recvStart === 'function' && typeof handle.recvStop === 'function'
    socket.close()
    return works
  },
)

/** Reports whether the application has not closed the socket. */
export function isOpenDatagramSocket(socket: Socket): boolean {
  return (stateOf(socket)?.handle ?? null) !== null
}

/** Lets the datagrams wait in the kernel, until {@link readDatagrams}. The socket can still send. */
export function leaveDatagrams(socket: Socket): void {
  stateOf(socket)?.handle?.recvStop()
}

export function readDatagrams(socket: Socket): void {
  stateOf(socket)?.handle?.recvStart()
}

/** Reports whether the socket can have addresses of this kind. */
export function isOfType(socket: Socket, type: 'udp4' | 'udp6'): boolean {
  const { type: own = type } = socket as { type?: string }
  return own === type
}
