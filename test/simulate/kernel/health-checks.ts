import { EventEmitter } from 'node:events'
import { at } from '../world.js'
import { closeFd, connectTcpNow } from './addon.js'
import type { SimulatedPoll, Stream } from './objects.js'

/** `net.connect()` and `http.get()` as health checks call them: a request of four bytes, whose answer is the status in four bytes. */

export const STATUS_BYTES = 4
const READABLE = 1

interface CheckOptions {
  readonly host: string
  readonly port: number
  readonly signal: AbortSignal
}

/** A connection that ends when the signal aborts. */
class CheckSocket extends EventEmitter {
  #fd = -1
  #poll: SimulatedPoll | null = null
  readonly #signal: AbortSignal
  readonly #abort = () => this.#fail(this.#signal.reason)
  #isOver = false

  constructor({ host, port, signal }: CheckOptions) {
    super()
    this.#signal = signal
    const { p } = at
    try {
      signal.throwIfAborted()
      this.#fd = connectTcpNow(host, port)
      signal.addEventListener('abort', this.#abort, { once: true })
      p.setImmediate(() => {
        if (!this.#isOver) this.emit('connect')
      })
    } catch (error) {
      this.#fail(error)
    }
  }

  destroy(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#signal.removeEventListener('abort', this.#abort)
    if (this.#fd === -1) return
    if (this.#poll !== null) {
      at.p.polls.delete(this.#poll)
      this.#poll.open.polls.delete(this.#poll)
    }
    closeFd(this.#fd)
  }

  /** Sends a request, and calls `answered` with the status. */
  ask(answered: (status: number) => void): void {
    const { p } = at
    const open = p.fds.get(this.#fd) as Stream
    let got = Buffer.alloc(0)
    const read = () => {
      const first = open.received.shift()
      if (first === undefined) {
        this.#fail(Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' }))
        return
      }
      open.receivedBytes -= first.bytes.length
      got = Buffer.concat([got, first.bytes])
      if (got.length < STATUS_BYTES) return
      this.destroy()
      answered(got.readUInt32BE(0))
    }
    this.#poll = { process: p, open, events: READABLE, isHeld: true, callback: read }
    p.polls.add(this.#poll)
    open.polls.add(this.#poll)
    if (open.peer === null) return
    open.peer.received.push({ bytes: Buffer.alloc(STATUS_BYTES), fds: null })
    open.peer.receivedBytes += STATUS_BYTES
    open.peer.wake()
  }

  #fail(error: unknown): void {
    if (this.#isOver) return
    this.destroy()
    at.p.setImmediate(() => this.emit('error', error))
  }
}

export function connect(options: CheckOptions): CheckSocket {
  return new CheckSocket(options)
}

export function httpGet(
  url: string,
  { signal }: { signal: AbortSignal },
  then: (answer: EventEmitter) => void,
): CheckSocket {
  const { hostname: host, port } = new URL(url)
  const socket = new CheckSocket({ host, port: Number(port), signal })
  socket.once('connect', () =>
    socket.ask(statusCode => {
      const answer = Object.assign(new EventEmitter(), { statusCode, statusMessage: '', resume() {} })
      at.p.setImmediate(() => answer.emit('end'))
      then(answer)
    }),
  )
  return socket
}
