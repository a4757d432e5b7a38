import { afterEach, describe, expect, it } from 'vitest'
import type { Decision, Forward } from '../../src/relay/index.js'
import { FORWARDED, send, startWorld, Upstream, type World } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const DATE = /Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n/
const CLOSE = 'Host: a\r\nConnection: close\r\n'

let server: Upstream
let world: World

async function start(
  answer = OK,
  more: { trace?: boolean; options?: Forward['options']; route?: () => Decision } = {},
): Promise<World> {
  server = await Upstream.start(({ peer }) => void peer.socket.write(answer))
  const route = { ...send(server), ...(more.options && { options: more.options }) }
  world = await startWorld(more.route ?? route, { gateway: { via: 'edge', trace: more.trace ?? false } })
  return world
}

afterEach(async () => {
  expect(world.faults).toEqual([])
  await world.close()
  await server.shut()
})

describe('Via (RFC 9110, 7.6.3)', () => {
  it('stands behind those of others, with the version of the sender, both ways', async () => {
    const { ask } = await start(OK.replace('\r\n', '\r\nVia: 1.1 inner\r\n').replace('1.1 200', '1.0 200'))
    const answer = await ask(`GET / HTTP/1.0\r\n${CLOSE}Via: 1.1 outer\r\n\r\n`)
    expect(answer).toMatch(/\r\nVia: 1.1 inner\r\n[\s\S]*\r\nVia: 1.0 edge\r\n/)
    expect(server.got).toBe(
      `GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 outer\r\n${FORWARDED()}Via: 1.0 edge\r\n\r\n`,
    )
  })

  it.each(['1.1 edge', '1.0 a, 1.1 edge (comment)', '1.1 b ,HTTP/1.1\tedge'])(
    '%s is a loop: 508',
    async via => {
      const { ask, reports } = await start()
      expect(await ask(`GET / HTTP/1.1\r\n${CLOSE}Via: ${via}\r\n\r\n`)).toMatch(
        /^HTTP\/1.1 508 [\s\S]*\r\n\r\nloop\n$/,
      )
      expect(server.requests).toEqual([])
      expect(reports).toMatchObject([{ status: 508, reason: 'loop' }])
    },
  )

  it.each(['1.1 edges', '1.1 x (edge)', 'edge'])('%s is none', async via => {
    const { ask } = await start()
    expect(await ask(`GET / HTTP/1.1\r\n${CLOSE}Via: ${via}\r\n\r\n`)).toMatch(/^HTTP\/1.1 200 /)
  })
})

describe('Date (RFC 9110, 6.6.1)', () => {
  it('comes from the proxy where the server gives none', async () => {
    const { ask } = await start()
    expect(await ask(`GET / HTTP/1.1\r\n${CLOSE}\r\n`)).toMatch(DATE)
  })

  it('stays as it is otherwise', async () => {
    const { ask } = await start(OK.replace('\r\n', '\r\ndate: then\r\n'))
    const answer = await ask(`GET / HTTP/1.1\r\n${CLOSE}\r\n`)
    expect(answer.match(/date:.*/gi)).toEqual(['date: then'])
  })
})

describe('Max-Forwards (RFC 9110, 7.6.2)', () => {
  it('falls by one for the server', async () => {
    const { ask } = await start()
    await ask(`OPTIONS / HTTP/1.1\r\n${CLOSE}Max-Forwards: 3\r\nA: b\r\n\r\n`)
    expect(server.got).toBe(
      `OPTIONS / HTTP/1.1\r\nHost: a\r\nA: b\r\n${FORWARDED()}Via: 1.1 edge\r\nMax-Forwards: 2\r\n\r\n`,
    )
  })

  it('of 0 is answered here', async () => {
    const { ask } = await start(OK, { trace: true })
    const options = await ask(`OPTIONS * HTTP/1.1\r\n${CLOSE}Max-Forwards: 0\r\n\r\n`)
    expect(options).toMatch(/^HTTP\/1.1 200 OK\r\n[\s\S]*Allow: GET, HEAD, [\s\S]*Content-Length: 0\r\n/)
    const trace = await ask(`TRACE /x HTTP/1.1\r\n${CLOSE}Max-Forwards: 0\r\nCookie: secret\r\nA: b\r\n\r\n`)
    expect(trace).toContain('Content-Type: message/http\r\n')
    expect(trace.slice(trace.indexOf('\r\n\r\n') + 4)).toBe(
      'TRACE /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMax-Forwards: 0\r\nA: b\r\n\r\n',
    )
    expect(server.requests).toEqual([])
  })

  it.each(['x', '-1', '1, 2', '3\r\nMax-Forwards: 3'])('%s is refused', async value => {
    const { ask } = await start()
    expect(await ask(`OPTIONS / HTTP/1.1\r\n${CLOSE}Max-Forwards: ${value}\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 400 /,
    )
  })

  it('means nothing in other requests', async () => {
    const { ask } = await start()
    await ask(`GET / HTTP/1.1\r\n${CLOSE}Max-Forwards: 0\r\n\r\n`)
    expect(server.got).toContain('\r\nMax-Forwards: 0\r\n')
  })
})

describe('methods and statuses', () => {
  it('TRACE is refused, and what is allowed is said', async () => {
    const { ask } = await start()
    expect(await ask(`TRACE / HTTP/1.1\r\n${CLOSE}\r\n`)).toMatch(
      /^HTTP\/1.1 405 [\s\S]*\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n[\s\S]*trace-not-allowed\n$/,
    )
  })

  it('TRACE is passed on where that is configured', async () => {
    const { ask } = await start(OK, { trace: true })
    expect(await ask(`TRACE / HTTP/1.1\r\n${CLOSE}\r\n`)).toMatch(/^HTTP\/1.1 200 /)
    expect(server.requests.map(({ head }) => head.method)).toEqual(['TRACE'])
  })

  it('426 keeps what it asks for', async () => {
    const answer =
      'HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\nContent-Length: 0\r\n\r\n'
    const { ask } = await start(answer)
    expect(await ask(`GET / HTTP/1.1\r\n${CLOSE}\r\n`)).toMatch(
      /\r\nConnection: upgrade, close\r\nUpgrade: TLS\/1.0, HTTP\/1.1\r\n\r\n$/,
    )
  })

  const DENIED = 'HTTP/1.1 407 Denied\r\nProxy-Authenticate: Basic realm=a\r\nContent-Length: 0\r\n\r\n'
  const GET = `GET / HTTP/1.1\r\n${CLOSE}Proxy-Authorization: Basic x\r\n\r\n`

  it('407 and its fields pass where the server is a proxy', async () => {
    const { ask } = await start(DENIED, { options: { proxyAuthentication: true } })
    expect(await ask(GET)).toContain('\r\nProxy-Authenticate: Basic realm=a\r\n')
    expect(server.got).toContain('\r\nProxy-Authorization: Basic x\r\n')
  })

  it('but not elsewhere', async () => {
    const { ask } = await start(DENIED)
    expect(await ask(GET)).not.toContain('Proxy-Authenticate')
    expect(server.got).not.toContain('Proxy-Authorization')
  })
})
