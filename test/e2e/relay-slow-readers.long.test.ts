import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Edge } from '../processes/edge.js'

const STALL_MS = 10_000
/** More than two deadlines of a client of which nothing moves. */
const FOR_MS = 45_000
const PIECES_PER_SECOND = 4

/** A server whose answer has no end. */
async function endless(): Promise<string> {
  const piece = Buffer.alloc(64 * 1024)
  const server = createServer((_request, response) => {
    const write = (): void => {
      while (!response.destroyed && response.write(piece));
    }
    response.on('drain', write).on('error', () => {})
    write()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Reads this many bytes from the kernel each second, evenly, and says whether the connection still stands. */
async function reads(socket: Socket, bytesPerSecond: number): Promise<boolean> {
  let cut = false
  socket.on('error', () => (cut = true)).on('end', () => (cut = true))
  socket.pause()
  const piece = Math.floor(bytesPerSecond / PIECES_PER_SECOND)
  for (const end = performance.now() + FOR_MS; performance.now() < end && !cut; ) {
    let left = piece
    while (left > 0 && !cut) {
      const chunk = (socket.read(Math.min(left, Math.max(1, socket.readableLength))) ?? null) as Buffer | null
      if (chunk === null) await Promise.race([once(socket, 'readable'), once(socket, 'close')])
      else left -= chunk.length
    }
    await new Promise(resolve => setTimeout(resolve, 1000 / PIECES_PER_SECOND))
  }
  return !cut
}

describe('a client that reads steadily', () => {
  it('stays connected at 10, 30 or 60 KB a second', async () => {
    const edge = await Edge.start({
      upstreams: { app: { servers: [await endless()] } },
      routes: [{ host: '*', upstream: 'app' }],
      timeouts: { idle: `${STALL_MS}ms` },
    })
    const rates = [10_000, 30_000, 60_000]
    const kept = rates.map(async rate => {
      const socket = connect({ port: edge.port, host: '127.0.0.1' })
      onTestFinished(() => void socket.destroy())
      await once(socket, 'connect')
      socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      return [rate, await reads(socket, rate)]
    })
    expect(await Promise.all(kept)).toEqual(rates.map(rate => [rate, true]))
  }, 120_000)
})
