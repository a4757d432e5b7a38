import { afterEach, describe, expect, it } from 'vitest'
import { startTravelling } from './relay-moving.js'
import { type Peer, send, startWorld, Upstream, until, type World } from './relay-world.js'

const LAST = 'GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const CHUNKED = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'

let server: Upstream
const worlds: World[] = []

afterEach(async () => {
  expect(worlds.flatMap(({ faults }) => faults)).toEqual([])
  for (const world of worlds.splice(0)) await world.close()
  await server.shut()
})

async function start(reply: (peer: Peer) => void | Promise<void>): Promise<World> {
  server = await Upstream.start(({ peer }) => reply(peer))
  const route = send(server)
  const options = { routeByName: () => route, destinationByKey: () => server }
  const world = await startWorld(route, options)
  worlds.push(world)
  return world
}

describe('an answer that breaks a rule without harm', () => {
  it.each([
    [
      'a length in a 204',
      'HTTP/1.1 204 No Content\r\nA: b\r\nContent-Length: 3\r\n\r\n',
      'HTTP/1.1 204 No Content\r\nA: b\r\n\r\n',
    ],
    [
      'a coding in a 204',
      'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      'HTTP/1.1 204 No Content\r\n\r\n',
    ],
    [
      'a coding in a 304',
      'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n0\r\n\r\n',
      'HTTP/1.1 304 Not Modified\r\nA: b\r\n\r\n',
    ],
    [
      'two equal lengths',
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\nContent-Length: 2\r\n\r\nok',
      'HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nok',
    ],
    [
      'equal lengths in one line',
      'HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok',
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
    ],
    [
      'chunks in HTTP/1.0',
      'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n2\r\nok\r\n0\r\n\r\n',
      `${CHUNKED}2\r\nok\r\n0\r\n\r\n`,
    ],
  ])(
    '%s: it is passed on without that, and its connection is not used again',
    async (_what, answer, passed) => {
      const { client, reports } = await start(peer => void peer.socket.write(answer))
      const peer = await client()
      for (let n = 1; n <= 2; n++) {
        await peer.write(GET)
        expect(await peer.gets(n * passed.length)).toBe(passed.repeat(n))
      }
      expect(server.peers).toHaveLength(2)
      expect(reports.map(({ reason, serverFailed }) => [reason, serverFailed])).toEqual([
        [undefined, false],
        [undefined, false],
      ])
    },
  )

  const PADDED = '2 \r\nok\r\n3\t  \r\nfor\r\n1  ;a\r\n.\r\n0   \r\nA: b\r\n\r\n'
  const CLEAN = '2\r\nok\r\n3\r\nfor\r\n1;a\r\n.\r\n0\r\nA: b\r\n\r\n'

  it('blanks behind chunk sizes: they are not passed on', async () => {
    const { client } = await start(peer => void peer.socket.write(CHUNKED + PADDED))
    const peer = await client()
    await peer.write(GET + GET)
    expect(await peer.gets(2 * (CHUNKED + CLEAN).length)).toBe((CHUNKED + CLEAN).repeat(2))
    expect(server.peers).toHaveLength(1)
  })

  it('the same byte by byte, while the connection moves', async () => {
    const world = await start(async peer => {
      await peer.write(CHUNKED + PADDED, Array<number>(1000).fill(1))
    })
    const route = send(server)
    const other = await startWorld(route, { routeByName: () => route, destinationByKey: () => server })
    worlds.push(other)
    const moving = startTravelling(world.relay, other.relay, 5)
    const peer = await world.client()
    await peer.write(LAST)
    expect(await peer.all()).toBe(CHUNKED.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n') + CLEAN)
    await moving.stop()
  })

  it.each([
    ['a digit behind blanks', '2 2\r\nok\r\n'],
    ['a digit in the next piece', '2 |2\r\nok\r\n'],
    ['blanks in front of a size', ' 2\r\nok\r\n'],
    ['blanks behind an extension', '2;a \r\nok\r\n'],
  ])('but not %s', async (_what, body) => {
    const { client, reports } = await start(async peer => {
      for (const piece of body.split('|')) {
        peer.socket.write(piece === body || body.startsWith(piece) ? CHUNKED + piece : piece)
        await until(() => open.got.includes('200 OK') || reports.length > 0, 'the first piece')
      }
    })
    const open = await client()
    await open.write(LAST)
    expect(await open.all()).not.toContain('ok')
    expect(reports).toMatchObject([{ reason: expect.stringMatching(/^chunk-/), serverFailed: true }])
  })

  it('and never in a request', async () => {
    const { ask } = await start(() => {})
    expect(await ask('POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n')).toMatch(
      /^HTTP\/1.1 400 /,
    )
  })
})
