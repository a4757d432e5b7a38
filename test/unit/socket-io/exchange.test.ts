import { setImmediate as turn } from 'node:timers/promises'
import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../../src/index.js'
import { Exchange, type Message } from '../../../src/socket-io/exchange.js'

const CAST: Message = {
  kind: 'cast',
  namespace: '/',
  packet: { type: 2, data: ['tick', 1] },
  selected: { rooms: [], except: [], volatile: false, compress: true },
}

it('a message is kept for the last sessions of a process that has none left: they may be on their way', async () => {
  const events = { onMessage() {}, onSession() {}, onServing() {}, onTurn: () => false }
  const exchange = new Exchange('socket.io test', events)
  onTestFinished(() => exchange.close())
  const logger = { debug() {}, info() {}, warn() {}, error() {} }
  const member = await join({ service: 'exchange', control: false, logger })
  onTestFinished(() => member.close())
  await member.ready()
  await turn()
  // No other process has sessions.
  void exchange.send(CAST)
  expect(exchange.unseen({})).toEqual([])
  const section = member.section('socket.io test')
  await section.put('p/another', { present: true })
  await turn()
  await section.delete('p/another')
  await turn()
  void exchange.send(CAST)
  expect(exchange.unseen({})).toMatchObject([{ message: CAST }])
})
