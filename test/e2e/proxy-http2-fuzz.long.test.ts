import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { Edge } from '../processes/edge.js'
import { FrameClient, field, frame, preface, request } from '../processes/http2-frames.js'
import { randomFrom } from '../processes/random.js'
import { pause, until } from '../processes/until.js'

const SEED = Number(process.env.FD_BROKER_SEED ?? 1)
const CONNECTIONS = 640
const AT_A_TIME = 8
const FRAMES = 120
const TYPES = 10
const PATHS = ['/', '/held', '/big', '/broken', '/echo', '/trailers']

/** A server with answers of all kinds: none, a large one, one that breaks off, one of what it gets, one with trailers. */
async function server(): Promise<string> {
  const app = createServer((asked, response) => {
    asked.on('error', () => {})
    const { url } = asked
    if (url === '/held') return
    if (url === '/broken') response.write('part', () => response.destroy())
    else if (url === '/echo') asked.pipe(response)
    else if (url === '/trailers' && asked.method !== 'HEAD') {
      response.writeHead(200, { Trailer: 'x' })
      response.write('a')
      response.addTrailers({ x: '1' })
      response.end()
    } else response.end(url === '/big' ? Buffer.alloc(1_000_000) : 'ok')
  })
  app.listen(0, '127.0.0.1')
  await once(app, 'listening')
  onTestFinished(() => {
    app.close()
    app.closeAllConnections()
  })
  return `http://127.0.0.1:${(app.address() as AddressInfo).port}`
}

it(`random frames of ${CONNECTIONS} clients end no process, and leave no connection (FD_BROKER_SEED=${SEED})`, async () => {
  const below = randomFrom(SEED)
  const proxy = await Edge.prepare({
    upstreams: { app: { servers: [await server()], health: { failures: 'off' } } },
    routes: [{ host: '*', upstream: 'app' }],
    timeouts: { idle: '1s', stall: '1s', head: '1s' },
    upgrade: { probation: '0s' },
  })
  proxy.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${proxy.port}`, http2: true }] })
  const first = await proxy.next()
  const bytes = (most: number) => Buffer.from(Array.from({ length: below(most) }, () => below(256)))
  const one = (): Buffer => {
    const stream = below(3) === 0 ? 0 : 2 * below(40) + 1
    switch (below(6)) {
      case 0:
        return frame(below(TYPES), below(64), stream, bytes(40))
      case 1:
        return frame(3, 0, stream, Buffer.from([0, 0, 0, below(14)]))
      case 2:
        return frame(0, below(2), stream, bytes(400))
      case 3:
        return frame(8, 0, stream, Buffer.from([0, 0, below(256), below(256)]))
      default: {
        const method = ['GET', 'POST', 'HEAD', 'PUT'][below(4)]!
        const more =
          below(4) === 0 ? field(['te', 'content-length', 'x', 'cookie'][below(4)]!, 'trailers') : bytes(0)
        return frame(
          1,
          4 | below(2),
          stream,
          Buffer.concat([request(PATHS[below(PATHS.length)]!, method), more]),
        )
      }
    }
  }
  const attack = async () => {
    const client = new FrameClient(
      proxy.port,
      preface(bytes(2).length === 0 ? bytes(1) : Buffer.from([0, 4, 0, 0, below(2), below(256)])),
    )
    if (below(2) === 0) client.send(frame(4, 1, 0))
    for (let i = 0; i < FRAMES && !client.closed; i++) {
      client.send(one())
      if (below(8) === 0) await pause(1)
    }
    if (below(2) === 0) client.socket.destroy()
    else client.socket.end()
  }
  for (let i = 0; i < CONNECTIONS; i += AT_A_TIME) {
    await Promise.all(Array.from({ length: AT_A_TIME }, attack))
    if (i === CONNECTIONS / 2) await proxy.next()
  }
  await proxy.ended(first, 20_000)
  expect(proxy.lines.some(line => line.pid === first && line.msg === 'the proxy has ended')).toBe(true)
  expect(await (await fetch(proxy.url)).text()).toBe('ok')
  await until('no connection', async () => (await proxy.status()).listeners[0]!.connections === 0, 20_000)
  expect(proxy.lines.filter(({ level }) => level >= 50)).toEqual([])
  expect(proxy.sandbox.output).not.toMatch(/Unhandled|uncaught/i)
})
