import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import type { Departure, NotRestored } from '../../../src/connections/movable.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import { descriptorOf } from '../../../src/node/socket-handle.js'
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
import { folders, openDescriptors } from '../../native/support.js'
import { until } from '../../processes/until.js'

const portOf = ({ server }: Place) => (server.address() as net.AddressInfo).port

async function pair(options: http.ServerOptions = {}): Promise<[Place<http.Server>, Place<http.Server>]> {
  return [await httpPlace('old', options), await httpPlace('new', options)]
}

/** Moves an idle connection to a server that is about to listen. */
async function arrivedEarly(server: http.Server, host?: string) {
  const from = await httpPlace('old')
  const client = await RawClient.to(portOf(from))
  const idle = mayMove(from)
  await client.ask('/')
  await idle
  const served = new AttachedServer(server)
  onTestFinished(() => served.release())
  server.listen(0, host)
  for (const departure of taken(from)) served.moving[0]!.arrive(departure, 'moved')
  return { client, served }
}

describe('an idle HTTP connection', () => {
  it('goes on in another server, and its client notices nothing', async () => {
    const [from, to] = await pair()
    const client = await RawClient.to(portOf(from))
    expect(await client.ask('/1')).toBe('old /1')
    await until('it is idle', () => carry(from, to) === 1)
    expect([from.served.connections, to.served.connections]).toEqual([0, 1])
    expect(await client.ask('/2')).toBe('new /2')
    expect(await client.ask('/3')).toBe('new /3')
    expect(client.end).toBeNull()
  })

  it('goes to and fro, also without a request between', async () => {
    const places = await pair()
    const client = await RawClient.to(portOf(places[0]))
    await client.ask('/first')
    await until('it is idle', () => carry(places[0], places[1]) === 1)
    for (let i = 1; i < 10; i++) expect(carry(places[i % 2]!, places[(i + 1) % 2]!)).toBe(1)
    expect(await client.ask('/last')).toBe('old /last')
  })

  it('on which nothing has ever come goes on too', async () => {
    const places = await pair()
    const client = await RawClient.to(portOf(places[0]))
    await until('it is there', () => carry(places[0], places[1]) === 1)
    expect(carry(places[1], places[0])).toBe(1)
    expect(carry(places[0], places[1])).toBe(1)
    expect(await client.ask('/1')).toBe('new /1')
  })

  it('keeps its client, and counts in its new server', async () => {
    const remote: unknown[] = []
    const server = http.createServer((request, response) => {
      remote.push([request.socket.remoteAddress, request.socket.remotePort, request.socket.remoteFamily])
      response.end()
    })
    const [from, to] = [await httpPlace('old'), await place(server)]
    const client = await RawClient.to(portOf(from))
    await client.ask('/')
    await until('it is idle', () => carry(from, to) === 1)
    await client.ask('/')
    expect(remote).toEqual([['127.0.0.1', client.socket.localPort, 'IPv4']])
    const count = await new Promise(resolve => server.getConnections((_error, n) => resolve(n)))
    expect(count).toBe(1)
    server.closeIdleConnections()
    expect(await client.ended()).toBe('fin')
  })

  it('arrives as idle: the server can close it, and does not wait for a first request', async () => {
    const options = { headersTimeout: 100, requestTimeout: 200, connectionsCheckingInterval: 20 }
    const [from, to] = [await httpPlace('old'), await httpPlace('new', options)]
    const client = await RawClient.to(portOf(from))
    await client.ask('/')
    await until('it is idle', () => carry(from, to) === 1)
    const begun = performance.now()
    await until('the timeout of a head has passed', () => performance.now() - begun > 400)
    expect(await client.ask('/late')).toBe('new /late')
    to.server.closeIdleConnections()
    expect(await client.ended()).toBe('fin')
  })

  it('waits for a server that does not listen yet, and serves then', async () => {
    const server = http.createServer((_request, response) => response.end('young'))
    const { client, served } = await arrivedEarly(server, '127.0.0.1')
    expect((await client.send(get('/')).answer()).body).toBe('young')
    served.cut()
    server.close()
  })

  it('closes if the server closes before it listens', async () => {
    const server = http.createServer()
    const { client } = await arrivedEarly(server)
    server.close()
    expect(await client.ended()).toBe('fin')
  })
})

