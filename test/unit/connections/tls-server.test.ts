import { once } from 'node:events'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Departure } from '../../../src/connections/movable.js'
import type { SocketProtocol } from '../../../src/index.js'
import { giveBack, type Place, place, taken } from '../../connections-support/http-pair.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { until } from '../../processes/until.js'

const CERTIFIED = { cert: CERTIFICATE, key: KEY }
const MOVES = { tls: { move: 'on' } } as const

/** Lines are answered with `NAME NUMBER LINE`, numbered for each connection. */
class Counting {
  readonly lines = new Map<net.Socket, { count: number; rest: string }>()
  readonly #name: string
  /** The hook throws. */
  isBroken = false

  constructor(name: string) {
    this.#name = name
  }

  readonly hooks: SocketProtocol = {
    protocol: 'app/counting-1',
    serialize: socket => {
      socket.write(`${this.#name} gives\n`)
      return Buffer.from(JSON.stringify(this.lines.get(socket)))
    },
    restore: (socket, record) => {
      if (this.isBroken) throw new Error('broken hook')
      const { count, rest } = JSON.parse(Buffer.from(record).toString())
      this.serve(socket, count, rest)
    },
  }

  serve(socket: net.Socket, count = 0, rest = ''): void {
    const facts = { count, rest }
    this.lines.set(socket, facts)
    socket.on('data', chunk => {
      const lines = (facts.rest + chunk).split('\n')
      facts.rest = lines.pop()!
      for (const line of lines) socket.write(`${this.#name} ${++facts.count} ${line}\n`)
    })
    socket.on('error', () => {})
  }
}

async function tlsPlace(
  name: string,
  greet: (socket: tls.TLSSocket) => void = () => {},
): Promise<[Counting, Place]> {
  const counting = new Counting(name)
  const server = tls.createServer(CERTIFIED, socket => {
    greet(socket)
    counting.serve(socket)
  })
  return [counting, await place(server, { socket: counting.hooks, ...MOVES })]
}

/** The lines that the client gets. */
async function connected({ server }: Place, options: tls.ConnectionOptions = {}) {
  const { port } = server.address() as net.AddressInfo
  const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options })
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  let text = ''
  socket.setEncoding('latin1').on('data', chunk => (text += chunk))
  await once(socket, 'secureConnect')
  return {
    socket,
    async hears(line: string) {
      await until(line, () => text.includes(`${line}\n`) || socket.destroyed)
      expect(text).toContain(`${line}\n`)
    },
  }
}

async function left(from: Place): Promise<Departure[]> {
  let departures: Departure[] = []
  from.moving.onMovable = () => {}
  await until('it has left', () => (departures = taken(from)).length > 0)
  from.moving.onMovable = null
  return departures
}

async function move(from: Place, to: Place): Promise<void> {
  giveBack(to, await left(from), 'moved')
}

