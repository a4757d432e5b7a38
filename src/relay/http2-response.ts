import type { OutgoingHttpHeaders } from 'node:http2'
import type { ResponseHead } from '../http1/index.js'
import { OF_CONNECTIONS } from './http2-request.js'

/** Returns the fields of a response of HTTP/1.1 as those of HTTP/2. */
export function responseFields({ status, fields }: ResponseHead): OutgoingHttpHeaders {
  const all: OutgoingHttpHeaders = { __proto__: null } as never
  all[':status'] = status
  for (let i = 0; i < fields.count; i++) {
    const name = fields.name(i).toLowerCase()
    if (!OF_CONNECTIONS.has(name)) add(all, name, fields.value(i))
  }
  return all
}

/** The field of which Node takes only one line (`ETag`), as Node names it in the error. */
const SINGLE = /"([^"]+)"/

/** Calls `send` with the fields, again without further lines of a field of which Node takes only one. */
export function sendFields(all: OutgoingHttpHeaders, send: (fields: OutgoingHttpHeaders) => void): void {
  for (;;) {
    try {
      send(all)
      return
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      const [, name = ''] = SINGLE.exec(message) ?? []
      const lines = all[name]
      if (code !== 'ERR_HTTP2_HEADER_SINGLE_VALUE' || !Array.isArray(lines)) throw error
      all[name] = lines[0]
    }
  }
}

/** Fields that Node takes for those of a connection of HTTP/1, and refuses. */
const NOT_TRAILERS: ReadonlySet<string> = new Set([...OF_CONNECTIONS, 'http2-settings', 'te'])
/** The bytes of a chunked body after the last content, from which {@link trailersOf} reads the trailers. */
const LAST_SIZE = /^(?:\r\n)?0+[^\r\n]*\r\n/

/** Returns the trailers after the last content of a chunked body, which the relay has checked. `tail`: all bytes from there to the end. */
export function trailersOf(tail: string): OutgoingHttpHeaders {
  const trailers: OutgoingHttpHeaders = { __proto__: null } as never
  for (const line of tail.replace(LAST_SIZE, '').split('\r\n')) {
    const colon = line.indexOf(':')
    const name = line.slice(0, colon).toLowerCase()
    if (colon > 0 && !NOT_TRAILERS.has(name)) add(trailers, name, line.slice(colon + 1).trim())
  }
  return trailers
}

function add(all: OutgoingHttpHeaders, name: string, value: string): void {
  const before = all[name]
  if (before === undefined) all[name] = value
  else if (Array.isArray(before)) before.push(value)
  else all[name] = [String(before), value]
}
