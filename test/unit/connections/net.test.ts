import net from 'node:net'
import { describe, expect, it } from 'vitest'
import type { SocketProtocol } from '../../../src/index.js'
import { RawClient } from '../../connections-support/http-client.js'
import { carry, giveBack, type Place, place, taken } from '../../connections-support/http-pair.js'
import { untyped } from '../../fixtures/untyped.js'
import { openDescriptors } from '../../native/support.js'
import { until } from '../../processes/until.js'

const portOf = ({ server }: Place) => (server.address() as net.AddressInfo).port

/** Lines are answered with `NAME NUMBER LINE`, numbered for each connection; the line `half` is read and not answered. */
class Counting {
  readonly server: net.Server
  readonly #lines = new Map<net.Socket, { count: number; rest: string }>()
  readonly #name: string
  paused = false
  now: 'yes' | 'no' | 'throw' = 'yes'

  constructor(name: string) {
    this.#name = name
    this.server = net.createServer(socket => this.#serve(socket, 0, ''))
  }

  readonly hooks: SocketProtocol = {
    protocol: 'app/counting-1',
    serialize: socket => {
      if (this.now === 'throw') throw new Error('broken hook')
      const facts = this.#lines.get(socket)
      if (facts === undefined || this.now === 'no') return undefined
      return Buffer.from(JSON.stringify(facts))
    },
    restore: (socket, record) => {
      const { count, rest } = JSON.parse(Buffer.from(record).toString())
      this.#serve(socket, count, rest)
    },
  }

  #serve(socket: net.Socket, count: number, rest: string): void {
    const facts = { count, rest }
    this.#lines.set(socket, facts)
    socket.on('data', chunk => {
      const lines = (facts.rest + chunk).split('\n')
      facts.rest = lines.pop()!
      for (const line of lines) socket.write(`${this.#name} ${++facts.count} ${line}\n`)
    })
    if (this.paused) socket.pause()
    socket.on('error', () => {})
    socket.on('close', () => this.#lines.delete(socket))
  }
}

async function pair(): Promise<[Counting, Counting, Place, Place]> {
  const [old, young] = [new Counting('old'), new Counting('new')]
  return [
    old,
    young,
    await place(old.server, { socket: old.hooks }),
    await place(young.server, { socket: young.hooks }),
  ]
}

class Lines {
  #text = ''
  readonly client: RawClient
  constructor(client: RawClient) {
    this.client = client
    client.socket.on('data', chunk => {
      this.#text += chunk
    })
  }