describe('a connection of a tls.Server with hooks', () => {
  it('goes on after each move, with what the hook has written and half a line', async () => {
    const [[, a], [, b], [, c]] = [await tlsPlace('a'), await tlsPlace('b'), await tlsPlace('c')]
    const { socket, hears } = await connected(a)
    socket.write('one\ntw')
    await hears('a 1 one')
    await move(a, b)
    await hears('a gives')
    socket.write('o\nthr')
    await hears('b 2 two')
    await move(b, c)
    await move(c, a)
    socket.write('ee\n')
    await hears('a 3 three')
    expect([a.moving.protocol, a.moving.secret]).toEqual(['tls/app/counting-1', true])
    expect([a.served.connections, b.served.connections, c.served.connections]).toEqual([1, 0, 0])
  })

  it('does not go back if its hook has written before it throws: both processes would use the same keys', async () => {
    const [[, a], [counting, b]] = [await tlsPlace('a'), await tlsPlace('b')]
    const { socket, hears } = await connected(a)
    socket.write('one\n')
    await hears('a 1 one')
    const departures = await left(a)
    const restore = (moved: net.Socket) => {
      moved.write('b takes\n')
      throw new Error('broken hook')
    }
    Object.assign(counting.hooks, { restore })
    expect(() => giveBack(b, departures, 'moved')).toThrow('broken hook')
    await once(socket, 'close')
  })

  it('stays while its program has corked it', async () => {
    const [[counting, a], [, b]] = [await tlsPlace('a'), await tlsPlace('b')]
    const { socket, hears } = await connected(a)
    socket.write('one\n')
    await hears('a 1 one')
    const [corked] = [...counting.lines.keys()]
    corked!.cork()
    corked!.write('held\n')
    const other = await connected(a)
    other.socket.write('one\n')
    await other.hears('a 1 one')
    await move(a, b)
    expect([a.served.connections, b.served.connections]).toEqual([1, 1])
    corked!.uncork()
    await hears('held')
    await move(a, b)
    socket.write('two\n')
    await hears('b 2 two')
  })

  it('may be destroyed by its program amid what its client has sent', async () => {
    const [[, a], [counting, b]] = [await tlsPlace('a'), await tlsPlace('b')]
    const { socket, hears } = await connected(a)
    socket.write('one\n')
    await hears('a 1 one')
    const departures = await left(a)
    // Both wait in the kernel, and are read as one chunk.
    socket.write('quit\n')
    await new Promise(sent => socket.write('more\n', sent))
    giveBack(b, departures, 'moved')
    const [moved] = [...counting.lines.keys()]
    moved!.on('data', chunk => {
      if (String(chunk) === 'quit\n') moved!.destroy()
    })
    // An exception in the process would fail the run.
    await once(socket, 'close')
    expect(counting.lines.get(moved!)!.count).toBe(2)
  })

  it('gets the lines that came with the move before its end', async () => {
    const [[counting, a], [, b]] = [await tlsPlace('a'), await tlsPlace('b')]
    const { socket, hears } = await connected(a)
    socket.write('one\n')
    await hears('a 1 one')
    giveBack(a, await left(a), 'returned')
    const moved = [...counting.lines.keys()].at(-1)!
    moved.allowHalfOpen = true
    const below: net.Socket = Reflect.get(moved, 'below')
    await until('it is read', () => below.readableFlowing)
    below.pause()
    socket.end('two\n')
    await until('its end has arrived', () => Reflect.get(below, '_readableState').ended === true)
    const departures = await left(a)
    // Then what waits in the kernel, the end, is read before the next immediate.
    await new Promise<void>(resolve => setImmediate(resolve))
    giveBack(b, departures, 'moved')
    await hears('b 2 two')
  })

  it('ends the program by the exception of a listener, also for a record that is read while it is to leave', async () => {
    const [counting, a] = await tlsPlace('a')
    let asked = 0
    Object.assign(counting.hooks, { serialize: () => void asked++ })
    // A path that passes on so many bytes.
    let most = Number.POSITIVE_INFINITY
    let rest = Buffer.alloc(0)
    const server = net.connect((a.server.address() as net.AddressInfo).port, '127.0.0.1')
    const path = net.createServer(client => {
      server.pipe(client)
      client
        .on('error', () => {})
        .on('data', chunk => {
          const part = chunk.subarray(0, most)
          most -= part.length
          rest = Buffer.concat([rest, chunk.subarray(part.length)])
          server.write(part)
        })
    })
    await once(path.listen(0, '127.0.0.1'), 'listening')
    onTestFinished(() => void path.close())
    const { socket, hears } = await connected(a, { port: (path.address() as net.AddressInfo).port })
    socket.write('one\n')
    await hears('a 1 one')
    a.moving.onMovable = () => {}
    await until('it may leave', () => taken(a).length === 0 && asked > 0)
    const [own] = [...counting.lines.keys()]
    own!.prependListener('data', () => {
      throw new Error('of the program')
    })
    most = 40
    socket.write('x'.repeat(300))
    await until('the begin of a record has arrived', () => rest.length > 0 && a.served.kinds()['half-record'])
    const usual = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    const caught: string[] = []
    process.on('uncaughtException', error => caught.push(error.message))
    try {
      taken(a)
      server.write(rest)
      await until('it ends the program', () => taken(a).length === 0 && caught.length > 0, 2_000).catch(
        () => {},
      )
    } finally {
      process.removeAllListeners('uncaughtException')
      for (const listener of usual) process.on('uncaughtException', listener)
    }
    expect([caught, a.faults]).toEqual([['of the program'], []])
  })

  it('comes back to its own server when no other takes it', async () => {
    const [[, a]] = [await tlsPlace('a')]
    const { socket, hears } = await connected(a)
    socket.write('one\n')
    await hears('a 1 one')
    a.moving.onMovable = () => {}
    await until('it has left', () => {
      const departures = taken(a)
      giveBack(a, departures, 'returned')
      return departures.length > 0
    })
    socket.write('two\n')
    await hears('a 2 two')
    // The hook has written, and the channel has ended before that was sent.
    giveBack(a, taken(a), 'returned')
    a.moving.onMovable = null
    socket.write('three\n')
    await hears('a 3 three')
    expect(a.faults).toEqual([])
  })

  it.each([
    ['moves after a greeting in one record', { open: 1 }, 500],
    ['stays if its greeting may have been sent in more records', { handshake: 1 }, 3_000],
  ])('%s', async (_title, kinds, greeting) => {
    const [[, a], [, b]] = [
      await tlsPlace('a', socket => {
        socket.setMaxSendFragment(512)
        socket.write('x'.repeat(greeting))
        socket.write('\n')
      }),
      await tlsPlace('b'),
    ]
    const { socket, hears } = await connected(a)
    await hears('x'.repeat(greeting))
    socket.write('one\n')
    await hears('a 1 one')
    expect(a.served.kinds()).toEqual(kinds)
    if ('handshake' in kinds) return
    await move(a, b)
    socket.write('two\n')
    await hears('b 2 two')
  })

  it('stays with TLS 1.2, and is counted so', async () => {
    const [[, a]] = [await tlsPlace('a')]
    const { socket, hears } = await connected(a, { maxVersion: 'TLSv1.2' })
    socket.write('one\n')
    await hears('a 1 one')
    await until('that is known', () => a.served.kinds()['tls1.2'] === 1)
    a.moving.onMovable = () => {}
    await until('the test of TLS has ended', () => taken(a).length === 0 && a.moving.movable === 0)
    socket.write('two\n')
    await hears('a 2 two')
  })
})

describe('a connection that an https.Server has upgraded', () => {
  async function upgrading(name: string): Promise<Place> {
    const counting = new Counting(name)
    const server = https.createServer(CERTIFIED)
    server.on('upgrade', (_request, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines\r\n\r\n\n')
      counting.serve(socket as net.Socket)
    })
    return place(server, { http: { upgraded: counting.hooks }, ...MOVES })
  }

  it('goes on after each move', async () => {
    const [a, b, c] = [await upgrading('a'), await upgrading('b'), await upgrading('c')]
    const { socket, hears } = await connected(a)
    socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: lines\r\n\r\n')
    await hears('Upgrade: lines\r')
    socket.write('one\n')
    await hears('a 1 one')
    await move(a, b)
    socket.write('two\n')
    await hears('b 2 two')
    await move(b, c)
    socket.write('three\n')
    await hears('c 3 three')
  })
})
