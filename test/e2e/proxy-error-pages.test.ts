import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import http2 from 'node:http2'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

/** Writes a page in the folder of the proxy. Returns its path. */
function page(edge: Edge, name: string, contents: string): string {
  const path = join(edge.sandbox.folder, name)
  writeFileSync(path, contents)
  return path
}

/** A proxy with pages for its errors, whose only server does not run. */
async function edgeWithPages(): Promise<Edge> {
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [`http://127.0.0.1:${await freePort()}`] } },
    routes: [
      { host: '*', path: '/app', upstream: 'app', cors: { origins: ['https://app.example.com'] } },
      { host: '*', path: '/own', respond: { status: 404, body: 'of the route' } },
    ],
    forwarded: { trust: ['127.0.0.1'] },
    tracing: { requestId: 'X-Request-Id' },
    listeners: [],
  })
  const missing = page(edge, '404.html', '<p>$status at $request_id, not $price: é</p>')
  const busy = page(edge, 'busy.json', '{"status":$status,"reason":"$reason"}')
  edge.write({
    listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true }],
    errorPages: { '404': missing, '5xx': busy },
  })
  await edge.next()
  return edge
}

it('a proxy answers its own errors with files, by status or class, over HTTP/1 and HTTP/2', async () => {
  const edge = await edgeWithPages()
  const missing = await ask(edge.url, { headers: { host: 'a.test' } }).answer
  expect([missing.status, missing.headers['content-type']]).toEqual([404, 'text/html; charset=utf-8'])
  expect(missing.body).toMatch(/^<p>404 at [\w-]{8,}, not \$price: é<\/p>$/)
  const hostile = await ask(edge.url, { headers: { 'x-request-id': '<b>&"x' } }).answer
  expect(hostile.body).toMatch(/^<p>404 at [\w-]+, not \$price: é<\/p>$/)
  const head = await ask(edge.url, { method: 'HEAD' }).answer
  expect([head.status, head.headers['content-length'], head.body]).toEqual([
    404,
    `${Buffer.byteLength(missing.body)}`,
    '',
  ])
  const origin = 'https://app.example.com'
  const away = await ask(`${edge.url}/app`, { headers: { origin } }).answer
  expect(away).toMatchObject({
    headers: { 'content-type': 'application/json', 'access-control-allow-origin': origin },
    body: `{"status":${away.status},"reason":"connect-failed"}`,
  })
  expect(away.status).toBeGreaterThanOrEqual(502)
  // An answer of a route, and an error without a page, are as before.
  expect((await ask(`${edge.url}/own`).answer).body).toBe('of the route')
  const trace = await ask(edge.url, { method: 'TRACE' }).answer
  expect([trace.status, trace.body]).toEqual([405, 'trace-not-allowed\n'])

  const session = http2.connect(edge.url)
  onTestFinished(() => session.destroy())
  const stream = session.request({ ':authority': 'a' })
  const [answer] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders]
  expect(answer).toMatchObject({ ':status': 404, 'content-type': 'text/html; charset=utf-8' })
  expect(await text(stream)).toMatch(/^<p>404 at /)
})

it('error pages of a proxy change by a reload and in the next version, and a page that cannot be read changes nothing', async () => {
  const edge = await edgeWithPages()
  const body = async () => (await ask(edge.url).answer).body
  const file = page(edge, '404.html', 'first')
  expect(await body()).toMatch(/^<p>/)
  await edge.reload({})
  expect(await body()).toBe('first')
  const large = page(edge, 'large.html', 'x'.repeat(65_537))
  const refused = await edge.reload({
    errorPages: { '404': `${file}.gone`, '500': 'busy.html', '5xx': large, '302': file },
  })
  for (const text of [
    `errorPages["404"]: "${file}.gone" cannot be read (ENOENT)`,
    'errorPages["500"]: "busy.html" is no absolute path of a file',
    `errorPages["5xx"]: "${large}" has 65537 bytes, more than 65536`,
    'errorPages["302"]: "302" is no status of an error: write 400 to 599, 4xx or 5xx',
  ])
    expect(refused.err.message).toContain(text)
  expect(await body()).toBe('first')
  page(edge, '404.html', 'second')
  edge.write({ errorPages: { '4xx': file } })
  await edge.next()
  expect(await body()).toBe('second')
})

it('workers of a proxy answer errors with the pages of its file, also after a reload', async () => {
  const edge = await Edge.prepare({ routes: [], workers: 2, upgrade: { probation: '0s' } })
  const file = page(edge, '404.html', 'first')
  edge.write({ errorPages: { '404': file } })
  const main = await edge.launch()
  await edge.logged('the workers serve')
  /** The pages that both workers have. */
  const bodies = () =>
    until('both workers have answered', async () => {
      const byWorker = new Map<string, string>()
      for (let n = 0; n < 20; n++) {
        const { headers, body } = await ask(edge.url).answer
        byWorker.set(String(headers['x-pid']), body)
      }
      return byWorker.size === 2 && [...byWorker.values()].sort().join()
    })
  expect(await bodies()).toBe('first,first')
  page(edge, '404.html', 'second')
  signalPid(main, 'SIGHUP')
  await until('both have the new page', async () => (await bodies()) === 'second,second')
})
