// @ts-check
// A little server behind the proxy: node bench/proxy/upstream.mjs NAME [PORT]; says its port on stdout.
//
// /r/<n> answers `<n> item-<n>`, /slow and /stream take their time, POST /echo gives the body back, /ws echoes messages,
// /bytes?size=<n> gives so many bytes. Every answer says `x-upstream: NAME`.
import http from 'node:http'
import { WebSocketServer } from 'ws'

const SLOW_MS = 1500
const LINE_MS = 50

/**
 * @param {string} name
 * @param {number} [port]
 * @returns {Promise<{ port: number, close: () => void, server: http.Server }>}
 */
export function startUpstream(name, port = 0) {
  const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    response.setHeader('x-upstream', name)
    answer(request, response).catch(error => response.destroy(error))
  })
  const sockets = new WebSocketServer({ server, path: '/ws', perMessageDeflate: false })
  sockets.on('connection', socket => {
    socket.on('error', () => {})
    socket.on('message', (data, binary) => socket.send(data, { binary }))
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => {
      const address = server.address()
      const close = () => {
        for (const client of sockets.clients) client.terminate()
        server.close()
        server.closeAllConnections()
      }
      resolve({ port: typeof address === 'object' && address ? address.port : 0, close, server })
    })
  })
}

/** @param {http.IncomingMessage} request @param {http.ServerResponse} response */
async function answer(request, response) {
  const url = new URL(request.url ?? '/', 'http://upstream')
  const [, page = '', key = ''] = url.pathname.split('/')
  if (page === 'r') {
    response.end(`${key} item-${key}\n`)
  } else if (page === 'slow') {
    await pause(SLOW_MS)
    response.end('slow but sure\n')
  } else if (page === 'stream') {
    const lines = Number(url.searchParams.get('lines'))
    for (let line = 0; line < lines && !response.destroyed; line++) {
      response.write(`line ${line}\n`)
      await pause(LINE_MS)
    }
    response.end()
  } else if (page === 'echo') {
    const length = request.headers['content-length']
    if (length !== undefined) response.setHeader('content-length', length)
    request.pipe(response)
  } else if (page === 'bytes') {
    response.end(Buffer.alloc(Number(url.searchParams.get('size')), 'x'))
  } else {
    response.statusCode = 404
    response.end('no such page\n')
  }
}

/** @param {number} ms */
function pause(ms) {
  return new Promise(resolve => setTimeout(resolve, ms))
}

if (process.argv[1] === import.meta.filename) {
  const [name = 'upstream', port = '0'] = process.argv.slice(2)
  const started = await startUpstream(name, Number(port))
  console.log(started.port)
  // The parent has gone.
  process.stdin.on('end', () => process.exit()).resume()
}
