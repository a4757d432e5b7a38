import type dgram from 'node:dgram'
import { channel } from 'node:diagnostics_channel'
import { sayOnce } from './say.js'

type Bind = (...args: unknown[]) => dgram.Socket

/** UDP sockets are left as they are: this says so of one with a port of its own, which the next version could not bind. */
export function tellOfUdp(): void {
  channel('udp.socket').subscribe(message => {
    const { socket } = message as { readonly socket: dgram.Socket }
    const bind = socket.bind as Bind
    const told: Bind = (...args) => {
      const port = portOf(args[0])
      if (port > 0)
        sayOnce(
          `the UDP port ${port} is left as it is: a next version can bind it only if both have the option "reuseAddr"`,
        )
      return Reflect.apply(bind, socket, args)
    }
    Object.defineProperty(socket, 'bind', { configurable: true, writable: true, value: told })
  })
}

/** 0: the kernel chooses one, or it is a descriptor. */
function portOf(first: unknown): number {
  const port =
    typeof first === 'object' && first !== null ? (first as { readonly port?: unknown }).port : first
  return Math.max(Number(port) || 0, 0)
}
