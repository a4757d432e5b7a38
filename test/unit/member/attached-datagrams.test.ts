import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync, fstatSync, openSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { expect, it, onTestFinished } from 'vitest'
import { join, type Listener, type Member } from '../../../src/index.js'
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

async function socketOf(listener: Listener): Promise<Socket> {
  const socket = createSocket('udp4')
  listener.serve(socket)
  return socket
}

/** A member that does not serve yet, with a listener of datagrams. */
async function joined(): Promise<{ member: Member; listener: Listener }> {
  const member = await join({ service: 'shop', control: false })
  onTestFinished(() => member.close({ timeout: 0 }))
  return { member, listener: await member.listen('datagrams', 'udp://127.0.0.1:0') }
}

it('a socket sends from the address of its listener before its process serves', async () => {
  const { member, listener } = await joined()
  const socket = await socketOf(listener)
  const client = createSocket('udp4')
  onTestFinished(() => void client.close())
  client.bind(0, '127.0.0.1')
  await once(client, 'listening')
  const heard = once(client, 'message')
  socket.send('hello', client.address().port, '127.0.0.1')
  expect((await heard)[1]).toMatchObject({ port: listener.address.port })
  await member.ready()
  client.send('question', listener.address.port!, '127.0.0.1')
  expect(String((await once(socket, 'message'))[0])).toBe('question')
})

it('a socket reads the datagrams that have come when its process serves, none before', async () => {
  const { member, listener } = await joined()
  const socket = await socketOf(listener)
  const heard: string[] = []
  socket.on('message', message => heard.push(String(message)))
  const client = createSocket('udp4')
  onTestFinished(() => void client.close())
  client.send('early', listener.address.port!, '127.0.0.1')
  await setTimeout(100)
  expect(heard).toEqual([])
  await member.ready()
  await expect.poll(() => heard).toEqual(['early'])
})

it('more datagrams than fit into the default buffer of the kernel wait for the version that will read them', async () => {
  const { member, listener } = await joined()
  const socket = await socketOf(listener)
  let heard = 0
  socket.on('message', () => heard++)
  const client = createSocket('udp4')
  onTestFinished(() => void client.close())
  // Each takes 768 bytes of it. By default 277 fit; 550 without rights beyond it.
  const count = Math.min(2_000, Math.floor(socket.getRecvBufferSize() / 1_024))
  expect(count).toBeGreaterThan(400)
  for (let sent = 0; sent < count; sent++)
    await new Promise(resolve => client.send('a datagram', listener.address.port!, '127.0.0.1', resolve))
  await member.ready()
  await expect.poll(() => heard, { timeout: 10_000 }).toBe(count)
})

it('a socket keeps the size of the receive buffer that its program gives it', async () => {
  const { listener } = await joined()
  const socket = createSocket({ type: 'udp4', recvBufferSize: 50_000 })
  listener.serve(socket)
  // The kernel doubles the size.
  expect(socket.getRecvBufferSize()).toBe(100_000)
})

it('a socket that is served has an address: its program cannot bind it to another', async () => {
  const { listener } = await joined()
  const socket = await socketOf(listener)
  expect(() => socket.bind(0, '127.0.0.1')).toThrow(/already bound/)
  expect(socket.address()).toMatchObject({ port: listener.address.port })
})

it.each([
  ['udp6', 'udp://127.0.0.1:0', 'udp4'],
  ['udp4', 'udp://[::1]:0', 'udp6'],
] as const)(
  'a %s socket is refused by the listener %s, because it could answer no client',
  async (type, spec, right) => {
    const { member } = await joined()
    const listener = await member.listen('other', spec)
    const socket = createSocket(type)
    onTestFinished(() => void socket.close())
    expect(() => listener.serve(socket)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_NOT_A_SERVER',
        message: expect.stringContaining(`createSocket('${right}')`),
      }),
    )
  },
)

it('a version whose only socket of a listener is closed does not serve', async () => {
  const { member, listener } = await joined()
  const socket = await socketOf(listener)
  socket.close()
  await expect(member.ready()).rejects.toMatchObject({ code: 'ERR_FDB_UNSERVED' })
})

it('a socket takes the place of a closed one of its listener', async () => {
  const { member, listener } = await joined()
  const closed = await socketOf(listener)
  closed.close()
  const socket = await socketOf(listener)
  await member.ready()
  const client = createSocket('udp4')
  onTestFinished(() => void client.close())
  client.send('question', listener.address.port!, '127.0.0.1')
  expect(String((await once(socket, 'message'))[0])).toBe('question')
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
  void setTimeout(200).then(() => socket.send('answer', port, address))
  expect(String((await answered)[0])).toBe('answer')
  await closed
  expect(() => socket.address()).toThrow()
})

it('a listener of datagrams can be opened again at once at the address of a closed one', async () => {
  const { member, listener } = await joined()
  const first = await socketOf(listener)
  const client = createSocket('udp4')
  onTestFinished(() => void client.close())
  await member.ready()
  const { port, url } = listener.address
  client.send('first', port!, '127.0.0.1')
  await once(first, 'message')
  await member.unlisten('datagrams')
  const second = await socketOf(await member.listen('datagrams', url))
  client.send('second', port!, '127.0.0.1')
  expect(String((await once(second, 'message'))[0])).toBe('second')
  const third = await socketOf(await member.relisten('datagrams', 'udp://127.0.0.1:0'))
  expect(third.address().port).not.toBe(port)
  await socketOf(await member.relisten('datagrams', url))
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

it('a socket whose handler of "listening" throws is closed once, and reads nothing', async () => {
  const { listener, member } = await joined()
  const socket = createSocket('udp4')
  let heard = 0
  socket.on('message', () => heard++)
  socket.on('listening', () => {
    throw new Error('not now')
  })
  const before = openFds(process.pid).length
  expect(() => listener.serve(socket)).toThrow(/not now/)
  // A second close of its number would close one of these.
  const others = Array.from({ length: 4 }, () => openSync('/dev/null', 'r'))
  onTestFinished(() => others.forEach(closeSync))
  if (isOpen(socket)) await once(socket.close(), 'close')
  await setTimeout(10)
  for (const other of others) fstatSync(other)
  expect(openFds(process.pid)).toHaveLength(before + others.length)
  const again = createSocket('udp4')
  listener.serve(again)
  await member.ready()
  const client = createSocket('udp4')
  onTestFinished(() => void client.close())
  const answered = once(again, 'message')
  client.send('question', listener.address.port!, '127.0.0.1')
  await answered
  expect(heard).toBe(0)
})

function isOpen(socket: Socket): boolean {
  try {
    socket.address()
    return true
  } catch {
    return false
  }
}
