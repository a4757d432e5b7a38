import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { duplicateLent, type LentFd } from '../../../src/kernel/index.js'
import { type Accepted, acceptWithoutSocket } from '../../../src/node/accepted.js'
import {
  acceptedStream,
  type ByteStream,
  type DialAddress,
  dialSocket,
  PolledStream,
  type StreamOwner,
  streamFromFd,
} from '../../../src/relay/index.js'
import { openDescriptors } from '../../fixtures/open-descriptors.js'
import { compiled } from '../../processes/compiled.js'
import { until } from '../../processes/until.js'

interface Heard extends StreamOwner {
  text: string
  events: string[]
}

function listening(): Heard {
  const heard: Heard = {
    text: '',
    events: [],
    onOpen() {},
    onData(_stream, chunk, to) {
      heard.text += chunk.toString('latin1', 0, to)
    },
    onDrain: () => heard.events.push('drain'),
    onEnd: () => heard.events.push('end'),
    onClose: (_stream, error) =>
      heard.events.push(error === null ? 'closed' : (error as NodeJS.ErrnoException).code!),
  }
  return heard
}

/** Peers of a server that takes what it accepts, or leaves it to Node. */
async function server(
  take: (accepted: Accepted) => boolean,
  where: net.ListenOptions = { port: 0, host: '127.0.0.1' },
) {
  const sockets: net.Socket[] = []
  const listener = net.createServer({ noDelay: true, allowHalfOpen: true, pauseOnConnect: true }, socket =>
    sockets.push(socket),
  )
  acceptWithoutSocket(listener, take)
  listener.listen(where)
  await once(listener, 'listening')
  const address = listener.address()
  onTestFinished(() => {
    listener.close()
    for (const socket of sockets) socket.destroy()
  })
  const connect = async () => {
    const to = typeof address === 'string' ? { path: address } : { port: address!.port, host: '127.0.0.1' }
    const peer = net.connect({ ...to, allowHalfOpen: true })
    onTestFinished(() => void peer.destroy())
    await once(peer, 'connect')
    return peer
  }
  return { connect, sockets, listener }
}

async function connected(where?: net.ListenOptions) {
  const tally = { open: 0 }
  const streams: ByteStream[] = []
  const heard = listening()
  const { connect } = await server(accepted => {
    streams.push(acceptedStream(accepted, heard, tally)!)
    return true
  }, where)
  const peer = await connect()
  await until('it is accepted', () => streams.length === 1)
  onTestFinished(() => streams[0]!.destroy())
  return { stream: streams[0]!, peer, heard, tally }
}

const turn = () => new Promise<void>(resolve => setImmediate(() => setImmediate(resolve)))

describe('a connection that is taken before Node makes a socket of it', () => {
  it('closes for Node and for no other owner, with its address known', async () => {
    const { stream, peer, heard, tally } = await connected()
    expect([stream instanceof PolledStream, stream.remoteAddress, tally.open]).toEqual([true, '127.0.0.1', 1])
    peer.write('question')
    await until('it is read', () => heard.text === 'question')
    stream.write('answer')
    expect((await once(peer, 'data')).toString()).toBe('answer')
    expect([stream.bytesRead, stream.bytesWritten]).toEqual([8, 6])
  })

  it('fails with a descriptor that is not open, and the fault is told', () => {
    const faults: unknown[] = []
    const accepted = { descriptor: (1 << 20) as LentFd, remoteAddress: '', close() {} }
    const owner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }
    expect(acceptedStream(accepted, owner, { open: 0 }, fault => faults.push(fault))).toBeNull()
    expect(faults).toEqual([expect.objectContaining({ code: 'EBADF' })])
  })

  it('has no address where its peer has none', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const { stream, peer, heard } = await connected({ path: join(folder, 's') })
    peer.write('x')
    await until('it is read', () => heard.text === 'x')
    expect(stream.remoteAddress).toBe('')
    stream.reset()
    await once(peer.resume(), 'end')
  })

  it('comes as a socket where it is not taken, also when its server listens once more', async () => {
    let asked = 0
    const { connect, sockets, listener } = await server(() => {
      asked++
      return false
    })
    await connect()
    await until('it came', () => sockets.length === 1)
    const { port } = listener.address() as net.AddressInfo
    await new Promise(resolve => {
      listener.close(resolve)
      sockets[0]!.destroy()
    })
    await once(listener.listen(port, '127.0.0.1'), 'listening')
    await connect()
    await until('it came', () => sockets.length === 2)
    expect([asked, sockets[1]!.remoteAddress]).toEqual([2, '127.0.0.1'])
  })
})

