import type { Message, SelectedRecord } from './exchange.js'
import type { Namespace, Selected, Socket } from './internals.js'

/** For a message to other processes. */
export function toRecord({ rooms, except, flags }: Selected): SelectedRecord {
  return {
    rooms: [...rooms],
    except: [...(except ?? [])],
    volatile: flags?.volatile ?? false,
    compress: flags?.compress !== false,
  }
}

export function fromRecord({ rooms, except, volatile, compress }: SelectedRecord): Selected {
  return {
    rooms: new Set(rooms),
    except: new Set(except),
    flags: { ...(volatile && { volatile }), compress },
  }
}

export function isSelected(socket: Socket, { rooms, except }: Selected): boolean {
  const has = (room: string) => socket.rooms.has(room)
  return (rooms.size === 0 || [...rooms].some(has)) && ![...(except ?? [])].some(has)
}

/** Whether the message is for one socket of this process. */
export function isOwn({ sockets }: Namespace, { rooms }: Selected): boolean {
  const [only] = rooms
  return rooms.size === 1 && sockets.has(only!)
}

export function change(socket: Socket, message: Extract<Message, { kind: 'change' }>): void {
  if (message.change === 'join') socket.join([...message.rooms])
  else if (message.change === 'disconnect') socket.disconnect(message.close)
  else for (const room of message.rooms) socket.leave(room)
}
