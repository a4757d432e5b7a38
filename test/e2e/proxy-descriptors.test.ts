import { connect, createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Edge, type Raw, upstream } from '../processes/edge.js'
import { present, type Version } from '../processes/release.js'
import { freePort } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const LIMIT = 160
const few: Version = { ...present, cli: ['prlimit', `--nofile=${LIMIT}:${LIMIT}`, '--', ...present.cli] }

const ASK = 'GET /r/1 HTTP/1.1\r\nHost: a.test\r\n\r\n'

function configFor(url: string, more: object = {}) {
  return {
    upstreams: { app: { servers: [url], health: { failures: 1 }, retry: 0 } },
    routes: [{ host: '*', upstream: 'app' }],
    ...more,
  }
}

/** A server that takes requests and answers none. */
async function silent(): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket.on('error', () => {}).resume())
  })
  const port = await freePort()
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `http://127.0.0.1:${port}`
}

/** Connections that come again and again, send half a head and stay. */
function flood(port: number, at: number) {
  const sockets = new Set<Socket>()
  let turnedAway = 0
  let stopped = false
  const another = () => {
    if (stopped) return
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write('GET / HT'))
    sockets.add(socket)
    socket.on('error', () => {}).resume()
    socket.on('close', () => {
      sockets.delete(socket)
      turnedAway++
      setTimeout(another, 2)
    })
  }
  for (let i = 0; i < at; i++) another()
  const stop = () => {
    stopped = true
    for (const socket of sockets) socket.destroy()
  }
  onTestFinished(stop)
  return { stop, turnedAway: () => turnedAway }
}

const failures = (edge: Edge) => edge.lines.filter(({ msg }) => /server failed|fault/.test(String(msg)))

describe('a proxy that may have few descriptors', () => {
  it('serves those who are connected under a flood, blames no server, and says what happened', async () => {
    const app = await upstream()
    const edge = await Edge.prepare(configFor(app.url))
    await edge.next(few)
    const clients: Raw[] = []
    for (let n = 0; n < 10; n++) clients.push(await edge.raw())
    const rounds = async (count: number) => {
      for (let round = 0; round < count; round++) {
        for (const client of clients) client.send(ASK)
        for (const client of clients) {
          expect(
            await client.until(text => text.endsWith('item-1\n') || /^HTTP\/1.1 [^2]/.test(text)),
          ).toMatch(/^HTTP\/1.1 200 /)
        }
      }
    }
    const storm = flood(edge.port, 300)
    await until('the flood is turned away', () => storm.turnedAway() > 300)
    await rounds(20)
    const line = await edge.logged('clients were turned away', ({ count }) => count > 10)
    expect(line).toMatchObject({ listener: 'http', excess: 'connections' })
    expect(line.limit).toBeLessThan(LIMIT / 2)
    storm.stop()
    expect(failures(edge)).toEqual([])
    await until('there is room again', async () => {
      const late = await edge.raw()
      // Where there is no descriptor left it is closed without a word.
      const answer = late.send(ASK).until(text => text !== '' || late.ended)
      return (await answer).startsWith('HTTP/1.1 200 ')
    })
  })

  it('tells its own shortage from the failure of a server', async () => {
    const edge = await Edge.prepare(configFor(await silent(), { limits: { connections: 'off' } }))
    await edge.next(few)
    const clients: Raw[] = []
    await until('there is room for no more', async () => {
      const client = await edge.raw()
      clients.push(client)
      await pause(2)
      return edge.lines.some(
        ({ msg, excess }) => msg === 'clients were turned away' && excess === 'descriptors',
      )
    })
    for (const client of clients) client.send(ASK)
    const line = await edge.logged(
      'this process could not connect to a server, because it has no free descriptors or ports',
    )
    expect(line).toMatchObject({ shortage: 'no-descriptors' })
    await until('some are told so', () =>
      clients.some(({ text }) => text.endsWith('\r\n\r\nno-descriptors\n')),
    )
    expect(clients.filter(({ text }) => /^HTTP\/1.1 502/.test(text))).toEqual([])
    expect(failures(edge)).toEqual([])
  })

  it('closes unused connections to servers when it needs their descriptors', async () => {
    const app = await upstream()
    const edge = await Edge.prepare({
      upstreams: {
        app: { servers: [app.url], keepAlive: { idle: '1m' } },
        other: { servers: [await silent()] },
      },
      routes: [
        { host: '*', upstream: 'app' },
        { host: 'other.test', upstream: 'other' },
      ],
      limits: { connections: 'off' },
    })
    await edge.next(few)
    const clients = await Promise.all(Array.from({ length: 50 }, () => edge.raw()))
    // All at a time, so that none has the connection of another.
    for (const client of clients) client.send(ASK.replace('/r/1', '/slow'))
    for (const client of clients) await client.until(text => text.endsWith('slow but sure\n'))
    for (const client of clients) client.send(ASK.replace('a.test', 'other.test'))
    await edge.logged(
      'this process could not connect to a server, because it has no free descriptors or ports',
    )
    await pause(300)
    expect(clients.map(({ text }) => text).filter(text => text !== '')).toEqual([])
  })
})

describe('limits.connectionsPerClient', () => {
  const OK = { host: '*', respond: { body: 'ok\n' } }

  it('turns away who has that many, and nobody whom it trusts', async () => {
    const edge = await Edge.start({ routes: [OK], limits: { connectionsPerClient: 2 } })
    const [one, two] = [await edge.raw(), await edge.raw()]
    for (const each of [one, two]) await each.send(ASK).until(text => text.endsWith('ok\n'))
    const third = await edge.raw()
    expect(await third.until(text => text.endsWith('too-many-connections\n'))).toMatch(/^HTTP\/1.1 503 /)
    expect(await edge.logged('clients were turned away')).toMatchObject({
      excess: 'connectionsPerClient',
      limit: 2,
    })
    // More than may wait for their answer at the same time.
    for (let n = 0; n < 300; n++) {
      const more = await edge.raw()
      await more.until(text => text.endsWith('too-many-connections\n'))
      more.socket.destroy()
    }
    one.socket.destroy()
    await until('there is room again', async () => {
      const again = await edge.raw()
      return (await again.send(ASK).until(text => text !== '')).startsWith('HTTP/1.1 200 ')
    })
    await edge.reload({ forwarded: { trust: ['127.0.0.1'] } })
    for (let n = 0; n < 4; n++) {
      expect(await (await edge.raw()).send(ASK).until(text => text !== '')).toMatch(/^HTTP\/1.1 200 /)
    }
  })
})
