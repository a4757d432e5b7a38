import type http from 'node:http'
import net from 'node:net'
import { nodeHttp } from '../base/lazy.js'
import { internal } from './internal.js'

interface HeaderLines {
  _addHeaderLines(lines: readonly string[], count: number): void
}

export interface RequestFacts {
  readonly url: string
  readonly httpVersion: string
  /** Names and values, one after the other. */
  readonly rawHeaders: readonly string[]
}

export const REBUILT_REQUEST = internal(
  'http.IncomingMessage._addHeaderLines()',
  'WebSockets do not move, they drain',
  () => {
    const socket = new net.Socket()
    const rawHeaders = ['Host', 'x', 'Cookie', 'a=1', 'cookie', 'b=2']
    const { headers, url } = rebuiltRequest(socket, { url: '/u', httpVersion: '1.1', rawHeaders })
    socket.destroy()
    return url === '/u' && headers.host === 'x' && headers.cookie === 'a=1; b=2'
  },
)

/** Returns a GET request that was completely read, as Node has passed it to 'upgrade'. */
export function rebuiltRequest(socket: net.Socket, facts: RequestFacts): http.IncomingMessage {
  const request = new (nodeHttp().IncomingMessage)(socket)
  const [major = 1, minor = 1] = facts.httpVersion.split('.').map(Number)
  Object.assign(request, {
    method: 'GET',
    url: facts.url,
    httpVersion: facts.httpVersion,
    httpVersionMajor: major,
    httpVersionMinor: minor,
    upgrade: true,
  })
  ;(request as unknown as HeaderLines)._addHeaderLines([...facts.rawHeaders], facts.rawHeaders.length)
  request.complete = true
  return request
}
