import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { expect, it, onTestFinished, vi } from 'vitest'
import { ProxyHeaders } from '../../../src/proxy/proxy-header.js'

it('the service closes a connection amid its header: the client has done nothing wrong', async () => {
  const headers = new ProxyHeaders()
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {})
  onTestFinished(() => void client.destroy())
  const [socket] = (await once(server, 'connection')) as [Socket]
  const failed = vi.fn()
  headers.read(socket, 60_000, () => expect.unreachable(), failed)
  client.write('PROXY ')
  await once(socket, 'readable')
  headers.cut()
  await once(socket, 'close')
  expect([headers.size, failed.mock.calls]).toEqual([0, []])
})
