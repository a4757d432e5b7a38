import { afterEach, describe, expect, it, vi } from 'vitest'
import { CLOSE_FRAME } from '../../src/relay/boundaries.js'
import type { Relay, RelayOptions } from '../../src/relay/index.js'
import { arriveMoved, movable, move } from './relay-moving.js'
import {
  lateReader,
  type Peer,
  type Seen,
  send,
  startWorld,
  Upstream,
  until,
  type World,
} from './relay-world.js'

const ends: (() => unknown)[] = []

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const LINGER_MS = 150
const EVENT = 'event: bye\n\n'

interface Side extends World {
  server: Upstream
  asked: Seen[]
}

async function side(options: Partial<RelayOptions> = {}): Promise<Side> {
  const asked: Seen[] = []
  const server = await Upstream.start(seen => void asked.push(seen))
  ends.push(() => server.shut())
  const route = send(server)
  const world = await startWorld(route, {
    routeByName: () => route,
    destinationByKey: () => server,
    ...options,
  })
  ends.push(() => world.close())
  return { ...world, server, asked }
}

const end = (relay: Relay) => relay.end(EVENT, LINGER_MS)

/** A client whose request is with the server, which is about to say `answer`. */
async function asking(world: Side, request = GET, answer = ''): Promise<{ client: Peer; server: Peer }> {
  const before = world.asked.length
  const client = await world.client()
  await client.write(request)
  await until(() => world.asked.length > before, 'the request is with the server')
  const server = world.asked.at(-1)!.peer
  server.raw = answer.startsWith('HTTP/1.1 101') || request.startsWith('CONNECT')
  if (answer !== '') {
    await server.write(answer)
    await client.sees(answer.slice(-10))
  }
  return { client, server }
}

describe('at the end of the time', () => {
  it('cuts a client visibly if it has not read its last answer', async () => {
    const body = 'x'.repeat(32 * 1024 * 1024)
    const world = await startWorld(() => ({ kind: 'respond', status: 200, body }))
    ends.push(() => world.close())
    const client = lateReader(world.port)
    client.stream.write('GET / HTTP/1.0\r\nHost: a\r\n\r\n')
    await until(() => world.relay.counts().closing === 1, 'it is answered')
    end(world.relay)
    await until(() => world.relay.size === 0, 'it is let go')
    client.stream.setReading(true)
    await until(() => client.end !== '', 'it sees the end')
    expect(client.end).toBe('ECONNRESET')
  })
})

describe('the end of idle connections', () => {
  it('answers a client that has just connected, and ends a silent one a moment later', async () => {
    const world = await side()
    const [asked, asks, silent] = [await world.client(), await world.client(), await world.client()]
    await until(() => world.relay.size === 3, 'all are there')
    const { server } = await asking({ ...world, client: async () => asked })
    await server.write(OK)
    await asked.sees('ok')
    let later = () => {}
    const timers = vi.spyOn(globalThis, 'setTimeout').mockImplementation(act => {
      later = act as () => void
      return { unref() {} } as NodeJS.Timeout
    })
    world.relay.drain()
    world.relay.closeIdle()
    expect(timers.mock.calls).toEqual([[later, 500]])
    timers.mockRestore()
    expect(world.relay.counts()).toMatchObject({ idle: 2, closing: 1 })
    expect(await asked.all()).toBe(OK)
    const late = await asking({ ...world, client: async () => asks })
    await late.server.write(OK)
    expect(await asks.all()).toMatch(/connection: close[\s\S]*ok$/i)
    expect(world.relay.counts()).toMatchObject({ idle: 1 })
    later()
    expect(await silent.all()).toBe('')
  })
})

