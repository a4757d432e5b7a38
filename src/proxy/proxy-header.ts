import type { Socket } from 'node:net'
import { afterReading } from '../base/after-reading.js'
import { setPassedOn } from '../node/socket-handle.js'
import { readProxyHeader } from '../relay/index.js'

const ignore = () => {}

/** The connections of one listener on which a header of the PROXY protocol is being read. */
export class ProxyHeaders {
  /** Each with what ends the reading. */
  readonly #waiting = new Map<Socket, () => void>()

  get size(): number {
    return this.#waiting.size
  }

  cut(): void {
    for (const [socket, leave] of [...this.#waiting]) {
      leave()
      socket.on('error', ignore).destroy()
    }
  }

  /**
   * Reads the header from a socket of which nothing was read, and gives the socket its addresses. Calls `done` with the bytes behind the header. Closes the
   * socket if there is no header within `timeoutMs`, and calls `failed` with the reason; null: the client has sent nothing.
   */
  read(
    socket: Socket,
    timeoutMs: number,
    done: (early: Buffer) => void,
    failed: (why: string | null) => void,
  ): void {
    let received = Buffer.alloc(0)
    const leave = () => {
      this.#waiting.delete(socket)
      timer.clear()
      socket.off('readable', onReadable).off('end', onEnd).off('close', onEnd).off('error', ignore)
    }
    const fail = (why: string) => {
      leave()
      socket.on('error', ignore).destroy()
      failed(why)
    }
    const onReadable = () => {
      for (let chunk = socket.read(); chunk !== null; chunk = socket.read())
        received = Buffer.concat([received, chunk])
      const header = readProxyHeader(received)
      if (header === null) return
      if (typeof header === 'string') {
        fail(header)
        return
      }
      leave()
      if (header.addresses !== null) setPassedOn(socket, header.addresses)
      // Nothing is read before the next owner of the socket has it: `done` is synchronous.
      done(received.subarray(header.length))
    }
    const onEnd = () => {
      leave()
      socket.on('error', ignore).destroy()
      // A check of the port, as load balancers make it.
      failed(received.length > 0 ? 'the connection ended within the header' : null)
    }
    const timer = afterReading(timeoutMs, () => fail('no header came in time'))
    this.#waiting.set(socket, leave)
    socket.on('readable', onReadable).on('end', onEnd).on('close', onEnd).on('error', ignore)
  }
}
