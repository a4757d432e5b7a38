import http from 'node:http'
import net from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { bindSocket } from '../../src/kernel/index.js'
import { AttachedServer } from '../../src/member/listeners/attached-server.js'
import { moveWebSockets } from '../connections-support/web-sockets.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

afterEach(() => void vi.useRealTimers())

const CLIENTS = 5
/** Longer than every end that has begun. */
const LONG_MS = 20_000

interface Client {
  /** The server has told the client to leave, or the connection has ended. */
  readonly leaves: boolean
  /** Whether a request of now has the same answer as before. */
  goesOn(): Promise<boolean>
}

interface Kind {
  readonly name: string
  serve(server: http.Server): void
  connect(port: number): Promise<Client>
}

/** Timers do not run; sockets do. */
async function flush(holds: () => boolean = () => false): Promise<void> {
  for (let turn = 0; turn < 60 && !holds(); turn++) await nextTurn()
}

async function rawClient(port: number, path: string) {
  const socket = net.connect(port, '127.0.0.1')
  onTestFinished(() => void socket.destroy())
  const client = { socket, text: '', ended: false }
  socket.setEncoding('latin1').on('data', text => {
    client.text += text
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    client.ended = true
  })
  socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
  await flush(() => client.text.includes('1\n'))
  return client
}

function eventStreams(begin: string): Omit<Kind, 'name'> {
  const responses = new Map<string, http.ServerResponse>()
  let last = 0
  return {
    serve: server =>
      server.on('request', (request, response) => {
        responses.set(request.url!, response)
        response.writeHead(200, { 'content-type': 'text/event-stream' }).write(begin)
      }),
    connect: async port => {
      const path = `/${++last}`
      const client = await rawClient(port, path)
      return {
        get leaves() {
          return client.ended || client.text.includes('retry:')
        },
        goesOn: async () => {
          client.text = ''
          responses.get(path)!.write('data: 2\n\n')
          await flush(() => client.text.includes('data: 2'))
          await flush()
          return client.text.includes('data: 2') && !client.text.includes('retry:') && !client.ended
        },
      }
    },
  }
}

const requests: Omit<Kind, 'name'> = {
  serve: server => server.on('request', (_request, response) => response.end('1\n')),
  connect: async port => {
    const client = await rawClient(port, '/')
    return {
      get leaves() {
        return client.ended || /connection: close/i.test(client.text)
      },
      goesOn: async () => {
        client.text = ''
        client.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
        await flush(() => client.text.includes('1\n'))
        return /connection: keep-alive/i.test(client.text) && !client.ended
      },
    }
  },
}

/** WebSockets without the hook `serialize`, which do not move. */
const webSockets: Omit<Kind, 'name'> = {
  serve: server => {
    const wss = new WebSocketServer({ server })
    moveWebSockets(wss, {})
    wss.on('connection', ws => ws.on('message', data => ws.send(String(data))))
    onTestFinished(() => wss.close())
  },
  connect: async port => {
    const ws = new WebSocket(`ws://127.0.0.1:${port}`)
    onTestFinished(() => ws.terminate())
    let got = 0
    ws.on('message', () => got++)
    ws.on('error', () => {})
    await flush(() => ws.readyState === WebSocket.OPEN)
    return {
      get leaves() {
        return ws.readyState !== WebSocket.OPEN
      },
      goesOn: async () => {
        const before = got
        ws.send('on')
        await flush(() => got > before)
        return got > before && ws.readyState === WebSocket.OPEN
      },
    }
  },
}

const KINDS: readonly Kind[] = [
  { name: 'event streams between two events', ...eventStreams('data: 1\n\n') },
  { name: 'event streams amid an event', ...eventStreams('data: 1\n') },
  { name: 'connections between two requests', ...requests },
  { name: 'WebSockets', ...webSockets },
]

/** A process leaves for `forMs`, gives its connections `plainMs`, and then serves again. */
interface Leave {
  readonly forMs: number
  readonly plainMs: number
}

const LEAVES = fc.array(
  fc.record({ forMs: fc.oneof(fc.nat(50), fc.nat(3_000)), plainMs: fc.integer({ min: 100, max: 6_000 }) }),
  { minLength: 1, maxLength: 3 },
)

async function served(kind: Kind) {
  const fd = bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 16 }, 'listener')
  const server = http.createServer({ keepAliveTimeout: 0 })
  const faults: unknown[] = []
  const attached = new AttachedServer(server, { move: false }, error => faults.push(error))
  kind.serve(server)
  const close = () => {
    attached.release()
    attached.cut()
    net.Server.prototype.close.call(server)
    fd.close()
  }
  const attach = async () => {
    const done = attached.attach(fd, 16)
    await flush(() => server.listening)
    await done
  }
  await attach()
  const port = (server.address() as net.AddressInfo).port
  return { attach, attached, close, faults, port }
}

describe.each(KINDS)('$name of a process that leaves, and serves again', kind => {
  it('go on, unless they were told before', async () => {
    const property = fc.asyncProperty(LEAVES, async leaves => {
      vi.useFakeTimers({
        toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'],
      })
      const { attach, attached, close, faults, port } = await served(kind)
      const clients: Client[] = []
      for (let n = 0; n < CLIENTS; n++) clients.push(await kind.connect(port))
      for (const { forMs, plainMs } of leaves as Leave[]) {
        attached.detach()
        attached.announce({ plainMs, tlsMs: plainMs, why: 'replaced' })
        await vi.advanceTimersByTimeAsync(forMs)
        await flush()
        await attach()
        await flush()
        const told = clients.filter(({ leaves: tells }) => tells)
        await vi.advanceTimersByTimeAsync(LONG_MS)
        await flush()
        expect(clients.filter(({ leaves: tells }) => tells)).toEqual(told)
        for (const client of clients) if (!told.includes(client)) expect(await client.goesOn()).toBe(true)
      }
      expect(faults).toEqual([])
      close()
      vi.useRealTimers()
    })
    const short: Leave[] = [{ forMs: 20, plainMs: 6_000 }]
    await fc.assert(property, { numRuns: perLane(2, 100), examples: [[short]] })
  })
})
