import { closeFrame } from './boundaries.js'
import type { ByteStream, Bytes } from './byte-stream.js'
import { NOTHING } from './bytes.js'
import type { ExchangeFacts } from './exchange-facts.js'

/** Status of a close frame (RFC 6455, 7.4.1). */
const GOING_AWAY = 1001

/** The exchange of which a tunnel came, or that is one. */
export interface Tunnelled {
  readonly facts: ExchangeFacts
  readonly upstream: ByteStream | null
  send(bytes: Bytes, from?: number, to?: number): void
}

/** Bytes go both ways unread, but for where the frames of a WebSocket end. */
export class Tunnel {
  /** The end has been told: what the server still sends is thrown away, and where there are no frames the client's too. */
  over = false
  /** The end is to come between two frames, with this one. */
  #lastFrame: Buffer | null = null
  readonly #exchange: Tunnelled

  constructor(exchange: Tunnelled) {
    this.#exchange = exchange
  }

  fromClient(chunk: Buffer, to: number): void {
    const { facts, upstream } = this.#exchange
    if (this.over && facts.frames === null) return
    facts.bytesReceived += to
    upstream!.write(chunk, 0, to)
  }

  fromServer(chunk: Buffer, to: number): void {
    if (this.over) return
    const exchange = this.#exchange
    const { frames } = exchange.facts
    if (this.#lastFrame === null) {
      frames?.follow(chunk, 0, to)
      exchange.send(chunk, 0, to)
      return
    }
    const end = frames!.between ? 0 : frames!.followFrame(chunk, 0, to)
    if (end > 0) exchange.send(chunk, 0, end)
    if (frames!.between) {
      exchange.send(this.#lastFrame)
      this.over = true
    } else if (end < to) exchange.send(chunk, end, to)
  }

  /** Brings about the end that the protocol has, as soon as there is a place for it: a close frame, or FIN both ways. */
  end(client: ByteStream): void {
    const { facts, upstream } = this.#exchange
    if (facts.frames === null || facts.frames.over) {
      this.over = true
      client.end()
      upstream?.end()
    } else {
      this.#lastFrame = closeFrame(GOING_AWAY, 'the server is being replaced')
      this.fromServer(NOTHING, 0)
    }
  }
}
