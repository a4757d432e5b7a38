import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { expect, it, onTestFinished, vi } from 'vitest'
import { ProxyHeaders } from '../../../src/proxy/proxy-header.js'

/** A connection that is accepted and not read, and its client. */
async function connection(): Promise<{ socket: Socket; client: Socket }> {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {})
  onTestFinished(() => void client.destroy())
  const [socket] = (await once(server, 'connection')) as [Socket]
  return { socket, client }
}

it('the service closes a connection amid its header: the client has done nothing wrong', async () => {
  const headers = new ProxyHeaders()
  const { socket, client } = await connection()
  const failed = vi.fn()
  headers.read(socket, 60_000, () => expect.unreachable(), failed)
  client.write('PROXY ')
  await once(socket, 'readable')
  headers.cut()
  await once(socket, 'close')
  expect([headers.size, failed.mock.calls]).toEqual([0, []])
})

it('a header that has come in time is read, however long the process was held up', async () => {
  const { socket, client } = await connection()
  client.write('PROXY TCP4 10.0.0.1 10.0.0.2 1 80\r\nrest')
  const early = new Promise<string>((done, failed) =>
    new ProxyHeaders().read(socket, 20, bytes => done(`${bytes}`), failed),
  )
  for (const end = performance.now() + 60; performance.now() < end; );
  expect(await early).toBe('rest')
})
