import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import http from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type ServeOptions } from '../../../src/index.js'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import { get, RawClient } from '../../connections-support/http-client.js'
import {
  carry,
  giveBack,
  httpPlace,
  mayMove,
  type Place,
  place,
  taken,
} from '../../connections-support/http-pair.js'
import { until } from '../../processes/until.js'

const portOf = ({ server }: Place) => (server.address() as net.AddressInfo).port

async function idleOne(at: Place): Promise<RawClient> {
  const client = await RawClient.to(portOf(at))
  const idle = mayMove(at)
  await client.ask('/')
  await idle
  return client
}

describe('options of serve() for connections', () => {
  const hooks = { protocol: 'app/x-1', serialize: () => undefined, restore: () => {} }
  const keeper = { connections: 0, announce() {}, emptied: async () => {}, cut: () => ({ idle: 0, busy: 0 }) }
  const wrong: [string, () => net.Server, unknown, RegExp][] = [
    [
      'an option that there is not',
      () => new http.Server(),
      { moves: false },
      /no option "moves".*: it has move/,
    ],
    ['a word for move', () => new http.Server(), { move: 'auto' }, /"move" is "auto"/],
    ['no object', () => new http.Server(), 'auto', /are "auto"/],
    [
      'two ways at once',
      () => new net.Server(),
      { socket: hooks, keeper },
      /"socket" and "keeper".* exclude/,
    ],
    ['a protocol for an http.Server', () => new http.Server(), { socket: hooks }, /takes no "protocol"/],
    [
      'hooks without a protocol',
      () => new net.Server(),
      { http: { serialize() {}, restore() {} } },
      /"protocol"/,
    ],
    ['hooks for HTTP/2', () => http2.createServer(), { socket: hooks }, /HTTP\/2/],
    ['half a keeper', () => new net.Server(), { keeper: { announce() {} } }, /"keeper.emptied"/],
  ]
  it.each(wrong)('throw if they are %s', (_, server, options, message) => {
    expect(() => new AttachedServer(server(), options as ServeOptions)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_OPTION', message: expect.stringMatching(message) }),
    )
  })

  it('with move: false keeps the connections of this server here, and tells their peers', async () => {
    const stays = await place(
      http.createServer((_request, response) => response.end('old')),
      { move: false },
    )
    const client = await RawClient.to(portOf(stays))
    await client.ask('/')
    expect(stays.served.moving).toEqual([])
    stays.served.announce()
    expect((await client.send(get('/')).answer()).head).toMatch(/^connection: close$/im)
  })
})

describe('a server whose connections something else gets first', () => {
  /** As programs for the PROXY protocol do. */
  function sniffing(name: string): http.Server {
    const server = http.createServer((request, response) => {
      response.end(`${name} ${(request.socket as { client?: string }).client}`)
    })
    const own = server.listeners('connection')
    server.removeAllListeners('connection')
    server.on('connection', (socket: net.Socket & { client?: string }) => {
      socket.once('readable', () => {
        const line = socket.read()?.toString('latin1') ?? ''
        const found = /^PROXY TCP4 (\S+) .*\r\n/.exec(line)
        if (found === null) return socket.destroy()
        socket.client = found[1]!
        socket.unshift(Buffer.from(line.slice(found[0].length), 'latin1'))
        for (const each of own) each.call(server, socket)
      })
    })
    return server
  }

  async function asked(at: Place): Promise<RawClient> {
    const client = await RawClient.to(portOf(at))
    client.send('PROXY TCP4 203.0.113.7 10.0.0.1 5555 80\r\n')
    expect(await client.ask('/')).toBe('old 203.0.113.7')
    return client
  }

  it('does not give them away, nor takes them', async () => {
    const [from, to] = [await place(sniffing('old')), await place(sniffing('new'))]
    const client = await asked(from)
    expect([from.moving.movable, taken(from).length]).toEqual([0, 0])
    const plain = await httpPlace('plain')
    await idleOne(plain)
    const departures = taken(plain)
    expect(() => to.moving.check(departures[0]!.record, departures[0]!.fds)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_NO_TARGET' }),
    )
    giveBack(plain, departures, 'refused')
    expect(await client.ask('/')).toBe('old 203.0.113.7')
  })

  it('does when it is told so, and hooks carry what it knows', async () => {
    const options: ServeOptions = {
      move: true,
      http: {
        serialize: socket => Buffer.from((socket as { client?: string }).client!),
        restore: (socket, data) => void Object.assign(socket, { client: Buffer.from(data).toString() }),
      },
    }
    const [from, to] = [await place(sniffing('old'), options), await place(sniffing('new'), options)]
    const client = await asked(from)
    await until('it goes', () => carry(from, to) === 1)
    expect([await client.ask('/'), to.served.connections]).toEqual(['new 203.0.113.7', 1])
  })
})

describe('a connection from another process', () => {
  it('runs where accepted ones do, and is told to those who watch', async () => {
    const storage = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const watch = (message: unknown) => seen.push((message as { socket: unknown }).socket)
    subscribe('net.server.socket', watch)
    onTestFinished(() => void unsubscribe('net.server.socket', watch))
    const answer = http.createServer((_request, response) => response.end(storage.getStore() ?? 'nowhere'))
    const from = await httpPlace('old')
    const to = await storage.run('the application', () => place(answer))
    const client = await idleOne(from)
    seen.length = 0
    storage.run('somewhere else', () => expect(carry(from, to)).toBe(1))
    expect(seen).toEqual(to.sockets)
    expect(await client.ask('/')).toBe('the application')
  })
})

describe("a server's 'close'", () => {
  it('comes once, when the process is out of it for good', async () => {
    const member = await join({ service: 'shop', control: false })
    onTestFinished(() => member.close({ timeout: 0 }))
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = http.createServer((_request, response) => response.end('ok'))
    let closed = 0
    server.on('close', () => closed++)
    web.serve(server)
    await member.ready()
    const client = await RawClient.to(web.address.port!)
    await client.ask('/')
    // The member stands by: its last connection ends, and it accepts again.
    web.stop()
    client.socket.destroy()
    await until('it has ended', () => web.connections === 0)
    await new Promise(resolve => setImmediate(resolve))
    expect(closed).toBe(0)
    web.start()
    const late = await RawClient.to(web.address.port!)
    expect(await late.ask('/')).toBe('ok')
    const closing = member.close()
    late.socket.destroy()
    await closing
    await until('it has closed', () => closed === 1)
  })
})
