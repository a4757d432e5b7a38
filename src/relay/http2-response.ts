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

/** Returns the fields with one value each, except Set-Cookie: Node refuses some names twice, such as Content-Type. */
export function singleFields(all: OutgoingHttpHeaders): OutgoingHttpHeaders {
  const single: OutgoingHttpHeaders = { __proto__: null } as never
  for (const [name, value] of Object.entries(all))
    single[name] = Array.isArray(value) && name !== 'set-cookie' ? value[0] : value
  return single
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