  async next(): Promise<string> {
    await until('a line comes', () => this.#text.includes('\n'))
    const [line, ...rest] = this.#text.split('\n')
    this.#text = rest.join('\n')
    return line!
  }
}

async function connected(to: Place): Promise<Lines> {
  const count = to.sockets.length
  const lines = new Lines(await RawClient.to(portOf(to)))
  await until('it is accepted', () => to.sockets.length > count)
  return lines
}

describe('a connection of an application protocol', () => {
  it('goes on with what the application says of it, at any byte', async () => {
    const [, , from, to] = await pair()
    const lines = await connected(from)
    lines.client.send('one\ntw')
    expect(await lines.next()).toBe('old 1 one')
    await until('the half line is read', () => from.sockets[0]!.bytesRead === 6)
    expect(carry(from, to)).toBe(1)
    expect([from.served.connections, to.served.connections]).toEqual([0, 1])
    lines.client.send('o\nthree\n')
    expect([await lines.next(), await lines.next()]).toEqual(['new 2 two', 'new 3 three'])
    expect(to.sockets).toHaveLength(0)
  })

  it('goes on in order when it moves after every message, with bytes on the way', async () => {
    const [, , ...places] = await pair()
    const lines = await connected(places[0])
    for (let i = 1; i <= 300; i++) {
      lines.client.send(`${i}`)
      carry(places[(i + 1) % 2]!, places[i % 2]!)
      lines.client.send('\n')
      if (i % 3 === 0) await new Promise(resolve => setImmediate(resolve))
    }
    for (let i = 1; i <= 300; i++) expect(await lines.next()).toMatch(new RegExp(` ${i} ${i}$`))
  })

  it('takes along what Node has read and the application has not, and reads no more of it at each move', async () => {
    const [old, young, from, to] = await pair()
    old.paused = true
    const lines = await connected(from)
    const text = 'x'.repeat(1 << 20)
    lines.client.send(`${text}\n`)
    await until('the buffer is full', () => from.sockets[0]!.readableLength >= 16_384)
    const sizes: number[] = []
    young.paused = true
    for (let round = 0; round < 6; round++) {
      const places = round % 2 === 0 ? [from, to] : [to, from]
      const departures = taken(places[0]!)
      sizes.push(departures[0]!.record.length)
      if (round === 5) old.paused = false
      giveBack(places[1]!, departures, 'moved')
      for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
    }
    expect(Math.max(...sizes)).toBe(sizes[0])
    const line = await lines.next()
    expect(line).toBe(`old 1 ${text}`)
  })

  it('stays when the application says "not now", or throws, or while something is to be written', async () => {
    const [old, , from, to] = await pair()
    const lines = await connected(from)
    lines.client.send('1\n')
    await lines.next()
    const before = openDescriptors()
    for (old.now of ['no', 'throw'] as const) expect(carry(from, to)).toBe(0)
    expect(from.faults).toMatchObject([{ message: 'broken hook' }])
    old.now = 'yes'
    lines.client.socket.pause()
    from.sockets[0]!.write(Buffer.alloc(32 << 20, '.'))
    expect(carry(from, to)).toBe(0)
    expect(openDescriptors()).toBe(before)
    lines.client.socket.resume()
    await until('it is written', () => from.sockets[0]!.writableLength === 0)
    expect(carry(from, to)).toBe(1)
  })

  it('does not go back if its hook has written before it throws', async () => {
    const [, young, from, to] = await pair()
    const lines = await connected(from)
    const restore = (socket: net.Socket) => {
      socket.write('half of an answer')
      throw new Error('broken hook')
    }
    Object.assign(young.hooks, { restore })
    expect(() => carry(from, to)).toThrow('broken hook')
    await until('it is closed', () => lines.client.socket.destroyed)
  })

  it('stays when half a character may be in its decoder', async () => {
    const [, , from, to] = await pair()
    await connected(from)
    from.sockets[0]!.setEncoding('utf8')
    expect(carry(from, to)).toBe(0)
  })

  it('comes back into its own process, and is not offered again when it was refused', async () => {
    const [, , from] = await pair()
    const lines = await connected(from)
    for (const how of ['returned', 'refused'] as const) giveBack(from, taken(from), how)
    expect([taken(from).length, from.moving.movable, from.served.connections]).toEqual([0, 0, 1])
    lines.client.send('still there\n')
    expect(await lines.next()).toBe('old 1 still there')
    expect(from.served.cut()).toEqual({
      idle: 1,
      busy: 0,
      closed: [{ kind: 'app/counting-1', reason: 'refused', count: 1 }],
    })
    expect(await lines.client.ended()).toBe('fin')
  })

  it('closes when it comes back after the end of the drain', async () => {
    const [, , from] = await pair()
    const lines = await connected(from)
    const departures = taken(from)
    from.served.detach()
    expect(from.served.cut()).toMatchObject({ idle: 0, busy: 0 })
    expect(from.served.cutReturned()).toMatchObject({ idle: 0, busy: 0 })
    giveBack(from, departures, 'returned')
    expect(from.served.cutReturned()).toMatchObject({ idle: 1, busy: 0 })
    expect(from.served.cutReturned()).toMatchObject({ idle: 0, busy: 0 })
    expect(await lines.client.ended()).toBe('fin')
  })

  it('ends in the next process if its peer ends meanwhile', async () => {
    const [, , from, to] = await pair()
    const before = openDescriptors()
    const lines = await connected(from)
    lines.client.send('last\n').socket.end()
    const departures = taken(from)
    giveBack(to, departures, 'moved')
    expect(await lines.next()).toMatch(/ 1 last$/)
    expect(await lines.client.ended()).toBe('fin')
    await until('nothing is left', () => openDescriptors() === before)
  })
})

describe('hooks that do not fit', () => {
  it('throw when the server is given', async () => {
    const whole = new Counting('old').hooks
    const wrong = { code: 'ERR_FDB_OPTION' }
    for (const hooks of [
      { ...whole, protocol: 'chat' },
      { ...whole, protocol: 'app/' },
      { ...whole, restore: undefined },
    ])
      await expect(place(net.createServer(), { socket: untyped(hooks) })).rejects.toMatchObject(wrong)
  })
})
