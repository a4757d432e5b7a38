import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge, type Line } from '../processes/edge.js'
import { until } from '../processes/until.js'

const PARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
const ID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const TIMES = ['queueMs', 'connectMs', 'firstByteMs', 'ms']
const FIELDS = ['target', 'version', 'status', ...TIMES, 'requestId', 'traceId', 'header:User-Agent']

/** A server that answers with the headers that it got; to /held when the test says so. */
async function teller() {
  const held: (() => ServerResponse)[] = []
  const server = createServer((request, response) => {
    const answer = () => response.end(JSON.stringify(request.headers))
    if (request.url === '/held') held.push(answer)
    else answer()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, held }
}

async function edgeBefore(url: string, rest: object): Promise<Edge> {
  const edge = await Edge.prepare({
    upgrade: { probation: '0s' },
    // No answer shows that the first wave has arrived.
    drain: { firstWave: '0s' },
    upstreams: { app: { servers: [url], connections: 1, queue: 5 } },
    routes: [{ host: '*', upstream: 'app' }],
    accessLog: true,
    accessLine: { fields: FIELDS },
    tracing: { requestId: 'X-Request-Id', traceparent: true },
    ...rest,
  })
  edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true }] })
  await edge.next()
  return edge
}

const told = async (edge: Edge, headers: Record<string, string>, path = '/') =>
  JSON.parse((await ask(`${edge.url}${path}`, { headers }).answer).body) as Record<string, string>

