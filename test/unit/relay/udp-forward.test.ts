import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  bindSocket,
  DATAGRAM_BYTES,
  DatagramSocket,
  ENDS_BYTES,
  inspectOne,
  type OwnedFd,
} from '../../../src/kernel/index.js'
import {
  ClientTally,
  type Destination,
  type Drop,
  type ExchangeReport,
  FrontTurn,
  UdpForward,
  type UdpForwardOptions,
} from '../../../src/relay/index.js'
import { DatagramClient, DatagramEcho } from '../../processes/datagrams.js'
import { until } from '../../processes/until.js'

/** Knows each client that has ever counted. */
class WatchedTally extends ClientTally {
  readonly seen = new Set<string>()

  override add(address: string): void {
    this.seen.add(address)
    super.add(address)
  }
}

/** The flows that this version has, and no others, count for the limit of their clients. */
function expectCounted(version: UdpForward, tally: WatchedTally): void {
  const own = [...version.flows].filter(({ moved }) => !moved).map(({ client }) => client)
  expect(version.connections).toBe(own.length)
  const counted = [...tally.seen].map(client => [client, tally.of(client)])
  expect(counted).toEqual([...tally.seen].map(client => [client, own.filter(one => one === client).length]))
}

/** A service: the versions of it share a socket and a file. */
class Service {
  readonly socket: OwnedFd
  readonly #folder = mkdtempSync(join(tmpdir(), 'fdb-udp-'))
  readonly drops: Drop[] = []
  readonly reports: ExchangeReport[] = []
  readonly failed: string[] = []
  readonly opened: string[] = []
  idleMs = 60_000
  most = 1_000
  servers: readonly DatagramEcho[] = []
  #next = 0

