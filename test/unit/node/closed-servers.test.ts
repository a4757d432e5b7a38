import { once } from 'node:events'
import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { emitDelayedClose, stopListening } from '../../../src/node/server-connections.js'
import { collectGarbage } from '../../processes/garbage.js'
import { until } from '../../processes/until.js'

async function listening(server: http.Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

/** The server was stopped and will not listen again. Only the returned reference is left of it. */
async function closedServer(): Promise<WeakRef<http.Server>> {
  const server = http.createServer()
  let closes = 0
  server.on('close', () => closes++)
  await listening(server)
  stopListening(server)
  emitDelayedClose(server)
  await new Promise(setImmediate)
  expect(closes).toBe(1)
  return new WeakRef(server)
}

it('a stopped server without connections can be collected as garbage', async () => {
  const server = await closedServer()
  await until('the server is collected', () => {
    collectGarbage()
    return server.deref() === undefined
  })
})

it('a stopped server responds to its last connections with 408, and then can be collected', async () => {
  const status: string[] = []
  async function served(): Promise<WeakRef<http.Server>> {
    const server = http.createServer({ headersTimeout: 200, connectionsCheckingInterval: 20 })
    const client = net.connect(await listening(server), '127.0.0.1')
    onTestFinished(() => void client.destroy())
    client.write('GET / HTTP/1.1\r\n')
    await once(server, 'connection')
    stopListening(server)
    emitDelayedClose(server)
    client.on('data', data => status.push(String(data).slice(0, 12)))
    await once(server, 'close')
    return new WeakRef(server)
  }
  const server = await served()
  await until('the server is collected', () => {
    collectGarbage()
    return server.deref() === undefined
  })
  expect(status).toEqual(['HTTP/1.1 408'])
})
