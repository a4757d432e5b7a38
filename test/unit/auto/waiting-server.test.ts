import { once } from 'node:events'
import net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { waitingServer } from '../../processes/waiting-server.js'

it('a server that accepts before the library is loaded is taken over with the connections that are still open', async () => {
  const { server, port, handedOver } = await waitingServer()
  const connect = async () => {
    const accepted = once(server, 'connection')
    const client = net.connect(port, '127.0.0.1')
    onTestFinished(() => void client.destroy())
    const [socket] = (await accepted) as [net.Socket]
    return { client, socket }
  }
  const gone = await connect()
  await connect()
  const closed = once(gone.socket, 'close')
  gone.client.destroy()
  await closed
  expect(handedOver()).toBe(1)
})
