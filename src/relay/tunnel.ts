import { CLOSE_FRAME } from './boundaries.js'
import type { ByteStream, BytesOrText } from './byte-stream.js'
import { NO_BYTES } from './bytes.js'
import type { ExchangeFacts } from './exchange-facts.js'

interface TunnelExchange {
  readonly facts: ExchangeFacts
  readonly upstream: ByteStream | null
  /** As {@link ByteStream.write} of the client. */
  send(bytes: BytesOrText, from?: number, to?: number): void
}

/** Passes bytes both ways. Parses them only to find the boundaries of WebSocket frames. */
export class Tunnel {
  /** The relay has sent a close frame or FIN to the client, and discards further bytes of the server; after FIN also those of the client. */
  ended = false
  /** The relay sends a close frame to the client as soon as the server has completed its current frame. */
  #ending = false
  readonly #exchange: TunnelExchange

  constructor(exchange: TunnelExchange) {
    this.#exchange = exchange
  }

  /** How many of the client's next bytes need not be parsed or counted one by one. */
  get unseenFromClient(): number {
    return this.ended ? 0 : Number.POSITIVE_INFINITY
  }

  get unseenFromServer(): number {
    return this.ended || this.#exchange.facts.frames !== null ? 0 : Number.POSITIVE_INFINITY
  }

  fromClient(chunk: Buffer, to: number): void {
    const { facts, upstream } = this.#exchange
    if (this.ended && facts.frames === null) return
    facts.bytesReceived += to
    upstream!.write(chunk, 0, to)
  }

  fromServer(chunk: Buffer, to: number): void {
    if (this.ended) return
    const exchange = this.#exchange
    const { frames } = exchange.facts
    if (!this.#ending) {
      frames?.follow(chunk, 0, to)
      exchange.send(chunk, 0, to)
      return
    }
    const end = frames!.between ? 0 : frames!.followFrame(chunk, 0, to)
    if (end > 0) exchange.send(chunk, 0, end)
    if (frames!.between) {
      exchange.send(CLOSE_FRAME)
      this.ended = true
    } else if (end < to) exchange.send(chunk, end, to)
  }

  /** Sends the client of a WebSocket a close frame after the server's current frame. In other tunnels, and after the server's own close frame, sends FIN both ways. */
  end(client: ByteStream): void {
    const { facts, upstream } = this.#exchange
    if (facts.frames === null || facts.frames.ended) {
      this.ended = true
      client.end()
      upstream?.end()
    } else {
      this.#ending = true
      this.fromServer(NO_BYTES, 0)
    }
  }
}
