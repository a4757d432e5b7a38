import http from 'node:http'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { MoveCounts } from '../../../src/connections/counts.js'
import { movePair } from '../../../src/connections/move-channel.js'
import { MoveLog } from '../../../src/connections/move-log.js'
import { ConnectionReceiver } from '../../../src/connections/receiver.js'
import { ConnectionSender } from '../../../src/connections/sender.js'
import type { SocketProtocol } from '../../../src/index.js'
import { Channel } from '../../../src/wire/channel.js'
import { Link } from '../../../src/wire/link.js'
import { get, RawClient } from '../../connections-support/http-client.js'
import { carry, mayMove, type Place, place, taken } from '../../connections-support/http-pair.js'
import { withoutDescriptors } from '../../fixtures/descriptor-limit.js'
import { untyped } from '../../fixtures/untyped.js'
import { openDescriptors } from '../../native/support.js'
import { until } from '../../processes/until.js'

const portOf = ({ server }: Place) => (server.address() as net.AddressInfo).port

const NO_BYTES: [string, unknown][] = [
  ['a string', '{"user":"ann"}'],
  ['an object', { user: 'ann' }],
  ['null', null],
  ['a promise', Promise.resolve(Buffer.from('ann'))],
]

/** Echoes, and says which sockets its hooks saw. */
class Echo {
  readonly server = net.createServer(socket => this.#serve(socket))
  readonly given: net.Socket[] = []
  readonly restored: net.Socket[] = []
  returns: (socket: net.Socket) => unknown = () => Buffer.from('facts')

  readonly hooks: SocketProtocol = {
    protocol: 'app/echo-1',
    serialize: socket => {
      this.given.push(socket)
      return this.returns(socket) as Uint8Array
    },
    restore: (socket, record) => {
      expect(Buffer.from(record).toString()).toBe('facts')
      this.restored.push(socket)
      this.#serve(socket)
    },
  }

  #serve(socket: net.Socket): void {
    socket.on('error', () => {})
    socket.on('data', chunk => socket.write(chunk))
  }
}

async function echoed(client: RawClient, text: string): Promise<void> {
  const got: string[] = []
  const listener = (chunk: string) => got.push(chunk)
  client.socket.on('data', listener)
  client.send(text)
  await until('it comes back', () => got.join('').endsWith(text))
  client.socket.off('data', listener)
}

describe('a hook', () => {
  it.each(NO_BYTES)(
    'causes a message when it returns %s for a socket of its own, and the connection stays',
    async (_, value) => {
      const old = new Echo()
      const from = await place(old.server, { socket: old.hooks })
      const client = await RawClient.to(portOf(from))
      await until('it is there', () => from.sockets.length === 1)
      const before = openDescriptors()
      old.returns = () => value
      for (let i = 0; i < 3; i++) expect(taken(from)).toEqual([])
      expect(from.faults).toMatchObject([
        { code: 'ERR_FDB_HOOK', message: expect.stringContaining('Uint8Array') },
      ])
      expect([openDescriptors(), old.restored.length, from.sockets[0]!.destroyed]).toEqual([before, 0, false])
      await echoed(client, 'still here')
    },
  )

  it.each(NO_BYTES)(
    'causes a message when it returns %s for an HTTP connection, and the connection stays',
    async (_, value) => {
      const server = http.createServer((_request, response) => response.end('old'))
      const from = await place(server, { http: { serialize: () => untyped(value), restore: () => {} } })
      const client = await RawClient.to(portOf(from))
      const idle = mayMove(from)
      await client.ask('/')
      await idle
      const before = openDescriptors()
      expect(taken(from)).toEqual([])
      expect(from.faults).toMatchObject([{ code: 'ERR_FDB_HOOK' }])
      expect(openDescriptors()).toBe(before)
      expect(await client.ask('/')).toBe('old')
    },
  )

  it('stays uncalled where this process may not have the descriptor that the connection needs', async () => {
    const old = new Echo()
    const from = await place(old.server, { socket: old.hooks })
    const client = await RawClient.to(portOf(from))
    await until('it is there', () => from.sockets.length === 1)
    const again = withoutDescriptors()
    try {
      expect(taken(from)).toEqual([])
    } finally {
      again()
    }
    expect([old.given.length, old.restored.length]).toEqual([0, 0])
    await echoed(client, 'still here')
    const next = new Echo()
    const to = await place(next.server, { socket: next.hooks })
    expect(carry(from, to)).toBe(1)
    await echoed(client, 'there')
  })
})