describe('a busy HTTP connection', () => {
  it('goes when it has been answered, which is told', async () => {
    const pending: http.ServerResponse[] = []
    const from = await place(http.createServer((_request, response) => void pending.push(response)))
    const to = await httpPlace('new')
    const client = await RawClient.to(portOf(from))
    client.send(get('/slow'))
    await until('the request is there', () => pending.length === 1)
    expect(carry(from, to)).toBe(0)
    const told = mayMove(from)
    pending[0]!.end('at last')
    expect((await client.answer()).body).toBe('at last')
    await told
    expect(carry(from, to)).toBe(1)
    expect(await client.ask('/next')).toBe('new /next')
  })

  it('does not go while its request is still coming, although it was answered', async () => {
    const [from, to] = await pair()
    const client = await RawClient.to(portOf(from))
    client.send('POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345')
    expect((await client.answer()).body).toBe('old /early')
    const told = mayMove(from)
    expect(carry(from, to)).toBe(0)
    client.send('67890')
    await told
    await until('the request is whole', () => carry(from, to) === 1)
    expect(await client.ask('/next')).toBe('new /next')
  })

  it('with requests in a row goes behind the last answer', async () => {
    const pending: (() => void)[] = []
    const from = await place(
      http.createServer((request, response) => void pending.push(() => response.end(`old ${request.url}`))),
    )
    const to = await httpPlace('new')
    const client = await RawClient.to(portOf(from))
    client.send(get('/1') + get('/2') + get('/3'))
    await until('all are there', () => pending.length === 3)
    for (const answer of pending) {
      expect(carry(from, to)).toBe(0)
      answer()
      await client.answer()
    }
    await until('it is idle', () => carry(from, to) === 1)
    expect(await client.ask('/4')).toBe('new /4')
  })

  it('with a head that has begun stays until that is answered, and is announced there when it may not go', async () => {
    const [from, to] = await pair()
    const client = await RawClient.to(portOf(from))
    await client.ask('/1')
    client.send('GET /half HT')
    await until('the half head is read', () => from.sockets[0]!.bytesRead > get('/1').length)
    expect(carry(from, to)).toBe(0)
    from.served.announce()
    const answer = await client.send('TP/1.1\r\nHost: x\r\n\r\n').answer()
    expect(answer.head).toMatch(/^connection: close$/im)
    expect(await client.ended()).toBe('fin')
  })
})

describe('a connection that was just answered, while connections move', () => {
  async function heldOne(from: Place): Promise<RawClient> {
    const client = await RawClient.to(portOf(from))
    const told = new Promise<void>(resolve => {
      from.moving.onMovable = resolve
    })
    await client.ask('/1')
    await told
    return client.send(get('/2'))
  }

  it('stays unread until it has left, however soon the next request comes', async () => {
    const [from, to] = await pair()
    const client = await heldOne(from)
    for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(carry(from, to)).toBe(1)
    expect((await client.answer()).body).toBe('new /2')
  })

  it('reads again when it is not called for, or nothing moves any more', async () => {
    const [from] = await pair()
    const client = await heldOne(from)
    expect((await client.answer()).body).toBe('old /2')
    const other = await heldOne(from)
    from.moving.onMovable = null
    expect((await other.answer()).body).toBe('old /2')
  })
})

it('a connection goes back to its server when a listener of the next one throws', async () => {
  const [from, to] = await pair()
  const fault = new Error('of the listener')
  to.server.on('connection', () => {
    throw fault
  })
  const client = await RawClient.to(portOf(from))
  await client.ask('/')
  let departures: Departure[] = []
  await until('it is idle', () => (departures = taken(from)).length === 1)
  let thrown: unknown
  try {
    giveBack(to, departures, 'moved')
  } catch (error) {
    thrown = error
  }
  const { fd, cause } = thrown as NotRestored
  expect([cause, to.faults, to.served.connections]).toEqual([fault, [fault], 0])
  giveBack(from, [{ record: departures[0]!.record, fds: [fd] }], 'moved')
  expect(await client.ask('/again')).toBe('old /again')
})

