import { once } from 'node:events'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  type ByteStream,
  NO_OWNER,
  SocketStream,
  type StreamOwner,
  socketStream,
  type Tally,
} from '../../../src/relay/index.js'
import { until } from '../../processes/until.js'

type Parts = [socket: net.Socket, owner: StreamOwner, tally: Tally]

describe.each([
  ['of Node', (...parts: Parts) => new SocketStream(...parts)],
  ['that is polled', (...parts: Parts) => socketStream(...parts)],
])('a stream over a socket %s', (_name, open) => {
  /** `heard` has the received bytes; `peer` is the other side. */
  async function connected(): Promise<{ stream: ByteStream; peer: net.Socket; heard: string[] }> {
    const heard: string[] = []
    const owner: StreamOwner = {
      ...NO_OWNER,
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
