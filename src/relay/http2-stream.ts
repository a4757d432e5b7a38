import type { ServerHttp2Stream } from 'node:http2'
import type { LentFd } from '../adapter.js'
import { encodeChunk, type Framing, type ResponseHead, ResponseReader, takeContent } from '../http1/index.js'
import { resetHttp2Stream } from '../node/http2-endings.js'
import type { ByteStream, BytesOrText, DetachedStream, StreamOwner } from './byte-stream.js'
import { NO_BYTES, toBuffer } from './bytes.js'
import { lastChunk, type RequestText } from './http2-request.js'
import { responseFields, sendFields, trailersOf } from './http2-response.js'

/** The arguments of the event `trailers`; the types of Node lack the last one. */
type TrailersEvent = [trailers: object, flags: number, raw: string[]]

const NO_ERROR = 0
const PROTOCOL_ERROR = 1
const INTERNAL_ERROR = 2
const CANCEL = 8
/** More than a head of a server with what the relay adds: it has checked the head. */
const HEAD_LIMITS = { headBytes: 2 * 1024 * 1024, fields: 2_000 }
/** A stream has none (RFC 8441, 5). */
const ACCEPT = 'sec-websocket-accept'
/** Each head comes in one piece, so all streams share a reader. Null before the first response. */
const reader: { shared: ResponseReader | null } = { shared: null }

/** The connection of a stream. */
export interface StreamSession {
  readonly remoteAddress: string
  readonly remotePort: number
  readonly secure: boolean
  readonly descriptor: LentFd
  /** The client has reset a stream before its response was complete. */
  aborted(): void
  /** A stream is cut off because its client makes no progress. */
  stalled(): void
  fault(error: unknown): void
  /** The {@link RelayConnection} of a stream has ended. */
  forget(connection: object): void
}

/**
 * One stream of an HTTP/2 connection as a connection with one request of HTTP/1.1: the owner gets the body as HTTP/1.1 would carry it, and what the owner
 * writes, a response of HTTP/1.1, becomes frames.
 */
export class Http2Stream implements ByteStream {
  owner: StreamOwner | null = null
  since = 0
  readonly connecting = false
  readonly movable = false
  readonly stays = null
  readonly reusable = false
  readonly untouched = false
  readonly untouchedNow = false
  bytesRead = 0
  bytesWritten = 0
  readonly #stream: ServerHttp2Stream
  readonly session: StreamSession
  readonly #request: RequestText
  /** The body of the response. Null before its head. */
  #body: Framing | null = null
  /** The bytes after the last content, see {@link trailersOf}; null: the response has no trailers. */
  #tail: string | null = null
  /** The owner has written the whole response. */
  #complete = false
  #ended = false
  /** This process has reset the stream. */
  #isReset = false
  /** Node has taken more than it can send. */
  #full = false
  /** Bytes of the body that were given to Node. */
  #given = 0
  #trailers: readonly string[] = []
  #late = false
  #closed = false

