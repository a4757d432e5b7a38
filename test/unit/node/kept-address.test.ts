import http from 'node:http'
import net from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { emitDelayedClose, enableClose, stopListening } from '../../../src/node/server-connections.js'
import { until } from '../../processes/until.js'

const servers: net.Server[] = []
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})

async function listening(server: net.Server): Promise<net.AddressInfo> {
  servers.push(server)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return server.address() as net.AddressInfo
}

it('a server that the library has stopped keeps its address until its last connection has ended', async () => {
  const server = net.createServer(() => {})
  const address = await listening(server)
  const client = net.connect(address.port, '127.0.0.1')
  await until('the server has the connection', async () => (await connectionsOf(server)) === 1)
  stopListening(server)
  expect([server.listening, server.address()]).toEqual([false, address])
  emitDelayedClose(server)
  expect(server.address()).toEqual(address)
  const closed = new Promise<unknown>(resolve => server.once('close', () => resolve(server.address())))
  client.destroy()
  expect(await closed).toBeNull()
})

it('a server that listens again has its present address, and none when it is closed', async () => {
  const server = http.createServer()
  const before = await listening(server)
  stopListening(server)
  enableClose(server)
  const after = await listening(server)
  expect(after).not.toEqual(before)
  stopListening(server)
  expect(server.address()).toEqual(after)
  enableClose(server)
  await listening(server)
  server.close()
  expect(server.address()).toBeNull()
})

it('a server that cannot tell its address stops all the same', async () => {
  const server = net.createServer()
  const { port } = await listening(server)
  server.address = () => {
    throw new Error('getsockname EBADF')
  }
  stopListening(server)
  expect(server.listening).toBe(false)
  const refused = new Promise(resolve => net.connect(port, '127.0.0.1').once('error', resolve))
  expect(await refused).toMatchObject({ code: 'ECONNREFUSED' })
})

it('the kept address leaves no trace on a server that is to listen again', async () => {
  const server = http.createServer()
  await listening(server)
  stopListening(server)
  enableClose(server)
  expect(server.address()).toBeNull()
  expect(Object.keys(server)).not.toContain('address')
  const { name, length } = net.Server.prototype.address
  expect([server.address.name, server.address.length]).toEqual([name, length])
})

function connectionsOf(server: net.Server): Promise<number> {
  return new Promise((resolve, reject) =>
    server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
  )
}
