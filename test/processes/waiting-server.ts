import net from 'node:net'
import { onTestFinished } from 'vitest'
import { WaitingServer } from '../../src/auto/waiting-server.js'
import { observe } from '../../src/node/observed-events.js'

/** A server that accepts while the library is loaded. `handedOver`: takes it over, and returns the number of connections that the observers hear of. */
export async function waitingServer(): Promise<{
  server: net.Server
  port: number
  handedOver: () => number
}> {
  const server = net.createServer(socket => void socket.resume().on('error', () => {}))
  const waiting = new WaitingServer(server)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  let heard = 0
  const handedOver = () => {
    waiting.handOver(() => {
      observe(server, new Map([['connection', () => void heard++]]))
    })
    return heard
  }
  return { server, port: (server.address() as net.AddressInfo).port, handedOver }
}