  /** `hasBody`: the client has not ended the request with its head. */
  constructor(stream: ServerHttp2Stream, session: StreamSession, request: RequestText, hasBody: boolean) {
    this.#stream = stream
    this.session = session
    this.#request = request
    stream.on('close', () => this.#onClosed())
    if (!hasBody) return
    stream.on('trailers', (...[, , raw]: TrailersEvent) => {
      this.#trailers = raw
    })
    stream.on('data', (chunk: Buffer) => this.#onContent(chunk))
    stream.on('end', () => this.#onRequestEnd())
  }

  get secure(): boolean {
    return this.session.secure
  }

  get remoteAddress(): string {
    return this.session.remoteAddress
  }

  get remotePort(): number {
    return this.session.remotePort
  }

  /** The descriptor of the whole connection. */
  get descriptor(): LentFd {
    return this.session.descriptor
  }

  get alive(): boolean {
    return !this.#closed && !this.#stream.destroyed
  }

  /** After the response until all of it is sent. */
  get congested(): boolean {
    return this.#ended ? this.alive : this.#full
  }

  get unsentBytes(): number {
    return this.#stream.writableLength
  }

  get webSocketAccept(): string | null {
    return this.#request.accept
  }

  /** See {@link ByteStream.acked}. */
  get acked(): number {
    return this.#given - this.#stream.writableLength
  }

  write(
    bytes: BytesOrText,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NO_BYTES,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    if (this.#ended || this.#complete || this.#stream.closed || !this.alive) return
    this.bytesWritten += to - from + moreTo - moreFrom
    try {
      this.#send(toBuffer(bytes), from, to)
      this.#send(more, moreFrom, moreTo)
    } catch (error) {
      this.session.fault(error)
      this.#refuse(INTERNAL_ERROR)
    }
  }

  setReading(on: boolean): void {
    if (on) {
      if (this.#stream.isPaused()) this.#stream.resume()
    } else if (this.#stream.readableFlowing) this.#stream.pause()
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    if (this.#body?.kind === 'tunnel') this.#stream.end()
    else if (!this.#complete) this.#cut()
    // The client need not send the rest of its request (RFC 9113, 8.1).
    else if (!this.#stream.readableEnded && this.#stream.readableFlowing !== null) this.#refuse(NO_ERROR)
  }

  setLate(late: boolean): void {
    this.#late = late
  }

  destroy(): void {
    this.reset()
  }

  reset(): void {
    this.owner = null
    if (!this.#closed) this.#cut()
  }

  takeUnsent(): Buffer[] {
    return []
  }

  mayMove(): boolean {
    return false
  }

  detach(): DetachedStream {
    throw new Error('a stream of HTTP/2 does not move')
  }

  #cut(): void {
    // Only after a time limit: the client is not to blame for a server that dies.
    const stalls = this.#late && (this.#full || (this.#ended && this.#stream.writableLength > 0))
    if (stalls) this.session.stalled()
    this.#refuse(stalls ? CANCEL : INTERNAL_ERROR)
  }

  #refuse(code: number): void {
    this.#isReset = true
    if (this.#complete) this.#stream.close(code)
    else resetHttp2Stream(this.#stream, code)
  }

  #send(chunk: Buffer, at: number, to: number): void {
    while (at < to && !this.#complete) {
      const end =
        this.#body === null ? this.#sendHead(chunk, at, to) : this.#sendBody(this.#body, chunk, at, to)
      if (end === at) return
      at = end
    }
  }

  #sendHead(chunk: Buffer, at: number, to: number): number {
    reader.shared ??= new ResponseReader(HEAD_LIMITS)
    const head = reader.shared.read(chunk, at, to)
    if (head === null) {
      reader.shared = null
      throw new Error('the head of a response came in pieces')
    }
    const end = at + reader.shared.consumed
    if (head.interim) sendFields(responseFields(head), fields => this.#stream.additionalHeaders(fields))
    else this.#respond(head)
    return end
  }

  #respond(head: ResponseHead): void {
    const { method, accept } = this.#request
    const body = head.framing({ method, upgrade: accept !== null })
    this.#body = body
    if (accept !== null && head.status < 300) {
      this.#openWebSocket(head)
      return
    }
    const hasTrailers =
      body.kind === 'chunked' && (this.#request.takesTrailers || head.fields.get('trailer') !== undefined)
    if (hasTrailers) this.#tail = ''
    const options = { endStream: body.done, waitForTrailers: hasTrailers }
    sendFields(responseFields(head), fields => this.#stream.respond(fields, options))
    if (hasTrailers) this.#stream.on('wantTrailers', () => this.#sendTrailers())
    this.#complete = body.done
  }

  /** A 200 tells a client that its WebSocket is open: the owner has compared the head with {@link webSocketAccept}. */
  #openWebSocket(head: ResponseHead): void {
    if (head.status !== 101) throw new Error(`a response with status ${head.status} opens no WebSocket`)
    const fields = responseFields(head)
    fields[':status'] = 200
    delete fields[ACCEPT]
    sendFields(fields, all => this.#stream.respond(all))
  }

  #sendBody(body: Framing, chunk: Buffer, at: number, to: number): number {
    const { taken, content } = takeContent(body, chunk, at, to)
    const end = at + taken
    if (this.#tail !== null) {
      const last = content.at(-1)
      const from = last === undefined ? at : last.byteOffset + last.length - chunk.byteOffset
      this.#tail = (last === undefined ? this.#tail : '') + chunk.toString('latin1', from, end)
    }
    // A copy: the owner reuses its buffer.
    const bytes = Buffer.concat(content)
    this.#given += bytes.length
    this.#complete = body.done
    if (bytes.length > 0 && !this.#complete) this.#write(bytes)
    else if (bytes.length > 0) this.#stream.end(bytes)
    else if (this.#complete) this.#stream.end()
    return end
  }

  #write(bytes: Buffer): void {
    if (this.#stream.write(bytes) || this.#full) return
    this.#full = true
    this.#stream.once('drain', () => this.#onDrained())
  }

  #sendTrailers(): void {
    if (!this.alive) return
    try {
      sendFields(trailersOf(this.#tail ?? ''), trailers => this.#stream.sendTrailers(trailers))
    } catch (error) {
      this.session.fault(error)
      this.#refuse(INTERNAL_ERROR)
    }
  }

  #onContent(chunk: Buffer): void {
    this.bytesRead += chunk.length
    const bytes = this.#request.chunked ? Buffer.concat(encodeChunk(chunk)) : chunk
    if (bytes.length > 0) this.owner?.onData(this, bytes, bytes.length)
  }

  #onRequestEnd(): void {
    // A stream that was reset ends too.
    if (this.#stream.rstCode !== NO_ERROR || this.#stream.aborted) return
    if (this.#request.method === 'CONNECT' || this.#request.accept !== null) this.owner?.onEnd(this)
    if (!this.#request.chunked) return
    const text = lastChunk(this.#trailers)
    if (text === null) this.#refuse(PROTOCOL_ERROR)
    else this.owner?.onData(this, Buffer.from(text, 'latin1'), text.length)
  }

  #onDrained(): void {
    this.#full = false
    this.owner?.onDrain(this)
  }

  #onClosed(): void {
    if (this.#closed) return
    this.#closed = true
    const { owner } = this
    this.owner = null
    const { rstCode } = this.#stream
    if (this.#stream.aborted && !this.#isReset) this.session.aborted()
    const error = rstCode === NO_ERROR ? null : new Error(`the client has reset the stream (${rstCode})`)
    owner?.onClose(this, error)
  }
}
