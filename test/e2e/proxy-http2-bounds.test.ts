import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import {
  ACK,
  CONTINUATION,
  DATA,
  END_HEADERS,
  END_STREAM,
  FrameClient,
  field,
  frame,
  HEADERS,
  PING,
  preface,
  RST_STREAM,
  request,
  SETTINGS,
  WINDOW_UPDATE,
} from '../processes/http2-frames.js'
import { freePort } from '../processes/scene.js'
import { samplesOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

const PROTOCOL_ERROR = 1
const ENHANCE_YOUR_CALM = 11
const REFUSED_STREAM = 7
const CANCEL = 8
const WHOLE = END_STREAM | END_HEADERS
/** A field of HPACK that is the first one of the dynamic table. */
const FIRST_INDEXED = 0xbe
const BIG = 1024 * 1024

const head = (id: number, path = '/', ...more: Buffer[]) =>
  frame(HEADERS, WHOLE, id, Buffer.concat([request(path), ...more]))
const acknowledged = frame(SETTINGS, ACK, 0)
const reset = (id: number) => frame(RST_STREAM, 0, id, Buffer.from([0, 0, 0, CANCEL]))
const times = (count: number, make: (i: number) => Buffer) => Array.from({ length: count }, (_, i) => make(i))

/** A proxy whose server answers /held never, /big with a megabyte, /half with the begin of one, and everything else at once. */
async function edge(config: object = {}) {
  let held = 0
  const server = createServer(({ url }, response) => {
    if (url === '/held') {
      held++
      response.on('close', () => held--)
    } else if (url === '/half') response.writeHead(200, { 'content-length': BIG }).write('x'.repeat(1_000))
    else response.end(url === '/big' ? Buffer.alloc(BIG, 'x') : 'ok')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const metrics = await freePort()
  const proxy = await Edge.prepare({
    upstreams: { app: { servers: [`http://127.0.0.1:${(server.address() as AddressInfo).port}`] } },
    routes: [{ host: '*', upstream: 'app' }],
    metrics: `tcp://127.0.0.1:${metrics}`,
    ...config,
  })
  proxy.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${proxy.port}`, http2: true }] })
  await proxy.next()
  return {
    proxy,
    held: () => held,
    dies: () => server.closeAllConnections(),
    /** How many connections each bound has ended. */
    async ended(bound: string): Promise<number> {
      const { body } = await ask(`http://127.0.0.1:${metrics}/metrics`).answer
      const name = `fdbroker_proxy_http2_ended_connections_total{listener="http",bound="${bound}"}`
      return samplesOf(body).get(name) ?? 0
    },
  }
}

/** The frames of a hostile client after its preface, by the bound that ends its connection. */
const FLOODS: Readonly<Record<string, readonly Buffer[]>> = {
  resets: times(400, i => Buffer.concat([head(2 * i + 1, '/held'), reset(2 * i + 1)])),
  // Heads of 4 MB in a kilobyte.
  refused: [
    head(1, '/', field('x', 'y'.repeat(4_000), true)),
    ...times(400, i => head(2 * i + 3, '/', Buffer.alloc(1_000, FIRST_INDEXED))),
  ],
  pings: times(200, () => frame(PING, 0, 0, Buffer.alloc(8))),
  settings: times(40, () => frame(SETTINGS, 0, 0)),
  continuations: [
    frame(HEADERS, END_STREAM, 1, request('/')),
    ...times(20, () => frame(CONTINUATION, 0, 1, field('x', 'y'))),
  ],
  frames: [frame(HEADERS, END_HEADERS, 1, request('/held', 'POST')), ...times(400, () => frame(DATA, 0, 1))],
}

describe('a hostile HTTP/2 client', () => {
  it('gets GOAWAY and the end of its connection for each bound, which a metric counts', async () => {
    const { proxy, ended, held } = await edge()
    const good = new FrameClient(proxy.port)
    good.send(acknowledged, head(1, '/held'))
    await until('the good one is served', () => held() === 1)
    for (const [bound, frames] of Object.entries(FLOODS)) {
      const client = new FrameClient(proxy.port)
      client.send(acknowledged)
      // In pieces, so that the bound of frames without an answer read (flood) is not the first one.
      for (const each of frames) client.send(each)
      // Node reports no refused head, but the next good one.
      let next = 1_001
      const end = () => {
        if (bound === 'refused') client.send(head((next += 2)))
        return client.closed
      }
      await client.until(`the end by ${bound}`, end)
      expect([bound, client.goaways.map(({ code }) => code)]).toEqual([bound, [ENHANCE_YOUR_CALM]])
      await until(`the count of ${bound}`, async () => (await ended(bound)) === 1)
      await proxy.logged('an HTTP/2 connection exceeded a bound and was ended', line => line.bound === bound)
    }
    await until('no request of theirs is left', () => held() === 1)
    expect(good.closed).toBe(false)
  })

  it('ends if it reads no answers', async () => {
    const { proxy, ended } = await edge()
    const client = new FrameClient(proxy.port)
    client.socket.pause()
    const many = Buffer.concat(times(20_000, () => frame(PING, 0, 0, Buffer.alloc(8))))
    client.send(acknowledged, many)
    await until('the end', async () => (await ended('pings')) + (await ended('flood')) === 1)
  })

  it('gets 100 streams at a time, and small heads', async () => {
    const { proxy, held } = await edge()
    const client = new FrameClient(proxy.port)
    client.send(...times(150, i => head(2 * i + 1, '/held')))
    await client.until('50 refusals', () => client.of(RST_STREAM).length === 50)
    expect(client.of(RST_STREAM).every(({ payload }) => payload.readUInt32BE(0) === REFUSED_STREAM)).toBe(
      true,
    )
    await until('100 requests', () => held() === 100)
    client.send(reset(1))
    client.send(head(301, '/', ...times(110, i => field(`x-${i}`, 'y'))))
    await client.until('431', () => client.of(HEADERS, 301).length === 1)
    const large = [field('x', 'y'.repeat(4_000), true), Buffer.alloc(20, FIRST_INDEXED)]
    client.send(reset(3), head(303, '/', ...large))
    await client.until('another 431', () => client.of(HEADERS, 303).length === 1)
    expect(client.closed).toBe(false)
  })

  it('gets no answer beyond bounds that it has acknowledged', async () => {
    const { proxy, held } = await edge()
    const client = new FrameClient(proxy.port)
    client.send(acknowledged)
    const large = [field('x', 'y'.repeat(4_000), true), Buffer.alloc(20, FIRST_INDEXED)]
    client.send(head(1, '/', ...large))
    await client.until('the reset', () => client.of(RST_STREAM, 1).length === 1)
    expect(client.of(RST_STREAM, 1)[0]!.payload.readUInt32BE(0)).toBe(ENHANCE_YOUR_CALM)
    client.send(...times(101, i => head(2 * i + 3, '/held')))
    await client.until('the end', () => client.closed)
    expect(client.goaways.map(({ code }) => code)).toEqual([PROTOCOL_ERROR])
    await until('no request is left', () => held() === 0)
  })

  it('leaves nothing behind when it goes away after an error, which ends the reading of its connection', async () => {
    const { proxy, held } = await edge({ timeouts: { idle: '200ms' } })
    const client = new FrameClient(proxy.port)
    client.send(acknowledged, head(1, '/held'))
    await until('the request is held', () => held() === 1)
    client.send(frame(DATA, 0, 1, Buffer.alloc(20_000)))
    await client.until('GOAWAY', () => client.goaways.length === 1)
    client.socket.destroy()
    await until('the request ends', () => held() === 0)
    await until('the connection ends', async () => (await proxy.status()).listeners[0]!.connections === 0)
  })

  it('gets no more of an answer than its window, and the stream ends when it makes no progress', async () => {
    const { proxy } = await edge({ timeouts: { stall: '500ms' } })
    const window = Buffer.from([0, 4, 0, 0, 0, 10])
    const client = new FrameClient(proxy.port, preface(window))
    client.send(acknowledged, head(1, '/big'))
    await client.until('ten bytes', () => client.of(DATA, 1).length === 1)
    expect(client.of(DATA, 1)[0]!.payload.length).toBe(10)
    // Another one, whose window grows.
    client.send(head(3, '/'), frame(WINDOW_UPDATE, 0, 3, Buffer.from([0, 0, 1, 0])))
    await client.until('the other answer', () => client.of(DATA, 3).some(({ flags }) => flags & END_STREAM))
    await client.until('the reset', () => client.of(RST_STREAM, 1).length === 1)
    expect(client.of(RST_STREAM, 1)[0]!.payload.readUInt32BE(0)).toBe(CANCEL)
    expect(client.closed).toBe(false)
  })

  it('gets GOAWAY if it does not take the answers of too many streams, which a metric counts', async () => {
    const { proxy, ended } = await edge({ timeouts: { stall: '500ms' } })
    const window = Buffer.from([0, 4, 0, 0, 0, 10])
    const client = new FrameClient(proxy.port, preface(window))
    client.send(acknowledged, ...times(40, i => head(2 * i + 1, '/big')))
    await client.until('the end', () => client.closed)
    expect(client.goaways.map(({ code }) => code)).toEqual([ENHANCE_YOUR_CALM])
    await until('the count of stalls', async () => (await ended('stalls')) === 1)
  })

  it('keeps its connection if many streams end because their server dies, though it has not taken all of them', async () => {
    const { proxy, dies, ended } = await edge()
    const window = Buffer.from([0, 4, 0, 0, 0, 10])
    const client = new FrameClient(proxy.port, preface(window))
    client.send(acknowledged, ...times(40, i => head(2 * i + 1, '/half')))
    await client.until('ten bytes of each', () => client.of(DATA).length === 40)
    dies()
    await client.until('the resets', () => client.of(RST_STREAM).length === 40 || client.closed)
    client.send(head(101, '/'), frame(WINDOW_UPDATE, 0, 101, Buffer.from([0, 0, 1, 0])))
    await client.until('an answer', () => client.of(DATA, 101).some(({ flags }) => flags & END_STREAM))
    expect([client.closed, await ended('stalls')]).toEqual([false, 0])
  })
})
