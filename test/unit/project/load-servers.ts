import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import net from 'node:net'
import { startLoad } from '../../../bench/referee/load.mjs'

type LoadOptions = Parameters<typeof startLoad>[0]

/** One request as a bad server sees it. */
export interface Hit {
  socket: net.Socket
  method: string
  path: string
  /** Requests before this one on the same connection. */
  before: number
}

export interface Listening extends AsyncDisposable {
  target: string
}

/** A server that does what it is told with each request, byte for byte. The framing of requests is naive. */
export function badServer(onRequest: (hit: Hit) => void, path?: string): Promise<Listening> {
  return listening(
    net.createServer(socket => {
      let before = 0
      socket.on('error', () => {})
      socket.on('data', chunk => {
        for (const match of chunk.toString('latin1').matchAll(/(GET|PUT) (\S+) HTTP\/1\.1\r\n/g)) {
          onRequest({ socket, method: match[1] ?? '', path: match[2] ?? '', before: before++ })
        }
      })
    }),
    path,
  )
}

/** The routes of docs/examples/shop on node:http, from memory. */
export function goodServer(
  change: (request: IncomingMessage, response: ServerResponse) => boolean = () => false,
) {
  const written = new Map<string, string>()
  const server = createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
    response.setHeader('x-generation', '1').setHeader('x-pid', String(process.pid))
    if (change(request, response)) return
    const url = new URL(request.url ?? '/', 'http://localhost')
    const route = url.pathname.slice('/r/'.length)
    if (url.pathname === '/slow') {
      setTimeout(() => response.end('slow but sure\n'), 150)
    } else if (url.pathname === '/stream') {
      const lines = Number(url.searchParams.get('lines'))
      for (let line = 0; line < lines; line++) {
        response.write(`line ${line}\n`)
        await new Promise(resolve => setTimeout(resolve, 20))
      }
      response.end()
    } else if (request.method === 'PUT') {
      let body = ''
      for await (const chunk of request) body += chunk
      written.set(route, body)
      response.end('written\n')
    } else {
      response.end(`${route} ${written.get(route) ?? `item-${route}`}\n`)
    }
  })
  return listening(server)
}

async function listening(server: net.Server, path?: string): Promise<Listening> {
  const sockets = new Set<net.Socket>()
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve =>
    path === undefined ? server.listen(0, '127.0.0.1', resolve) : server.listen(path, resolve),
  )
  const address = server.address()
  return {
    target:
      typeof address === 'string'
        ? `unix:${address.replace('\0', '@')}`
        : `http://127.0.0.1:${address?.port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

/** Only plain reads on a few pooled connections; `more` adds the kind of request under test. */
export const READS: Omit<LoadOptions, 'target'> = {
  rate: 200,
  connections: 4,
  freshShare: 0,
  slow: 0,
  streams: 0,
  writes: 0,
  idle: 0,
  // Server and referee share this process: a stop of a second is no fault of the server.
  deadlineMs: 10_000,
  lateMs: Number.POSITIVE_INFINITY,
  slowExtraMs: 0,
}

export const FRESH = { ...READS, freshShare: 1 }

/** Runs a load until `enough` or for 15 s, and stops it. */
export async function referee(
  target: string,
  options: Omit<LoadOptions, 'target'>,
  enough: (so: ReturnType<ReturnType<typeof startLoad>['snapshot']>) => boolean,
) {
  const load = startLoad({ target, ...options })
  const give = performance.now() + 15_000
  while (!enough(load.snapshot()) && performance.now() < give) {
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  return load.stop()
}

export const answer = (body: string, headers = '') =>
  `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n${headers}\r\n${body}`

/** The right answer to a read of a route without a write. */
export const right = (path: string, headers = '') => {
  const route = path.slice('/r/'.length)
  return answer(`${route} item-${route}\n`, headers)
}