describe('the properties of a connection that move with it', () => {
  it('include the rest of the keep-alive timeout', async () => {
    const from = await httpPlace('old', { keepAliveTimeout: 1_000 })
    const to = await httpPlace('new', { keepAliveTimeout: 600_000 })
    const client = await RawClient.to(portOf(from))
    await client.ask('/')
    const begun = performance.now()
    await until('it is idle', () => carry(from, to) === 1)
    expect(await client.ended()).toBe('fin')
    const after = performance.now() - begun
    expect(after).toBeGreaterThan(950)
    expect(after).toBeLessThan(6_000)
  })

  it('include a timeout that ends when the connection has ended, or has had a request', async () => {
    const [from, to] = await pair({ keepAliveTimeout: 600_000 })
    const intervals = vi.spyOn(globalThis, 'setInterval')
    onTestFinished(() => intervals.mockRestore())
    const clients = [await RawClient.to(portOf(from)), await RawClient.to(portOf(from))] as const
    for (const client of clients) await client.ask('/')
    let carried = 0
    await until('both are idle', () => (carried += carry(from, to)) === 2)
    const [own, ...others] = intervals.mock.results.filter((_, i) => intervals.mock.calls[i]![1] === 100)
    expect(others).toEqual([])
    clients[0].socket.destroy()
    await until('one has ended', () => to.served.connections === 1)
    expect(await clients[1].ask('/again')).toBe('new /again')
    await until('its timer has ended', () => Reflect.get(own!.value, '_destroyed') === true)
  })

  it('include a timeout that counts only when what has arrived is read', async () => {
    const [from, to] = await pair()
    const client = await RawClient.to(portOf(from))
    await client.ask('/')
    from.sockets[0]!.setTimeout(50)
    await until('it is idle', () => carry(from, to) === 1)
    // The request comes in a turn that lasts longer than the timeout and the interval at which it is looked at.
    await new Promise(resolve => setImmediate(resolve))
    client.send(get('/in-time'))
    const end = performance.now() + 200
    while (performance.now() < end);
    expect((await client.answer()).body).toBe('new /in-time')
  })

  it('include no timeout for a request that has begun', async () => {
    const from = await httpPlace('old', { keepAliveTimeout: 500 })
    const to = await httpPlace('new', { keepAliveTimeout: 600_000 })
    const client = await RawClient.to(portOf(from))
    await client.ask('/')
    await until('it is idle', () => carry(from, to) === 1)
    client.send('GET /slow HT')
    const begun = performance.now()
    await until('the keep-alive timeout has passed', () => performance.now() - begun > 2_000)
    client.send('TP/1.1\r\nHost: x\r\n\r\n')
    expect((await client.answer()).body).toBe('new /slow')
  })

  it('include the count of requests: the last allowed one says so and ends the connection', async () => {
    const places = await pair()
    for (const { server } of places) server.maxRequestsPerSocket = 4
    const client = await RawClient.to(portOf(places[0]))
    await client.ask('/1')
    await until('it is idle', () => carry(places[0], places[1]) === 1)
    await client.ask('/2')
    await until('it is idle', () => carry(places[1], places[0]) === 1)
    expect((await client.send(get('/3')).answer()).head).toMatch(/^connection: keep-alive$/im)
    await until('it is idle', () => carry(places[0], places[1]) === 1)
    expect((await client.send(get('/4')).answer()).head).toMatch(/^connection: close$/im)
    expect(await client.ended()).toBe('fin')
  })

  it('include the knowledge of the application about the connection', async () => {
    const users = new WeakMap<net.Socket, string>()
    const hooks = {
      serialize: (socket: net.Socket) => Buffer.from(users.get(socket) ?? ''),
      restore: (socket: net.Socket, data: Uint8Array) => void users.set(socket, Buffer.from(data).toString()),
    }
    const server = () =>
      http.createServer({ keepAliveTimeout: 30_000 }, ({ url, socket }, response) => {
        if (url!.startsWith('/login/')) users.set(socket, url!.slice(7))
        response.end(users.get(socket) ?? 'nobody')
      })
    const places = [await place(server(), { http: hooks }), await place(server(), { http: hooks })] as const
    const client = await RawClient.to(portOf(places[0]))
    await client.ask('/login/ann')
    await until('it is idle', () => carry(places[0], places[1]) === 1)
    expect(await client.ask('/')).toBe('ann')
  })

  it('include nothing when the application says "not now", or throws', async () => {
    let now: 'no' | 'throw' | 'yes' = 'no'
    const hooks = {
      serialize: () => {
        if (now === 'throw') throw new Error('broken hook')
        return now === 'yes' ? new Uint8Array() : undefined
      },
      restore: () => {},
    }
    const [from, to] = [await httpPlace('old', {}, hooks), await httpPlace('new', {}, hooks)]
    const client = await RawClient.to(portOf(from))
    const before = openDescriptors()
    for (now of ['no', 'throw'] as const) {
      const idle = mayMove(from)
      await client.ask('/')
      await idle
      expect(carry(from, to)).toBe(0)
    }
    expect(openDescriptors()).toBe(before)
    expect(from.faults).toMatchObject([{ message: 'broken hook' }])
    now = 'yes'
    expect(carry(from, to)).toBe(1)
    expect(await client.ask('/')).toBe('new /')
  })
})

