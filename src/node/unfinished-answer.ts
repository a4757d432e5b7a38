import type http from 'node:http'
import net from 'node:net'
import { nodeHttp } from '../base/lazy.js'
import { isHeld } from './held-writes.js'
import { connectionListener, lastRequestOf, parserOf, responseOf } from './http-connections.js'
import { internal } from './internal.js'
import { observe } from './observed-events.js'

/** An answer whose head was sent and that has not ended, with its request, which was read completely. */
export interface AnswerFacts {
  readonly method: string
  readonly url: string
  readonly httpVersion: string
  /** Names and values of the request, one after the other. */
  readonly requestHeaders: string[]
  readonly status: number
  readonly statusText: string
  /** Names and values that `getHeader()` returns, one after the other; a list is repeated. */
  readonly headers: string[]
  /** The head as it was sent. */
  readonly head: string
  readonly chunked: boolean
  readonly hasBody: boolean
  /** The connection ends with the answer. */
  readonly last: boolean
  readonly trailer: string
  /** The length that the head announces. */
  readonly length: number | null
  /** How much of it was written, which Node counts with `strictContentLength`; else null. */
  readonly written: number | null
}

/** The private side of a response. */
interface ResponseInside {
  _header: string | null
  _headerSent: boolean
  _last: boolean
  _hasBody: boolean
  _trailer: string
  _contentLength: number | null
  chunkedEncoding: boolean
  outputData: readonly unknown[]
  /** Names as the application has written them. Not in the types of Node. */
  getRawHeaderNames(): string[]
  [symbol: symbol]: number
}

interface HeaderLines {
  _addHeaderLines(lines: readonly string[], count: number): void
}

const REQUEST = Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
const WRITTEN = 'kBytesWritten'
const CORKS = 'corked'

function insideOf(response: http.ServerResponse): ResponseInside {
  return response as unknown as ResponseInside
}

function writtenKey(response: http.ServerResponse): symbol {
  return keyOf(response, WRITTEN)
}

function corksKey(response: http.ServerResponse): symbol {
  return keyOf(response, CORKS)
}

function keyOf(response: http.ServerResponse, name: string): symbol {
  return Object.getOwnPropertySymbols(response).find(({ description }) => description === name)!
}

/** Reports whether the head of the answer was sent, the answer has not ended, and everything that was written to it has been given to its socket. */
export function isUnfinished(response: http.ServerResponse): boolean {
  const { _headerSent, outputData } = insideOf(response)
  if (!_headerSent || response.writableEnded || response.destroyed) return false
  return outputData.length === 0 && ownCorks(response) === 0
}

/**
 * Returns how often the program has corked the response, which then may keep chunks. On Node 20 a response counts the corks of its socket, later ones only its own: one that is
 * held counts only there.
 */
export function ownCorks(response: http.ServerResponse): number {
  const { socket, writableCorked } = response
  const held = socket !== null && isHeld(socket) ? 1 : 0
  return Math.max(insideOf(response)[corksKey(response)] ?? writableCorked, writableCorked - held)
}

/** Reports whether the request was read completely, and none after it. */
export function isOnlyRequest(socket: net.Socket, { req }: http.ServerResponse): boolean {
  return req.complete && lastRequestOf(socket) === req
}

/** Returns a header of a head that was sent, also one that `writeHead()` got and `getHeader()` does not know; else null. `name`: in lower case. */
export function sentHeader(response: http.ServerResponse, name: string): string | null {
  const { _header: head, _headerSent: sent } = insideOf(response)
  if (!sent || head === null) return null
  return new RegExp(`^${name}: *(.*?)\\r?$`, 'im').exec(head)?.[1] ?? null
}

export function answerFacts(response: http.ServerResponse): AnswerFacts {
  const { req } = response
  const inside = insideOf(response)
  const headers = inside.getRawHeaderNames().flatMap(name => {
    const value = response.getHeader(name)
    return (Array.isArray(value) ? value : [value]).flatMap(each => [name, String(each)])
  })
  return {
    method: req.method ?? 'GET',
    url: req.url ?? '',
    httpVersion: req.httpVersion,
    requestHeaders: [...req.rawHeaders],
    status: response.statusCode,
    statusText: response.statusMessage ?? '',
    headers,
    head: inside._header ?? '',
    chunked: inside.chunkedEncoding,
    hasBody: inside._hasBody,
    last: inside._last,
    trailer: inside._trailer,
    length: inside._contentLength,
    written: response.strictContentLength ? inside[writtenKey(response)]! : null,
  }
}

/**
 * Makes the server answer on a new connection where another process has left off. The server must have got the socket by 'connection'. Writes to the
 * response wait until {@link attachAnswer}. The server emits no 'request'.
 */
export function rebuiltAnswer(socket: net.Socket, facts: AnswerFacts): http.ServerResponse {
  const { server } = socket as unknown as { server: http.Server }
  let rebuilt: http.ServerResponse | undefined
  const stop = observe(server, {
    request: (_request: http.IncomingMessage, response: http.ServerResponse) => {
      response.detachSocket(socket)
      setFacts(response, facts)
      rebuilt = response
      // The program has had this request.
      return false
    },
  })
  try {
    parserOf(socket)!.execute(REQUEST)
  } finally {
    stop()
  }
  return rebuilt!
}