describe('a polled stream', () => {
  it('leaves in the kernel what nobody wants to read, and brings it when somebody does', async () => {
    const { stream, peer, heard } = await connected()
    stream.setReading(false)
    peer.write('early')
    peer.end()
    await turn()
    await turn()
    expect([heard.text, heard.events]).toEqual(['', []])
    stream.setReading(true)
    await until('it has heard all', () => heard.events.length === 1)
    expect([heard.text, heard.events, stream.alive, stream.reusable]).toEqual(['early', ['end'], true, false])
  })

  it.each([
    ['bytes', (peer: net.Socket) => peer.write('late')],
    ['RST', (peer: net.Socket) => peer.resetAndDestroy()],
  ])('knows that %s has arrived before the event loop says so', async (_, happens) => {
    const { stream, peer } = await connected()
    expect(stream.untouched).toBe(true)
    happens(peer)
    expect(stream.untouched).toBe(false)
  })

  it('closes, and says so in a later turn, when both sides have ended', async () => {
    const { stream, peer, heard, tally } = await connected()
    peer.end('bye')
    await until('it has heard the end', () => heard.events.length === 1)
    stream.write('bye')
    stream.end()
    expect(heard.events).toEqual(['end'])
    await until('it has heard', () => heard.events.length === 2)
    expect([heard.events, stream.alive, tally.open]).toEqual([['end', 'closed'], false, 0])
    expect((await once(peer, 'data')).toString()).toBe('bye')
  })

  it('says why it is gone when its peer breaks the connection', async () => {
    const { stream, peer, heard, tally } = await connected()
    peer.resetAndDestroy()
    await until('it has heard', () => heard.events.length === 1)
    expect([heard.events, stream.alive, tally.open]).toEqual([['ECONNRESET'], false, 0])
    stream.write('nobody hears')
    stream.end()
    stream.setReading(true)
    stream.destroy()
    expect(heard.events).toHaveLength(1)
  })

  it('tells who writes nothing in the middle of it', async () => {
    const { stream, peer, heard } = await connected()
    stream.setReading(false)
    peer.resetAndDestroy()
    await once(peer, 'close')
    stream.write('x')
    stream.write('y')
    expect([heard.events, stream.alive, stream.congested]).toEqual([[], false, true])
    await until('it has heard', () => heard.events.length === 1)
    expect(heard.events).toEqual(['ECONNRESET'])
  })

  it('hears what its peer said before it broke the connection, although a write has failed, and no end', async () => {
    const { stream, peer, heard } = await connected()
    stream.setReading(false)
    peer.write('answer')
    peer.resetAndDestroy()
    await once(peer, 'close')
    stream.setReading(true)
    stream.write('y')
    expect([heard.text, heard.events, stream.alive]).toEqual(['', [], false])
    await until('it has heard', () => heard.events.length === 1)
    expect([heard.text, heard.events]).toEqual(['answer', ['ECONNRESET']])
  })

  it('hears the end as well where its peer had ended before it broke the connection', async () => {
    const { stream, peer, heard } = await connected()
    stream.setReading(false)
    peer.end('all')
    await once(peer, 'finish')
    peer.resetAndDestroy()
    await once(peer, 'close')
    stream.setReading(true)
    stream.write('y')
    await until('it has heard', () => heard.events.length === 2)
    expect([heard.text, heard.events]).toEqual(['all', ['end', 'EPIPE']])
  })

  it('tells the bytes that were read before a write to it failed in the same turn', async () => {
    const { stream, peer, heard } = await connected()
    const other = await connected()
    other.heard.onData = () => stream.write('y')
    // Both are ready in one turn, the other first.
    other.peer.write('x')
    peer.write('answer')
    peer.resetAndDestroy()
    await until('it has heard', () => heard.events.length === 1)
    expect([heard.text, heard.events]).toEqual(['answer', ['ECONNRESET']])
  })

  it('writes text that is longer than a head', async () => {
    const { stream, peer } = await connected()
    const text = 'é'.repeat(100_000)
    const chunks: Buffer[] = []
    peer.on('data', chunk => chunks.push(chunk))
    stream.write(text, 0, text.length, Buffer.from('<end>'), 1, 4)
    await until('all came', () => Buffer.concat(chunks).length === 100_003)
    expect(Buffer.concat(chunks).toString('latin1')).toBe(`${text}end`)
  })

  it('breaks the connection when it is reset', async () => {
    const { stream, peer } = await connected()
    const error = once(peer, 'error')
    peer.resume()
    stream.reset()
    expect((await error)[0]).toMatchObject({ code: 'ECONNRESET' })
  })

  it('breaks the connection also where its end was to come behind what is not sent', async () => {
    const streams: ByteStream[] = []
    const { listener } = await server(accepted => {
      streams.push(acceptedStream(accepted, listening(), { open: 0 })!)
      return true
    })
    const { port } = listener.address() as net.AddressInfo
    // Node takes a reset behind bytes for an end.
    const heard = listening()
    const { stream: peer } = dial({ kind: 'tcp', host: '127.0.0.1', port }, heard)
    peer.setReading(false)
    await until('it is accepted', () => streams.length === 1)
    const [stream] = streams
    stream!.write(Buffer.alloc(32 * 1024 * 1024))
    stream!.end()
    expect(stream!.congested).toBe(true)
    stream!.reset()
    peer.setReading(true)
    await until('it has heard', () => heard.events.length > 1)
    expect(heard.events).toEqual(['drain', 'ECONNRESET'])
  })

  it('lets go in the middle of everything: a duplicate goes on, with what was not sent', async () => {
    const { stream, peer, heard, tally } = await connected()
    const much = Buffer.alloc(8 * 1024 * 1024, 'x')
    stream.write(much)
    peer.write('first')
    await until('it is read', () => heard.text === 'first')
    stream.setReading(false)
    const duplicate = duplicateLent(stream.descriptor, 'test')
    const { unread, unsent, ended } = stream.detach()
    peer.write('second')
    expect([unread.length, ended, tally.open, stream.alive]).toEqual([0, false, 0, false])
    let got = 0
    peer.on('data', chunk => {
      got += chunk.length
    })
    const next = listening()
    const again = streamFromFd(duplicate, next, tally)
    again.write(unsent)
    await until('the rest came', () => got === much.length)
    expect(next.text).toBe('')
    again.setReading(true)
    await until('what came is read', () => next.text === 'second')
    expect([heard.text, heard.events, next.events]).toEqual(['first', [], ['drain']])
    again.destroy()
    await once(peer, 'end')
    expect(tally.open).toBe(0)
  })

  it('stays as it is when another throws', async () => {
    const heard = listening()
    const streams: ByteStream[] = []
    const thrower: StreamOwner = {
      ...heard,
      onData() {
        throw new Error('from its owner')
      },
    }
    const { connect } = await server(accepted => {
      streams.push(acceptedStream(accepted, streams.length === 0 ? thrower : heard, { open: 0 })!)
      return true
    })
    const peers = [await connect(), await connect()]
    await until('both are accepted', () => streams.length === 2)
    onTestFinished(() => {
      for (const stream of streams) stream.destroy()
    })
    const usual = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    const caught: string[] = []
    process.on('uncaughtException', error => caught.push(error.message))
    try {
      for (const peer of peers) peer.write('x')
      await until('the other is read', () => heard.text === 'x')
      expect(caught).toEqual(['from its owner'])
    } finally {
      process.removeAllListeners('uncaughtException')
      for (const listener of usual) process.on('uncaughtException', listener)
    }
  })

  it('gives away what was read of it when it lets go before it was told', async () => {
    const streams: ByteStream[] = []
    const gone: string[] = []
    const heard = listening()
    const told = heard.onData
    heard.onData = (stream, chunk, to) => {
      told(stream, chunk, to)
      const other = streams.find(one => one !== stream)!
      gone.push(other.detach().unread.toString())
    }
    const { connect } = await server(accepted => {
      streams.push(acceptedStream(accepted, heard, { open: 0 })!)
      return true
    })
    const peers = [await connect(), await connect()]
    await until('both are accepted', () => streams.length === 2)
    onTestFinished(() => {
      for (const stream of streams) stream.destroy()
    })
    // Both come in one turn: this process does nothing else until they are there.
    for (const peer of peers) peer.write('x')
    const end = performance.now() + 50
    while (performance.now() < end);
    await until('one is told', () => heard.text !== '')
    expect([heard.text, gone, heard.events]).toEqual(['x', ['x'], []])
  })

  it('tells bytes in the order in which they came, however many', async () => {
    const { peer, heard, stream } = await connected()
    const text = Array.from({ length: 100_000 }, (_, i) => `${i} `).join('')
    peer.write(text)
    await until('all is read', () => heard.text.length === text.length)
    expect([heard.text === text, stream.bytesRead]).toEqual([true, text.length])
  })

  it('tells all bytes when many have long messages, or short ones, in one turn', async () => {
    const each = await Promise.all(Array.from({ length: 60 }, () => connected()))
    let sent = ''
    for (const length of [12_000, 5, 12_000, 12_000, 5, 5, 5, 16_000, 40_000, 5]) {
      const text = String(length).padEnd(length, '.')
      sent += text
      for (const { peer } of each) peer.write(text)
      await until('all is read', () => each.every(({ heard }) => heard.text.length === sent.length))
    }
    expect(each.every(({ heard }) => heard.text === sent)).toBe(true)
  })
})