describe('requests split at every byte', () => {
  const requests = get('/a') + 'POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody' + get('/c')

  /** Tries to move again and again while the client sends in two pieces; every request must be answered once, in order. */
  async function splitAt(places: readonly Place[], at: number, settle: (bytes: number) => Promise<void>) {
    const client = await RawClient.to(portOf(places[0]!))
    let moves = 0
    const move = (round: number) => {
      for (let i = 0; i < 2; i++) moves += carry(places[(round + i) % 2]!, places[(round + i + 1) % 2]!)
    }
    client.send(requests.slice(0, at))
    move(at)
    await settle(at)
    move(at + 1)
    client.send(requests.slice(at))
    move(at)
    const answers = []
    for (let i = 0; i < 3; i++) answers.push((await client.answer()).body.slice(-2))
    expect([at, ...answers]).toEqual([at, '/a', '/b', '/c'])
    client.socket.destroy()
    return moves
  }

  it('get answers once and in order, read or unread when the connection moves', async () => {
    const places = await pair()
    let moves = 0
    for (let at = 0; at <= requests.length; at++) {
      moves += await splitAt(places, at, async () => {})
      moves += await splitAt(places, at, () => new Promise(resolve => setImmediate(resolve)))
    }
    expect(moves).toBeGreaterThan(2 * requests.length)
  })

  it('keep their connection where it is as long as a part of one is read', async () => {
    const places = await pair()
    const head = get('/whole')
    for (let at = 1; at < head.length; at++) {
      const client = await RawClient.to(portOf(places[0]))
      const count = places[0].sockets.length
      client.send(head.slice(0, at))
      await until('it is read', () => places[0].sockets[count - 1]?.bytesRead === at, 5_000)
      expect(carry(places[0], places[1])).toBe(0)
      expect((await client.send(head.slice(at)).answer()).body).toBe('old /whole')
      client.socket.destroy()
      await until('it is gone', () => places[0].served.connections === 0)
    }
  })

  it('reach the next server if they came before the move and were not read', async () => {
    const [from, to] = await pair()
    const client = await RawClient.to(portOf(from))
    const idle = mayMove(from)
    await client.ask('/1')
    await idle
    const departures = taken(from)
    client.send(get('/2') + get('/3'))
    await new Promise(resolve => client.socket.write('', resolve))
    for (const departure of departures) to.moving.arrive(departure, 'moved')
    expect([(await client.answer()).body, (await client.answer()).body]).toEqual(['new /2', 'new /3'])
  })
})