describe('a connection that its application ends while it gives it away', () => {
  it('ends', async () => {
    const old = new Echo()
    const from = await place(old.server, { socket: old.hooks })
    const before = openDescriptors()
    const client = await RawClient.to(portOf(from))
    await until('it is there', () => from.sockets.length === 1)
    old.returns = socket => {
      socket.end('bye')
      return Buffer.from('facts')
    }
    expect(taken(from)).toEqual([])
    expect(await client.ended()).toBe('fin')
    client.socket.destroy()
    await until('it is gone', () => from.served.connections === 0 && openDescriptors() === before)
    expect([old.restored, from.faults]).toEqual([[], []])
  })
})

describe('a connection whose application writes while it gives it away', () => {
  async function given(asked = true): Promise<[Echo, Place, RawClient]> {
    const old = new Echo()
    const from = await place(old.server, { socket: old.hooks })
    const client = await RawClient.to(portOf(from))
    await until('it is there', () => from.sockets.length === 1)
    client.socket.pause()
    old.returns = socket => {
      socket.write(Buffer.alloc(32 << 20, '.'))
      return Buffer.from('facts')
    }
    if (!asked) return [old, from, client]
    expect(taken(from)).toEqual([])
    expect(old.given.length).toBe(1)
    client.send('unread')
    return [old, from, client]
  }

  /** As {@link given}, by a sender whose receiver is `peer`, which takes nothing. */
  async function sending() {
    const [old, from, client] = await given(false)
    const { give, take, log } = movePair()
    const sender = new ConnectionSender({
      link: new Link(new Channel(give)),
      log,
      sources: () => [{ listener: 'web', address: '', moving: from.moving }],
      which: 'auto',
      perSecond: Number.POSITIVE_INFINITY,
      firstWaveMs: 0,
      drainMs: 60_000,
      counts: new MoveCounts(),
      reportError: error => from.faults.push(error),
      onEnded: () => {},
    })
    sender.start()
    onTestFinished(() => {
      take.close()
      return sender.stop()
    })
    await until('the hook has written', () => old.given.length === 1)
    client.send('unread')
    return { old, from, client, sender, peer: take }
  }

  /** All that was written before, then the echo. */
  async function whole(client: RawClient, went: () => boolean): Promise<void> {
    let dots = 0
    let rest = ''
    client.socket.on('data', (chunk: string) => {
      const at = chunk.search(/[^.]/)
      dots += at < 0 ? chunk.length : at
      if (at >= 0) rest += chunk.slice(at)
    })
    client.socket.resume()
    await until('it goes on', went)
    await until(
      'all comes',
      () => dots === 32 << 20 && rest === 'unread',
      10_000,
      () => [dots, rest],
    )
  }

  it('leaves when that is out, and is asked once', async () => {
    const [old, from, client] = await given()
    const next = new Echo()
    const to = await place(next.server, { socket: next.hooks })
    await whole(client, () => carry(from, to) === 1)
    expect([old.given.length, old.restored.length, next.restored.length]).toEqual([1, 0, 1])
  })

  it('comes back on a socket of its own when this process serves again', async () => {
    const [old, from, client] = await given()
    from.served.detach()
    await from.served.attach(untyped(undefined), 16).catch(() => {})
    await whole(client, () => old.restored.length === 1)
    expect(old.restored[0]).not.toBe(old.given[0])
    expect([old.given.length, from.served.connections]).toEqual([1, 1])
  })

  it.each([
    ['while its bytes wait', 'before'],
    ['when its bytes are out', 'after'],
  ] as const)('comes back when the channel to the next process ends %s', async (_, when) => {
    const { old, from, client, sender, peer } = await sending()
    if (when === 'after') from.moving.departures = () => [][Symbol.iterator]()
    else peer.close()
    const out = () => from.sockets[0]!.destroyed || from.sockets[0]!.writableLength === 0
    const all = whole(client, () => old.restored.length === 1)
    await until('the bytes are out', out)
    if (when === 'after') expect(old.restored.length).toBe(0)
    peer.close()
    await all
    await sender.stop()
    expect([old.given.length, from.served.connections, from.faults]).toEqual([1, 1, []])
  })

  it('holds no descriptor when it ends meanwhile', async () => {
    const before = openDescriptors()
    const [, from, client] = await given()
    client.socket.resetAndDestroy()
    from.served.cut()
    await until('nothing is left', () => openDescriptors() <= before + 1)
  })
})

