// @ts-check
// The pages that every server here has: those of the referee's clients of the kinds `steady`, `idle`, `slow` and `events`.
import { eventText } from '../../referee/pattern.mjs'

/** Streams that are open: where each of them is. @type {Map<import('node:http').ServerResponse, { id: string, everyMs: number, event: number }>} */
export const streams = new Map()

/** @param {import('node:http').ServerResponse} response @param {{ id: string, everyMs: number, event: number }} stream */
export function stream(response, stream) {
  streams.set(response, stream)
  const next = () => response.write(eventText(stream.id, stream.event++))
  if (stream.event === 0) next()
  const timer = setInterval(next, stream.everyMs)
  response.on('close', () => {
    clearInterval(timer)
    streams.delete(response)
  })
}

/**
 * @param {string | null} generation what `X-Gen` says; null: the proxy before this server says it
 * @returns {import('node:http').RequestListener}
 */
export const pages = generation => (request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://server')
  const [, page, id = '', number] = pathname.split('/')
  if (generation !== null) response.setHeader('x-gen', generation)
  const end = (/** @type {string} */ text) => {
    response.setHeader('content-length', text.length)
    response.end(text)
  }
  if (page === 'slow') setTimeout(() => end(`${id} slow but sure\n`), Number(searchParams.get('ms')))
  else if (page === 'events') {
    // nginx sends events when they come.
    response.writeHead(200, { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
    stream(response, { id, everyMs: Number(searchParams.get('every')), event: 0 })
  } else end(page === 'n' ? `${id} ${number}\n` : 'ok\n')
}

/** No server here closes a connection because it is idle. */
export const OPTIONS = { keepAliveTimeout: 600_000, requestTimeout: 0 }
