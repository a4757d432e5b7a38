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

it('a socket sends the answers that its program gives late, although the process leaves', async () => {
  const member = await join({ service: 'shop', control: false })
  const listener = await member.listen('datagrams', 'udp://127.0.0.1:0')
  const socket = createSocket('udp4')
  const client = createSocket('udp4')
  onTestFinished(async () => {
    client.close()
    await member.close({ timeout: 0 })
  })
  listener.serve(socket)
  await member.ready()
  client.send('question', listener.address.port!, '127.0.0.1')
  const [, { port, address }] = await once(socket, 'message')
  const closed = member.close()
  const answered = once(client, 'message')
  // Stands for a database of the program.
  setTimeout(() => socket.send('answer', port, address), 200)
  expect(String((await answered)[0])).toBe('answer')
  await closed
  expect(() => socket.address()).toThrow()
})

it('a socket that is to close at once does not wait for late answers', async () => {
  const member = await join({ service: 'shop', control: false })
  const listener = await member.listen('datagrams', 'udp://127.0.0.1:0')
  const socket = createSocket('udp4')
  listener.serve(socket)
  await member.ready()
  socket.send('question', listener.address.port!, '127.0.0.1')
  await once(socket, 'message')
  const startedAt = performance.now()
  await member.close({ timeout: 0 })
  expect(performance.now() - startedAt).toBeLessThan(900)
})
