import { once } from 'node:events'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type RequestHead, RequestReader, ResponseReader } from '../../src/http1/index.js'
import type { ByteStream, StreamOwner, Tally } from '../../src/relay/byte-stream.js'
import type { Destination } from '../../src/relay/destination.js'
import { quietMs, writtenAnswer } from '../../src/relay/exchange.js'
import { type ExchangeFacts, newFacts } from '../../src/relay/exchange-facts.js'
import { Forwarder } from '../../src/relay/field-rules.js'
import { socketStream } from '../../src/relay/open-stream.js'
import { decodeRecord, encodeRecord } from '../../src/relay/record-message.js'
import type { RelayContext } from '../../src/relay/relay-context.js'
import { passBody, planResponse } from '../../src/relay/response-plan.js'
import { SocketStream } from '../../src/relay/socket-stream.js'
import { Tunnel, type Tunnelled } from '../../src/relay/tunnel.js'
import { UpstreamPools } from '../../src/relay/upstream-pools.js'
import { upstreamRequest } from '../../src/relay/upstream-request.js'
import { until } from '../processes/until.js'

function head(text: string): RequestHead {
  return new RequestReader().read(Buffer.from(text, 'latin1'))!
}

const NO_EDITS = { request: () => undefined, response: () => undefined }
const CONTEXT = {
  fields: NO_EDITS,
  forwarder: new Forwarder({ xForwarded: false }),
  gateway: null,
} as unknown as RelayContext

describe('how long nothing may happen in an exchange', () => {
  const timeouts = { connect: 1, tunnel: 2, stall: 3, response: 4 } as never
  const quiet = (facts: Partial<ExchangeFacts>, connecting: boolean, route?: object) =>
    quietMs({ ...newFacts(), ...facts }, connecting, timeouts, route as never)

  it('depends on what is waited for, and where that may be on the route', () => {
    const body = {} as never
    const route = { connectTimeout: 10, responseTimeout: 40 }
    expect([quiet({}, true), quiet({}, true, route)]).toEqual([1, 10])
    expect([quiet({ phase: 'tunnel' }, false), quiet({ phase: 'tunnel' }, false, route)]).toEqual([2, 2])
    expect([quiet({ phase: 'answering' }, false), quiet({ requestBody: body }, false, route)]).toEqual([3, 3])
    expect([quiet({}, false), quiet({}, false, route)]).toEqual([4, 40])
  })
})

describe('an answer that is made here', () => {
  const answer = { kind: 'respond', status: 200, body: 'text' } as const
  const connection = (facts: Partial<ExchangeFacts>) =>
    /\r\nConnection: (.*)\r\n/.exec(writtenAnswer(answer, { ...newFacts(), ...facts }, CONTEXT).text)?.[1]

  it('says what becomes of the connection where the client could think otherwise', () => {
    expect(connection({ closeClient: true })).toBe('close')
    expect(connection({ closeClient: true, http10: true })).toBe('close')
    expect(connection({ closeClient: false, http10: true })).toBe('keep-alive')
    expect(connection({ closeClient: false, http10: false })).toBeUndefined()
  })
})

describe('a tunnel without frames', () => {
  it('passes on, and counts, nothing of its client when it has ended', () => {
    const passed: string[] = []
    const stream = (name: string) =>
      ({
        write: (chunk: Buffer, from: number, to: number) =>
          passed.push(`${name} ${chunk.toString('latin1', from, to)}`),
        end: () => passed.push(`${name} ends`),
      }) as unknown as ByteStream
    const exchange: Tunnelled = { facts: newFacts(), upstream: stream('server'), send: () => {} }
    const tunnel = new Tunnel(exchange)
    tunnel.fromClient(Buffer.from('before'), 6)
    tunnel.end(stream('client'))
    tunnel.fromClient(Buffer.from('after'), 5)
    expect(passed).toEqual(['server before', 'client ends', 'server ends'])
    expect(exchange.facts.bytesReceived).toBe(6)
  })
})

