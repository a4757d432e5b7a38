import { afterEach, describe, expect, it } from 'vitest'
import { type Reply, send, startWorld, Upstream, until, type World } from './relay-world.js'

const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const LAST = 'GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
const CHUNKED = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
const UPGRADE = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'
const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'
/** The most that the relay reads at once. */
const READ = 64 * 1024

let server: Upstream
let world: World

async function start(reply: Reply): Promise<World> {
  server = await Upstream.start(reply)
  world = await startWorld(send(server))
  return world
}

afterEach(async () => {
  expect(world.faults).toEqual([])
  await world.close()
  await server.shut()
})

describe('an answer that breaks the rules', () => {
  it.each([
    ['a chunk size in its first bytes', `${CHUNKED}xyz\r\n`, 'chunk-size'],
    ['a chunk without its end', `${CHUNKED}2\r\nokNO`, 'chunk-ending'],
    ['a trailer that frames', `${CHUNKED}2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n`, 'trailer-forbidden'],
    [
      'trailers without end',
      `${CHUNKED}0\r\n${`A: ${'b'.repeat(1000)}\r\n`.repeat(9)}`,
      'trailers-too-large',
    ],
    ['its head', 'HTTP/1.1 200 OK\r\nA b\r\n\r\n', 'field-name'],
  ])('%s: 502, its server has failed, and the client is not blamed', async (_what, answer, reason) => {
    const { ask, reports } = await start(({ peer }) => void peer.socket.write(answer, 'latin1'))
    const answered = await ask(LAST)
    expect(answered).toMatch(/^HTTP\/1.1 502 Bad Gateway\r\n/)
    expect(answered.endsWith(`\r\n\r\n${reason}\n`)).toBe(true)
    expect(reports).toMatchObject([{ status: 502, reason, serverFailed: true }])
  })

  it('behind its first chunk: it is cut short, and its server has failed', async () => {
    const { client, reports } = await start(async ({ peer }) => {
      peer.socket.write(`${CHUNKED}2\r\nok\r\n`)
      await until(() => open.got.includes('ok\r\n'), 'the first chunk')
      peer.socket.write('zz\r\n')
    })
    const open = await client()
    await open.write(GET)
    expect(await open.all()).toBe(`${CHUNKED}2\r\nok\r\n`)
    expect(reports).toMatchObject([{ status: 200, reason: 'chunk-size', serverFailed: true }])
  })

  it('in a request: 400, and no server has failed', async () => {
    const { ask, reports } = await start(() => {})
    const answer = await ask('POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n')
    expect(answer).toMatch(/^HTTP\/1.1 400 Bad Request\r\n[\s\S]*\r\n\r\nchunk-size\n$/)
    expect(reports).toMatchObject([{ status: 400, serverFailed: false }])
  })
})

describe('a tunnel', () => {
  it('leaves the server its good name when the server resets it', async () => {
    const { client, reports } = await start(({ peer }) => {
      peer.raw = true
      peer.socket.write(SWITCH)
    })
    const peer = await client()
    await peer.write(UPGRADE)
    await peer.sees(SWITCH)
    server.peers[0]!.socket.resetAndDestroy()
    await until(() => reports.length === 1, 'the report')
    expect(reports).toMatchObject([{ status: 101, reason: 'upstream-closed', serverFailed: false }])
  })
})

describe('bytes behind an answer', () => {
  const EVIL = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil'
  const FINE = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine'

  /** An answer that is as long as one read. */
  function full(): string {
    const head = (length: number) => `HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n`
    const length = READ - head(READ).length
    return head(length) + 'x'.repeat(length)
  }

  it.each([
    ['exactly fills a read', full()],
    ['is shorter', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'],
  ])('never count as the next answer when they %s', async (_what, answer) => {
    let first = true
    const { client } = await start(({ peer }) => {
      peer.socket.write(first ? answer + EVIL : FINE)
      first = false
    })
    const peer = await client()
    // The second request is there when the first answer ends.
    await peer.write(GET + LAST)
    const all = await peer.all()
    expect(all.slice(0, answer.length)).toBe(answer)
    expect(all.slice(-4)).toBe('fine')
    expect(all).not.toContain('evil')
    expect(server.peers).toHaveLength(2)
  })
})
