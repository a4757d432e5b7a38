import { connect, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'
import { until } from './until.js'

export const DATA = 0
export const HEADERS = 1
export const PRIORITY = 2
export const RST_STREAM = 3
export const SETTINGS = 4
export const PING = 6
export const GOAWAY = 7
export const WINDOW_UPDATE = 8
export const CONTINUATION = 9

export const END_STREAM = 1
export const ACK = 1
export const END_HEADERS = 4

export interface Frame {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: Buffer
}

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)) {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** The preface and the client's first SETTINGS. */
export function preface(settings: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(SETTINGS, 0, 0, settings)])
}

/** A length of HPACK with a prefix of 7 bits, without Huffman coding. */
function lengthOf(text: string): Buffer {
  let left = text.length
  if (left < 127) return Buffer.from([left])
  const bytes = [127]
  for (left -= 127; left >= 128; left >>= 7) bytes.push((left & 127) | 128)
  return Buffer.from([...bytes, left])
}

const literal = (text: string) => Buffer.concat([lengthOf(text), Buffer.from(text, 'latin1')])

/** A field of a head that HPACK does not index, or with `indexed` the first one of its dynamic table. */
export function field(name: string, value: string, indexed = false): Buffer {
  return Buffer.concat([Buffer.from([indexed ? 0x40 : 0]), literal(name), literal(value)])
}

/** The fields with a colon, by http. */
export function request(path: string, method = 'GET'): Buffer {
  return Buffer.concat([
    field(':method', method),
    field(':scheme', 'http'),
    field(':authority', 'a'),
    field(':path', path),
  ])
}

/** A client that sends HTTP/2 frames of its own, and answers nothing by itself. */
export class FrameClient {
  readonly socket: Socket
  readonly frames: Frame[] = []
  closed = false
  #rest = Buffer.alloc(0)

  constructor(port: number, first: Buffer = preface()) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true })
    onTestFinished(() => void this.socket.destroy())
    this.socket.on('error', () => {}).on('close', () => (this.closed = true))
    this.socket.on('data', chunk => this.#read(chunk))
    if (first.length > 0) this.socket.write(first)
  }

  send(...frames: readonly Buffer[]): void {
    if (this.socket.writable) this.socket.write(Buffer.concat(frames))
  }

  /** The frames of a type; `stream`: of this stream. */
  of(type: number, stream?: number): Frame[] {
    return this.frames.filter(each => each.type === type && (stream === undefined || each.stream === stream))
  }

  /** The last stream and the code of each GOAWAY. */
  get goaways(): { readonly last: number; readonly code: number }[] {
    return this.of(GOAWAY).map(({ payload }) => ({
      last: payload.readUInt32BE(0),
      code: payload.readUInt32BE(4),
    }))
  }

  async until(what: string, holds: () => unknown, ms = 10_000): Promise<void> {
    await until(what, holds, ms, () => JSON.stringify(this.frames.slice(-20)))
  }

  #read(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk])
    while (this.#rest.length >= 9) {
      const end = 9 + this.#rest.readUIntBE(0, 3)
      if (this.#rest.length < end) return
      const [type = 0, flags = 0] = this.#rest.subarray(3, 5)
      const stream = this.#rest.readUInt32BE(5)
      this.frames.push({ type, flags, stream, payload: Buffer.from(this.#rest.subarray(9, end)) })
      this.#rest = this.#rest.subarray(end)
    }
  }
}
