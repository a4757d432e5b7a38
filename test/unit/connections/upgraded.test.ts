import http from 'node:http'
import type net from 'node:net'
import { describe, expect, it } from 'vitest'
import type { SocketProtocol } from '../../../src/index.js'
import { get, RawClient } from '../../connections-support/http-client.js'
import { carry, giveBack, type Place, place, taken } from '../../connections-support/http-pair.js'
import { until } from '../../processes/until.js'

const UPGRADE = get('/', 'Connection: upgrade\r\nUpgrade: count\r\n')

/** Counts the bytes of connections that were upgraded, and answers each chunk with `NAME SUM`. */
class Counter {
  readonly server: http.Server
  readonly hooks: SocketProtocol
  readonly #sums = new WeakMap<net.Socket, { sum: number }>()
  readonly #name: string

  constructor(name: string, protocol = 'app/count-1') {
    this.#name = name
    this.server = http.createServer({ keepAliveTimeout: 30_000 }, (_request, response) => response.end(name))
    this.server.on('upgrade', (_request, socket, head) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: count\r\n\r\n')
      this.#count(socket as net.Socket, { sum: head.length })
    })
    this.hooks = {
      protocol,
      serialize: socket => Buffer.from(JSON.stringify(this.#sums.get(socket))),
      restore: (socket, record) => this.#count(socket, JSON.parse(Buffer.from(record).toString())),
    }
  }

  #count(socket: net.Socket, facts: { sum: number }): void {
    this.#sums.set(socket, facts)
    socket.on('error', () => {})
    socket.on('data', chunk => {
      facts.sum += chunk.length
      // As an answer, so that the client finds its end.
      const text = `${this.#name} ${facts.sum}`
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`)
    })
  }

  place(): Promise<Place> {
    return place(this.server, { http: { upgraded: this.hooks } })
  }
}

async function upgraded(to: Place): Promise<RawClient> {
  const client = await RawClient.to((to.server.address() as net.AddressInfo).port)
  expect((await client.send(UPGRADE).answer()).head).toMatch(/^HTTP\/1.1 101 /)
  return client
}

describe('a connection that the application has taken over', () => {
  it('goes on with what the application says of it, to and fro', async () => {
    const places = [await new Counter('old').place(), await new Counter('new').place()] as const
    const client = await upgraded(places[0])
    expect((await client.send('12345').answer()).body).toBe('old 5')
    await until('its answer is out', () => carry(places[0], places[1]) === 1)
    expect((await client.send('678').answer()).body).toBe('new 8')
    await until('its answer is out', () => carry(places[1], places[0]) === 1)
    expect((await client.send('9').answer()).body).toBe('old 9')
  })

  it('does not go where only connections between two requests are to', async () => {
    const [from, to] = [await new Counter('old').place(), await new Counter('new').place()]
    const client = await upgraded(from)
    const idle = await RawClient.to((from.server.address() as net.AddressInfo).port)
    expect((await idle.send(get('/')).answer()).body).toBe('old')
    await until('the idle one goes', () => carry(from, to, 'idle') === 1)
    expect([from.served.connections, to.served.connections]).toEqual([1, 1])
    expect((await client.send('1').answer()).body).toBe('old 1')
  })

  it('stays if a version without hooks, or with other ones, refuses it', async () => {
    const from = await new Counter('old').place()
    const client = await upgraded(from)
    const others = [await new Counter('new', 'app/count-2').place(), await place(http.createServer())]
    let departures = taken(from)
    await until('it goes', () => departures.length > 0 || (departures = taken(from)).length > 0)
    const [departure] = departures
    for (const { moving } of others)
      expect(() => moving.check(departure!.record, departure!.fds)).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_NO_TARGET' }),
      )
    giveBack(from, departures, 'refused')
    expect([from.moving.movable, taken(from).length]).toEqual([0, 0])
    expect((await client.send('123').answer()).body).toBe('old 3')
    expect(from.served.cut().closed).toEqual([{ kind: 'app/count-1', reason: 'refused', count: 1 }])
  })

  it('stays where the application has no hooks, and is not counted among those that may leave', async () => {
    const counter = new Counter('old')
    const from = await place(counter.server)
    const client = await upgraded(from)
    expect([from.served.connections, from.moving.movable, taken(from).length]).toEqual([1, 0, 0])
    expect((await client.send('1').answer()).body).toBe('old 1')
  })
})