/** Addresses with and without a listening process. */
const PLACES = {
  'to a name': { host: '127.0.0.1', kind: 'tcp', as: 'localhost', refusal: 'ECONNREFUSED' },
  'to an address': { host: '127.0.0.1', kind: 'tcp', as: '127.0.0.1', refusal: 'ECONNREFUSED' },
  'to an address of IPv6': { host: '::1', kind: 'tcp', as: '::1', refusal: 'ECONNREFUSED' },
  'to a path': { host: '', kind: 'unix', as: '', refusal: 'ENOENT' },
} as const

const dial = (address: DialAddress, owner: StreamOwner, tally = { open: 0 }) => {
  const stream = dialSocket({ key: 'd', authority: 'd', address }, owner, tally)
  onTestFinished(() => stream.destroy())
  return { stream, tally }
}

describe.each(Object.entries(PLACES))('a stream that is dialled %s', (_, { host, kind, as, refusal }) => {
  const path = () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-dial-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    return join(folder, 's')
  }
  const place = async (): Promise<{ address: DialAddress; sockets: net.Socket[] }> => {
    if (kind === 'unix') {
      const address = { kind, path: path() }
      return { address, ...(await server(() => false, { path: address.path })) }
    }
    const { listener, sockets } = await server(() => false, { port: 0, host })
    return { address: { kind, host: as, port: (listener.address() as net.AddressInfo).port }, sockets }
  }
  const nowhere = async (): Promise<DialAddress> => {
    if (kind === 'unix') return { kind, path: path() }
    const listener = net.createServer().listen(0, host)
    await once(listener, 'listening')
    const { port } = listener.address() as net.AddressInfo
    await new Promise(resolve => listener.close(resolve))
    return { kind, host: as, port }
  }

  it('sends what was written meanwhile, and is a polled stream then', async () => {
    const { address, sockets } = await place()
    const heard = listening()
    heard.onOpen = stream => heard.events.push(`open ${stream.connecting}`)
    const { stream, tally } = dial(address, heard)
    stream.write('first ')
    stream.write(Buffer.from('<second>'), 1, 7)
    expect([stream.connecting, stream.alive, stream.congested, stream.unsentBytes, tally.open]).toEqual([
      true,
      true,
      true,
      12,
      1,
    ])
    await until('it has connected', () => sockets.length === 1 && !stream.connecting)
    const [peer] = sockets
    expect((await once(peer!.resume(), 'data')).toString()).toBe('first second')
    expect([heard.events, stream.reusable, stream.bytesWritten]).toEqual([['open false', 'drain'], true, 12])
    peer!.write('answer')
    await until('it is read', () => heard.text === 'answer')
    stream.destroy()
    expect([stream.alive, tally.open]).toEqual([false, 0])
    await once(peer!, 'end')
  })

  it('ends behind what was written, also when its end was said before it was connected', async () => {
    const { address, sockets } = await place()
    const { stream } = dial(address, listening())
    stream.write('all')
    stream.end()
    await until('it has connected', () => sockets.length === 1)
    let got = ''
    sockets[0]!.resume().on('data', chunk => {
      got += chunk.toString()
    })
    await once(sockets[0]!, 'end')
    expect(got).toBe('all')
  })

  it('says why there is no connection, once, and gives back what was to be sent', async () => {
    const heard = listening()
    const { stream, tally } = dial(await nowhere(), heard)
    stream.write('unsent')
    await until('it has heard', () => heard.events.length === 1)
    expect([heard.events, stream.connecting, stream.alive, tally.open]).toEqual([[refusal], true, false, 0])
    expect(Buffer.concat(stream.takeUnsent()).toString()).toBe('unsent')
    stream.destroy()
    expect([heard.events.length, tally.open]).toEqual([1, 0])
  })

  it('tells nothing when it is destroyed before it is connected', async () => {
    const heard = listening()
    const { stream, tally } = dial(await nowhere(), heard)
    stream.destroy()
    stream.write('nobody gets it')
    for (let turns = 0; turns < 10; turns++) await turn()
    expect([heard.events, stream.alive, tally.open]).toEqual([[], false, 0])
  })

  it('hears an end that comes with the connection, after the bytes before it', async () => {
    const { address, sockets } = await place()
    const heard = listening()
    const { stream } = dial(address, heard)
    await until('it has connected', () => sockets.length === 1)
    sockets[0]!.end('all')
    await until('it has ended', () => heard.events.includes('end'))
    expect([heard.text, stream.connecting]).toEqual(['all', false])
  })
})

