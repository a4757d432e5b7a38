import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { join, type Listener } from '../../../src/index.js'
import { openFds } from '../../processes/descriptors.js'

/** The descriptors that are left behind when what was given to a listener of datagrams does not start to read. */
async function leftBy(give: (listener: Listener) => unknown, message: RegExp): Promise<readonly string[]> {
  const member = await join({ service: 'shop', control: false })
  onTestFinished(() => member.close({ timeout: 0 }))
  const listener = await member.listen('datagrams', 'udp://127.0.0.1:0')
  await give(listener)
  const before = openFds(process.pid)
  await expect(member.ready()).rejects.toThrow(message)
  return openFds(process.pid).slice(before.length)
}

it('a reader of datagrams that does not start leaves no descriptor', async () => {
  const reader: Parameters<Listener['serveDatagrams']>[0] = {
    active: false,
    connections: 0,
    start() {
      throw new Error('no turn')
    },
    stop() {},
    announce() {},
    async emptied() {},
    cut: () => ({ idle: 0, busy: 0, closed: [] }),
    finish() {},
    close() {},
  }
  expect(await leftBy(listener => listener.serveDatagrams(reader), /no turn/)).toEqual([])
})

it('a socket that its program has bound after serve() leaves no descriptor', async () => {
  const bindsToo = async (listener: Listener) => {
    const socket = createSocket('udp4')
    listener.serve(socket)
    socket.bind(0, '127.0.0.1')
    await once(socket, 'listening')
  }
  expect(await leftBy(bindsToo, /already bound/)).toEqual([])
})
