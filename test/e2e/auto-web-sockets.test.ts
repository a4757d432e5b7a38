import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

/** On a machine that has much else to do. */
const BUSY_MS = 60_000

/** Three servers: `/moves` with hooks, `/still` with one line, `/own` without fd-broker/ws. */
const PROGRAM = `import { createServer } from 'node:http'
import { moveWebSockets } from 'fd-broker/ws'
import { WebSocketServer } from '${import.meta.resolve('ws')}'

const server = createServer((_request, response) => response.end('pid ' + process.pid))
const servers = { '/moves': talking(), '/still': talking(), '/own': talking() }
moveWebSockets(servers['/moves'], { name: 'moves', serialize: () => new Uint8Array(), restore: talk })
moveWebSockets(servers['/still'], { name: 'still' })
server.on('upgrade', (request, socket, head) => {
  const wss = servers[request.url]
  wss.handleUpgrade(request, socket, head, ws => wss.emit('connection', ws))
})
process.on('SIGTERM', () => {
  for (const ws of servers['/own'].clients) ws.close(4001)
})
server.listen(8080)

function talking() {
  return new WebSocketServer({ noServer: true }).on('connection', talk)
}

function talk(ws) {
  ws.on('message', text => ws.send(text + ' to pid ' + process.pid))
}
`

class Client {
  readonly ws: WebSocket
  readonly got: string[] = []
  code: number | null = null

  constructor(url: string) {
    this.ws = new WebSocket(url.replace('http:', 'ws:'))
    this.ws.on('message', data => this.got.push(String(data)))
    this.ws.on('error', () => {})
    this.ws.on('close', code => {
      this.code = code
    })
    onTestFinished(() => this.ws.terminate())
  }

  async ask(text: string): Promise<string> {
    const before = this.got.length
    this.ws.send(text)
    await until('it is answered', () => this.got.length > before || this.code !== null, BUSY_MS)
    return this.got.at(-1) ?? `closed with ${this.code}`
  }

  async closed(): Promise<number> {
    await until('it is closed', () => this.code !== null, BUSY_MS)
    return this.code!
  }
}

describe('WebSockets of a program under fd-broker/auto', () => {
  it("move with hooks, are closed with 1012 after one line, and otherwise by the program's own handler of SIGTERM before the cut", {
    timeout: 240_000,
  }, async () => {
    // Half of this time is for the move, also on a slow machine; so the test waits 7 s.
    const env = { FD_BROKER_DRAIN: '8s', FD_BROKER_PROBATION: '0s' }
    const program = await AutoProgram.of(PROGRAM, 'server.mjs', { env })
    await program.serve()
    const [moves, still, own] = ['/moves', '/still', '/own'].map(
      path => new Client(`${program.url}${path}`),
    ) as [Client, Client, Client]
    await Promise.all([moves, still, own].map(({ ws }) => once(ws, 'open')))
    const second = await program.serve('import', 2)
    expect(await still.closed()).toBe(1012)
    expect(await own.closed()).toBe(4001)
    expect(await moves.ask('a')).toBe(`a to pid ${second}`)
    expect(moves.code).toBeNull()
  })
})