describe('the access log', () => {
  it('has the fields that are asked for, and servers the same numbers', async () => {
    const edge = await edgeBefore((await teller()).url, {})
    const forged = { 'x-request-id': 'mine', x_request_id: 'mine', 'user-agent': 'Q "é"' }
    const first = await told(edge, { ...forged, traceparent: PARENT, tracestate: 'a=1' })
    expect(first).toMatchObject({
      'x-request-id': expect.stringMatching(ID),
      traceparent: PARENT,
      tracestate: 'a=1',
    })
    expect(first).not.toHaveProperty('x_request_id')
    const line = await edge.access(({ target }) => target === '/')
    const { level, time, pid, msg, ...fields } = line
    expect(Object.keys(fields)).toEqual(FIELDS.filter(name => name !== 'queueMs'))
    expect(fields).toMatchObject({ version: 'HTTP/1.1', status: 200, requestId: first['x-request-id'] })
    expect(fields).toMatchObject({ traceId: PARENT.split('-')[1], 'header:User-Agent': 'Q "%E9"' })
    expect([fields.connectMs <= fields.firstByteMs, fields.firstByteMs <= fields.ms]).toEqual([true, true])

    for (const traceparent of [
      '',
      'ff-',
      PARENT.replace('0af', '0AF'),
      PARENT.replace(/-b.*-/, `-${'0'.repeat(16)}-`),
    ]) {
      const other = await told(edge, { traceparent, tracestate: 'a=1' }, '/other')
      expect(other.traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
      expect(other).not.toHaveProperty('tracestate')
    }
    const session = http2.connect(edge.url)
    const over2 = JSON.parse(await text(session.request({ ':path': '/2' })))
    session.close()
    expect(await edge.access(({ target }) => target === '/2')).toMatchObject({
      version: 'HTTP/2.0',
      requestId: over2['x-request-id'],
    })

    await edge.reload({ forwarded: { trust: ['127.0.0.1'] }, accessLine: { format: 'combined' } })
    expect(
      await told(edge, { 'x-request-id': 'mine', referer: 'http://a/"', 'user-agent': 'U' }, '/c'),
    ).toMatchObject({
      'x-request-id': 'mine',
    })
    const combined =
      /^127\.0\.0\.1 - - \[\d\d\/[A-Z][a-z]{2}\/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET \/c HTTP\/1\.1" 200 \d+ "http:\/\/a\/\\x22" "U"$/m
    await until('the line is written', () => combined.test(readFileSync(edge.sandbox.log, 'utf8')))
    await edge.reload({ accessLine: { format: 'common' } })
    await told(edge, {}, '/last')
    await until('the line is written', () =>
      /^127\.0\.0\.1 - - \[.*\] "GET \/last HTTP\/1\.1" 200 \d+$/m.test(
        readFileSync(edge.sandbox.log, 'utf8'),
      ),
    )
  })

  it('has times and numbers of requests that have moved to the next version, one of them from a queue', async () => {
    const { url, held } = await teller()
    const edge = await edgeBefore(url, {})
    const [holding, waiting] = [await edge.raw(), await edge.raw()]
    holding.send('GET /held HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\n\r\n')
    await until('the server has the first', () => held.length > 0)
    waiting.send('GET /queued HTTP/1.1\r\nHost: a\r\n\r\n')
    const waitsIn = async () => (await edge.status()).listeners[0]?.kinds?.waiting
    await until('both are there', async () => (await waitsIn()) === 2)
    const pid = await edge.next()
    await until('both have moved', async () => (await waitsIn()) === 2)
    held[0]!()
    const answers = await Promise.all(
      [holding, waiting].map(each => each.until(answer => answer.endsWith('}'))),
    )
    for (const [index, target] of ['/held', '/queued'].entries()) {
      const line: Line = await edge.access(each => each.target === target)
      const [, body = ''] = answers[index]!.split('\r\n\r\n')
      expect(line).toMatchObject({ pid, requestId: JSON.parse(body)['x-request-id'] })
      expect(JSON.parse(body).traceparent).toContain(`-${line.traceId}-`)
      expect([line.queueMs > 0, line.firstByteMs > 0]).toEqual([target === '/queued', true])
    }
    expect(await edge.access(({ target }) => target === '/held')).toMatchObject({ 'header:User-Agent': 'u' })
  })

  it('has the user whose password is right, in each format, also after a move, and no other name', async () => {
    const { url, held } = await teller()
    const hash = createHash('sha256').update('secret').digest('hex')
    const basicAuth = { users: { 'ann "é"': hash } }
    const edge = await edgeBefore(url, {
      routes: [
        { host: '*', upstream: 'app', basicAuth },
        { host: '*', path: '/open', upstream: 'app' },
        { host: '*', path: '/fixed', respond: { body: 'ok' }, basicAuth },
      ],
      accessLine: {},
    })
    const basic = (password: string) => ({
      authorization: `Basic ${Buffer.from(`ann "é":${password}`).toString('base64')}`,
    })
    const asking = async (path: string, password = 'secret') =>
      (await ask(`${edge.url}${path}`, { headers: basic(password) }).answer).status
    const userIn = async (path: string) => (await edge.access(({ target }) => target === path)).user
    expect([
      await asking('/a'),
      await asking('/wrong', 'x'),
      await asking('/fixed'),
      await asking('/open'),
    ]).toEqual([200, 401, 200, 200])
    for (const path of ['/a', '/fixed']) expect(await userIn(path)).toBe('ann "é"')
    for (const path of ['/wrong', '/open']) expect(await userIn(path)).toBeUndefined()

    const holding = await edge.raw()
    holding.send(`GET /held HTTP/1.1\r\nHost: a\r\nAuthorization: ${basic('secret').authorization}\r\n\r\n`)
    await until('the server has the request', () => held.length > 0)
    const pid = await edge.next()
    await until('it has moved', async () => (await edge.status()).listeners[0]?.kinds?.waiting === 1)
    held[0]!()
    await holding.until(answer => answer.endsWith('}'))
    expect(await edge.access(({ target }) => target === '/held')).toMatchObject({ pid, user: 'ann "é"' })

    await edge.reload({ accessLine: { format: 'common' } })
    await asking('/common')
    await asking('/refused', 'x')
    const written = () => readFileSync(edge.sandbox.log, 'utf8')
    await until('the lines are written', () => written().includes('/refused HTTP'))
    expect(written()).toMatch(/^127\.0\.0\.1 - ann\\x20\\x22\\xC3\\xA9\\x22 \[.*"GET \/common HTTP/m)
    expect(written()).toMatch(/^127\.0\.0\.1 - - \[.*"GET \/refused HTTP\/1\.1" 401/m)
  })

  it('has no line about a route without, nor after a move, nor about "ready"', async () => {
    const { url, held } = await teller()
    const unlogged = { host: '*', upstream: 'app', accessLog: false }
    const basicAuth = { users: { alice: '0'.repeat(64) } }
    const edge = await edgeBefore(url, {
      ready: '/ready',
      upstreams: { app: { servers: [url] } },
      routes: [
        { host: '*', upstream: 'app' },
        { ...unlogged, path: '/held' },
        { ...unlogged, path: '/health', basicAuth },
        { host: '*', path: '/fixed', respond: { body: 'ok' }, accessLog: false, cors: { origins: ['*'] } },
      ],
    })
    const holding = await edge.raw()
    holding.send('GET /held HTTP/1.1\r\nHost: a\r\n\r\n')
    await until('the server has the request', () => held.length > 0)
    const paths = ['/health', '/fixed', '/ready', '/logged']
    const answers = await Promise.all(paths.map(path => ask(`${edge.url}${path}`).answer))
    expect(answers.map(({ status }) => status)).toEqual([401, 200, 200, 200])
    await edge.next()
    await until('it has moved', async () => (await edge.status()).listeners[0]?.kinds?.waiting === 1)
    held[0]!()
    await holding.until(answer => answer.endsWith('}'))
    await told(edge, {}, '/last')
    await edge.access(({ target }) => target === '/last')
    const logged = edge.lines.filter(({ msg }) => msg === 'request').map(({ target }) => target)
    expect(logged).toEqual(['/logged', '/last'])
  })
})
