import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import fc from '../lanes/generated.js'
import { randomSizes } from './relay-splits.js'
import { FORWARDED, send, startWorld, Upstream, until, type World } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const H = 'Host: a\r\n'
const EVIL = 'GET /evil HTTP/1.1\r\nHost: a\r\n\r\n'

let upstream: Upstream
let world: World

beforeAll(async () => {
  upstream = await Upstream.start(({ peer }) => void peer.socket.write(OK))
  world = await startWorld(send(upstream), { halfClosedClients: 'serve' })
})

afterEach(() => {
  expect(world.faults).toEqual([])
  upstream.requests.length = 0
})

afterAll(async () => {
  await world.close()
  await upstream.shut()
})

const REFUSED: [name: string, text: string, status: number, reason: string][] = [
  [
    'CL and TE',
    `POST / HTTP/1.1\r\n${H}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${EVIL}`,
    400,
    'coding-with-length',
  ],
  [
    'TE and CL',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n${EVIL}`,
    400,
    'coding-with-length',
  ],
  [
    'two lengths',
    `POST / HTTP/1.1\r\n${H}Content-Length: 4\r\nContent-Length: 0\r\n\r\nbody`,
    400,
    'length-repeated',
  ],
  ['a signed length', `POST / HTTP/1.1\r\n${H}Content-Length: +4\r\n\r\nbody`, 400, 'length-invalid'],
  ['a length list', `POST / HTTP/1.1\r\n${H}Content-Length: 4, 4\r\n\r\nbody`, 400, 'length-invalid'],
  [
    'TE that is not chunked',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`,
    400,
    'coding-invalid',
  ],
  [
    'TE twice',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n`,
    400,
    'coding-repeated',
  ],
  [
    'TE with a space before the colon',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`,
    400,
    'field-name',
  ],
  [
    'TE with an underscore',
    `POST / HTTP/1.1\r\n${H}Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n`,
    400,
    'field-lookalike',
  ],
  [
    'TE behind a folded line',
    `POST / HTTP/1.1\r\n${H}X: 1\r\n Transfer-Encoding: chunked\r\n\r\n`,
    400,
    'field-folded',
  ],
  [
    'TE behind a bare LF',
    `POST / HTTP/1.1\r\n${H}X: 1\nTransfer-Encoding: chunked\r\n\r\n`,
    400,
    'line-ending',
  ],
  [
    'TE in HTTP/1.0',
    `POST / HTTP/1.0\r\n${H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    400,
    'coding-in-http10',
  ],
  ['a NUL in a value', `GET / HTTP/1.1\r\n${H}X: a\0b\r\n\r\n`, 400, 'field-value'],
  ['two hosts', `GET / HTTP/1.1\r\n${H}Host: b\r\n\r\n`, 400, 'host-repeated'],
  ['no host', 'GET / HTTP/1.1\r\n\r\n', 400, 'host-missing'],
  ['another host in the target', `GET http://b/ HTTP/1.1\r\n${H}\r\n`, 400, 'host-mismatch'],
  [
    'a Connection that names the length',
    `POST / HTTP/1.1\r\n${H}Connection: Content-Length\r\nContent-Length: 4\r\n\r\nbody`,
    400,
    'connection-invalid',
  ],
  [
    'a chunk size with a sign',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n+4\r\nbody\r\n0\r\n\r\n`,
    400,
    'chunk-size',
  ],
  [
    'a chunk size in C style',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n`,
    400,
    'chunk-size',
  ],
  [
    'a chunk size beyond 2^53',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n100000000000004\r\nbody`,
    400,
    'chunk-size',
  ],
  [
    'a LF in a chunk extension',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n4;a\nb\r\nbody\r\n0\r\n\r\n`,
    400,
    'chunk-extension',
  ],
  [
    'a trailer that frames',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 4\r\n\r\n`,
    400,
    'trailer-forbidden',
  ],
  [
    'a CONNECT with a body',
    'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\r\nbody',
    400,
    'connect-with-body',
  ],
  ['an unknown expectation', `GET / HTTP/1.1\r\n${H}Expect: magic\r\n\r\n`, 417, 'expectation-unknown'],
  ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 505, 'version-unsupported'],
  [
    'an unknown coding',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: gzip, chunked\r\n\r\n`,
    501,
    'coding-unsupported',
  ],
]

describe('gets a refusal, and the server nothing', () => {
  it.each(REFUSED)('%s', async (_name, text, status, reason) => {
    const answer = await world.ask(text + EVIL)
    expect(answer).toMatch(
      new RegExp(`^HTTP/1.1 ${status} [^\r]*\r\n(?:[^\r]+\r\n)*Connection: close\r\n\r\n${reason}\n$`),
    )
    expect(upstream.requests).toEqual([])
    expect(upstream.got).not.toContain('evil')
  })

  it.each([
    ['a bad chunk ending', '4\r\nbodyX\r\n0\r\n\r\n', 'chunk-ending'],
    ['a bad size of a later chunk', '4\r\nbody\r\nzz\r\n', 'chunk-size'],
  ])('%s behind bytes that were sent on: the server sees a broken request', async (_name, body, reason) => {
    const client = await world.client()
    await client.write(`POST /broken HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n`)
    await until(() => upstream.got.endsWith(`${FORWARDED()}\r\n`), 'the head')
    const peer = upstream.peers.find(({ got }) => got.endsWith(`${FORWARDED()}\r\n`))!
    await client.write(body.slice(0, 3))
    await client.write(body.slice(3) + EVIL)
    expect(await client.all()).toContain(`\r\n\r\n${reason}\n`)
    await until(() => peer.ended || peer.closed, 'the server is let go')
    expect(upstream.requests).toEqual([])
    expect(upstream.got).not.toContain('evil')
    client.socket.end()
  })
})

describe('the requests that the server receives', () => {
  it('never has a second request in a body that only looks like one', async () => {
    const text = `POST / HTTP/1.1\r\n${H}Content-Length: ${EVIL.length}\r\nConnection: close\r\n\r\n${EVIL}`
    await world.ask(text)
    expect(upstream.requests.map(({ head, body }) => [head.target, body])).toEqual([['/', EVIL]])
  })

  it('does not begin a tunnel that was not granted', async () => {
    const upgrade = `GET /chat HTTP/1.1\r\n${H}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`
    await world.ask(
      `${upgrade}GET /next HTTP/1.1\r\n${H}X-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n`,
    )
    expect(upstream.requests.map(({ head }) => head.target)).toEqual(['/chat', '/next'])
    expect(upstream.got).not.toContain('6.6.6.6')
  })

  it('never contains h2c, which would be HTTP/2 behind our back', async () => {
    await world.ask(
      `GET /h2c HTTP/1.1\r\n${H}Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n`,
    )
    expect(upstream.requests[0]!.head.upgrade).toBeUndefined()
    expect(upstream.got).not.toMatch(/h2c\r|HTTP2-Settings/)
  })

  it('equal the well-formed requests in front of the first bad one, whatever a client sends', async () => {
    const fragment = fc.oneof(
      { arbitrary: fc.constantFrom(`GET /n HTTP/1.1\r\n${H}\r\n`), weight: 4 },
      { arbitrary: fc.constantFrom(`POST /n HTTP/1.1\r\n${H}Content-Length: 3\r\n\r\nabc`), weight: 3 },
      {
        arbitrary: fc.constantFrom(
          `POST /n HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
        ),
        weight: 3,
      },
      { arbitrary: fc.constantFrom(...REFUSED.map(([, text]) => text)), weight: 1 },
      { arbitrary: fc.constantFrom('\r\n', '\n', '0\r\n\r\n', 'GET /', ' ', '\0'), weight: 1 },
    )
    await fc.assert(
      fc.asyncProperty(
        fc.array(fragment, { minLength: 1, maxLength: 6 }),
        fc.nat(1e6),
        async (pieces, seed) => {
          const good = pieces.findIndex(piece => !piece.includes(' /n '))
          const wanted = good < 0 ? pieces : pieces.slice(0, good)
          upstream.requests.length = 0
          const client = await world.client()
          await client.write(pieces.join(''), randomSizes(seed))
          client.socket.end()
          await client.all()
          const seen = upstream.requests.map(({ head, body }) => head.method + body)
          const expected = wanted.map(
            piece => piece.split(' ')[0] + piece.slice(piece.indexOf('\r\n\r\n') + 4),
          )
          // One empty line in front of a request is passed over (RFC 9112, 2.2), and pieces may then make up requests.
          expect(seen.slice(0, expected.length)).toEqual(expected)
          if (good < 0 || pieces[good] !== '\r\n') expect(seen).toHaveLength(expected.length)
        },
      ),
      { seed: 20251120, numRuns: 150 },
    )
  })
})