describe('an HTTP connection that is not let go', () => {
  it('learns by an answer that it must go, though it may still move', async () => {
    let says: Uint8Array | undefined
    const server = () => http.createServer((_request, response) => response.end('x'))
    const from = await place(server(), { http: { serialize: () => says, restore: () => {} } })
    const clients = [await RawClient.to(portOf(from)), await RawClient.to(portOf(from))]
    for (const client of clients) await client.ask('/')
    const asking = setInterval(() => taken(from), 100)
    onTestFinished(() => clearInterval(asking))
    const told = async () => /^connection: close$/im.test((await clients[0]!.send(get('/')).answer()).head)
    await until('it is told', told)
    expect(await clients[0]!.ended()).toBe('fin')
    clearInterval(asking)
    says = Buffer.from('go')
    const to = await place(server(), { http: { serialize: () => says, restore: () => {} } })
    expect(carry(from, to)).toBe(1)
    expect((await clients[1]!.send(get('/')).answer()).head).not.toMatch(/^connection: close$/im)
  })

  it('of a client that always has a request on the way is told all the same', async () => {
    const server = http.createServer((_request, response) => setTimeout(() => response.end('x'), 5))
    const from = await place(server)
    const client = await RawClient.to(portOf(from))
    client.send(get('/').repeat(2))
    let told = false
    for (let answers = 0; !told && answers < 100; answers++) {
      client.send(get('/'))
      if (answers === 3) from.served.announce()
      told = /^connection: close$/im.test((await client.answer()).head)
    }
    expect(told).toBe(true)
  })
})

describe('a hook restore() that throws in the next process', () => {
  /** Moves all connections, and resolves when none is under way any more. */
  async function move(from: Place, to: Place) {
    const pair = movePair()
    const [given, arrived] = [new MoveCounts(), new MoveCounts()]
    const faults: unknown[] = []
    const reportError = (error: unknown) => faults.push(error)
    const log = MoveLog.open(pair.log.fd.dup())
    const receiver = new ConnectionReceiver({
      link: new Link(new Channel(pair.take)),
      log,
      sender: process.pid,
      target: () => to.moving,
      counts: arrived,
      reportError,
      onEnded: () => {},
    })
    let gone = () => {}
    const idle = new Promise<void>(resolve => (gone = resolve))
    const sender = new ConnectionSender({
      link: new Link(new Channel(pair.give)),
      log: pair.log,
      sources: () => [{ listener: 'web', address: '', moving: from.moving }],
      which: 'auto',
      perSecond: Number.POSITIVE_INFINITY,
      firstWaveMs: 0,
      drainMs: 10_000,
      counts: given,
      reportError,
      onIdle: () => gone(),
      onEnded: () => {},
    })
    onTestFinished(async () => {
      await sender.stop()
      await receiver.stop()
    })
    receiver.start()
    sender.start()
    await idle
    await sender.settled()
    return { given, arrived, faults }
  }
  const thrown = new Error('the new version has a defect')
  const throws = () => {
    throw thrown
  }

  it('leaves the connections in the old one, with each byte, and the new one is told', async () => {
    const old = new Echo()
    const young = new Echo()
    const from = await place(old.server, { socket: old.hooks })
    const to = await place(young.server, { socket: { ...young.hooks, restore: throws } })
    const clients = [await RawClient.to(portOf(from)), await RawClient.to(portOf(from))]
    await until('they are there', () => from.sockets.length === 2)
    for (const client of clients) await echoed(client, 'before')
    const before = openDescriptors()
    const { given, arrived, faults } = await move(from, to)
    expect([given.moved, given.lost, arrived.report.arrived, arrived.lost, faults]).toEqual([0, 0, 0, 0, []])
    expect(to.faults).toEqual([thrown, thrown])
    expect(old.restored).toHaveLength(2)
    for (const client of clients) await echoed(client, 'still here')
    expect(from.moving.movable).toBe(0)
    // The descriptors of the channel and of its logs.
    expect(openDescriptors()).toBeLessThanOrEqual(before + 4)
  })

  it('leaves an HTTP connection in the old one, which answers the next request and says that it closes', async () => {
    const server = (name: string) => http.createServer((_request, response) => response.end(name))
    const serialize = () => Buffer.from('ann')
    const from = await place(server('old'), { http: { serialize, restore: () => {} } })
    const to = await place(server('new'), { http: { serialize, restore: throws } })
    const client = await RawClient.to(portOf(from))
    const idle = mayMove(from)
    await client.ask('/')
    await idle
    const { arrived } = await move(from, to)
    expect([to.faults, arrived.lost]).toEqual([[thrown], 0])
    expect(await client.ask('/')).toBe('old')
    expect(await client.ended()).toBe('fin')
  })
})
