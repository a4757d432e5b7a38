import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import tls from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import type { ServableServer } from '../../../src/member/listeners/serve-options.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { until } from '../../processes/until.js'

/** Every trace that an observer could leave, of objects of Node and of the program (.github/WATCHING.md). */
class Traces {
  /** The emitted events, and the kind of object. */
  readonly events: string[] = []
  readonly states: unknown[] = []

  /** Call it first: it records what arrives at Node's own emit(). */
  record(kind: string, one: EventEmitter): void {
    const { events } = this
    const { emit } = one
    Object.defineProperty(one, 'emit', {
      configurable: true,
      writable: true,
      value(this: EventEmitter, ...args: [string, ...unknown[]]) {
        events.push(`${kind}: ${String(args[0])}`)
        return Reflect.apply(emit, this, args)
      },
    })
  }

  look(one: EventEmitter): void {
    const names = one.eventNames().sort()
    this.states.push([names, names.map(name => one.rawListeners(name).length), Object.keys(one).sort()])
  }
}

const SECRETS = { key: KEY, cert: CERTIFICATE }
const CONNECT = { rejectUnauthorized: false } as const

interface Kind {
  create(traces: Traces): ServableServer
  ask(port: number): Promise<unknown>
}

function answer(
  traces: Traces,
  request: EventEmitter & { readonly socket: EventEmitter },
  response: EventEmitter & { end(text: string): unknown },
): void {
  traces.look(request)
  traces.look(response)
  traces.look(request.socket)
  response.end('done')
}

async function get(from: typeof http.get | typeof https.get, port: number, headers = {}): Promise<string> {
  const request = from({ host: '127.0.0.1', port, agent: false, headers, ...CONNECT })
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  let text = ''
  for await (const part of response) text += part
  return text
}

/** A call as @grpc/grpc-js makes it, and one that waits for leave to send its body. */
async function stream(url: string, headers = {}): Promise<unknown> {
  const session = http2.connect(url, CONNECT)
  const request = session.request({ ':path': '/', ...headers })
  const trailers = once(request, 'trailers')
  request.resume()
  request.end()
  const [got] = await trailers
  session.close()
  await once(session, 'close')
  return (got as Record<string, unknown>)['x-trailer']
}

function withTrailers(traces: Traces) {
  return (stream: http2.ServerHttp2Stream) => {
    traces.look(stream)
    traces.look(stream.session as EventEmitter)
    stream.respond({ ':status': 200 }, { waitForTrailers: true })
    stream.once('wantTrailers', () => stream.sendTrailers({ 'x-trailer': '1' }))
    stream.end('hello')
  }
}

async function echo(socket: net.Socket): Promise<string> {
  socket.end('hello')
  let text = ''
  for await (const part of socket) text += part
  return text
}

const KINDS: Readonly<Record<string, Kind>> = {
  'net.Server': {
    create: traces =>
      net.createServer(socket => {
        traces.look(socket)
        // A program that hands a connection on often drops all listeners.
        socket.removeAllListeners().pipe(socket)
      }),
    ask: port => echo(net.connect(port, '127.0.0.1')),
  },
  'tls.Server': {
    create: traces =>
      tls.createServer(SECRETS, socket => {
        traces.look(socket)
        socket.pipe(socket)
      }),
    ask: port => echo(tls.connect({ port, ...CONNECT })),
  },
  'http.Server': {
    create: traces => http.createServer((request, response) => answer(traces, request, response)),
    ask: port => get(http.get, port),
  },
  'http.Server with a request that expects to continue': {
    create: traces => http.createServer((request, response) => answer(traces, request, response)),
    ask: port => get(http.get, port, { expect: '100-continue' }),
  },
  'http.Server asked for an upgrade that it does not know': {
    create: traces => http.createServer((request, response) => answer(traces, request, response)),
    ask: port => get(http.get, port, { connection: 'Upgrade', upgrade: 'chat' }),
  },
  'https.Server': {
    create: traces => https.createServer(SECRETS, (request, response) => answer(traces, request, response)),
    ask: port => get(https.get, port),
  },
  'http2 server with only a listener of stream': {
    create: traces => http2.createServer().on('stream', withTrailers(traces)),
    ask: port => stream(`http://127.0.0.1:${port}`),
  },
  'http2 server with only a listener of stream, asked for leave to continue': {
    create: traces => http2.createServer().on('stream', withTrailers(traces)),
    ask: port => stream(`http://127.0.0.1:${port}`, { expect: '100-continue' }),
  },
  'http2 server with a listener of request': {
    create: () =>
      http2.createServer((_request, response) => {
        response.addTrailers({ 'x-trailer': '1' })
        response.end('hello')
      }),
    ask: port => stream(`http://127.0.0.1:${port}`),
  },
  'secure http2 server with only a listener of stream': {
    create: traces => http2.createSecureServer(SECRETS).on('stream', withTrailers(traces)),
    ask: port => stream(`https://127.0.0.1:${port}`),
  },
  'secure http2 server asked by HTTP/1': {
    create: traces =>
      http2.createSecureServer({ ...SECRETS, allowHTTP1: true }, (request, response) =>
        answer(traces, request, response),
      ),
    ask: port => get(https.get, port),
  },
}