function setFacts(response: http.ServerResponse, facts: AnswerFacts): void {
  const { req } = response
  const [major = 1, minor = 1] = facts.httpVersion.split('.').map(Number)
  const { method, url, httpVersion, requestHeaders } = facts
  Object.assign(req, {
    method,
    url,
    httpVersion,
    httpVersionMajor: major,
    httpVersionMinor: minor,
    headers: {},
  })
  ;(req as unknown as HeaderLines)._addHeaderLines([...requestHeaders], requestHeaders.length)
  response.statusCode = facts.status
  response.statusMessage = facts.statusText
  for (const [name, values] of headersByName(facts.headers)) response.setHeader(name, values)
  const inside = insideOf(response)
  inside._header = facts.head
  inside._headerSent = true
  inside._last = facts.last
  inside._hasBody = facts.hasBody
  inside._trailer = facts.trailer
  inside._contentLength = facts.length
  inside.chunkedEncoding = facts.chunked
  response.shouldKeepAlive = !facts.last
  if (facts.written === null) return
  response.strictContentLength = true
  inside[writtenKey(response)] = facts.written
}

function headersByName(headers: readonly string[]): Map<string, string | string[]> {
  const byName = new Map<string, string | string[]>()
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const [name, value] = [headers[i]!, headers[i + 1]!]
    const before = byName.get(name)
    byName.set(name, before === undefined ? value : [before, value].flat())
  }
  return byName
}

/** Sends what was written to a {@link rebuiltAnswer}, and all that follows. `unsent`: the bytes of the process before, which precede. */
export function attachAnswer(response: http.ServerResponse, socket: net.Socket, unsent: Uint8Array): void {
  if (unsent.length > 0) socket.write(unsent)
  response.assignSocket(socket)
}

/** Forgets what was written to a {@link rebuiltAnswer}, so that the caller can end the socket here without a trace on the connection. */
export function discardAnswer(response: http.ServerResponse, socket: net.Socket): void {
  insideOf(response).outputData = []
  response.assignSocket(socket)
}

export const UNFINISHED_ANSWER = internal(
  'ServerResponse with _header, _headerSent, _last, _hasBody, _trailer, _contentLength and outputData, and socket.parser.execute()',
  'answers that are being streamed do not move, they drain',
  () => tryAnswer(false) && tryAnswer(true),
)

/** Reports whether an answer goes on after a move. `strict`: one with a length that Node checks; else in chunks. */
function tryAnswer(strict: boolean): boolean {
  const before = new AnswerSample()
  const after = new AnswerSample()
  try {
    const response = before.ask('GET /u HTTP/1.1\r\nHost: h\r\nCookie: a=1\r\ncookie: b=2\r\n\r\n')
    response.setHeader('X-List', ['1', '2'])
    if (strict) {
      response.setHeader('Content-Length', 6)
      response.strictContentLength = true
    }
    response.flushHeaders()
    const sentHead = before.sent
    if (strict) response.write('one')
    if (!isOnlyRequest(before.socket, response)) return false
    const facts = answerFacts(response)
    const rebuilt = rebuiltAnswer(after.connected, facts)
    rebuilt.write('two')
    if (after.sent.length > 0 || !isOnlyRequest(after.socket, rebuilt)) return false
    attachAnswer(rebuilt, after.socket, Buffer.from('|'))
    rebuilt.end()
    const { url, headers } = rebuilt.req
    const asBefore = url === '/u' && headers.cookie === 'a=1; b=2' && headers.host === 'h'
    const wanted = strict ? '|two' : '|3\r\ntwo\r\n0\r\n\r\n'
    const head = facts.head.endsWith('\r\n\r\n') && sentHead === facts.head
    return asBefore && head && !after.asked && after.sent === wanted && responseOf(after.socket) === rebuilt
  } finally {
    before.end()
    after.end()
  }
}

/** A server with one connection, whose bytes are collected. */
class AnswerSample {
  readonly #server = new (nodeHttp().Server)()
  readonly socket = new net.Socket()
  sent = ''
  asked = false
  #response: http.ServerResponse | undefined

  constructor() {
    const write = (chunk: Uint8Array | string) => {
      this.sent += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('latin1')
      return true
    }
    Object.defineProperty(this.socket, 'write', { value: write })
    this.#server.on('request', (_request, response) => {
      this.asked = true
      this.#response = response
    })
    this.#server.emit('listening')
  }

  get connected(): net.Socket {
    if (parserOf(this.socket) === null) connectionListener().call(this.#server, this.socket)
    return this.socket
  }

  ask(request: string): http.ServerResponse {
    parserOf(this.connected)!.execute(Buffer.from(request))
    return this.#response!
  }

  end(): void {
    this.socket.destroy()
    // Stops the server's timer.
    this.#server.close(() => {})
  }
}