describe('the request that a server gets', () => {
  const sent = (text: string) =>
    upstreamRequest(
      head(text),
      CONTEXT,
      { client: { remoteAddress: '9.9.9.9' }, origin: { listener: 'l', scheme: 'http' } } as never,
      undefined,
      { authority: 'inside:8080' } as Destination,
    ).toString()

  it('asks for an upgrade where the client did, and for nothing of its connection elsewhere', () => {
    expect(sent('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).toBe('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    const upgrade = 'GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n'
    expect(sent(upgrade)).toMatch(/\r\nConnection: upgrade\r\n/i)
  })

  it('names the host of the server where the client named none', () => {
    expect(sent('GET / HTTP/1.0\r\n\r\n')).toMatch(/\r\nHost: inside:8080\r\n/)
  })
})

describe('the body of an answer', () => {
  it('is passed on to where it ends, from wherever it begins in a chunk', () => {
    const text = Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'latin1')
    const asked = { method: 'GET', upgrade: false, http10: false, closeClient: false }
    const { body, coding } = planResponse(new ResponseReader().read(text)!, asked)
    const written: string[] = []
    const to = {
      write: (bytes: Buffer, from?: number, end?: number) =>
        written.push(bytes.toString('latin1', from, end)),
    } as unknown as ByteStream
    expect(passBody(to, coding, body!, Buffer.from('...abc'), 3, null)).toBe(6)
    expect(passBody(to, coding, body!, Buffer.from('.deNEXT'), 1, null)).toBe(3)
    expect(written).toEqual(['abc', 'de'])
  })
})

describe('the record of a connection without a request', () => {
  it('comes with its one descriptor', () => {
    const record = encodeRecord({
      listener: 'web',
      scheme: 'http',
      client: '9.9.9.9',
      remainingMs: -1,
      clientEnded: false,
      endedClient: false,
      closing: false,
      fromClient: Buffer.alloc(0),
      toClient: Buffer.alloc(0),
      exchange: null,
    } as never)
    expect(decodeRecord(Buffer.from(record), 1).listener).toBe('web')
    for (const fds of [0, 2])
      expect(() => decodeRecord(Buffer.from(record), fds)).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_RELAYED_RECORD' }),
      )
  })
})

const NOBODY: StreamOwner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }

describe('the connections to a server', () => {
  it('are as many as it may have, and used again while they are fresh', async () => {
    const made: { stream: ByteStream; open: boolean }[] = []
    const dial = (_to: Destination, owner: StreamOwner, tally: { open: number }) => {
      tally.open++
      const entry = { open: true, stream: {} as ByteStream }
      entry.stream = {
        owner,
        setReading() {},
        destroy() {
          if (entry.open) tally.open--
          entry.open = false
        },
      } as unknown as ByteStream
      made.push(entry)
      return entry.stream
    }
    const pools = new UpstreamPools({
      connections: 2,
      keepAlive: { connections: 8, idleMs: 30 },
      tickMs: 5,
      dial,
    })
    onTestFinished(() => pools.clear())
    const server: Destination = { key: 'a', address: { kind: 'unix', path: '/a' }, authority: 'a' }
    const [one, two] = [pools.take(server, NOBODY, false), pools.take(server, NOBODY, false)]
    expect([one === two, pools.take(server, NOBODY, false), pools.open]).toEqual([false, null, 2])
    expect(pools.take({ ...server, connections: 3 }, NOBODY, false)).not.toBeNull()
    pools.give(server, one!)
    expect([pools.idle, pools.take(server, NOBODY, false) === one, pools.idle]).toEqual([1, true, 0])
    pools.give(server, one!)
    await until('it was unused for too long', () => pools.idle === 0)
    expect(made.map(({ open }) => open)).toEqual([false, true, true])
  })
})

type Parts = [socket: net.Socket, owner: StreamOwner, tally: Tally]