async function traced(kind: Kind, watch: (server: ServableServer) => AttachedServer | null) {
  const traces = new Traces()
  const recorded = (one: EventEmitter) => traces.record(one.constructor.name, one)
  const server = kind.create(traces)
  recorded(server)
  const watched = watch(server)
  const sessions: http2.Http2Session[] = []
  server.on('session', (session: http2.Http2Session) => {
    recorded(session)
    sessions.push(session)
  })
  traces.look(server)
  const told: unknown[] = []
  server.on('newListener', event => told.push(event)).on('removeListener', event => told.push(event))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const answered = await kind.ask((server.address() as AddressInfo).port)
  traces.look(server)
  const hasClosed = () => traces.events.filter(text => text.endsWith('Session: close')).length
  await until('its sessions have closed', () => hasClosed() === sessions.length)
  const { connections } = watched ?? { connections: null }
  const closed = once(server, 'close')
  // Announces the end as in an upgrade, when it observes most.
  watched?.announce()
  traces.look(server)
  server.close()
  await closed
  watched?.release()
  traces.look(server)
  return { answered, connections, events: traces.events, states: traces.states, told }
}

describe('a server behaves under fd-broker as without it:', () => {
  it.each(Object.entries(KINDS))('%s', async (_name, kind) => {
    const plain = await traced(kind, () => null)
    const { connections, ...watched } = await traced(kind, server => new AttachedServer(server))
    expect(watched).toEqual({ ...plain, connections: undefined })
    expect(connections).toBeLessThanOrEqual(1)
  })
})

it('a connection whose program drops all listeners still ends for fd-broker', async () => {
  const server = net.createServer(socket => setImmediate(() => socket.removeAllListeners().resume()))
  const watched = new AttachedServer(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    watched.cut()
    watched.release()
    server.close()
  })
  const socket = net.connect((server.address() as AddressInfo).port, '127.0.0.1')
  await once(server, 'connection')
  expect(watched.connections).toBe(1)
  socket.destroy()
  await watched.emptied()
})

it('a program with ten listeners of its own on a connection gets no warning of a leak', async () => {
  const warnings: unknown[] = []
  const warned = (warning: Error) => warnings.push(warning.name)
  process.on('warning', warned)
  onTestFinished(() => void process.off('warning', warned))
  const server = net.createServer(socket => {
    while (socket.listenerCount('close') < EventEmitter.defaultMaxListeners) socket.on('close', () => {})
  })
  const watched = new AttachedServer(server)
  while (server.listenerCount('connection') < EventEmitter.defaultMaxListeners - 1)
    server.on('connection', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = net.connect((server.address() as AddressInfo).port, '127.0.0.1').resume()
  await once(server, 'connection')
  socket.end()
  await watched.emptied()
  watched.release()
  server.close()
  await once(server, 'close')
  expect(warnings).toEqual([])
})