  constructor(host = '127.0.0.1') {
    this.socket = bindSocket({ kind: 'udp', host, port: 0, ipv6Only: false }, 'front')
    onTestFinished(() => {
      this.socket.close()
      rmSync(this.#folder, { recursive: true })
    })
  }

  get port(): number {
    return inspectOne(this.socket).port!
  }

  destination(server: DatagramEcho, named?: Destination['named'] & object): Destination {
    return {
      key: server.url,
      address: { kind: 'tcp', host: named === undefined ? '127.0.0.1' : 'server.test', port: server.port },
      authority: '',
      opened: () => void this.opened.push(server.name),
      failed: () => void this.failed.push(server.name),
      ...(named !== undefined && { named }),
    }
  }

  /** One process of the service, which serves unless it is told not to. */
  version(more: Partial<UdpForwardOptions> = {}): UdpForward {
    const tally = new WatchedTally()
    const version: UdpForward = new UdpForward({
      listener: 'echo',
      idleMs: () => this.idleMs,
      forwardOf: () => ({
        kind: 'upstream',
        name: 'echo',
        pick: tried => {
          const left = this.servers.filter(({ url }) => !tried.some(({ key }) => key === url))
          return left.length === 0 ? null : this.destination(left[this.#next++ % left.length]!)
        },
      }),
      destinationByKey: key => {
        const server = this.servers.find(({ url }) => url === key)
        return server && this.destination(server)
      },
      exceeds: (_, descriptor) => (descriptor === null && version.connections >= this.most ? 'all' : null),
      clients: tally,
      turnOf: socket => new FrontTurn(join(this.#folder, 'slots'), 'shop', socket),
      onEnd: report => void this.reports.push(report),
      onDrop: why => void this.drops.push(why),
      onEmpty: () => {},
      onFault: error => {
        throw error
      },
      ...more,
    })
    onTestFinished(() => {
      expectCounted(version, tally)
      version.close()
      expectCounted(version, tally)
    })
    return version
  }

  start(version: UdpForward): UdpForward {
    version.start(this.socket.dup())
    return version
  }

  async clients(count: number): Promise<DatagramClient[]> {
    return await Promise.all(Array.from({ length: count }, (_, i) => DatagramClient.open(`c${i}`, this.port)))
  }
}

async function service(...names: string[]): Promise<Service> {
  const made = new Service()
  made.servers = await Promise.all(names.map(name => DatagramEcho.start(name)))
  return made
}

/** Moves up to `most` flows. Returns how many. */
function move(from: UdpForward, to: UdpForward, most = Number.POSITIVE_INFINITY): number {
  const departures = from.moving.departures()
  for (let moved = 0; ; moved++) {
    if (moved === most) return moved
    const next = departures.next()
    if (next.done) return moved
    const { record, fds } = next.value
    to.moving.arrive(to.moving.check(record, fds), 'moved')
  }
}

/** No server has heard a client from two ports. */
function expectOnePortEach({ servers }: Service): void {
  expect(servers.flatMap(({ ports }) => [...ports.values()].filter(({ size }) => size !== 1))).toEqual([])
}

const ask = (clients: readonly DatagramClient[]) => Promise.all(clients.map(client => client.ask()))

describe('datagrams that are forwarded', () => {
  it('go on in another version, flow by flow, while the first version still reads', async () => {
    const shop = await service('a', 'b', 'c')
    const old = shop.start(shop.version())
    const clients = await shop.clients(6)
    const servers = await ask(clients)
    const next = shop.start(shop.version())
    old.stop()
    expect(move(old, next, 4)).toBe(4)
    expect([old.connections, next.connections]).toEqual([2, 4])
    expect(await ask(clients)).toEqual(servers)
    expect(move(old, next)).toBe(2)
    expect([old.connections, next.connections]).toEqual([0, 6])
    expect(await ask(clients)).toEqual(servers)
    expectOnePortEach(shop)
    expect(shop.drops).toEqual([])
  })

  it('have one reader at a time: the first version, until no other that leaves has flows', async () => {
    const shop = await service('a', 'b')
    const first = shop.start(shop.version())
    const clients = await shop.clients(4)
    const servers = await ask(clients)
    const second = shop.start(shop.version())
    first.stop()
    move(first, second, 2)
    const third = shop.start(shop.version())
    second.stop()
    expect(move(first, third)).toBe(2)
    expect(await ask(clients)).toEqual(servers)
    expect([first.connections, second.connections, third.connections]).toEqual([0, 2, 2])
    first.announce()
    const late = await DatagramClient.open('late', shop.port)
    await late.ask()
    expect(first.connections).toBe(1)
    expect(move(first, third)).toBe(1)
    expect(move(second, third)).toBe(2)
    await first.emptied()
    expect(await ask(clients)).toEqual(servers)
    expect(third.connections).toBe(5)
    expectOnePortEach(shop)
  })

  it('have a reader although a version leaves before it could begin to read', async () => {
    const shop = await service('a', 'b')
    const first = shop.start(shop.version())
    const clients = await shop.clients(4)
    const servers = await ask(clients)
    const second = shop.start(shop.version())
    first.stop()
    expect(move(first, second)).toBe(4)
    first.look()
    const third = shop.start(shop.version())
    second.stop()
    expect(await ask(clients)).toEqual(servers)
    expect(move(second, third, 2)).toBe(2)
    expect(await ask(clients)).toEqual(servers)
    expect(move(second, third)).toBe(2)
    expect(await ask(clients)).toEqual(servers)
    expect(third.connections).toBe(4)
    expectOnePortEach(shop)
  })

  it('go on where they were when the other version does not take them, or is killed', async () => {
    const shop = await service('a', 'b', 'c')
    const old = shop.start(shop.version())
    const clients = await shop.clients(5)
    const servers = await ask(clients)
    const next = shop.start(shop.version())
    old.stop()
    const departures = old.moving.departures()
    const left = [...departures]
    expect([left.length, old.connections]).toEqual([5, 0])
    for (const client of clients) client.say()
    for (const departure of left.splice(0, 2)) old.moving.arrive(departure, 'returned')
    old.moving.arrive(left.shift()!, 'refused')
    for (const { record, fds } of left) next.moving.arrive(next.moving.check(record, fds), 'moved')
    expect(await ask(clients)).toEqual(servers)
    expect([old.connections, old.moving.movable, next.connections]).toEqual([3, 2, 2])
    next.close()
    shop.start(old)
    expect(old.connections).toBe(5)
    expect(await ask(clients)).toEqual(servers)
    expectOnePortEach(shop)
  })

  it('reach the version that serves although the one before is stopped', async () => {
    const shop = await service('a')
    const stopped = shop.start(shop.version())
    stopped.pause()
    const next = shop.start(shop.version())
    const [client] = await shop.clients(1)
    expect(await client!.ask()).toBe('a')
    expect([stopped.connections, next.connections]).toEqual([0, 1])
  })

  it('reach no second version while the first one reads, although each that waits looks like the one before', async () => {
    const shop = await service('a')
    const old = shop.start(shop.version())
    old.pause()
    const next = shop.start(shop.version())
    // As the first version in another process, which never comes to the end: one datagram is always left.
    const reader = new DatagramSocket(shop.socket.dup(), () => {})
    const [bytes, ends] = [Buffer.alloc(DATAGRAM_BYTES), Buffer.alloc(ENDS_BYTES)]
    const talker = createSocket('udp4')
    talker.connect(shop.port, '127.0.0.1')
    await once(talker, 'connect')
    talker.send('same again')
    let read = 0
    const talk = setInterval(() => {
      talker.send('same again')
      read += reader.readFrom(bytes, ends) > 0 ? 1 : 0
    }, 5)
    onTestFinished(() => {
      clearInterval(talk)
      talker.close()
      reader.close()
    })
    await until('many are read, or the second version reads', () => read > 400 || next.connections > 0)
    expect(next.connections).toBe(0)
    clearInterval(talk)
    await until('the second version reads what nothing else reads', () => next.connections === 1)
  })

  it('may have no bytes, or as many as fit', async () => {
    const shop = await service('a')
    shop.start(shop.version())
    const [client] = await shop.clients(1)
    await client!.ask()
    const heard: number[] = []
    client!.socket.removeAllListeners('message').on('message', ({ length }) => heard.push(length))
    shop.servers[0]!.socket.removeAllListeners('message').on('message', (datagram, { port, address }) => {
      shop.servers[0]!.socket.send(datagram, port, address)
    })
    for (const size of [0, 65_507, 1]) client!.socket.send(Buffer.alloc(size), shop.port, '127.0.0.1')
    await until('all come back', () => heard.length === 3)
    expect(heard.toSorted((a, b) => a - b)).toEqual([0, 1, 65_507])
  })

  it('go to another server when theirs is away, and the failure counts', async () => {
    const shop = await service('a', 'b')
    shop.start(shop.version())
    const [client] = await shop.clients(1)
    expect(await client!.ask()).toBe('a')
    shop.servers[0]!.socket.close()
    client!.say()
    await until('the flow has ended', () => shop.reports.length === 1)
    expect([shop.failed, shop.reports[0]!.reason]).toEqual([['a'], 'connect-failed'])
    client!.forget()
    expect(await client!.ask()).toBe('b')
  })

  it('of a broadcast over IPv4 to a socket for both kinds of addresses are answered', async () => {
    const shop = new Service('::')
    shop.servers = [await DatagramEcho.start('a')]
    shop.start(shop.version())
    const client = await DatagramClient.open('c', shop.port, '127.255.255.255')
    client.socket.setBroadcast(true)
    expect(await client.ask()).toBe('a')
    expect(shop.drops).toEqual([])
  })

  it('come from the address to which the client has sent', async () => {
    const shop = new Service('0.0.0.0')
    shop.servers = [await DatagramEcho.start('a')]
    shop.start(shop.version())
    const client = await DatagramClient.open('c', shop.port, '127.0.0.5')
    const from = new Promise(resolve => client.socket.once('message', (_, { address }) => resolve(address)))
    await client.ask()
    expect(await from).toBe('127.0.0.5')
  })

  it('get no flow beyond the limit, but instead of the oldest one without an answer', async () => {
    const shop = await service('a')
    const forward = shop.start(shop.version())
    shop.most = 2
    await ask(await shop.clients(2))
    const third = await DatagramClient.open('x', shop.port)
    third.say()
    await until('the datagram is dropped', () => shop.drops.length > 0)
    expect([shop.drops, forward.connections]).toEqual([['limit'], 2])
    shop.most = 3
    shop.servers[0]!.socket.removeAllListeners('message')
    third.say()
    await until('the third has a flow', () => forward.connections === 3)
    const fourth = await DatagramClient.open('y', shop.port)
    fourth.say()
    await until('the third gives way', () => shop.reports.length === 1)
    expect([shop.reports[0]!.reason, forward.connections]).toEqual(['limit', 3])
    const ports = [...forward.flows].map(({ ends }) => ends.readUInt16BE(2))
    expect(ports).toContain(fourth.socket.address().port)
    expect(ports).not.toContain(third.socket.address().port)
  })

  it('end a flow by their absence', async () => {
    const shop = await service('a')
    const forward = shop.start(shop.version())
    shop.idleMs = 300
    const [client] = await shop.clients(1)
    await client!.ask()
    await until('the flow ends', () => forward.connections === 0)
    expect(shop.reports).toMatchObject([
      { subject: 'udp', reason: undefined, bytesSent: 6, bytesReceived: 4 },
    ])
    expect(await client!.ask()).toBe('a')
  })
  it('leave a server that is away also when the other version, which has their flow, has noticed', async () => {
    const shop = await service('a', 'b')
    const old = shop.start(shop.version())
    const [client, stays] = (await shop.clients(2)) as [DatagramClient, DatagramClient]
    expect([await client.ask(), await stays.ask()]).toEqual(['a', 'b'])
    const next = shop.start(shop.version())
    old.stop()
    expect(move(old, next, 1)).toBe(1)
    shop.servers[0]!.socket.close()
    client.say()
    await until('the flow has ended', () => shop.reports.length === 1)
    client.say()
    client.forget()
    expect(await client.ask()).toBe('b')
    expect(move(old, next)).toBe(2)
    await ask([client, stays])
    expect([old.connections, next.connections, shop.reports.length]).toEqual([0, 2, 1])
  })

  it('keep a newer flow when the one to a server that is away comes back', async () => {
    const shop = await service('a', 'b')
    const old = shop.start(shop.version())
    const [client] = (await shop.clients(1)) as [DatagramClient]
    expect(await client.ask()).toBe('a')
    const [departure] = [...old.moving.departures()]
    shop.servers[0]!.socket.close()
    for (let i = 0; i < 2; i++) client.say()
    await until('another server has it', () => shop.servers[1]!.heard === 1)
    old.moving.arrive(departure!, 'returned')
    client.forget()
    expect(await client.ask()).toBe('b')
    expect([old.connections, shop.reports]).toEqual([1, []])
    expectOnePortEach(shop)
  })

  it('move once more while the old version reads, for their silent server does not keep the flow', async () => {
    const shop = await service('a', 'b')
    shop.idleMs = 600
    shop.servers[0]!.socket.removeAllListeners('message')
    const old = shop.start(shop.version())
    const [client, stays] = (await shop.clients(2)) as [DatagramClient, DatagramClient]
    client.say()
    await until('it has a flow', () => old.connections === 1)
    await stays.ask()
    const next = shop.start(shop.version())
    old.stop()
    expect(move(old, next, 1)).toBe(1)
    for (const each of [client, stays]) each.talk(20)
    await until('the flow is to move once more', () => old.connections === 2)
    expect(move(old, next, 1)).toBe(1)
    expect([next.connections, shop.reports]).toEqual([1, []])
  })

  it('keep their reader while the only flow gives way to one to another server', async () => {
    const shop = await service('a', 'b')
    const old = shop.start(shop.version())
    const [client] = (await shop.clients(1)) as [DatagramClient]
    expect(await client.ask()).toBe('a')
    const next = shop.start(shop.version())
    old.stop()
    old.pause()
    shop.servers[0]!.socket.close()
    for (let i = 0; i < 2; i++) client.say()
    await turn()
    old.read()
    await until('another server has it', () => shop.servers[1]!.heard === 1)
    client.forget()
    expect(await client.ask()).toBe('b')
    expect([old.connections, next.connections]).toEqual([1, 0])
    expectOnePortEach(shop)
  })

  it('go on at their server after an error that says nothing about it', async () => {
    const shop = await service('a', 'b')
    const forward = shop.start(shop.version())
    const [client] = (await shop.clients(1)) as [DatagramClient]
    expect(await client.ask()).toBe('a')
    const [flow] = forward.flows
    // A router on the way does not pass on datagrams of that size.
    const tooLong = Object.assign(new Error('EMSGSIZE'), { code: 'EMSGSIZE' })
    const socket = flow!.socket!
    for (const call of ['read', 'send'] as const) {
      const first = () => {
        delete (socket as Partial<typeof socket>)[call]
        throw tooLong
      }
      Object.defineProperty(socket, call, { value: first, configurable: true })
      expect(await client.ask()).toBe('a')
    }
    expect([shop.failed, shop.reports, shop.drops]).toEqual([[], [], []])
  })

  it('do not wait for flows that leave slowly, or no longer', async () => {
    const shop = await service('a')
    const old = shop.start(shop.version())
    await ask(await shop.clients(2))
    const next = shop.start(shop.version())
    old.stop()
    const departures = old.moving.departures()
    const leave = () => {
      const { record, fds } = departures.next().value!
      next.moving.arrive(next.moving.check(record, fds), 'moved')
    }
    for (let round = 1; round <= 3; round++) {
      leave()
      leave()
      await ask(await shop.clients(2))
    }
    leave()
    const [late] = await shop.clients(1)
    await late!.ask()
    expect([old.connections, next.connections]).toEqual([2, 7])
  })

  it('go to the addresses of a name in turn, and to the next one if one refuses', async () => {
    const shop = await service('a')
    const second = await DatagramEcho.start('second', shop.servers[0]!.port, '127.0.0.2')
    let addresses = ['127.0.0.1', '127.0.0.2']
    let turns = 0
    const named: Destination['named'] & object = {
      lookup: (_, { all }, found) => {
        const known = addresses.map(address => ({ address, family: 4 }))
        process.nextTick(() => (all ? found(null, known) : found(null, known[0]!.address, 4)))
      },
      current: () => true,
      turn: () => addresses[turns++ % addresses.length]!,
      tried(address, accepts) {
        if (!accepts) addresses = addresses.filter(each => each !== address)
      },
    }
    const server = shop.destination(shop.servers[0]!, named)
    const route = { kind: 'upstream' as const, name: 'echo', pick: () => server }
    shop.start(shop.version({ forwardOf: () => route, destinationByKey: () => server }))
    const heard: string[] = []
    for (const client of await shop.clients(4)) heard.push(await client.ask())
    expect(heard).toEqual(['a', 'second', 'a', 'second'])
    second.socket.close()
    turns = 1
    const [last] = await shop.clients(1)
    // All three wait for the address: the first is lost.
    for (let i = 0; i < 3; i++) last!.say()
    await until('the others come to the next address', () => shop.servers[0]!.heard === 4)
    expect(shop.failed).toEqual([])
  })

  it('find no reader that was closed, also if its process serves again, and no flow goes there', async () => {
    const edge = await service('one')
    const [before, closed] = [edge.start(edge.version()), edge.version()]
    const [client] = await edge.clients(1)
    await client!.ask()
    closed.close()
    edge.start(closed)
    expect(closed.active).toBe(false)
    const [flow] = [...before.moving.departures()]
    expect(() => closed.moving.check(flow!.record, flow!.fds)).toThrow('its listener was closed')
    before.moving.arrive(flow!, 'refused')
    await client!.ask()
    expectOnePortEach(edge)
    await closed.emptied()
  })

  it('go to another server if the name of theirs has no address, all that have waited for it', async () => {
    const shop = await service('a', 'b')
    const [first] = shop.servers
    const nowhere: Destination['named'] & object = {
      lookup: (_host, _options, found) => void setTimeout(() => found(new Error('ENOTFOUND'), ''), 20),
      current: () => false,
      turn: () => null,
      tried() {},
    }
    const all = [shop.destination(first!, nowhere), shop.destination(shop.servers[1]!)]
    let usable = all
    const pick = (tried: readonly Destination[]) => usable.find(each => !tried.includes(each)) ?? null
    const forward = shop.start(shop.version({ forwardOf: () => ({ kind: 'upstream', name: 'echo', pick }) }))
    const [client] = await shop.clients(1)
    for (let i = 0; i < 3; i++) client!.say()
    expect(await client!.ask()).toBe('b')
    expect([shop.failed, shop.drops, forward.connections]).toEqual([['a'], [], 1])
    expect(shop.servers[1]!.ports.get('c0')!.size).toBe(1)

    usable = [all[0]!]
    const [other] = await shop.clients(1)
    for (let i = 0; i < 3; i++) other!.say()
    await until('all are counted', () => shop.drops.length === 3)
    expect([shop.drops, forward.connections]).toEqual([Array(3).fill('no-server'), 1])
  })

  it('count for a server that never answers, as long as it does not refuse', async () => {
    const shop = await service('a')
    shop.servers[0]!.socket.removeAllListeners('message')
    const forward = shop.start(shop.version())
    const [client] = await shop.clients(1)
    client!.say()
    await until('it has a flow', () => forward.connections === 1)
    client!.say()
    expect(shop.opened).toEqual([])
    for (const flow of forward.flows) flow.startedAt -= 5_000
    client!.say()
    await until('it listens', () => shop.opened.length === 1)
  })
})
