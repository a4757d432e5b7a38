import { EventEmitter, once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocketServer } from 'ws'
import { startWebSockets } from '../../../bench/referee/websocket.mjs'

/** Repeats what it hears; each handshake is answered when `admit` resolves. */
async function echo(admit: () => Promise<unknown>): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  const sockets = new WebSocketServer({ noServer: true })
  sockets.on('connection', socket => socket.on('message', data => socket.send(data)))
  server.on('upgrade', async (request, socket, head) => {
    await admit()
    sockets.handleUpgrade(request, socket, head, opened => sockets.emit('connection', opened))
  })
  onTestFinished(() => void server.close().closeAllConnections())
  await new Promise(resolve => server.once('listening', resolve))
  return `ws://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function talking(url: string, deadlineMs: number) {
  const losses: string[] = []
  const lost = (kind: string, what: string, reason: string) => void losses.push(`${kind}: ${what}: ${reason}`)
  return { losses, talk: startWebSockets({ url, count: 2, deadlineMs, lost }) }
}

describe('the WebSockets of the load', () => {
  it('count as no loss if they open when it stops: each is closed when it is open', async () => {
    const door = new EventEmitter()
    const admitted = once(door, 'admitted')
    const url = await echo(() => {
      door.emit('asked')
      return admitted
    })
    const { losses, talk } = talking(url, 5_000)
    await once(door, 'asked')
    const stopped = talk.stop()
    door.emit('admitted')
    await stopped
    expect(losses).toEqual([])
    expect(talk.report()).toMatchObject({ open: 0, opened: 2 })
  })

  it('count as a loss if they never open, also when it stops', async () => {
    const { losses, talk } = talking(await echo(() => pause(2_000)), 200)
    await talk.stop()
    expect(losses).toHaveLength(2)
    for (const loss of losses) expect(loss).toMatch(/handshake has timed out/)
  })
})
