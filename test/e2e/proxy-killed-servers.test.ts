import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { CountingClients } from '../processes/counting-clients.js'
import { Edge } from '../processes/edge.js'
import { pause, until } from '../processes/until.js'

const ANSWER_MS = 5

/** A server that can die with its requests, as a killed process does. */
class Mortal {
  /** Requests without an answer. */
  pending = 0
  #port = 0
  #die = () => {}

  static async start(): Promise<Mortal> {
    const mortal = new Mortal()
    await mortal.revive()
    onTestFinished(() => mortal.#die())
    return mortal
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  /** Starts at the address that it had. */
  async revive(): Promise<void> {
    const sockets = new Set<Socket>()
    const server = createServer(async (_, response) => {
      this.pending++
      await pause(ANSWER_MS)
      if (sockets.has(response.socket!)) this.pending--
      response.end('well')
    })
    server.on('connection', socket => {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
    })
    server.listen(this.#port, '127.0.0.1')
    await once(server, 'listening')
    this.#port = (server.address() as AddressInfo).port
    this.#die = () => {
      server.close()
      for (const socket of sockets) socket.resetAndDestroy()
      sockets.clear()
      this.pending = 0
    }
  }

  /** Dies with a request in flight. */
  async die(): Promise<void> {
    await until('a request is in flight', () => this.pending > 0)
    this.#die()
  }
}

it('no client notices when servers die in turn with its requests, also while the next version takes over', async () => {
  const servers = [await Mortal.start(), await Mortal.start(), await Mortal.start()]
  // Without kept connections no request has a reused one.
  const app = {
    servers: servers.map(({ url }) => url),
    keepAlive: { connections: 0 },
    health: { coolDown: '100ms' },
  }
  const routes = [
    { host: '*', upstream: 'app' },
    { host: '*', path: '/gone', respond: { status: 410 } },
  ]
  const edge = await Edge.start({ upstreams: { app }, routes, accessLog: true })
  const clients = new CountingClients(edge.url)
  const resent = () => edge.lines.filter(({ msg, attempts }) => msg === 'request' && attempts > 1).length
  for (const [n, server] of servers.entries()) {
    const before = resent()
    const next = n === 1 ? edge.next() : Promise.resolve()
    await server.die()
    await until('another server got a request', () => resent() > before)
    await next
    await server.revive()
    await until('it gets requests again', () => server.pending > 0)
  }
  await clients.stop()
  expect(clients.pids.size).toBe(2)
})