describe('when the time of the drain is over', () => {
  it('a connection without a request ends, and half a head is answered', async () => {
    const world = await side()
    const [idle, half] = [await world.client(), await world.client()]
    await half.write('GET / HTTP/1.1\r\nHo')
    await until(() => world.relay.counts().head === 1 && world.relay.size === 2, 'both are there')
    expect(end(world.relay)).toEqual([
      { kind: 'http', reason: 'idle', count: 1 },
      { kind: 'http', reason: 'half-request', count: 1 },
    ])
    expect(await idle.all()).toBe('')
    expect(await half.all()).toMatch(/^HTTP\/1\.1 503 [\s\S]*connection: close\r\n[\s\S]*drained\n$/i)
    expect([idle.error, half.error]).toEqual([undefined, undefined])
    await until(() => world.relay.size === 0, 'nothing is left')
  })

  it('a request that is answered soon gets its answer, the last one; another gets an error', async () => {
    const world = await side()
    const [soon, late] = [await asking(world), await asking(world)]
    expect(end(world.relay)).toEqual([{ kind: 'http', reason: 'answering', count: 2 }])
    soon.server.socket.write(OK)
    expect(await soon.client.all()).toMatch(/^HTTP\/1\.1 200 OK\r\n[\s\S]*connection: close\r\n\r\nok$/i)
    expect(await late.client.all()).toMatch(/^HTTP\/1\.1 503 [\s\S]*drained\n$/)
    await until(() => world.relay.size === 0, 'nothing is left')
    expect(late.client.error).toBeUndefined()
    expect(world.reports.map(({ status, reason }) => [status, reason])).toEqual([
      [200, undefined],
      [503, 'drained'],
    ])
  })

  it('an answer that comes to its end soon is whole, then the connection ends; another is cut, visibly', async () => {
    const world = await side()
    const begun = 'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789'
    const [soon, late] = [await asking(world, GET, begun), await asking(world, GET, begun)]
    expect(end(world.relay)).toEqual([{ kind: 'http', reason: 'answering', count: 2 }])
    await soon.server.write('0123456789')
    expect(await soon.client.all()).toBe(`${begun}0123456789`)
    await until(() => late.client.closed, 'it is cut')
    expect([late.client.got, late.client.error]).toEqual([begun, 'ECONNRESET'])
    await until(() => world.relay.size === 0, 'nothing is left')
  })

  it('tunnels end by FIN both ways', async () => {
    const world = await side()
    const { client, server } = await asking(
      world,
      'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n',
      'HTTP/1.1 200 OK\r\n\r\nhello from there',
    )
    expect(end(world.relay)).toEqual([{ kind: 'tunnel', reason: 'open', count: 1 }])
    await until(() => client.ended && server.ended, 'both see the end')
    expect([client.error, server.error]).toEqual([undefined, undefined])
    client.socket.end()
    server.socket.end()
    await until(() => world.relay.size === 0, 'nothing is left')
    expect(world.reports).toMatchObject([{ reason: 'drained' }])
  })

  it('those that another process refused are named so', async () => {
    const world = await side()
    const { server } = await asking(world)
    const connections = movable(world.relay)
    for (const departure of [...connections.departures('auto')]) connections.arrive(departure, 'refused')
    expect(end(world.relay)).toEqual([{ kind: 'http', reason: 'refused', count: 1 }])
    server.socket.write(OK)
    await until(() => world.relay.size === 0, 'nothing is left')
  })

  it('a client that neither reads nor ends does not hold it up', async () => {
    const world = await side()
    const { client, server } = await asking(world, GET, 'HTTP/1.1 200 OK\r\n\r\nuntil the end')
    client.socket.pause()
    for (let n = 0; n < 200; n++) server.socket.write(Buffer.alloc(64 * 1024))
    await until(() => world.relay.heldBytes() > 0, 'it stalls')
    const began = performance.now()
    end(world.relay)
    await until(() => world.relay.size === 0, 'nothing is left')
    expect(performance.now() - began).toBeLessThan(LINGER_MS + 1_000)
  })
})

describe('a WebSocket at that time', () => {
  const UPGRADE = 'GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
  const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n'
  const text = (payload: string, fin = true) =>
    String.fromCharCode((fin ? 0x80 : 0) | 1, payload.length) + payload
  const BYE = CLOSE_FRAME.toString('latin1')
  /** A client's: masked with zeros. */
  const REPLY = '\x88\x82\0\0\0\0\x03\xe9'

  it('gets a close frame between two frames, and the closing handshake goes on to its server', async () => {
    const world = await side()
    const { client, server } = await asking(world, UPGRADE, SWITCHED + text('a message of some length'))
    const before = client.got
    expect(world.relay.counts()).toMatchObject({ webSocket: 1, tunnel: 0 })
    expect(end(world.relay)).toEqual([{ kind: 'webSocket', reason: 'open', count: 1 }])
    await client.gets(before.length + BYE.length)
    expect(client.got).toBe(before + BYE)
    // Nothing may follow a close frame.
    await server.write(text('too late'))
    await client.write(REPLY)
    await server.sees(REPLY)
    server.socket.end('\x88\x02\x03\xe9')
    expect(await client.all()).toBe(before + BYE)
    client.socket.end()
    await until(() => world.relay.size === 0, 'nothing is left')
    expect([client.error, server.error]).toEqual([undefined, undefined])
  })

  it.each([0, 1, 2, 5, 11])(
    'gets it behind the frame that is under way, after %i bytes of it',
    async sentBytes => {
      const world = await side()
      // In the middle of a message, between whose frames it may come.
      const first = text('first half', false)
      const { client, server } = await asking(world, UPGRADE, SWITCHED + first)
      const before = client.got
      const second = text('0123456789')
      await server.write(second.slice(0, sentBytes))
      await client.gets(before.length + sentBytes)
      end(world.relay)
      await server.write(second.slice(sentBytes) + text('never seen'))
      const frame = sentBytes === 0 ? '' : second
      await client.gets(before.length + frame.length + BYE.length)
      expect(client.got).toBe(before + frame + BYE)
      client.socket.destroy()
    },
  )

  it('gets it also when it has moved in the middle of a frame', async () => {
    const [here, there] = [await side(), await side()]
    const { client, server } = await asking(here, UPGRADE, SWITCHED)
    const before = client.got
    const frame = text('x'.repeat(125))
    const [from, to] = [movable(here.relay), movable(there.relay)]
    for (const piece of [frame.slice(0, 1), frame.slice(1, 60), frame.slice(60, 100)]) {
      const had = client.got.length
      await server.write(piece)
      await client.gets(had + piece.length)
      for (const departure of [...from.departures('auto')]) arriveMoved(to, departure)
      for (const departure of [...to.departures('auto')]) from.arrive(departure, 'returned')
    }
    end(here.relay)
    await server.write(frame.slice(100) + text('never seen'))
    await client.gets(before.length + frame.length + BYE.length)
    expect(client.got).toBe(before + frame + BYE)
    client.socket.destroy()
  })

  it('closes a little later if its server stays silent within a frame, or closes by itself', async () => {
    const world = await side()
    const [stuck, closing] = [
      await asking(world, UPGRADE, `${SWITCHED}\x81\x7dhalf a message`),
      await asking(world, UPGRADE, `${SWITCHED}\x88\x02\x03\xe8`),
    ]
    const before = [stuck.client.got, closing.client.got]
    end(world.relay)
    await until(() => world.relay.size === 0, 'nothing is left')
    await until(
      () => stuck.client.closed && (closing.client.ended || closing.client.closed),
      'both see the end',
    )
    expect([stuck.client.got, closing.client.got]).toEqual(before)
  })
})