describe('a stream that connects by itself', () => {
  it('writes without delay, and needs one descriptor', async () => {
    const { listener, sockets } = await server(() => false)
    const { port } = listener.address() as net.AddressInfo
    const before = openDescriptors()
    const { stream } = dial({ kind: 'tcp', host: '127.0.0.1', port }, listening())
    expect(openDescriptors() - before).toBe(1)
    await until('it has connected', () => sockets.length === 1 && !stream.connecting)
    // The stream's own descriptor, and that of the peer, which is in this process too.
    expect(openDescriptors() - before).toBe(2)
  })

  it('has failed where no descriptor is left, and says so in a later turn', () => {
    const script = `
      import { openSync } from 'node:fs'
      import { dialSocket } from '${compiled('relay/open-stream')}'
      import { hasPolledSockets } from '${compiled('kernel/index')}'
      hasPolledSockets()
      const heard = []
      const owner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose(_, error) { heard.push(error.code) } }
      const tally = { open: 0 }
      try { for (;;) openSync('/dev/null') } catch {}
      const address = { kind: 'tcp', host: '127.0.0.1', port: 9 }
      const [stream, gone] = [0, 1].map(() => dialSocket({ key: 'd', authority: 'd', address }, owner, tally))
      stream.write('unsent')
      gone.destroy()
      const first = [...heard, stream.connecting, stream.alive, tally.open]
      await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
      const then = [...heard, stream.connecting, stream.alive, tally.open, String(stream.takeUnsent()[0])]
      process.stdout.write(JSON.stringify([first, then]))
    `
    const { stdout, stderr } = spawnSync(
      'sh',
      ['-c', 'ulimit -n 80; exec "$@"', 'sh', process.execPath, '--input-type=module', '-e', script],
      { encoding: 'utf8' },
    )
    expect([stdout, stderr]).toEqual(['[[true,true,1],["EMFILE",true,false,0,"unsent"]]', ''])
  })
})

