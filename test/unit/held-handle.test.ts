import { once } from 'node:events'
import net from 'node:net'
import { expect, it } from 'vitest'
import { HELD_HANDLE, holdHandle } from '../../src/node/held-handle.js'

it('this Node has a server listen without accepting', () => {
  expect(HELD_HANDLE.works).toBe(true)
})

it('a held server says that it listens, and accepts from its beginning on', async () => {
  const accepted: net.Socket[] = []
  const server = net.createServer(socket => accepted.push(socket))
  const begin = holdHandle(server, () => server.listen(0))
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  expect(server.listening).toBe(true)
  const [error] = await once(net.connect(port, '127.0.0.1'), 'error')
  expect(error.code).toBe('ECONNREFUSED')
  begin!()
  const client = net.connect(port, '127.0.0.1')
  await once(server, 'connection')
  expect(accepted).toHaveLength(1)
  client.destroy()
  server.close()
  await once(server, 'close')
})

it('a server that does not listen at once is not held', async () => {
  const server = net.createServer()
  expect(holdHandle(server, () => {})).toBe(null)
  server.listen(0)
  await once(server, 'listening')
  server.close()
})
