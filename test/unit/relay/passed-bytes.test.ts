import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { acceptWithoutSocket } from '../../../src/node/accepted.js'
import { acceptedStream, type ByteStream, type Passage, type StreamOwner } from '../../../src/relay/index.js'
import { until } from '../../processes/until.js'

interface Side extends StreamOwner {
  readonly stream: ByteStream
  readonly peer: net.Socket
  seen: Buffer[]
  passed: number
  events: string[]
}

function owner(): StreamOwner & Pick<Side, 'seen' | 'passed' | 'events'> {
  const side = {
    seen: [] as Buffer[],
    passed: 0,
    events: [] as string[],
    onOpen() {},
    onData: (_stream: ByteStream, chunk: Buffer, to: number) =>
      void side.seen.push(Buffer.from(chunk.subarray(0, to))),
    onPassed: (_stream: ByteStream, bytes: number) => void (side.passed += bytes),
    onDrain: () => void side.events.push('drain'),
    onEnd: () => void side.events.push('end'),
    onClose: (_stream: ByteStream, error: Error | null) =>
      void side.events.push((error as NodeJS.ErrnoException | null)?.code ?? 'closed'),
  }
  return side
}

async function side(): Promise<Side> {
  const listener = net.createServer({ allowHalfOpen: true, pauseOnConnect: true })
  const made = owner()
  let stream: ByteStream | null = null
  acceptWithoutSocket(listener, accepted => {
    stream = acceptedStream(accepted, made, { open: 0 })
    return true
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as net.AddressInfo
  const peer = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  peer.on('error', () => {})
  onTestFinished(() => {
    listener.close()
    peer.destroy()
    stream?.destroy()
  })
  await until('it is accepted', () => stream !== null)
  return Object.assign(made, { stream: stream!, peer })
}

/** Two connections; what comes from the first goes to the second, as one that passes on bytes does. */
async function passing(most = Number.POSITIVE_INFINITY) {
  const [from, to] = [await side(), await side()]
  let left = most
  const rest = () => void from.stream.setReading(!to.stream.congested)
  Object.assign(from, {
    passage: (): Passage | null => (left > 0 ? { to: to.stream, most: left } : null),
    onData: (_stream: ByteStream, chunk: Buffer, end: number) => {
      from.seen.push(Buffer.from(chunk.subarray(0, end)))
      left -= end
      to.stream.write(chunk, 0, end)
      rest()
    },
    onPassed: (_stream: ByteStream, bytes: number) => {
      from.passed += bytes
      left -= bytes
      rest()
    },
    onEnd: () => to.stream.end(),
  } satisfies Partial<StreamOwner>)
  to.onDrain = rest
  return { from, to }
}

const hash = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

async function all(peer: net.Socket): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of peer) pieces.push(piece)
  return Buffer.concat(pieces)
}

describe.runIf(process.platform === 'linux')('bytes that their owner need not see', () => {
  it('come whole and in order, and hardly any of them through the process', async () => {
    const { from, to } = await passing()
    const bytes = randomBytes(24 << 20)
    from.peer.end(bytes)
    const got = await all(to.peer)
    expect([got.length, hash(got)]).toEqual([bytes.length, hash(bytes)])
    const seen = from.seen.reduce((sum, piece) => sum + piece.length, 0)
    expect(from.passed + seen).toBe(bytes.length)
    expect(from.passed).toBeGreaterThan(bytes.length / 2)
    expect([from.stream.bytesRead, to.stream.bytesWritten]).toEqual([bytes.length, bytes.length])
  })

  it('wait in the process while their receiver takes none, and in the kernel behind these', async () => {
    const { from, to } = await passing()
    const bytes = randomBytes(32 << 20)
    from.peer.end(bytes)
    await until('the receiver is full', () => to.stream.congested)
    expect(to.stream.unsentBytes).toBeLessThanOrEqual(256 * 1024)
    expect(hash(await all(to.peer))).toBe(hash(bytes))
    expect(to.stream.unsentBytes).toBe(0)
  })

  it('pass up to the limit of their owner, which gets the next ones', async () => {
    const most = 5 << 20
    const { from, to } = await passing(most)
    const bytes = randomBytes(most + 1000)
    to.peer.resume()
    let beyond = 0
    const { onData } = from
    from.onData = (stream, chunk, end) => {
      if (from.passed + from.seen.reduce((sum, piece) => sum + piece.length, 0) >= most) beyond += end
      else onData.call(from, stream, chunk, end)
    }
    from.peer.write(bytes)
    await until('all have come', () => from.stream.bytesRead === bytes.length)
    expect(beyond).toBeGreaterThan(0)
    expect(from.stream.reusable).toBe(true)
  })

  it('get lost with a receiver that breaks, and its owner gets the error', async () => {
    const { from, to } = await passing()
    from.peer.write(randomBytes(1 << 20))
    to.peer.resetAndDestroy()
    from.peer.write(randomBytes(24 << 20))
    await until('its owner hears', () => to.events.includes('ECONNRESET') || to.events.includes('EPIPE'))
    expect(from.stream.alive).toBe(true)
  })

  it('end with the error of their sender', async () => {
    const { from, to } = await passing()
    to.peer.resume()
    from.peer.write(randomBytes(4 << 20), () => from.peer.resetAndDestroy())
    await until('its owner hears', () => from.events.includes('ECONNRESET'))
    expect(to.stream.alive).toBe(true)
  })
})
