import type * as Http1 from '../../src/http1/index.js'
import type { Input, Message, Transcript } from './transcript.js'

/** The module under test: the real one, or one with a defect. */
export type Implementation = typeof Http1

type Body = ReturnType<Implementation['Framing']['chunked']>

/** The buffer into which a relay reads. */
const MEMORY = Buffer.allocUnsafeSlow(64 * 1024)

/** Reads a stream that arrives in pieces cut at `cuts`, as a relay does. */
export function readWithOurs(http1: Implementation, input: Input, cuts: readonly number[] = []): Transcript {
  const stream = new Stream(http1, input)
  const bytes = Buffer.from(input.text, 'latin1')
  const bounds = [0, ...new Set(cuts.filter(cut => cut > 0 && cut < bytes.length))].sort((a, b) => a - b)
  for (const [i, from] of bounds.entries()) {
    // Wiped afterwards: nothing may be kept by reference, nor read behind its end, where the line would seem to end.
    const to = bounds[i + 1] ?? bytes.length
    const piece = to - from > MEMORY.length ? Buffer.alloc(to - from) : MEMORY
    bytes.copy(piece, 0, from, to)
    stream.take(piece, to - from)
    piece.fill('\r\n', 0, to - from)
  }
  return stream.end()
}

class Stream {
  readonly #http1: Implementation
  readonly #input: Input
  readonly #requests: InstanceType<Implementation['RequestReader']>
  readonly #responses: InstanceType<Implementation['ResponseReader']>
  readonly #transcript: Transcript = { messages: [], verdict: 'complete' }
  #message: Message | null = null
  #body: Body | null = null
  /** Where in the stream the head, or the piece being read, begins. */
  #headStart = 0
  #pieceStart = 0
  #syntax = ''
  #stopped = false

  constructor(http1: Implementation, input: Input) {
    this.#http1 = http1
    this.#input = input
    this.#requests = new http1.RequestReader()
    this.#responses = new http1.ResponseReader()
  }

  take(piece: Buffer, to: number): void {
    let at = 0
    while (at < to && !this.#stopped) {
      try {
        at = this.#body === null ? this.#takeHead(piece, at, to) : this.#takeBody(piece, at, to, this.#body)
      } catch (error) {
        if (!(error instanceof this.#http1.Http1Refusal)) throw error
        const base = this.#body === null ? this.#headStart : this.#pieceStart
        Object.assign(this.#transcript, {
          verdict: 'refused',
          reason: error.reason,
          offset: base + error.offset,
        })
        this.#stopped = true
      }
    }
    this.#pieceStart += to
  }

  end(): Transcript {
    const transcript = this.#transcript
    transcript.open = this.#message
    transcript.headStart = this.#headStart
    if (this.#stopped) return transcript
    if (this.#body?.mayEnd) {
      this.#close(this.#message!, this.#body)
      transcript.open = null
    }
    const pending = this.#input.side === 'request' ? this.#requests.pending : this.#responses.pending
    const empty = this.#input.side === 'request' && '\r\n'.startsWith(pending.toString('latin1'))
    if (this.#body !== null || (pending.length > 0 && !empty)) transcript.verdict = 'incomplete'
    return transcript
  }

  #takeHead(piece: Buffer, at: number, to: number): number {
    const request = this.#input.side === 'request'
    const reader = request ? this.#requests : this.#responses
    const head = reader.read(piece, at, to)
    at += reader.consumed
    if (head === null) return at
    const asked = { method: this.#input.method, upgrade: true }
    const body = 'method' in head ? head.framing() : head.framing(asked)
    this.#headStart = this.#pieceStart + at
    this.#body = body
    this.#syntax = ''
    this.#message = {
      start: 'method' in head ? `${head.method} ${head.target}` : `${head.status} ${head.reason}`,
      minor: head.minor,
      fields: [...head.fields].map(([name, value]) => `${name}: ${value}`),
      // As Node counts: a body that ends with the connection keeps nothing alive.
      keepAlive: head.keepAlive && body.kind !== 'until-close',
      tunnel:
        body.kind === 'tunnel' ||
        ('method' in head && (head.method === 'CONNECT' || head.upgrade !== undefined)),
      body: '',
      trailers: [],
    }
    if (body.done || body.kind === 'tunnel') this.#close(this.#message, body)
    return at
  }

  #takeBody(piece: Buffer, at: number, to: number, body: Body): number {
    const { taken, content } = this.#http1.takeContent(body, piece, at, to)
    this.#message!.body += Buffer.concat(content).toString('latin1')
    this.#syntax += piece.toString('latin1', at, at + taken)
    if (body.done) {
      this.#headStart = this.#pieceStart + at + taken
      this.#close(this.#message!, body)
    }
    return at + taken
  }

  #close(message: Message, body: Body): void {
    if (body.kind === 'chunked') message.trailers = trailers(this.#syntax)
    this.#transcript.messages.push(message)
    this.#message = null
    this.#body = null
    if (!message.tunnel && message.keepAlive) return
    this.#transcript.left = message.tunnel ? 'tunnel' : 'closing'
    this.#stopped = true
  }
}

/** The trailer lines of a chunked body that our tracker found to be right: all lines behind the last chunk. */
function trailers(syntax: string): string[] {
  const lines = syntax.slice(0, -4).split('\r\n')
  const found: string[] = []
  for (let line = lines.pop(); line !== undefined && /^[^:;]+:/.test(line); line = lines.pop()) {
    const colon = line.indexOf(':')
    found.unshift(`${line.slice(0, colon)}: ${line.slice(colon + 1).replace(/^[ \t]+|[ \t]+$/g, '')}`)
  }
  return found
}