describe('a stream whose connection somebody else makes', () => {
  it('has failed where its descriptor cannot be taken', () => {
    const heard = listening()
    const dialling = {
      destroyed: false,
      destroy() {
        this.destroyed = true
      },
    }
    const tally = { open: 0 }
    const stream = new PolledStream(null, heard, tally, { reading: true, remoteAddress: '', dialling })
    stream.write('unsent')
    stream.attach({ descriptor: 5_000_000 as LentFd, close() {} })
    expect([heard.events, dialling.destroyed, stream.connecting, stream.alive, tally.open]).toEqual([
      ['EBADF'],
      true,
      true,
      false,
      0,
    ])
    expect(Buffer.concat(stream.takeUnsent()).toString()).toBe('unsent')
  })
})

describe('a process', () => {
  it('lives as long as it has polled streams', () => {
    const script = `
      import net from 'node:net'
      import { socketStream } from '${compiled('relay/open-stream')}'
      const owner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() { process.stdout.write('gone') } }
      const server = net.createServer({ pauseOnConnect: true }, socket => {
        socketStream(socket, owner, { open: 0 })
        server.close()
        peer.unref()
        setTimeout(() => peer.resetAndDestroy(), 50).unref()
      })
      server.listen(0, '127.0.0.1')
      const peer = await new Promise(resolve => server.on('listening', () => resolve(net.connect(server.address()))))
    `
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
    })
    expect([stdout, status, stderr]).toEqual(['gone', 0, ''])
  })
})
