// @ts-check
// node undici-proxy.mjs UPSTREAM_PORT: the same with node:http and undici, written for speed.
import http from 'node:http'
import { Pool } from 'undici'

const pool = new Pool(`http://127.0.0.1:${process.argv[2]}`, { connections: 64 })
const HOP = new Set(['connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'te', 'expect'])
const gen = String(process.pid)

/** @param {import('node:http').IncomingHttpHeaders} from */
function endToEnd(from) {
  /** @type {Record<string, string | string[]>} */
  const to = {}
  for (const name in from) {
    const value = from[name]
    if (value !== undefined && !HOP.has(name)) to[name] = value
  }
  return to
}

const server = http.createServer((request, response) => {
  const headers = endToEnd(request.headers)
  headers['x-forwarded-for'] = request.socket.remoteAddress ?? ''
  headers['x-forwarded-proto'] = 'http'
  headers['x-forwarded-host'] = request.headers.host ?? ''
  const method = /** @type {import('undici').Dispatcher.HttpMethod} */ (request.method)
  const body = method === 'GET' || method === 'HEAD' ? null : request
  pool.stream(
    { method, path: request.url ?? '/', headers, body, opaque: response },
    ({ statusCode, headers: answer, opaque }) => {
      const to = endToEnd(/** @type {import('node:http').IncomingHttpHeaders} */ (answer))
      to['x-gen'] = gen
      return /** @type {import('node:http').ServerResponse} */ (opaque).writeHead(statusCode, to)
    },
    error => {
      if (error) response.destroy()
    },
  )
})
server.listen(0, '127.0.0.1', 16_384, () => process.send?.(server.address()))
