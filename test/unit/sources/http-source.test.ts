import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { HttpSource } from 'fd-broker/sources'
import { expect, it, onTestFinished } from 'vitest'

/** The URL of a server whose connections end so. */
async function breaking(end: (response: ServerResponse) => unknown): Promise<string> {
  const server = createServer((_request, response) => void end(response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close().closeAllConnections())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/prices`
}

/** The URL of a server that answers like this, in turn. */
async function answering(...answers: (readonly [status: number, etag?: string, body?: string])[]) {
  const asked: (string | undefined)[] = []
  const server = createServer((request, response) => {
    asked.push(request.headers['if-none-match'])
    const [status = 500, etag, body] = answers.shift() ?? []
    response.writeHead(status, etag === undefined ? {} : { etag }).end(body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close().closeAllConnections())
  return { asked, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` }
}

it('tells that the server answers, although nothing has changed', async () => {
  const { asked, url } = await answering([304], [304], [200, '"2"', '{"a":1}'])
  let told = 0
  const source = new HttpSource({ url, interval: 100 })
  const { signal } = new AbortController()
  const { value } = await source.read('"1"', signal, null, () => told++).next()
  expect([told, asked, value?.revision]).toEqual([2, ['"1"', '"1"', '"1"'], '"2"'])
})

it('takes no 304 for an answer that it has not asked for', async () => {
  const { url } = await answering([304])
  const { signal } = new AbortController()
  await expect(new HttpSource({ url }).read(null, signal).next()).rejects.toThrow('status 304')
})

it('takes no part of an answer for the whole', async () => {
  const { url } = await answering([206, '"1"', '{}'])
  const { signal } = new AbortController()
  await expect(new HttpSource({ url }).read(null, signal).next()).rejects.toThrow('status 206')
})

it('reads no more of an answer than 64 MiB', async () => {
  const part = Buffer.alloc(1024 * 1024, ' ')
  let sent = 0
  const url = await breaking(response => {
    const more = () => {
      while (!response.destroyed && response.write(part)) sent++
    }
    more()
    response.on('drain', more)
  })
  const { signal } = new AbortController()
  const failed = new HttpSource({ url }).read(null, signal).next()
  await expect(failed).rejects.toMatchObject({
    code: 'ERR_FDB_SOURCE',
    message: expect.stringContaining('more than 64 MiB'),
  })
  // The sockets have buffers.
  expect(sent).toBeLessThan(128)
})

it.each<[what: string, end: (response: ServerResponse) => unknown, why: string]>([
  ['closes the connection', ({ socket }) => socket?.destroy(), 'other side closed'],
  [
    'closes it within the answer',
    response => response.writeHead(200, { 'content-length': 9 }).write('{"a"', () => response.destroy()),
    'other side closed',
  ],
  ['answers with no JSON', response => response.end('hello'), 'is not valid JSON'],
  [
    'sends the client in circles',
    response => response.writeHead(302, { location: '/prices' }).end(),
    'redirect',
  ],
])('names the store and the reason if the server %s', async (_what, end, why) => {
  const url = await breaking(end)
  const { signal } = new AbortController()
  const failed = new HttpSource({ url: `${url}?token=secret` }).read(null, signal).next()
  await expect(failed).rejects.toMatchObject({
    code: 'ERR_FDB_SOURCE',
    retryable: true,
    message: expect.stringMatching(`^${url}: .*${why}`),
  })
})

it('fails with the reason of a signal that aborts', async () => {
  const url = await breaking(() => {})
  const abort = new AbortController()
  const asked = new HttpSource({ url }).read(null, abort.signal).next()
  const reason = new Error('enough')
  setTimeout(() => abort.abort(reason), 50)
  await expect(asked).rejects.toBe(reason)
})