describe('a stream of events at that time', () => {
  const HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n'
  const chunk = (content: string) => `${content.length.toString(16)}\r\n${content}\r\n`
  const HALF_EVENT = `${HEAD}Transfer-Encoding: chunked\r\n\r\n${chunk('data: half')}`
  const LAST = `${chunk(EVENT)}0\r\n\r\n`

  it('ends behind the event of the operator, at once when it stands between two', async () => {
    const world = await side()
    const chunked = await asking(
      world,
      GET,
      `${HEAD}Transfer-Encoding: chunked\r\n\r\n${chunk('data: one\n\n')}`,
    )
    const closed = await asking(world)
    await closed.server.write(`${HEAD}\r\ndata: two\r\n\r\n`)
    await closed.client.sees('two\r\n\r\n')
    const before = chunked.client.got
    expect(world.relay.counts().events).toBe(2)
    expect(end(world.relay)).toEqual([{ kind: 'events', reason: 'open', count: 2 }])
    expect(await chunked.client.all()).toBe(before + LAST)
    expect(await closed.client.all()).toMatch(/data: two\r\n\r\n\r\nc\r\nevent: bye\n\n\r\n0\r\n\r\n$/)
    expect([chunked.client.error, closed.client.error]).toEqual([undefined, undefined])
    await until(() => world.relay.size === 0, 'nothing is left')
    expect(world.reports).toMatchObject([{ reason: 'drained' }, { reason: 'drained' }])
  })

  it('ends when the event that is under way has ended, whatever the chunks', async () => {
    const world = await side()
    const begun = `${HEAD}Transfer-Encoding: chunked\r\n\r\n${chunk('data: one\n\n')}10\r\ndata: the `
    const { client, server } = await asking(world, GET, begun)
    const before = client.got
    end(world.relay)
    await server.write('second')
    await server.write(`\r\n${chunk('\nid: 7\n\ndata: never seen')}`)
    expect(await client.all()).toBe(`${before}second\r\n${chunk('\nid: 7\n\n')}${LAST}`)
    expect(client.error).toBeUndefined()
  })

  it('for a client that knows no chunks ends by the end of the connection', async () => {
    const world = await side()
    const { client } = await asking(world, 'GET / HTTP/1.0\r\n\r\n', `${HEAD}\r\ndata: one\n\n`)
    const before = client.got
    end(world.relay)
    expect(await client.all()).toBe(before + EVENT)
  })

  it('ends as its server ends it in time', async () => {
    const world = await side()
    const { client, server } = await asking(world, GET, HALF_EVENT)
    const before = client.got
    end(world.relay)
    await server.write(`0\r\n\r\n`)
    expect(await client.all()).toBe(`${before}0\r\n\r\n`)
  })

  it('stays when this process serves again: the chunks that the client gets are no longer those of the server', async () => {
    const [world, other] = [await side(), await side()]
    const { client, server } = await asking(world, GET, HALF_EVENT)
    const before = client.got
    end(world.relay)
    world.relay.resume()
    await server.write('a\r\n12345')
    await client.sees('12345')
    expect([move(movable(world.relay), movable(other.relay)), world.relay.movable()]).toEqual([0, 0])
    end(world.relay)
    world.relay.resume()
    await server.write('67890\r\n')
    await client.sees('67890')
    await server.write(chunk('\n\ndata: never seen'))
    expect(await client.all()).toBe(before + chunk('12345') + chunk('67890') + chunk('\n\n') + LAST)
  })

  it('counts as an answer like any other if it is compressed, or has a length', async () => {
    const world = await side()
    await asking(
      world,
      GET,
      `${HEAD}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n${chunk('data: one\n\n')}`,
    )
    await asking(world, GET, `${HEAD}Content-Length: 100\r\n\r\ndata: one\n\n`)
    expect(end(world.relay)).toEqual([{ kind: 'http', reason: 'answering', count: 2 }])
    await until(() => world.relay.size === 0, 'nothing is left')
  })
})