describe.each([
  ['of Node', (...parts: Parts) => new SocketStream(...parts)],
  ['that is polled', (...parts: Parts) => socketStream(...parts)],
])('a stream over a socket %s', (_name, open) => {
  /** What it hears is in `heard`; `peer` is the other side. */
  async function connected(): Promise<{ stream: ByteStream; peer: net.Socket; heard: string[] }> {
    const heard: string[] = []
    const owner: StreamOwner = {
      ...NOBODY,
      onData: (_stream, chunk, to) => heard.push(chunk.toString('latin1', 0, to)),
      onEnd: () => heard.push('end'),
      onClose: () => heard.push('closed'),
    }
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const accepted = once(server, 'connection') as Promise<[net.Socket]>
    const peer = net.connect({
      port: (server.address() as net.AddressInfo).port,
      host: '127.0.0.1',
      allowHalfOpen: true,
    })
    const stream = open((await accepted)[0], owner, { open: 0 })
    server.close()
    onTestFinished(() => {
      stream.destroy()
      peer.destroy()
    })
    return { stream, peer, heard }
  }

  it('may write when its peer has sent all that it had', async () => {
    const { stream, peer, heard } = await connected()
    const answer: Buffer[] = []
    peer.on('data', chunk => answer.push(chunk))
    peer.end('question')
    await until('all has come', () => heard.includes('end'))
    await new Promise(resolve => setImmediate(resolve))
    stream.write('answer')
    stream.end()
    await once(peer, 'end')
    expect([Buffer.concat(answer).toString(), heard.slice(0, 2)]).toEqual(['answer', ['question', 'end']])
  })

  it('copies what has to wait, in its order, and knows to the byte what that is', async () => {
    const { stream, peer } = await connected()
    const borrowed = Buffer.alloc(64 * 1024)
    let written = 0
    let rounds = 0
    for (; rounds < 400 && stream.unsentBytes < 1 << 20; rounds++) {
      borrowed.fill(rounds)
      const start = `<${rounds}>`
      stream.write(start, 0, start.length, borrowed, 1, 60_000)
      written += 59_999 + start.length
      borrowed.fill(0)
    }
    stream.write(borrowed.fill(255), 0, borrowed.length, borrowed, 0, 3)
    borrowed.fill(0)
    stream.write('the end')
    written += borrowed.length + 10
    expect([stream.congested, stream.bytesWritten <= written]).toEqual([true, true])
    const waiting = stream.unsentBytes
    const chunks: Buffer[] = []
    peer.on('data', chunk => chunks.push(chunk))
    await until('all has come', () => chunks.reduce((sum, { length }) => sum + length, 0) === written)
    await until('nothing waits', () => !stream.congested)
    expect([waiting > 1 << 20, stream.unsentBytes, stream.bytesWritten]).toEqual([true, 0, written])
    const all = Buffer.concat(chunks)
    let at = 0
    for (let round = 0; round < rounds; round++) {
      const start = `<${round}>`
      expect(all.toString('latin1', at, at + start.length)).toBe(start)
      at += start.length
      expect(all.subarray(at, at + 59_999).equals(Buffer.alloc(59_999, round))).toBe(true)
      at += 59_999
    }
    expect(all.subarray(at, -7).equals(Buffer.alloc(64 * 1024 + 3, 255))).toBe(true)
    expect(all.toString('latin1', all.length - 7)).toBe('the end')
  })

  it('tells its owner of a peer that has gone while it was written to', async () => {
    const { stream, peer, heard } = await connected()
    stream.write('x')
    await once(peer, 'data')
    peer.resetAndDestroy()
    await until('the stream has heard', () => {
      if (stream.alive) stream.write('more')
      return heard.includes('closed')
    })
    expect([stream.alive, stream.congested]).toEqual([false, expect.any(Boolean)])
  })

  it('ends behind all that was written, also what the kernel has not taken yet, and is used no more', async () => {
    const { stream, peer } = await connected()
    expect(stream.reusable).toBe(true)
    const much = Buffer.alloc(8 * 1024 * 1024, 'x')
    stream.write(much)
    stream.write('the end')
    expect(stream.congested).toBe(true)
    stream.end()
    stream.end()
    let bytes = 0
    peer.on('data', chunk => {
      bytes += chunk.length
    })
    await once(peer, 'end')
    expect([bytes, stream.reusable]).toEqual([much.length + 7, false])
  })
})
