import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { HttpResponses } from '../../../src/connections/adapters/http-responses.js'
import { until } from '../../processes/until.js'

/** A server that answers when it is told to, and a client that has sent these requests at once. */
async function asked(...paths: readonly string[]) {
  const responses: http.ServerResponse[] = []
  const server = http.createServer((_request, response) => responses.push(response))
  const answers = new HttpResponses(server, null)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  onTestFinished(() => {
    client.destroy()
    server.close()
  })
  for (const path of paths) client.write(`GET ${path} HTTP/1.1\r\nHost: shop\r\n\r\n`)
  await until('all requests have come', () => responses.length === paths.length)
  return { answers, responses, client, server }
}

it('a connection is busy until the last of its pipelined requests is answered', async () => {
  const { answers, responses } = await asked('/1', '/2')
  const { socket } = responses[0]!.req
  expect([...answers.busy()]).toEqual([socket])
  responses[0]!.end()
  await once(responses[0]!, 'close')
  expect([...answers.busy()]).toEqual([socket])
  responses[1]!.end()
  await once(responses[1]!, 'close')
  expect(answers.busy().size).toBe(0)
})

it('a connection that ends with several requests unanswered is not busy any more', async () => {
  const { answers, responses, client } = await asked('/1', '/2', '/3')
  client.destroy()
  await once(responses[0]!.req.socket, 'close')
  await until('none is busy', () => answers.busy().size === 0)
})

it('the end of one connection is not announced any more when the process serves on', async () => {
  const { answers, responses, client, server } = await asked('/1')
  server.maxRequestsPerSocket = 100
  // The head is sent, and cannot announce the end any more.
  responses[0]!.flushHeaders()
  answers.announceOn(responses[0]!.req.socket)
  answers.resume()
  responses[0]!.end()
  client.write('GET /2 HTTP/1.1\r\nHost: shop\r\n\r\n')
  await until('the next request has come', () => responses.length === 2)
  expect(responses[1]!.shouldKeepAlive).toBe(true)
})

it.each([
  ['', 0],
  [' that limits the requests of a connection', 100],
])('an end is announced as long as a process%s leaves, the second time too', async (_server, most) => {
  const { answers, responses, server } = await asked('/1')
  server.maxRequestsPerSocket = most
  const { port } = server.address() as net.AddressInfo
  const next = async () => {
    const client = net.connect(port, '127.0.0.1')
    onTestFinished(() => void client.destroy())
    const count = responses.length
    client.write('GET / HTTP/1.1\r\nHost: shop\r\n\r\n')
    await until('the request has come', () => responses.length > count)
    return responses[count]!.shouldKeepAlive
  }
  for (let round = 0; round < 2; round++) {
    expect(await next()).toBe(true)
    answers.announce()
    expect(responses.at(-1)!.shouldKeepAlive).toBe(false)
    expect(await next()).toBe(false)
    answers.resume()
  }
  expect(await next()).toBe(true)
})
