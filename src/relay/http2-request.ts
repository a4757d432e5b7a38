import { nodeCrypto } from '../base/lazy.js'

/** A request of HTTP/2 as the text of a request of HTTP/1.1, by which the relay checks, routes and sends it like any other. */
export interface RequestText {
  readonly method: string
  /** The whole head. Each character is one byte (latin1). */
  readonly text: string
  /** The body needs chunks, because the client has not told its length. */
  readonly chunked: boolean
  /** The client takes trailers. */
  readonly takesTrailers: boolean
  /** The request opens a WebSocket (RFC 8441): the server must send this `Sec-WebSocket-Accept`. Null for other requests. */
  readonly accept: string | null
}

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
/** A lower-case field name (RFC 9113, 8.2.1). */
const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9a-z-]+$/
/** Bytes that would end a line or a part of it. */
const ENDS_LINE = /[\0\r\n]/
const ENDS_TARGET = /[\0\r\n ]/
/** Fields about one connection, which HTTP/2 does not have (RFC 9113, 8.2.2). */
export const OF_CONNECTIONS: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
])
/** Methods whose requests have a body: without one, servers expect `Content-Length: 0`. */
const WITH_BODY: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH'])

/** A stream has none (RFC 8441, 5). */
const KEY = 'sec-websocket-key'

/** The value of `Sec-WebSocket-Accept` for a key (RFC 6455, 4.2.2). */
function acceptOf(key: string): string {
  return nodeCrypto().createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
}

/** Returns null for a malformed request. `raw`: names and values in turn, as Node gives them. `ended`: the request has no body. */
export function requestText(raw: readonly string[], ended: boolean): RequestText | null {
  let [method, target, authority] = ['', '', '']
  let lines = ''
  let cookies = ''
  let takesTrailers = false
  let hasLength = false
  let protocol: string | null = null
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!
    const value = raw[i + 1]!
    if (ENDS_LINE.test(value)) return null
    if (name === ':method') method = value
    else if (name === ':path') target = value
    else if (name === ':authority') authority = value
    else if (name === ':protocol') protocol = value
    else if (name === ':scheme') continue
    else if (!FIELD_NAME.test(name) || OF_CONNECTIONS.has(name)) return null
    else if (name === 'cookie') cookies += cookies === '' ? value : `; ${value}`
    else if (name === 'te') {
      if (value.toLowerCase() !== 'trailers') return null
      takesTrailers = true
    } else if (name === KEY && protocol !== null) continue
    else if (name !== 'host' || authority === '') {
      hasLength ||= name === 'content-length'
      lines += `${name}: ${value}\r\n`
    } else if (value.toLowerCase() !== authority.toLowerCase()) return null
  }
  let accept: string | null = null
  if (protocol !== null) {
    if (method !== 'CONNECT' || protocol !== 'websocket' || ended || hasLength) return null
    const key = nodeCrypto().randomBytes(16).toString('base64')
    accept = acceptOf(key)
    method = 'GET'
    lines += `connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ${key}\r\n`
  } else if (method === 'CONNECT') target = authority
  if (!TOKEN.test(method) || target === '' || ENDS_TARGET.test(target)) return null
  if (authority !== '') lines = `host: ${authority}\r\n${lines}`
  if (cookies !== '') lines += `cookie: ${cookies}\r\n`
  const chunked = !ended && !hasLength && method !== 'CONNECT' && accept === null
  if (chunked) lines += 'transfer-encoding: chunked\r\n'
  else if (ended && !hasLength && WITH_BODY.has(method)) lines += 'content-length: 0\r\n'
  return { method, text: `${method} ${target} HTTP/1.1\r\n${lines}\r\n`, chunked, takesTrailers, accept }
}

/** Returns the last chunk with the trailers, or null if they are malformed. */
export function lastChunk(raw: readonly string[]): string | null {
  let lines = ''
  for (let i = 0; i < raw.length; i += 2) {
    if (!FIELD_NAME.test(raw[i]!) || ENDS_LINE.test(raw[i + 1]!)) return null
    lines += `${raw[i]}: ${raw[i + 1]}\r\n`
  }
  return `0\r\n${lines}\r\n`
}