describe('a connection that does not go', () => {
  async function idleOne(from: Place, where: number | string = portOf(from)): Promise<RawClient> {
    const client = await RawClient.to(where)
    const idle = mayMove(from)
    await client.ask('/before')
    await idle
    return client
  }

  it('and comes back is as before, and may leave again', async () => {
    const [from, to] = await pair()
    const client = await idleOne(from)
    for (let i = 0; i < 3; i++) {
      const departures = taken(from)
      expect([departures.length, from.moving.movable]).toEqual([1, 0])
      giveBack(from, departures, 'returned')
      expect(from.moving.movable).toBe(1)
    }
    const idle = mayMove(from)
    expect((await client.send(get('/here')).answer()).head).toMatch(/^connection: keep-alive$/im)
    await idle
    expect(carry(from, to)).toBe(1)
    expect(await client.ask('/there')).toBe('new /there')
  })

  it('because it is refused stays, and its next answer announces the end', async () => {
    const [from] = await pair()
    const client = await idleOne(from)
    const [refused] = taken(from)
    const other = await idleOne(from)
    const rest = taken(from)
    giveBack(from, [refused!], 'refused')
    giveBack(from, rest, 'returned')
    expect(from.moving.movable).toBe(1)
    expect(taken(from).map(departure => giveBack(from, [departure], 'returned'))).toHaveLength(1)
    const answer = await client.send(get('/last')).answer()
    expect([answer.body, /^connection: (.*)$/im.exec(answer.head)?.[1]]).toEqual(['old /last', 'close'])
    expect(await client.ended()).toBe('fin')
    expect((await other.send(get('/')).answer()).head).toMatch(/^connection: keep-alive$/im)
  })

  it('because the application has put a socket of another kind into the server is told to go', async () => {
    const from = await httpPlace('old')
    const between = net.createServer(socket => {
      const own = new (class extends net.Socket {})({
        fd: OwnedFd.duplicate(descriptorOf(socket)!, 'own').release(),
      })
      socket.destroy()
      from.server.emit('connection', own)
    })
    between.listen(0, '127.0.0.1')
    onTestFinished(() => void between.close())
    await once(between, 'listening')
    const client = await RawClient.to((between.address() as net.AddressInfo).port)
    await client.ask('/')
    expect([from.served.connections, from.moving.movable, taken(from).length]).toEqual([1, 0, 0])
    const { head, body } = await client.send(get('/last')).answer()
    expect([body, /^connection: (.*)$/im.exec(head)?.[1]]).toEqual(['old /last', 'close'])
    expect(await client.ended()).toBe('fin')
  })

  it('because its client has gone is gone, on either side', async () => {
    const [from, to] = await pair()
    const before = openDescriptors()
    const gone = await idleOne(from)
    const departures = taken(from)
    gone.socket.resetAndDestroy()
    for (const departure of departures) to.moving.arrive(departure, 'moved')
    await until('the server knows', () => to.served.connections === 0)
    const half = await idleOne(from)
    half.socket.end()
    expect(await half.ended()).toBe('fin')
    await until('the server knows', () => from.served.connections === 0)
    expect(taken(from)).toEqual([])
    await until('nothing is open', () => openDescriptors() === before)
  })

  it('because the next version has no use for its data is refused with the reason', async () => {
    const hooks = { serialize: () => Buffer.from('ann'), restore: () => {} }
    const [from, to] = [await httpPlace('old', {}, hooks), await httpPlace('new')]
    await idleOne(from)
    const [departure] = taken(from)
    const check = () => to.moving.check(departure!.record, departure!.fds)
    expect(check).toThrow(expect.objectContaining({ code: 'ERR_FDB_NO_TARGET' }))
    giveBack(from, [departure!], 'refused')
    expect(from.served.cut()).toMatchObject({ closed: [{ kind: 'http', reason: 'refused', count: 1 }] })
  })

  it('because what came is no connection is refused before anything is opened', async () => {
    const [from, to] = await pair()
    const client = await idleOne(from)
    const [departure] = taken(from)
    const { record, fds } = departure!
    const listening = OwnedFd.duplicate(
      (from.server as never as { _handle: { fd: number } })._handle.fd,
      'listener',
    )
    const refused = expect.objectContaining({ code: 'ERR_FDB_CONNECTION' })
    for (const wrong of [[], [listening], [fds[0]!, listening]])
      expect(() => to.moving.check(record, wrong)).toThrow(refused)
    for (const junk of [Buffer.from('junk'), Buffer.alloc(0), Buffer.from([0x0a, 0xff])])
      expect(() => to.moving.check(junk, fds)).toThrow(refused)
    listening.close()
    giveBack(to, [departure!], 'moved')
    expect(await client.ask('/')).toBe('new /')
  })

  it('while its answer is not out yet goes when it is', async () => {
    const body = Buffer.alloc(16 << 20, 'x')
    const from = await place(http.createServer((_request, response) => response.end(body)))
    const to = await httpPlace('new')
    const client = await RawClient.to(portOf(from))
    client.socket.pause()
    client.send(get('/large'))
    await until('it is under way', () => from.sockets[0]!.bytesWritten > 0)
    // The event loop may go on after each connection that stays.
    expect(from.moving.departures('auto').next()).toEqual({ done: false, value: null })
    expect(carry(from, to)).toBe(0)
    client.socket.resume()
    expect((await client.answer()).body).toHaveLength(body.length)
    await until('it is out', () => carry(from, to) === 1)
  })
})

describe('over a Unix socket', () => {
  const folder = folders()

  it('connections go too', async () => {
    const path = `${await folder()}/web.sock`
    const from = await place(
      http.createServer((_request, response) => response.end('old')),
      {},
      path,
    )
    const to = await httpPlace('new')
    const client = await RawClient.to(path)
    const idle = mayMove(from)
    await client.ask('/')
    await idle
    expect(carry(from, to)).toBe(1)
    expect(await client.ask('/unix')).toBe('new /unix')
  })
})

describe('many connections', () => {
  it('go to and fro, and leave no descriptor behind', async () => {
    const places = await pair()
    const clients = []
    const before = openDescriptors()
    for (let i = 0; i < 200; i++) clients.push(await RawClient.to(portOf(places[0])))
    await Promise.all(clients.map(client => client.ask('/')))
    await until('all are idle', () => {
      carry(places[0], places[1])
      return places[1].served.connections === 200
    })
    const open = openDescriptors()
    for (let i = 1; i < 6; i++) expect(carry(places[i % 2]!, places[(i + 1) % 2]!)).toBe(200)
    await until('those left behind are closed', () => openDescriptors() === open)
    expect(new Set(await Promise.all(clients.map(client => client.ask('/'))))).toEqual(new Set(['old /']))
    for (const client of clients) client.socket.destroy()
    await until('all are closed', () => openDescriptors() === before)
  })
})
